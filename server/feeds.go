package server

import (
	"context"

	"assay/artifact"
	"assay/attestation"
	"assay/config"
	"assay/internal/fault"
	"assay/vuln/exploit"
	"assay/vuln/feed"
	"assay/vuln/feed/upstream"
)

// openUpstreams makes ready what fetches feeds: those of the configuration, and
// those that were added by command.
func (s *Server) openUpstreams(feeds *feed.Store, exploits *exploit.Store) (*upstream.Upstreams, error) {
	return upstream.New(upstream.Options{
		DB: s.db, Feeds: feeds, Lists: exploits, Configured: s.cfg.Vuln.Feeds, Dir: s.data.join("feeds"), MaxAge: s.cfg.Vuln.MaxAge,
		Secret: config.Secret, Verify: s.verifyFeed, Clock: s.clock, Logger: s.log, Registerer: s.reg,
	})
}

// verifyFeed checks who signed an archive, by this site's trust: the site's own
// root and the foreign ones that were imported.
func (s *Server) verifyFeed(ctx context.Context, sha256 string, bundle []byte, who upstream.Signature) error {
	b, err := attestation.ParseBundle(bundle, attestation.DefaultLimits())
	if err != nil {
		return fault.Newf(fault.Unverified, "the archive's signature: %w", err)
	}
	v, err := s.trust().verifier.Verify(ctx, b)
	if err != nil {
		return fault.Newf(fault.Unverified, "the archive's signature: %w", err)
	}
	about := v.PayloadDigest == artifact.Digest("sha256:"+sha256) && v.Statement == nil
	if v.Statement != nil {
		for _, subject := range v.Subjects {
			about = about || subject.Digest[artifact.SHA256] == sha256
		}
	}
	if !about {
		return fault.Newf(fault.Unverified, "the archive's signature is about another file than the one that came, sha256:%s", sha256)
	}
	if v.Identity.Subject != who.Identity || v.Identity.Issuer != who.Issuer {
		return fault.Newf(fault.Unverified, "the archive is signed by %q of %q, wanted is %q of %q", v.Identity.Subject, v.Identity.Issuer, who.Identity, who.Issuer)
	}
	return nil
}
