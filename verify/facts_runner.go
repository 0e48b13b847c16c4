package verify

import (
	"context"

	"assay/artifact"
	"assay/builder/rebuild"
	"assay/builder/runner"
	"assay/builder/runner/baseline"
	"assay/policy"
)

// maxRunnerAnomalies bounds the anomalies of one build that enter the facts.
const maxRunnerAnomalies = 16

// RunnerSource knows what builds that made a digest were compared with earlier
// ones, as baseline.Store does. It compares what came in meanwhile.
type RunnerSource interface {
	About(ctx context.Context, subject artifact.Digest) ([]*baseline.Build, []*baseline.Anomaly, error)
}

// enterRunner enters what verified runner evidence and rebuilds say: their
// signer's word, until a requirement names whose counts.
func (g *gathering) enterRunner(id, predicateType string, predicate []byte) error {
	switch predicateType {
	case runner.PredicateType:
		e, err := runner.Parse(predicate)
		if err != nil {
			return err
		}
		f := policy.Runner{
			Attestation: id, InvocationID: clip(e.Build.InvocationID, 256), Kind: e.Machine.Kind, Fresh: e.Use.Fresh, Builds: e.Use.Builds, Age: e.Machine.Age,
			Image: clip(e.Image.Name+" "+e.Image.Version, 120),
		}
		if f.Image == " " {
			f.Image = clip(e.Image.Reference, 120)
		}
		if e.Clock != nil {
			f.ClockOffset = &e.Clock.Offset
		}
		g.facts.Runners = append(g.facts.Runners, f)
	case rebuild.PredicateType:
		r, err := rebuild.Parse(predicate)
		if err != nil {
			return err
		}
		out := policy.Rebuild{
			Attestation: id, Of: clip(r.Of.Attestation, 80), InvocationID: clip(r.InvocationID, 256),
			Source: policy.Source{URI: clip(r.Source.URI, 300), Digest: "gitCommit:" + r.Source.Commit, Ref: clip(r.Source.Ref, 200)},
		}
		found, differs := false, false
		for _, p := range r.Products {
			if p.Expected.Set().Match(g.digests) {
				found, differs = true, differs || !p.Identical()
			}
		}
		out.Identical = found && !differs
		g.facts.Rebuilds = append(g.facts.Rebuilds, out)
	}
	return nil
}

// linkRunners binds machines to their builds, and enters what the site knows of
// them. Without a site nothing was compared, which the facts say.
func (g *gathering) linkRunners(ctx context.Context, src RunnerSource) error {
	if len(g.facts.Runners) == 0 {
		return nil
	}
	signer := map[string]*policy.Attestation{}
	for i := range g.facts.Attestations {
		signer[g.facts.Attestations[i].ID] = &g.facts.Attestations[i]
	}
	for i := range g.facts.Runners {
		f := &g.facts.Runners[i]
		own := signer[f.Attestation]
		for _, p := range g.facts.Provenance {
			a := signer[p.Attestation]
			if own != nil && a != nil && a.Signer() == own.Signer() && p.InvocationID == f.InvocationID {
				f.Provenance = p.Attestation
				break
			}
		}
	}
	if src == nil {
		return nil
	}
	builds, anomalies, err := src.About(ctx, g.target.Digest)
	if err != nil {
		return err
	}
	for i := range g.facts.Runners {
		f := &g.facts.Runners[i]
		for _, b := range builds {
			if own := signer[f.Attestation]; own != nil && b.InvocationID == f.InvocationID && ofSigner(b, &own.Evidence) {
				enterBuild(f, b, anomalies)
			}
		}
	}
	return nil
}

func ofSigner(b *baseline.Build, e *policy.Evidence) bool {
	if e.Identity == nil {
		return b.Issuer == "" && b.Identity == e.Key
	}
	return b.Issuer == e.Identity.Issuer && b.Identity == e.Identity.Subject
}

func enterBuild(f *policy.Runner, b *baseline.Build, anomalies []*baseline.Anomaly) {
	f.State, f.Traced, f.Open = string(b.State), b.Trace != "", b.Open
	// What the site knows counts for and against: builds of the same job are one
	// use, and one who hides earlier ones does not count as fresh.
	f.Fresh = !b.Used
	for _, a := range anomalies {
		if a.Build == b.ID && len(f.Anomalies) < maxRunnerAnomalies {
			f.Anomalies = append(f.Anomalies, policy.RunnerAnomaly{
				ID: a.ID, Kind: a.Kind, Name: clip(a.Name, 120), Before: clip(a.Before, 200), After: clip(a.After, 200),
			})
		}
	}
}
