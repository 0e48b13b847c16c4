package tuf

import (
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// FuzzDelegations reads targets metadata, as a role that was delegated to may
// have signed it, and asks who may speak of a target.
func FuzzDelegations(f *testing.F) {
	for _, delegations := range []string{
		`{"keys":{},"roles":[{"name":"a","keyids":[],"threshold":1,"terminating":true,"paths":["*","a/?.txt"]},{"name":"b","paths":["x"]}]}`,
		`{"keys":{},"roles":[{"name":"../root","path_hash_prefixes":["3b","ff"]},{"name":"TARGETS","paths":["[a-"]}]}`,
		`{"keys":{},"succinct_roles":{"keyids":[],"threshold":1,"bit_length":32,"name_prefix":"bin"}}`,
		`{"keys":{"k":null},"roles":null}`,
		`null`,
	} {
		f.Add([]byte(`{"signed":{"_type":"targets","version":1,"targets":{},"delegations":`+delegations+`},"signatures":[]}`), "file")
		f.Add([]byte(`{"signed":{"_type":"targets","targets":{"x":null},"delegations":`+delegations+`},"signatures":null}`), "a/b.txt")
	}
	f.Fuzz(func(t *testing.T, b []byte, target string) {
		m, err := checked(b, new(metadata.Metadata[metadata.TargetsType]).FromBytes)
		if err != nil {
			return
		}
		roles, _, err := delegates(m.Signed.Delegations, target)
		if err != nil && roles != nil {
			t.Fatalf("%v, and yet roles %q", err, roles)
		}
		u := update{dir: "cache"}
		for _, role := range roles {
			file, ok := strings.CutPrefix(u.cacheFile(role), "cache/")
			if !ok || strings.ContainsAny(file, `/\:`) {
				t.Fatalf("role %q is kept in %q", role, u.cacheFile(role))
			}
			for _, top := range []string{"root", "timestamp", "snapshot", "targets"} {
				if strings.EqualFold(file, top+".json") {
					t.Fatalf("role %q is kept as the top-level role", role)
				}
			}
		}
	})
}
