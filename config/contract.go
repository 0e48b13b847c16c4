package config

import (
	"assay/evidence/contract"
)

// KindContract is what evidence is owed of what is pushed: contract.Spec.
const KindContract = "Contract"

func contractsOf(docs []Document) (*contract.Set, error) {
	var cs []*contract.Contract
	for _, d := range docs {
		if d.Contract != nil {
			cs = append(cs, d.Contract)
		}
	}
	return contract.NewSet(cs...)
}

// CheckVersions refuses a contract that changed and kept its version: what an
// artifact was bound to is named by it.
func CheckVersions(stored, wanted []Document) error {
	for _, d := range wanted {
		if d.Contract == nil {
			continue
		}
		for _, was := range stored {
			if was.Contract == nil || was.Name != d.Name {
				continue
			}
			if err := d.Contract.Supersedes(was.Contract); err != nil {
				return err
			}
		}
	}
	return nil
}
