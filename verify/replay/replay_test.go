package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/policy"
	"assay/verify"

	"github.com/google/go-cmp/cmp"
)

// record is decisions as a store would give them, by pages.
type record struct {
	all     []verify.Recorded
	checks  map[string][]policy.Check
	preview policy.Result
	read    int
}

func (r *record) Recorded(_ context.Context, _ time.Time, after string, limit int) ([]verify.Recorded, error) {
	i := slices.IndexFunc(r.all, func(o verify.Recorded) bool { return o.FactsID > after })
	if i < 0 {
		return nil, nil
	}
	return r.all[i:min(len(r.all), i+limit)], nil
}

func (r *record) Get(_ context.Context, id string) (*verify.Decision, error) {
	return &verify.Decision{ID: id, Checks: r.checks[id]}, nil
}

func (r *record) Preview(context.Context, verify.Target, policy.Scope, *policy.Policy) (*policy.Facts, policy.Result, error) {
	r.read++
	return nil, r.preview, nil
}

var start = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func (r *record) add(n int, repository string, verdict policy.Verdict, mode policy.Mode, change func(*policy.Facts)) {
	digest := artifact.SHA256Of(fmt.Appendf(nil, "%s %d", repository, n))
	f := &policy.Facts{Schema: policy.FactsSchema, Subject: policy.Subject{Digest: digest, Kind: policy.Image, Repository: repository}, Scope: policy.Scope{ID: "default@" + repository}}
	if change != nil {
		change(f)
	}
	b, _ := f.Canonical()
	one := verify.Recorded{FactsID: policy.FactsID(b), Facts: f, Decisions: 2, DecisionID: "dec_" + string(digest), Digest: digest, Verdict: verdict, Mode: mode, DecidedAt: start, Stands: true}
	r.all = append(r.all, one)
	slices.SortFunc(r.all, func(a, b verify.Recorded) int { return strings.Compare(a.FactsID, b.FactsID) })
}

func signedBy(who string) func(*policy.Facts) {
	return func(f *policy.Facts) {
		f.Signatures = []policy.Signature{{Evidence: policy.Evidence{ID: "att_" + strings.Repeat("0", 64), Identity: &policy.Identity{Issuer: "https://issuer.example", Subject: who}}}}
	}
}

func set(t *testing.T, texts ...string) *policy.Set {
	t.Helper()
	var all []*policy.Policy
	for _, text := range texts {
		p, err := policy.ParseRequirements([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	s, err := policy.NewSet(all...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const byAlice = `
apiVersion: assay/v1
kind: Policy
metadata: {name: signed}
spec:
  mode: enforce
  requirements:
    signatures:
      - identities: [{issuer: "https://issuer.example", subject: alice@example.org}]
`

// Each direction of a flip is told, by cause, and what is the same is counted.
func TestRun(t *testing.T) {
	r := &record{checks: map[string][]policy.Check{}}
	for i := range 600 { // more than two pages
		r.add(i, "team-a/app", policy.Allow, policy.Enforce, signedBy("alice@example.org"))
	}
	r.add(1, "team-b/app", policy.Allow, policy.Enforce, signedBy("bob@example.org"))
	r.add(2, "team-b/app", policy.Deny, policy.Audit, nil)
	r.add(3, "team-c/app", policy.Deny, policy.Enforce, signedBy("alice@example.org"))
	for i := range r.all {
		r.checks[r.all[i].DecisionID] = []policy.Check{{Name: "provenance", Status: policy.Fail, Expected: "provenance", Found: "none", Mend: "assay run"}}
	}
	got, err := Run(t.Context(), r, set(t, byAlice), Options{Since: start, Workers: 3})
	if err != nil {
		t.Fatal(err)
	}
	if got.Facts != 603 || got.Decisions != 1206 || got.Same != 600 || got.Stricter != 2 || got.Milder != 1 || got.Unknowns != 0 {
		t.Errorf("%+v", got)
	}
	type row struct {
		Cause    string
		From, To Effect
		Flips    int
		Owners   []string
	}
	var rows []row
	for _, g := range got.Groups {
		rows = append(rows, row{g.Cause, g.From, g.To, g.Flips, g.Owners})
	}
	want := []row{
		{"signed: signatures", Allowed, Refused, 1, []string{"team-b"}},
		{"signed: signatures", Noted, Refused, 1, []string{"team-b"}},
		{"signed: provenance", Refused, Allowed, 1, []string{"team-c"}},
	}
	if d := cmp.Diff(want, rows); d != "" {
		t.Error(d)
	}
	if !errors.Is(got.Stops(nil), fault.Denied) || got.Stops([]string{"signed: signatures"}) != nil {
		t.Errorf("%v; %v", got.Stops(nil), got.Stops([]string{"signed: signatures"}))
	}
	again, err := Run(t.Context(), r, set(t, byAlice), Options{Since: start, Workers: 1})
	if d := cmp.Diff(got, again); d != "" || err != nil {
		t.Errorf("another number of workers, another report: %s %v", d, err)
	}
}

// Facts that were gathered for another policy may not hold what this one reads:
// that is unknown, and read again where it still can be.
func TestUnknown(t *testing.T) {
	const wants = byAlice + `    attestations:
      - predicateType: https://example.org/deep/v1
        identities: [{issuer: "https://issuer.example", subject: alice@example.org}]
        fields: [{path: "a.b", equals: c}]
`
	deep := func(f *policy.Facts) {
		signedBy("alice@example.org")(f)
		f.Attestations = []policy.Attestation{{Evidence: f.Signatures[0].Evidence, PredicateType: "https://example.org/deep/v1", Fields: map[string]any{"x": "y"}}}
	}
	r := &record{preview: policy.Result{Verdict: policy.Allow}}
	r.add(1, "team-a/app", policy.Allow, policy.Enforce, deep)
	r.add(2, "team-a/app", policy.Allow, policy.Enforce, deep)
	r.all[1].Stands = false
	got, err := Run(t.Context(), r, set(t, wants), Options{Since: start})
	if err != nil {
		t.Fatal(err)
	}
	if got.Same != 1 || got.Unknowns != 1 || r.read != 1 || !strings.Contains(got.Unknown[0].Reason, "a.b of https://example.org/deep/v1") {
		t.Errorf("%+v, %d read again", got, r.read)
	}
	if !errors.Is(got.Stops(nil), fault.Denied) || got.Stops([]string{"unknown"}) != nil {
		t.Error("what is unknown does not stop")
	}
}

// The list is bounded, whatever there is; what is worst stays in it.
func TestBounded(t *testing.T) {
	r := &record{checks: map[string][]policy.Check{}}
	for i := range 300 {
		r.add(i, "team-a/app", policy.Deny, policy.Warn, nil)
	}
	r.add(1, "team-z/app", policy.Allow, policy.Enforce, nil)
	got, err := Run(t.Context(), r, set(t, byAlice), Options{Since: start, List: 10})
	if err != nil || len(got.Flips) != 10 || !got.Cut || got.Stricter != 301 || got.Flips[0].Repository != "team-z/app" {
		t.Errorf("%+v, %v", got, err)
	}
}
