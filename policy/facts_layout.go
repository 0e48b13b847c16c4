package policy

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	"assay/internal/fault"
	"assay/internal/strictjson"
)

// LayoutFact says whether the artifact came about as a signed in-toto layout
// demands. The layout and its owners are the policy's own; what was done is told
// by links that verified and that the layout's functionaries signed.
type LayoutFact struct {
	ID       string       `json:"id"`                // of the requirement: its layout, owners and parameters
	Name     string       `json:"name"`              // as the policy names it
	Followed bool         `json:"followed"`          // all steps, and the artifact is a product of the last one
	Reason   string       `json:"reason,omitempty"`  // why it was not
	Expires  string       `json:"expires,omitempty"` // when the layout does
	Steps    []LayoutStep `json:"steps,omitempty"`
}

// LayoutStep is a step that was carried out as it had to be.
type LayoutStep struct {
	Name          string   `json:"name"`
	Functionaries []string `json:"functionaries"` // fingerprints of the keys that signed
}

// LayoutRequirement wants the artifact to have come about as a layout demands.
type LayoutRequirement struct {
	Name       string            `yaml:"name" json:"name"`
	Layout     string            `yaml:"layout" json:"layout"`                             // the signed layout, whole: a metadata block or a DSSE envelope
	Owners     []string          `yaml:"owners" json:"owners"`                             // public keys in PEM; each must have signed the layout
	Parameters map[string]string `yaml:"parameters,omitempty" json:"parameters,omitempty"` // for {NAME} in its rules
}

// Layout is a layout that a policy names, for who gathers the facts.
type Layout struct {
	ID         string // of all that is below
	Name       string
	Document   []byte
	Owners     []crypto.PublicKey
	Parameters map[string]string
	quality    quality
}

const maxLayouts, maxLayout, maxOwners, maxParameters = 8, 512 << 10, 16, 64

func compileLayouts(in []LayoutRequirement, q quality) ([]*Layout, error) {
	if len(in) > maxLayouts {
		return nil, fault.Newf(fault.Invalid, "layouts: %d, want at most %d", len(in), maxLayouts)
	}
	var out []*Layout
	names := map[string]bool{}
	for i, r := range in {
		l := &Layout{Name: r.Name, Document: []byte(r.Layout), Parameters: r.Parameters, quality: q}
		switch {
		case !nameRE.MatchString(r.Name) || names[r.Name]:
			return nil, fault.Newf(fault.Invalid, "layouts[%d]: name %.80q: want one of its own, in lower-case letters, digits, - and .", i, r.Name)
		case strings.TrimSpace(r.Layout) == "" || len(r.Layout) > maxLayout:
			return nil, fault.Newf(fault.Invalid, "layouts[%d]: layout of %d bytes: want the signed layout itself, at most %d", i, len(r.Layout), maxLayout)
		case len(r.Owners) == 0 || len(r.Owners) > maxOwners:
			return nil, fault.Newf(fault.Invalid, "layouts[%d]: %d owners, want 1 to %d: a layout by anybody demands nothing", i, len(r.Owners), maxOwners)
		case len(r.Parameters) > maxParameters:
			return nil, fault.Newf(fault.Invalid, "layouts[%d]: %d parameters, want at most %d", i, len(r.Parameters), maxParameters)
		}
		names[r.Name] = true
		for n, text := range r.Owners {
			block, rest := pem.Decode([]byte(text))
			if block == nil || block.Type != "PUBLIC KEY" || strings.TrimSpace(string(rest)) != "" {
				return nil, fault.Newf(fault.Invalid, "layouts[%d].owners[%d]: want one PEM block PUBLIC KEY", i, n)
			}
			pub, err := x509.ParsePKIXPublicKey(block.Bytes)
			if err != nil {
				return nil, fault.Newf(fault.Invalid, "layouts[%d].owners[%d]: %w", i, n, err)
			}
			l.Owners = append(l.Owners, pub)
		}
		b, err := strictjson.Canonical(map[string]any{"requirement": r, "maxAge": q.maxAge.String(), "log": q.log, "stamped": q.stamped, "witnesses": q.witnesses})
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "layouts[%d]: %w", i, err)
		}
		sum := sha256.Sum256(b)
		l.ID = "lay_" + hex.EncodeToString(sum[:])
		out = append(out, l)
	}
	return out, nil
}

// Layouts are those that the policy names. The caller must not change them.
func (p *Policy) Layouts() []*Layout { return p.layouts }

// Unusable says why a link's evidence does not count for the policy, or "", and
// when it stops counting; zero is never.
func (l *Layout) Unusable(e *Evidence, now time.Time) (why string, until time.Time) {
	if why = l.quality.unusable(e, now); why != "" || l.quality.maxAge == 0 {
		return why, time.Time{}
	}
	at, _ := e.At()
	return "", at.Add(l.quality.maxAge)
}

func (l *Layout) evaluate(ev *evaluation) {
	c := Check{Name: "layouts/" + l.Name, Status: Fail, Expected: fmt.Sprintf("made as layout %s demands, signed by its %d owner%s%s", l.Name, len(l.Owners), plural(len(l.Owners)), l.quality.text())}
	c.Mend = "assay verify layout FILE --key OWNER --evidence " + ev.target + "  # says what is missing; its functionaries sign links, assay attest --type link"
	c.Found = "not looked at: these facts were gathered for another policy"
	for i := range ev.facts.Layouts {
		f := &ev.facts.Layouts[i]
		if f.ID != l.ID {
			continue
		}
		if f.Followed {
			c.Status, c.Mend, c.Found = Pass, "", fmt.Sprintf("%d step%s, each by its functionaries", len(f.Steps), plural(len(f.Steps)))
		} else {
			c.Found = clip(f.Reason, 500)
		}
		break
	}
	ev.add(c)
}
