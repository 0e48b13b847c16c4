package server

import (
	"context"
	"crypto/sha256"
	"strings"

	"assay/api"
	"assay/client"
	"assay/config"
	"assay/identity"
	"assay/store"
	"assay/trust"
)

// reload reads the applied documents and puts them in force: grants, issuers
// and policies, each exchanged at once, none when one of them is wrong.
func (s *Server) reload(ctx context.Context) error {
	var docs []config.Document
	if err := s.db.View(ctx, func(tx *store.Tx) (err error) {
		docs, err = config.Stored(ctx, tx)
		return err
	}); err != nil {
		return err
	}
	return s.enforce(docs)
}

func (s *Server) enforce(docs []config.Document) error {
	d, err := config.Compile(docs, s.cfg.Identity.Issuers)
	if err != nil {
		return err
	}
	grants := d.Grants
	if s.opts.Local {
		// Whoever gets a token of the local issuer owns the data folder.
		grants = append(grants, identity.Grant{Issuer: s.issuer.URL(), Subject: "**", Role: identity.RolePublisher, Scope: "**"},
			identity.Grant{Issuer: s.issuer.URL(), Subject: "**", Role: identity.RoleViewer, Scope: "**"})
	}
	if err := s.verifier.SetIssuers(d.Issuers); err != nil {
		return err
	}
	if err := s.access.Set(grants); err != nil {
		return err
	}
	s.desired.Store(d)
	s.documents.Store(fingerprint(docs))
	return nil
}

func (s *Server) reloadIfChanged(ctx context.Context) error {
	var docs []config.Document
	if err := s.db.View(ctx, func(tx *store.Tx) (err error) {
		docs, err = config.Stored(ctx, tx)
		return err
	}); err != nil {
		return err
	}
	if now := fingerprint(docs); s.documents.Load() == now {
		return nil
	}
	s.log.Info("documents were applied elsewhere and are taken over")
	return s.enforce(docs)
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
		LogSize: s.tlog.Head().Size,
		Services: client.Services{
			Fulcio: s.public + "/fulcio", Rekor: s.public + "/rekor", TSA: s.public + "/tsa/api/v1/timestamp",
			TUF: s.public + "/tuf", OIDC: s.issuer.URL(),
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
	d, err := s.registry.Resolve(ctx, p, repository, reference)
	return api.Resolved{Digest: d.Digest, MediaType: d.MediaType}, err
}
