package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/evidence"
	"assay/evidence/contract"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/policy"
	"assay/trust"
	"assay/trust/delegation"
)

const (
	maxField    = 4 << 10 // bytes of one predicate member that enters the facts
	maxScalar   = 256     // bytes of a top-level scalar that enters unasked
	maxScalars  = 32      // top-level scalars that enter unasked
	maxParams   = 8 << 10 // bytes of external parameters that enter the facts
	maxRejected = 16      // refused bundles that are listed
)

// gathering is one collection of facts.
type gathering struct {
	target     Target
	digests    artifact.DigestSet
	verifier   *Verifier
	builders   *builders
	policy     *policy.Policy
	cache      *verdicts // nil: none
	epoch      int64
	runners    RunnerSource    // nil: nothing was compared
	flaws      FlawSource      // nil: nothing is known of vulnerabilities
	services   ServiceSource   // nil: nothing is known of services
	workloads  WorkloadSource  // nil: nothing is known of workloads
	exceptions ExceptionSource // nil: there are none
	links      []linked        // for the layouts that the policy names
	stated     []statedVEX     // by whom the policy names
	// components knows what artifacts are made of; nil: nothing is known of that.
	components ComponentSource
	never      map[string]bool // fingerprints of the own decision keys, which are no evidence
	facts      *policy.Facts
	// For contracts, and the bills of materials that they ask for.
	contracts  Contracts
	keeps      bool // bills of materials are kept without contracts too
	predicates map[string][]byte
	boms       map[string]contract.SBOM
	expires    time.Time // earliest expiry among the inputs; zero: none
}

// collected is what one verified bundle says, whatever it is asked about: it is
// kept between collections.
type collected struct {
	err      error // a refusal; then the rest is empty
	evidence policy.Evidence
	subjects []attestation.Subject
	// Of a statement.
	predicateType string
	predicate     []byte
	payloadDigest artifact.Digest // of a message signature: the signed bytes' own
	keyExpiry     time.Time
	signer        delegation.Signer
	signedAt      time.Time // trusted; zero: unknown
}

// add verifies one item and enters it into the facts. The error is that no
// answer was found, never a refusal of the item.
func (g *gathering) add(ctx context.Context, it *Item) error {
	id := evidence.ID(it.Bundle)
	c, err := g.verified(ctx, id, it)
	if err != nil {
		return err
	}
	if c.err == nil && g.never[c.evidence.Key] {
		c.err = refuse(codeOwnDecision, "signed by this instance's own decision key, which is no evidence for itself")
	}
	if c.err == nil {
		c.err = g.about(c, it)
	}
	if c.err == nil {
		c.err = g.delegated(&c)
	}
	if c.err == nil {
		c.err = g.enter(c, it, id)
	}
	if c.err != nil {
		g.reject(id, it.Source, codeOf(c.err), c.err.Error())
	}
	return nil
}

func (g *gathering) reject(id, source, code, reason string) {
	g.facts.Rejected = append(g.facts.Rejected, policy.Rejected{ID: id, Source: clip(source, 120), Code: clip(code, 60), Reason: clip(reason, 200)})
}

// verified reads and verifies a bundle, or remembers having done so.
func (g *gathering) verified(ctx context.Context, id string, it *Item) (collected, error) {
	at := placeOf(g.facts.Subject)
	key := verdictKey{id: id, epoch: g.epoch, verifier: g.verifier, place: g.verifier.selection(at)}
	notation := attestation.IsNotation(it.Bundle)
	if notation {
		key.place = "notation " + at.name() // whose scopes name repositories
	}
	if c, ok := g.cache.get(key); ok {
		return c, nil
	}
	v, err := g.prove(ctx, it, at, notation)
	switch {
	case err == nil:
	case isFormat(err):
		return collected{err: err}, nil
	case errors.Is(err, fault.Unverified):
		c := collected{err: err}
		if g.target.Open == nil && !notation {
			g.cache.put(key, c)
		}
		return c, nil
	default:
		return collected{}, fault.Newf(fault.Undecided, "verify %s: %w", id, err)
	}
	c := collected{evidence: describe(v), subjects: v.Subjects, keyExpiry: v.Expires, signedAt: v.TrustedTime}
	if c.signer = (delegation.Signer{Key: v.KeyFingerprint}); v.Certificate != nil {
		c.signer = delegation.Signer{Issuer: v.Identity.Issuer, Subject: v.Identity.Subject}
	}
	switch v.Scheme {
	case trust.SchemeMessage:
		c.payloadDigest = v.PayloadDigest
	case trust.SchemeDSSE:
		c.predicateType, c.predicate = v.Statement.PredicateType, v.Statement.Predicate
	}
	switch {
	case !v.Expires.IsZero(): // what ends by itself is not remembered
	case v.TrustedTime.IsZero():
		c.keyExpiry = g.verifier.keyExpiry(v.KeyFingerprint)
	default:
		g.cache.put(key, c)
	}
	return c, nil
}

