package server

import (
	"context"
	"crypto/sha256"
	"slices"
	"strings"

	"assay/api"
	"assay/client"
	"assay/config"
	"assay/identity"
	"assay/internal/fault"
	"assay/registry/gate"
	"assay/store"
	"assay/trust"
)

// reload reads the applied documents and puts them in force: grants, issuers
// and policies, each exchanged at once, none when one of them is wrong.
func (s *Server) reload(ctx context.Context) error { return s.load(ctx, true) }

// reloadIfChanged takes over what another replica of this site applied.
func (s *Server) reloadIfChanged(ctx context.Context) error { return s.load(ctx, false) }

func (s *Server) load(ctx context.Context, always bool) error {
	// One at a time: of two applies at once, the later one's documents must be
	// the ones that stay in force.
	s.loading.Lock()
	defer s.loading.Unlock()
	var docs []config.Document
	if err := s.db.View(ctx, func(tx *store.Tx) (err error) {
		docs, err = config.Stored(ctx, tx)
		return err
	}); err != nil {
		return err
	}
	now := fingerprint(docs)
	if s.documents == now && !always {
		return nil
	}
	if !always {
		s.log.Info("documents were applied elsewhere and are taken over")
	}
	d, err := config.Compile(docs, s.cfg.Identity.Issuers, s.services...)
	if err != nil {
		return err
	}
	if err := s.enforce(d); err != nil {
		return err
	}
	s.documents = now
	return nil
}

// checkDesired finds out whether d could be put in force, without doing so.
func (s *Server) checkDesired(d *config.Desired) error {
	if _, err := identity.NewAccess(s.grants(d)); err != nil {
		return err
	}
	_, err := identity.NewVerifier(identity.VerifierOptions{Issuers: d.Issuers, Local: s.local, Clock: s.clock})
	return err
}

func (s *Server) enforce(d *config.Desired) error {
	if err := s.checkDesired(d); err != nil {
		return err
	}
	if err := s.verifier.SetIssuers(d.Issuers); err != nil {
		return err
	}
	s.granting.Lock()
	defer s.granting.Unlock()
	if err := s.access.Set(s.grants(d)); err != nil {
		return err
	}
	s.desired.Store(d)
	if s.gate != nil { // not in a process that has no registry
		s.gate.Set(gate.Rules{Repositories: d.Repositories, Policies: d.Policies})
		s.gateway.Set(d.Repositories)
	}
	return nil
}

// regrant takes over what robots and break-glass sessions may now.
func (s *Server) regrant() {
	s.granting.Lock()
	defer s.granting.Unlock()
	d := s.desired.Load()
	if d == nil {
		return // the server is opening, and will do so with the documents
	}
	if err := s.access.Set(s.grants(d)); err != nil {
		s.log.Error("the rights of robots could not be put in force", "error", err)
	}
}

// grants are those of the documents, and under assay up those of the machine's
// owner.
func (s *Server) grants(d *config.Desired) []identity.Grant {
	grants := append(slices.Clone(d.Grants), s.credentials.Grants()...)
	if s.opts.Local {
		// Whoever gets a token of the local issuer owns the data folder.
		grants = append(grants, identity.Grant{Issuer: s.local.URL, Subject: "**", Role: identity.RolePublisher, Scope: "**"},
			identity.Grant{Issuer: s.local.URL, Subject: "**", Role: identity.RoleViewer, Scope: "**"})
	}
	return grants
}

func fingerprint(docs []config.Document) [sha256.Size]byte {
	h := sha256.New()
	for _, d := range docs {
		h.Write(d.Text)
		h.Write([]byte{0})
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// host is the registry's name as it stands in references, with its port.
func (s *Server) host() string {
	_, host, _ := strings.Cut(s.public, "://")
	return host
}

// status says what this server is.
func (s *Server) status(ctx context.Context) client.Status {
	st := client.Status{
		Version: s.opts.Version, PublicURL: s.public, Origin: s.data.site.Host, StartedAt: s.started,
		LogSize: s.logSize(ctx),
		Services: client.Services{
			Fulcio: s.public + "/fulcio", Rekor: s.public + "/rekor", TSA: s.public + "/tsa/api/v1/timestamp",
			TUF: s.public + "/tuf", OIDC: s.local.URL,
		},
	}
	st.Services.Registry = s.host()
	if err := s.db.View(ctx, func(tx *store.Tx) (err error) {
		st.TrustEpoch, err = trust.Epoch(ctx, tx)
		return err
	}); err != nil {
		s.log.Warn("the trust epoch could not be read", "error", err)
	}
	return st
}

// resolve finds what a reference of this registry names, as p sees it.
func (s *Server) resolve(ctx context.Context, p identity.Principal, repository, reference string) (api.Resolved, error) {
	if s.registry == nil {
		return api.Resolved{}, fault.Newf(fault.Unavailable, "tags are resolved by the process with role registry: name the digest")
	}
	d, err := s.registry.Resolve(ctx, p, repository, reference)
	return api.Resolved{Digest: d.Digest, MediaType: d.MediaType}, err
}
