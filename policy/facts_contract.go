package policy

import (
	"fmt"
	"strings"

	"assay/internal/fault"
)

// ContractFact is what there is of the evidence that the site's contract expects
// of the artifact. The contract is the site's own document, and the evidence is
// what the facts were made of: nobody else's word is in it.
type ContractFact struct {
	Name     string   `json:"name"`            // of the contract
	Version  int      `json:"version"`         // of the contract that binds the artifact
	Complete bool     `json:"complete"`        // all that is expected is there
	Missing  []string `json:"missing"`         // names of what is not there
	Late     []string `json:"late,omitempty"`  // names of what is there and came after its time
	Build    string   `json:"build,omitempty"` // build that was told of, bld_...
}

// The words of the contract requirement.
const (
	ContractComplete = "complete" // all that is expected is there
	ContractInTime   = "in-time"  // and was there when the contract's time was over
)

func compileContract(word string) (string, error) {
	switch word {
	case "", ContractComplete, ContractInTime:
		return word, nil
	}
	return "", fault.Newf(fault.Invalid, "contract %.40q: want %s, or %s", word, ContractComplete, ContractInTime)
}

// contract checks the fact. Where no contract binds the artifact nothing says
// what it owes, which is no reason to let it pass.
func (r *requirements) evaluateContract(ev *evaluation) {
	c := Check{Name: "contract", Status: Pass, Expected: "all evidence that the contract expects"}
	if r.contract == ContractInTime {
		c.Expected += ", in its time"
	}
	f := ev.facts.Contract
	switch {
	case f == nil:
		c.Status, c.Found = Fail, "no contract binds "+clip(ev.target, 200)
		c.Mend = "assay apply -f DIR  # with a document of kind Contract for this repository"
		ev.add(c)
		return
	case !f.Complete:
		c.Status = Fail
		c.Found = fmt.Sprintf("%s version %d: missing %s", clip(f.Name, 80), f.Version, orNone(clip(strings.Join(f.Missing, ", "), 400)))
		c.Mend = "assay contract check " + ev.target + "  # says who must sign what"
	case r.contract == ContractInTime && len(f.Late) > 0:
		c.Status = Fail
		c.Found = fmt.Sprintf("%s version %d: late %s", clip(f.Name, 80), f.Version, clip(strings.Join(f.Late, ", "), 400))
		c.Mend = "build it again, so that its evidence comes in time"
	default:
		c.Found = fmt.Sprintf("%s version %d: complete", clip(f.Name, 80), f.Version)
	}
	ev.add(c)
}
