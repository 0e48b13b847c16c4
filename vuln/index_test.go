package vuln

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"assay/internal/fault"
	"assay/internal/vectors"

	"github.com/google/go-cmp/cmp"
)

// advisories reads the real ones of a feed.
func advisories(t testing.TB, ecosystem string) (all []*Advisory) {
	t.Helper()
	z, err := zip.OpenReader(filepath.Join(vectors.Shared(t, "osv"), ecosystem, "all.zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			t.Fatal(err)
		}
		a, err := ParseAdvisory(b)
		if err != nil {
			t.Fatalf("%s: %v", f.Name, err)
		}
		all = append(all, a)
	}
	return all
}

// mentioned are versions about the bounds of what advisories say of a package,
// where mistakes would be.
func mentioned(all []*Advisory) map[Package][]string {
	out := map[Package][]string{}
	for _, a := range all {
		for i := range a.Affected {
			f := &a.Affected[i]
			key := f.Key()
			vs := append(out[key], f.Versions...)
			for _, r := range f.Ranges {
				for _, e := range r.Events {
					if v := e.Introduced + e.Fixed + e.LastAffected; v != "" && r.Type != "GIT" {
						vs = append(vs, v)
					}
				}
			}
			if len(vs) > 400 {
				vs = vs[:400]
			}
			out[key] = append(vs, "not a version of anything", "")
		}
	}
	for k, vs := range out {
		slices.Sort(vs)
		out[k] = slices.Compact(vs)
	}
	return out
}

// TestIndexAgrees: for every real advisory the index finds what judging each
// version by itself finds.
func TestIndexAgrees(t *testing.T) {
	for _, ecosystem := range []string{"PyPI", "Go", "AlmaLinux", "npm", "crates.io", "Packagist", "Hackage"} {
		t.Run(ecosystem, func(t *testing.T) {
			all := advisories(t, ecosystem)
			x := NewIndex()
			rnd := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test's
			var id int64
			versions := map[Package]map[string]int64{}
			for key, vs := range mentioned(all) {
				rnd.Shuffle(len(vs), func(i, j int) { vs[i], vs[j] = vs[j], vs[i] })
				versions[key] = map[string]int64{}
				for _, v := range vs {
					id++
					versions[key][v] = id
					x.Add(Component{id, Candidate{Package: key, Version: v}})
					x.Occur(id%97, id)
				}
			}
			hits, unknown := 0, 0
			for _, a := range all {
				want := map[int64]string{}
				for i := range a.Affected {
					f := &a.Affected[i]
					if a.IsWithdrawn() {
						continue
					}
					m := f.compile(nil)
					for v, id := range versions[f.Key()] {
						got := m.judge(parse(v, m.family))
						if got.Status == NotAffected || want[id] == "affected" {
							continue
						}
						want[id] = got.Status.String()
					}
				}
				got := map[int64]string{}
				for _, h := range x.Affected(a, true) {
					if len(h.Documents) != 1 || h.Documents[0] != h.Component%97 {
						t.Errorf("%s: component %d in documents %v", a.ID, h.Component, h.Documents)
					}
					got[h.Component] = h.Status.String()
					hits++
					if h.Status == Unknown {
						unknown++
					}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("%s: %s", a.ID, diff)
				}
			}
			t.Logf("%d advisories, %d components, %d hits, %d of them unknown", len(all), id, hits, unknown)
			if hits == 0 {
				t.Error("nothing was hit")
			}
		})
	}
}

func TestIndexFollows(t *testing.T) {
	x := NewIndex()
	a := &Advisory{ID: "X-1", Affected: []Affected{*affected("npm", nil, []Event{{Introduced: "0"}, {Fixed: "2.0.0"}})}}
	key := a.Affected[0].Key()
	docs := func() (all []int64) {
		for _, h := range x.Affected(a, true) {
			all = append(all, h.Documents...)
		}
		slices.Sort(all)
		return all
	}
	x.Add(Component{1, Candidate{Package: key, Version: "1.0.0"}}, Component{2, Candidate{Package: key, Version: "2.0.0"}})
	x.Occur(10, 1, 2)
	x.Load(1, []int64{11, 12})
	x.Add(Component{1, Candidate{Package: key, Version: "1.0.0"}}) // again
	if diff := cmp.Diff([]int64{10, 11, 12}, docs()); diff != "" {
		t.Error(diff)
	}
	x.Forget(11)
	x.Add(Component{3, Candidate{Package: key, Version: "0.5.0"}})
	x.Occur(13, 3)
	if diff := cmp.Diff([]int64{10, 12, 13}, docs()); diff != "" {
		t.Error(diff)
	}
	a.Withdrawn = "2024-01-01T00:00:00Z"
	if all := docs(); all != nil {
		t.Errorf("withdrawn, and yet %v", all)
	}
}

func TestParseAdvisoryRefuses(t *testing.T) {
	for name, doc := range map[string]string{
		"no JSON":          `<html>`,
		"no id":            `{"modified": "2024-01-01T00:00:00Z"}`,
		"id with a space":  `{"id": "A B"}`,
		"duplicate member": `{"id": "A", "id": "B"}`,
		"two in one event": `{"id": "A", "affected": [{"ranges": [{"type": "SEMVER", "events": [{"introduced": "0", "fixed": "1"}]}]}]}`,
		"empty event":      `{"id": "A", "affected": [{"ranges": [{"type": "SEMVER", "events": [{}]}]}]}`,
		"trailing data":    `{"id": "A"} {}`,
	} {
		if _, err := ParseAdvisory([]byte(doc)); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ParseAdvisory([]byte(`{"id": "A", "details": "` + strings.Repeat("x", MaxAdvisory) + `"}`)); !errors.Is(err, fault.TooLarge) {
		t.Errorf("too large: %v", err)
	}
}

func FuzzParseAdvisory(f *testing.F) {
	f.Add([]byte(`{"id": "A", "affected": [{"package": {"ecosystem": "npm", "name": "x"}, "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}, {"fixed": "1.0.0"}]}]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseAdvisory(b)
		if err != nil {
			return
		}
		for i := range a.Affected {
			for _, v := range []string{"", "1.0.0", "1:2~3"} {
				if got := a.Affected[i].Affects(v); (got.Status == Unknown) != (got.Reason != "") {
					t.Fatalf("%+v", got)
				}
			}
		}
	})
}

// BenchmarkAffected is one advisory against 10,000 documents of 100 components.
func BenchmarkAffected(b *testing.B) {
	all := advisories(b, "PyPI")
	x, id := NewIndex(), int64(0)
	for key, vs := range mentioned(all) {
		for _, v := range vs[:min(len(vs), 10)] {
			id++
			x.Add(Component{id, Candidate{Package: key, Version: v}})
		}
	}
	rnd := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a benchmark's
	for doc := range int64(10_000) {
		some := make([]int64, 100)
		for i := range some {
			some[i] = rnd.Int64N(id) + 1
		}
		x.Occur(doc, some...)
	}
	for _, a := range all {
		x.Affected(a, false) // every package is in order
	}
	_, _, occurrences := x.Size()
	b.Run(fmt.Sprintf("components=%d,occurrences=%d", id, occurrences), func(b *testing.B) {
		for i := range b.N {
			x.Affected(all[i%len(all)], true)
		}
	})
}