// formatError is that bytes are no evidence of any form.
type formatError struct{ error }

func (e formatError) Unwrap() error { return e.error }

func isFormat(err error) bool {
	_, is := errors.AsType[formatError](err)
	return is
}

// prove verifies one item at a place.
func (g *gathering) prove(ctx context.Context, it *Item, at place, notation bool) (*trust.Verified, error) {
	if notation {
		return g.verifier.verifyNotation(ctx, it.Bundle, at)
	}
	b, err := attestation.ParseBundle(it.Bundle, g.verifier.o.Limits)
	if err != nil {
		return nil, formatError{err}
	}
	v, err := g.verifier.verify(ctx, b, nil, at)
	if err != nil && g.target.Open != nil && b.MessageSignature() != nil && trust.Code(err) == trust.CodeSignature {
		v, err = g.verifier.verify(ctx, b, g.target.Open, at)
	}
	return v, err
}

// describe is the part of the facts that is the same for signatures and
// statements.
func describe(v *trust.Verified) policy.Evidence {
	e := policy.Evidence{Root: v.Root, Scheme: string(v.Scheme)}
	if v.Certificate != nil {
		e.Identity = &policy.Identity{Issuer: v.Identity.Issuer, Subject: v.Identity.Subject, Extensions: v.Identity.Extensions}
	} else {
		e.Key = v.KeyFingerprint
	}
	if !v.TrustedTime.IsZero() {
		e.TrustedTime = v.TrustedTime.UTC().Format(time.RFC3339)
		e.TimeSource = v.TimeSource
		if e.TimeSource == "tlog" {
			e.TimeSource = "log"
		}
	}
	if v.LogID != "" && v.LogIndex >= 0 {
		index := v.LogIndex
		e.LogIndex, e.LogID = &index, v.LogID
		e.Witnesses = v.Logs[0].Witnesses
	}
	return e
}

// about refuses a bundle that is about another artifact. A legacy signature is
// over a document that names the image.
func (g *gathering) about(c collected, it *Item) error {
	if it.Payload == nil {
		if !named(c.subjects, g.digests) {
			return refuse(trust.CodeArtifact, "the bundle is about another artifact: %s", firstDigest(c.subjects))
		}
		return nil
	}
	image, _, err := attestation.ParseSimpleSigning(it.Payload, g.verifier.o.Limits)
	switch {
	case err != nil:
		return err
	case c.payloadDigest == "" || artifact.SHA256Of(it.Payload) != c.payloadDigest:
		return refuse(trust.CodeArtifact, "the signed document is not the one beside the signature")
	case !image.Set().Match(g.digests):
		return refuse(trust.CodeArtifact, "the signed document names image %s", image)
	}
	return nil
}

func firstDigest(subjects []attestation.Subject) string {
	for _, s := range subjects {
		strong := s.Digest.Strong()
		switch {
		case len(strong) > 0 && len(subjects) > 1:
			return fmt.Sprintf("%s and %d more", strong[0], len(subjects)-1)
		case len(strong) > 0:
			return string(strong[0])
		}
	}
	return "of no known digest"
}

