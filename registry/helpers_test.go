package registry_test

import (
	"strings"
	"testing"

	"assay/identity"
	"assay/registry"
	"assay/registry/registrytest"
	"assay/store"
	"assay/store/storetest"
)

// each runs a test on both databases, with a publisher who may also delete.
func each(t *testing.T, f func(t *testing.T, s *registrytest.Server, c *registrytest.Client), opts ...registrytest.Option) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := registrytest.Start(t, db, opts...)
		f(t, s, owner(t, s))
	})
}

// one runs a test where the database plays no part.
func one(t testing.TB, opts ...registrytest.Option) (*registrytest.Server, *registrytest.Client) {
	s := registrytest.Start(t, storetest.Open(t, store.SQLite), opts...)
	return s, owner(t, s)
}

func owner(t testing.TB, s *registrytest.Server) *registrytest.Client {
	s.Grant(t, "owner", identity.RolePublisher, "**")
	s.Grant(t, "owner", identity.RoleOperator, "**")
	return s.Client(t, "owner")
}

func limits(l registry.Limits) registrytest.Option {
	return func(o *registry.Options) { o.Limits = l }
}

// want fails unless an answer has the status and, if given, the OCI code.
func want(t testing.TB, what string, r *registrytest.Response, status int, code string) {
	t.Helper()
	if r.StatusCode != status || code != "" && r.Code() != code {
		t.Fatalf("%s: %s %s, want %d %s", what, r.Status, clip(r.Body), status, code)
	}
}

func wantHeader(t testing.TB, what string, r *registrytest.Response, name, value string) {
	t.Helper()
	if got := r.Header.Get(name); got != value {
		t.Fatalf("%s: header %s is %q, want %q", what, name, got, value)
	}
}

func clip(b []byte) string {
	if len(b) > 500 {
		b = b[:500]
	}
	return strings.ToValidUTF8(string(b), "?")
}
