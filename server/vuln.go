package server

import (
	"context"
	"os"

	"assay/api"
	"assay/artifact"
	"assay/evidence"
	"assay/policy"
	"assay/sbom"
	"assay/verify"
	"assay/vuln/canary"
	"assay/vuln/exploit"
	"assay/vuln/feed"
	"assay/vuln/finding"
	"assay/vuln/vex"
)

// openVulnerabilities opens what is known of advisories, and makes room for
// archives on their way in.
func (s *Server) openVulnerabilities() error {
	feeds, err := feed.NewStore(s.db, feed.DefaultLimits(), s.log)
	if err != nil {
		return err
	}
	temp := s.data.join("tmp")
	if err := os.MkdirAll(temp, 0o700); err != nil {
		return err
	}
	exploits := exploit.NewStore(s.db)
	findings := finding.New(s.db, feeds, exploits)
	canaries := canary.New(s.db, feeds, findings)
	feeds.Before = canaries.Guard
	upstreams, err := s.openUpstreams(feeds, exploits)
	if err != nil {
		return err
	}
	s.reg.MustRegister(feed.NewAges(feeds, exploits.Ages))
	statements := vex.NewStore(vex.Options{DB: s.db, Sign: s.signSource, Site: s.public, SecondPerson: s.cfg.Vuln.SecondPerson})
	s.vulnerabilities = api.Vulnerabilities{Statements: statements, Feeds: feeds, Exploits: exploits, Findings: findings, Canaries: canaries, Upstreams: upstreams, MaxAge: s.cfg.Vuln.MaxAge, Tiers: s.cfg.Vuln.Tiers, Temp: temp}
	return nil
}

// flaws gives the decision engine what is known of artifacts' vulnerabilities.
type flaws struct {
	known    *api.Vulnerabilities
	sboms    *sbom.Store
	evidence *evidence.Store
}

// ComponentVEX gives the statements about flaws that were attested about what an
// artifact holds, by its digest.
func (f flaws) ComponentVEX(ctx context.Context, subject artifact.Digest, limit int) (out []verify.ComponentItem, err error) {
	if f.sboms == nil {
		return nil, nil
	}
	found, err := f.sboms.EvidenceOfComponents(ctx, subject, vex.Predicates, limit)
	for _, one := range found {
		it, err := f.evidence.Item(ctx, one.Attestation)
		if err != nil {
			return nil, err
		}
		out = append(out, verify.ComponentItem{Component: one.Digest, Item: it})
	}
	return out, err
}

func (f flaws) Flaws(ctx context.Context, subject policy.Subject) (*verify.Flaws, error) {
	return f.FlawsBy(ctx, subject, nil)
}

// FlawsBy is Flaws by some bills of materials alone; nil is all.
func (f flaws) FlawsBy(ctx context.Context, subject policy.Subject, attestations []string) (*verify.Flaws, error) {
	if f.known.Findings == nil { // a process that knows nothing of them
		return &verify.Flaws{}, nil
	}
	var out verify.Flaws
	var err error
	if out.Findings, out.State, err = f.known.OfDocuments(ctx, subject.Digest, subject.Repository, attestations); err != nil {
		return nil, err
	}
	all, err := f.known.Findings.Documents(ctx, subject.Digest, attestations)
	out.Documents = all
	return &out, err
}