// enter puts verified evidence into the facts.
func (g *gathering) enter(c collected, it *Item, id string) error {
	e := c.evidence
	e.ID, e.Source, e.Repository, e.Legacy = id, clip(it.Source, 120), it.Repository, it.Legacy
	if !c.keyExpiry.IsZero() && (g.expires.IsZero() || c.keyExpiry.Before(g.expires)) {
		g.expires = c.keyExpiry
	}
	if c.predicateType == "" || c.predicateType == attestation.PredicateCosignSign {
		g.facts.Signatures = append(g.facts.Signatures, policy.Signature{Evidence: e})
		return nil
	}
	a := policy.Attestation{Evidence: e, PredicateType: c.predicateType}
	if attestation.IsProvenance(c.predicateType) {
		p, err := attestation.ParseProvenance(c.predicateType, c.predicate)
		if err != nil {
			return refuse("predicate.invalid", "%w", err)
		}
		g.facts.Provenance = append(g.facts.Provenance, g.view(p, &a.Evidence))
	}
	if err := g.fields(&a, c.predicate); err != nil {
		return refuse("predicate.invalid", "%w", err)
	}
	if err := g.enterRunner(id, c.predicateType, c.predicate); err != nil {
		return refuse("predicate.invalid", "%w", err)
	}
	if err := g.enterReport(id, c.predicateType, c.predicate); err != nil {
		return refuse("predicate.invalid", "%w", err)
	}
	if err := g.enterBuild(id, c.predicateType, c.predicate); err != nil {
		return refuse("predicate.invalid", "%w", err)
	}
	if err := g.enterTarball(c, it, id); err != nil {
		return refuse("predicate.invalid", "%w", err)
	}
	g.keepLink(&c, &a.Evidence, 0, nil)
	if err := g.keepVEX(&c, a.Evidence, ""); err != nil {
		return refuse("predicate.invalid", "%w", err)
	}
	g.keepSBOM(id, c.predicateType, c.predicate)
	g.facts.Attestations = append(g.facts.Attestations, a)
	return nil
}

func (g *gathering) view(p *attestation.Provenance, e *policy.Evidence) policy.Provenance {
	out := policy.Provenance{
		Attestation: e.ID, BuilderID: p.BuilderID, BuildType: p.BuildType, Level: g.builders.level(p.BuilderID, e), InvocationID: p.InvocationID,
		Source:          policy.Source{URI: p.SourceURI, Ref: p.SourceRef, Digest: sourceDigest(p.SourceDigest)},
		ProvenanceBuild: buildOf(p),
	}
	if len(p.ExternalParameters) > 0 {
		out.ExternalParameters, _ = portable(p.ExternalParameters).(map[string]any)
		if b, err := strictjson.Canonical(out.ExternalParameters); err != nil || len(b) > maxParams {
			// A name that no policy allows, so that what is left out is refused
			// by every policy that looks at parameters.
			out.ExternalParameters = map[string]any{fmt.Sprintf("(over %d bytes)", maxParams): true}
		}
	}
	return out
}

// sourceDigest is the commit's digest, the most telling algorithm first.
func sourceDigest(s artifact.DigestSet) string {
	for _, alg := range []string{"gitCommit", artifact.SHA256, "sha1", artifact.SHA512} {
		if s[alg] != "" {
			return alg + ":" + s[alg]
		}
	}
	return ""
}

// fields enters the top-level scalars, and the members that the policy names.
func (g *gathering) fields(a *policy.Attestation, predicate []byte) error {
	if len(bytes.TrimSpace(predicate)) == 0 {
		return nil
	}
	doc, err := strictjson.UnmarshalAny(predicate)
	if err != nil {
		return err
	}
	top, _ := doc.(map[string]any)
	a.Fields = map[string]any{}
	for _, k := range sortedKeys(top) {
		if len(a.Fields) == maxScalars {
			break
		}
		if s, is := scalar(top[k]); is && len(k) <= maxScalar {
			a.Fields[pathOf(k)] = s
		}
	}
	for _, p := range g.policy.Paths(a.PredicateType) {
		v, ok := p.Lookup(doc)
		if !ok {
			continue
		}
		v = portable(v)
		if b, err := strictjson.Canonical(v); err != nil || len(b) > maxField {
			delete(a.Fields, p.String())
			a.Large = append(a.Large, p.String())
			continue
		}
		a.Fields[p.String()] = v
	}
	return nil
}

