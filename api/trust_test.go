package api_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"assay/attestation"
	"assay/internal/fault"
	"assay/trust/delegation"
	"assay/trust/foreign"
	"assay/trust/trusttest"
)

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// rootDocument is an importable root of the name.
func rootDocument(t testing.TB, name string) []byte {
	d := &foreign.Document{Name: name, Version: 1, Type: foreign.Sigstore, Namespaces: []string{"team/**"}, TrustedRoot: trusttest.New(t).Root(t).Bytes()}
	return must[[]byte](t)(d.JSON())
}

func (s *site) delegation(name string, depth int) *delegation.Document {
	return &delegation.Document{Name: name, Version: 1, Patterns: []string{"team/**"}, PredicateTypes: []string{delegation.Signatures}, Depth: depth,
		Delegates: []delegation.Delegate{{Issuer: s.issuer, Subject: "signer@example.com"}}, Expires: time.Now().Add(time.Hour).UTC().Truncate(time.Second)}
}

// handedOn is a delegation below name that its delegate signed.
func (s *site) handedOn(t testing.TB, name string, change func(*delegation.Document)) []byte {
	d := s.delegation(name, 0)
	l, err := s.admin.Delegations(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d.NotBefore = time.Now().Add(-time.Minute).UTC()
	for _, up := range l.Items {
		if up.Name == d.Parent() && up.State == "holds" {
			d.NotBefore, d.Expires = up.NotBefore, up.Expires
		}
	}
	if change != nil {
		change(d)
	}
	st := must[*attestation.Statement](t)(d.Statement())
	b := must[[]byte](t)(st.Bytes())
	bundle, err := s.sig.Statement(t.Context(), attestation.PayloadType, b, attestation.PAE(attestation.PayloadType, b))
	if err != nil {
		t.Fatal(err)
	}
	return must[[]byte](t)(protojson.Marshal(bundle))
}

// trustRequest makes what a route about trust answers with success.
func (s *site) trustRequest(method, path string) (query string, header map[string]string, body []byte) {
	t := s.t
	js := map[string]string{"Content-Type": "application/json"}
	give := func(name string) {
		if _, err := s.admin.Delegate(t.Context(), must[[]byte](t)(json.Marshal(s.delegation(name, 1)))); err != nil {
			t.Fatal(err)
		}
	}
	switch method + " " + path {
	case "POST /api/v1/trust/roots":
		return "", js, rootDocument(t, "posted")
	case "GET /api/v1/trust/roots/{name}", "DELETE /api/v1/trust/roots/{name}":
		s.ids[path] = "there"
		if _, err := s.admin.ImportRoot(t.Context(), rootDocument(t, "there")); err != nil {
			t.Fatal(err)
		}
	case "POST /api/v1/trust/delegations":
		return "", js, must[[]byte](t)(json.Marshal(s.delegation("posted", 0)))
	case "POST /api/v1/trust/delegations/signed":
		give("up")
		return "", js, s.handedOn(t, "up/below", nil)
	case "DELETE /api/v1/trust/delegations":
		give("gone")
		return "?name=gone", nil, nil
	}
	return "", nil, nil
}

// What was removed or replaced does not come back, and nobody widens by the API.
func TestThreat_Delegation_APIRollbackAndWidening(t *testing.T) {
	s := newSite(t)
	ctx := t.Context()
	first, err := s.admin.Delegate(ctx, must[[]byte](t)(json.Marshal(s.delegation("up", 1))))
	if err != nil || first.Version != 1 || first.State != "holds" || first.LogIndex < 0 {
		t.Fatalf("%+v, %v", first, err)
	}
	old := s.handedOn(t, "up/a", nil)
	if _, err := s.admin.HandOn(ctx, old); err != nil {
		t.Fatal(err)
	}
	if _, err := s.admin.HandOn(ctx, old); !errors.Is(err, fault.Conflict) {
		t.Errorf("the same one again: %v", err)
	}
	for what, change := range map[string]func(*delegation.Document){
		"wider": func(d *delegation.Document) { d.Patterns = []string{"**"} }, "deeper": func(d *delegation.Document) { d.Depth = 1 },
		"longer": func(d *delegation.Document) { d.Expires = d.Expires.Add(time.Hour) },
	} {
		if _, err := s.admin.HandOn(ctx, s.handedOn(t, "up/"+what, change)); !errors.Is(err, fault.Denied) {
			t.Errorf("%s: %v, want denied", what, err)
		}
	}
	root := s.handedOn(t, "root", nil)
	if _, err := s.admin.HandOn(ctx, root); !errors.Is(err, fault.Denied) {
		t.Errorf("a delegation of the root by somebody: %v", err)
	}
	if err := s.admin.RemoveDelegation(ctx, "up"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.admin.HandOn(ctx, s.handedOn(t, "up/b", nil)); !errors.Is(err, fault.Denied) {
		t.Errorf("below what was removed: %v", err)
	}
	again, err := s.admin.Delegate(ctx, must[[]byte](t)(json.Marshal(s.delegation("up", 1))))
	if err != nil || again.Version != 3 {
		t.Errorf("given anew: %+v, %v; want version 3", again, err)
	}
	// The kinds of events that this left.
	_, _, events := s.do("GET", "/api/v1/events?limit=1000", s.tokens["auditor"], nil, nil)
	for _, kind := range []string{"trust.delegation.made", "trust.delegation.removed"} {
		deadline := time.Now().Add(5 * time.Second)
		for !strings.Contains(string(events), kind) && time.Now().Before(deadline) {
			time.Sleep(20 * time.Millisecond) // events are sealed within 100 ms
			_, _, events = s.do("GET", "/api/v1/events?limit=1000", s.tokens["auditor"], nil, nil)
		}
		if !strings.Contains(string(events), kind) {
			t.Errorf("no event %s", kind)
		}
	}
}
