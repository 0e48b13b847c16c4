package feed

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
	"assay/vuln"
)

// A feed that withdraws what it holds, or empties it, has lost it as if it had
// removed it; a little of that is its good right.
func TestThreat_Feed_WithdrawnFlood(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		some := func(from, to int, change func(string) string) map[string]string {
			out := map[string]string{}
			for i := range 40 {
				id := fmt.Sprintf("X-%d", i)
				r := record(id, "p", "2024-06-01T00:00:00Z", "2.0.0")
				if i >= from && i < to {
					r = change(strings.Replace(r, "2024-06", "2024-07", 1))
				}
				out[id+".json"] = r
			}
			return out
		}
		withdrawn := func(r string) string {
			return strings.Replace(r, `"modified"`, `"withdrawn": "2024-07-01T00:00:00Z", "modified"`, 1)
		}
		emptied := func(r string) string { return r[:strings.Index(r, `, "affected"`)] + "}" }
		if _, err := bring(t, s, archive(t, some(0, 0, nil)), Options{}); err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			name, word string
			records    map[string]string
		}{
			{"withdrawn", "withdraws 30", some(0, 30, withdrawn)},
			{"emptied", "name no package", some(0, 30, emptied)},
		} {
			if _, err := bring(t, s, archive(t, tt.records), Options{}); !errors.Is(err, fault.Conflict) || !strings.Contains(err.Error(), tt.word) {
				t.Errorf("%s: %v, want %q", tt.name, err, tt.word)
			}
		}
		if all, err := s.ByPackage(t.Context(), vuln.Package{Ecosystem: "npm", Name: "p"}); err != nil || len(all) != 40 {
			t.Errorf("%d records, %v; want what was in force", len(all), err)
		}
		if _, err := bring(t, s, archive(t, some(0, 5, withdrawn)), Options{}); err != nil {
			t.Errorf("a few are withdrawn: %v", err)
		}
		if _, err := bring(t, s, archive(t, some(0, 30, withdrawn)), Options{AllowDowngrade: true, Reason: "a test"}); err != nil {
			t.Errorf("allowed: %v", err)
		}
	})
}

// Records of the largest size do not wait for hundreds of others in memory.
func TestThreat_Feed_LargeRecords(t *testing.T) {
	db := storetest.Open(t, store.SQLite)
	s := open(t, db)
	in := &importing{s: s, op: &Operation{ID: 1}, o: Options{Name: "osv", Ecosystem: "npm"}, known: map[string]*held{}, fence: func(context.Context, *store.Tx) error { return nil }}
	noise := make([]byte, 3<<20)
	_, _ = rand.Read(noise)
	body := base64.StdEncoding.EncodeToString(noise)
	for i := range 12 {
		raw := fmt.Appendf(nil, `{"id": "X-%d", "details": "%s"}`, i, body)
		a, err := vuln.ParseAdvisory(raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := in.record(t.Context(), a, raw, sha256.Sum256(raw)); err != nil {
			t.Fatal(err)
		}
		waiting := 0
		for _, r := range in.records {
			waiting += len(r[7].([]byte)) //nolint:forcetypeassert // it is the body
		}
		if waiting > pieceBytes {
			t.Fatalf("%d bytes wait after %d records", waiting, i+1)
		}
	}
}

// An archive of many millions of members is refused before they are in memory.
func TestThreat_Feed_MillionsOfMembers(t *testing.T) {
	defer func(was int64) { maxDirectory = was }(maxDirectory)
	maxDirectory = 128 << 10
	few, many := map[string]string{}, map[string]string{}
	for i := range 3000 {
		name := fmt.Sprintf("a-name-that-makes-the-list-longer-%d.json", i)
		if many[name] = "{}"; i < 500 {
			few[name] = "{}"
		}
	}
	if _, err := OpenZip(archive(t, many)); !errors.Is(err, fault.TooLarge) {
		t.Errorf("many: %v", err)
	}
	a, err := OpenZip(archive(t, few))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	n := 0
	if err := a.Each(DefaultLimits(), func(string, []byte) error { n++; return nil }); err != nil || n != 500 {
		t.Errorf("%d records, %v", n, err)
	}
}
