package supply

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"assay/internal/fault"
	"assay/internal/strictjson"
)

// Change is one difference from a baseline.
type Change struct {
	What   string `json:"what"` // new, gone or changed
	Scope  string `json:"scope"`
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

const maxBaseline = 64 << 20

// ReadBaseline reads an inventory of an earlier run, and gives its digest.
func ReadBaseline(b []byte) (*Inventory, string, error) {
	var i Inventory
	if err := strictjson.Unmarshal(b, &i, strictjson.RejectUnknown(), strictjson.WithMaxBytes(maxBaseline)); err != nil {
		return nil, "", err
	}
	if i.Version != 1 {
		return nil, "", fault.Newf(fault.Invalid, "a baseline of version %d: want 1", i.Version)
	}
	sum := sha256.Sum256(b)
	return &i, "sha256:" + hex.EncodeToString(sum[:]), nil
}

// Compare says what changed since a baseline of the same forge and targets. What
// either run did not know is no change: it is unknown.
func Compare(before, after *Inventory) ([]Change, error) {
	if before.Provider != after.Provider || before.URL != after.URL || !slices.Equal(before.Targets, after.Targets) {
		return nil, fault.Newf(fault.Invalid, "the baseline is of %s %s (%s), not of %s %s (%s)", before.Provider, clip(before.URL), clip(strings.Join(before.Targets, ", ")),
			after.Provider, after.URL, clip(strings.Join(after.Targets, ", ")))
	}
	values := func(i *Inventory) map[string]Item {
		m := make(map[string]Item, len(i.Items))
		for _, x := range i.Items {
			k := x.key()
			if have, ok := m[k]; ok { // one name twice: all its values count
				x.Value = have.Value + "\n" + x.Value
			}
			if x.Since != nil && (x.Kind == Secrets || x.Kind == DeployKeys) {
				x.Value += " " + x.Since.UTC().Format("2006-01-02T15:04:05Z")
			}
			m[k] = x
		}
		return m
	}
	blind := func(i *Inventory) map[string]bool {
		m := map[string]bool{}
		for _, u := range i.Unknown {
			m[u.Scope+"\x00"+u.Part] = m[u.Scope+"\x00"+u.Part] || !u.Partial
		}
		for _, p := range i.Skipped {
			m["\x00"+p] = true
		}
		return m
	}
	old, now, oldBlind, nowBlind := values(before), values(after), blind(before), blind(after)
	is := func(m map[string]bool, x Item) bool { return m[x.Scope+"\x00"+x.Kind] || m["\x00"+x.Kind] }
	out := []Change{}
	for k, x := range now {
		was, ok := old[k]
		switch {
		case !ok && !is(oldBlind, x):
			out = append(out, Change{"new", x.Scope, x.Kind, x.Name, "", strings.TrimSpace(x.Value)})
		case ok && was.Value != x.Value:
			out = append(out, Change{"changed", x.Scope, x.Kind, x.Name, strings.TrimSpace(was.Value), strings.TrimSpace(x.Value)})
		}
	}
	for k, x := range old {
		if _, ok := now[k]; !ok && !is(nowBlind, x) {
			out = append(out, Change{"gone", x.Scope, x.Kind, x.Name, strings.TrimSpace(x.Value), ""})
		}
	}
	slices.SortFunc(out, func(a, b Change) int {
		return strings.Compare(a.Scope+"\x00"+a.Kind+"\x00"+a.Name, b.Scope+"\x00"+b.Kind+"\x00"+b.Name)
	})
	return out, nil
}
