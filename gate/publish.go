package gate

import (
	"cmp"
	"context"
	"strconv"

	"assay/admission"
	"assay/artifact"
	"assay/client"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
)

// FunctionType is the artifact type of a package of a function: an OCI artifact
// whose layer is the zip file.
const FunctionType = "application/vnd.assay.function.v1+zip"

// ZipType is the media type of its layer.
const ZipType = "application/zip"

// Function judges whether a package of a function may be activated: it is one, the
// decision about it is an allow, and what it holds is known and was matched against
// the advisories, whatever the policy wants.
func (g *Gate) Function(ctx context.Context, actor string, q *client.FunctionQuestion, ref artifact.Reference) (*client.FunctionAnswer, error) {
	a := &client.FunctionAnswer{Verdict: Allow}
	one := g.judgeOne(ctx, ref, admission.Place{Environment: q.Environment, Claimed: true})
	if one.Warned { // nothing is activated that is not allowed, in whatever mode
		one.Verdict, one.Warned = Deny, false
	}
	a.Package, a.Verdict = one, one.Verdict
	if one.Digest != "" && one.Verdict != Undecided {
		if err := g.described(ctx, ref, a); err != nil {
			return nil, err
		}
	}
	a.Package.Verdict = a.Verdict
	g.answers.WithLabelValues("function", a.Verdict).Inc()
	if a.Verdict == Undecided {
		return a, nil
	}
	return a, g.o.DB.Update(ctx, func(tx *store.Tx) error {
		kind, reason := event.FunctionAllowed, ""
		if a.Verdict != Allow {
			kind = event.FunctionRefused
			if len(a.Package.Reasons) > 0 {
				reason = a.Package.Reasons[0].Check + ": " + a.Package.Reasons[0].Found
			}
		}
		return event.Append(ctx, tx, event.Event{Kind: kind, Actor: actor, Env: q.Environment, Digest: a.Package.Digest, Body: map[string]string{
			"image": a.Package.Image, "decision": a.Package.Decision, "reason": client.Clip(reason, 1000), "components": strconv.Itoa(a.Components), "findings": strconv.Itoa(a.Findings),
		}})
	})
}

// described wants the artifact type, a bill of materials and a scan.
func (g *Gate) described(ctx context.Context, ref artifact.Reference, a *client.FunctionAnswer) error {
	kind, err := g.o.ArtifactType(ctx, ref.Repository, a.Package.Digest)
	if err != nil {
		return err
	}
	a.ArtifactType = kind
	if kind != FunctionType {
		a.Verdict = Deny
		a.Package.Reasons = append(a.Package.Reasons, client.CheckReason{Check: "artifact-type", Expected: FunctionType, Found: cmp.Or(kind, "none"), Mend: "assay gate publish FUNCTION.zip " + ref.Host + "/" + ref.Repository + ":TAG"})
	}
	found, st, err := g.o.Flaws(ctx, a.Package.Digest, ref.Repository)
	if err != nil {
		return err
	}
	a.SBOM, a.Scanned, a.Components = st.SBOM, st.SBOM && st.Scanned, st.Components
	for i := range found {
		if f := &found[i]; !f.Settled() {
			a.Findings++
			if f.Malicious {
				a.Verdict = Deny
				a.Package.Reasons = append(a.Package.Reasons, client.CheckReason{Check: "malware", Expected: "no malicious package", Found: f.Name + " in " + f.Component})
			}
		}
	}
	switch why := notKnown(&st); {
	case why == "":
	case !st.SBOM:
		a.Verdict = Deny
		a.Package.Reasons = append(a.Package.Reasons, client.CheckReason{Check: "sbom", Expected: "a bill of materials in force", Found: "none", Mend: "assay sbom --attest " + a.Package.Image})
	default:
		if a.Verdict == Allow {
			a.Verdict = Undecided
		}
		a.Package.Reasons = append(a.Package.Reasons, client.CheckReason{Check: "scan", Expected: "matched against advisories that are in force and fresh", Found: why})
	}
	return nil
}

// FunctionImage is the reference of a question.
func FunctionImage(q *client.FunctionQuestion) (artifact.Reference, error) {
	if q.Environment != "" && !nameRE.MatchString(q.Environment) {
		return artifact.Reference{}, fault.Newf(fault.Invalid, "environment %.80q: want letters, digits, . _ and -, at most 253", q.Environment)
	}
	all, err := references("image", []string{q.Image})
	if err != nil {
		return artifact.Reference{}, err
	}
	return all[0], nil
}