func scalar(v any) (any, bool) {
	switch s := v.(type) {
	case string:
		return s, s != "" && len(s) <= maxScalar
	case bool, int64, float64:
		return portable(s), true
	}
	return nil, false
}

// pathOf is the path of a top-level member.
func pathOf(name string) string {
	if p, err := policy.ParsePath(name); err == nil {
		if v, ok := p.Lookup(map[string]any{name: "x"}); ok && v == "x" {
			return name
		}
	}
	return "[" + strconv.Quote(name) + "]"
}

// portable makes integers beyond 2^53, which canonical JSON cannot hold, into
// strings.
func portable(v any) any {
	switch c := v.(type) {
	case int64:
		if c > 1<<53 || c < -1<<53 {
			return strconv.FormatInt(c, 10)
		}
	case float64:
		if c > 1<<53 || c < -1<<53 {
			return strconv.FormatFloat(c, 'g', -1, 64)
		}
	case map[string]any:
		out := make(map[string]any, len(c))
		for k, e := range c {
			out[k] = portable(e)
		}
		return out
	case []any:
		out := make([]any, len(c))
		for i, e := range c {
			out[i] = portable(e)
		}
		return out
	}
	return v
}

// canonical writes the facts. Those that are too large lose what explains, then
// evidence, and are then truncated, which every policy denies.
func canonical(f *policy.Facts) ([]byte, error) {
	for {
		b, err := f.Canonical()
		if !errors.Is(err, fault.TooLarge) {
			return b, err
		}
		switch {
		case len(f.Rejected) > 0:
			f.Rejected = f.Rejected[:len(f.Rejected)/2]
		case shortenTraces(f):
		case shortenVulnerabilities(f):
		case shortenComponents(f):
		case len(f.Attestations) > 0:
			last := f.Attestations[len(f.Attestations)-1].ID
			f.Attestations, f.Truncated = f.Attestations[:len(f.Attestations)-1], true
			f.Reports = slices.DeleteFunc(f.Reports, func(r policy.Report) bool { return r.Attestation == last })
			f.Runners = slices.DeleteFunc(f.Runners, func(r policy.Runner) bool { return r.Attestation == last })
			f.Rebuilds = slices.DeleteFunc(f.Rebuilds, func(r policy.Rebuild) bool { return r.Attestation == last })
			for i := range f.Provenance {
				if f.Provenance[i].Attestation == last {
					f.Provenance = append(f.Provenance[:i], f.Provenance[i+1:]...)
					break
				}
			}
		case len(f.Signatures) > 0:
			f.Signatures, f.Truncated = f.Signatures[:len(f.Signatures)-1], true
		default:
			return nil, err
		}
	}
}

// clip bounds and cleans one line of text that others made.
func clip(s string, n int) string { return excerpt.Line(s, n, '?') }

// builders are the compiled roots of build levels.
type builders struct {
	rules []builderRule
}

type builderRule struct {
	id     string
	signer policy.Matcher
	level  int
}

func compileBuilders(in []policy.Builder) (*builders, error) {
	out := &builders{}
	for i, b := range in {
		m, err := b.Signer.Compile()
		if err != nil {
			return nil, fmt.Errorf("builders[%d]: %w", i, err)
		}
		if b.ID == "" || b.Level < 1 || b.Level > 4 {
			return nil, fault.Newf(fault.Invalid, "builders[%d]: want an id and a level of 1 to 4", i)
		}
		out.rules = append(out.rules, builderRule{b.ID, m, b.Level})
	}
	return out, nil
}

// level is what the configuration grants a builder that this signer signed for:
// 1 unless it grants more, since verified provenance exists.
func (b *builders) level(id string, e *policy.Evidence) int {
	level := 1
	for _, r := range b.rules {
		if r.id == id && r.signer.Match(e) {
			level = max(level, r.level)
		}
	}
	return level
}
