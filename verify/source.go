package verify

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"assay/artifact"
	"assay/attestation"
	"assay/evidence"
	"assay/internal/fault"
	"assay/internal/oci"
	"assay/internal/strictjson"
)

// MaxEvidence is how many bundles about one digest are verified, the newest;
// more make the facts truncated, which every policy denies.
const MaxEvidence = 64

// Item is one bundle as a source gives it, unverified. ID is worked out again
// from the bytes.
type Item = evidence.Item

// EvidenceSource gives what is known about a digest, the newest first, and
// says when there was more. It proves nothing: what it gives is verified.
// [evidence.Store] is one; see also [Registry] and [Items].
type EvidenceSource interface {
	Evidence(ctx context.Context, subject artifact.Digest) (items []Item, truncated bool, err error)
}

// rejectionSource is an EvidenceSource that also knows what was refused at its
// door, as evidence.Store does. It explains why evidence is missing.
type rejectionSource interface {
	Rejected(ctx context.Context, subject artifact.Digest) ([]evidence.Rejection, error)
}

// Items is evidence that is already at hand.
type Items []Item

// Evidence gives all items.
func (s Items) Evidence(context.Context, artifact.Digest) ([]Item, bool, error) {
	return s, false, nil
}

// Sources is several sources as one: the evidence of all, truncated when one
// is. A source that fails fails the whole, since what it holds is unknown.
type Sources []EvidenceSource

// Evidence gives the items of all sources, in their order.
func (s Sources) Evidence(ctx context.Context, subject artifact.Digest) (items []Item, truncated bool, err error) {
	for _, one := range s {
		got, cut, err := one.Evidence(ctx, subject)
		if err != nil {
			return nil, false, err
		}
		items, truncated = append(items, got...), truncated || cut
	}
	return items, truncated, nil
}

// Registry reads the evidence that a registry of any make holds beside an
// image: referrers, the fallback tag, and cosign's .sig and .att tags.
type Registry struct {
	Client     *oci.Client
	Repository artifact.Reference // host and repository; tag and digest are not looked at
	Limits     attestation.Limits
}

// Evidence fetches, and turns legacy layers into bundles.
func (r Registry) Evidence(ctx context.Context, subject artifact.Digest) ([]Item, bool, error) {
	got, truncated, err := r.Client.Evidence(ctx, r.Repository.WithDigest(subject))
	if err != nil {
		return nil, false, fault.Newf(fault.Undecided, "read evidence of %s: %w", r.Repository.WithDigest(subject), err)
	}
	items := make([]Item, 0, len(got))
	for _, e := range got {
		it := Item{Source: "oci:" + r.Repository.Host, Repository: r.Repository.Repository, Bundle: e.Bundle}
		if e.Legacy != nil {
			it.Legacy = true
			it.Bundle, it.Payload = fromLegacy(e.Legacy, r.Limits)
		}
		items = append(items, it)
	}
	return items, truncated, nil
}

// fromLegacy gives the bundle of a cosign layer; what cannot be one is given
// as it is, and is rejected when it is read.
func fromLegacy(l *oci.Legacy, lim attestation.Limits) (bundle, payload []byte) {
	if l.MediaType == attestation.MediaTypeSimpleSigning {
		if s, err := attestation.FromCosignSignature(l.Payload, l.Annotations, lim); err == nil {
			return s.Bundle.Bytes(), s.Payload
		}
		return l.Payload, nil
	}
	if b, err := attestation.FromCosignAttestation(l.Payload, l.Annotations, lim); err == nil {
		return b.Bytes(), nil
	}
	return l.Payload, nil
}

// ParseEvidence reads a file of evidence: a Sigstore bundle, a bare DSSE
// envelope, the answer of npm's or GitHub's attestation API, or several of
// these, one on a line. The caps on the whole and on each document are lim's.
// Errors are fault.Invalid or fault.TooLarge.
func ParseEvidence(b []byte, source string, lim attestation.Limits) (Items, error) {
	most := lim.MaxBundle
	if most == 0 {
		most = attestation.DefaultLimits().MaxBundle
	}
	if int64(len(b)) > most {
		return nil, fault.Newf(fault.TooLarge, "evidence %s of %d bytes: at most %d are read", source, len(b), most)
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return nil, fault.Newf(fault.Invalid, "evidence %s is empty", source)
	}
	docs := [][]byte{b}
	if strictjson.Check(b) != nil && bytes.Count(bytes.TrimSpace(b), []byte("\n")) > 0 {
		docs = nil
		for line := range bytes.Lines(b) {
			if line = bytes.TrimSpace(line); len(line) > 0 {
				docs = append(docs, line)
			}
		}
	}
	var items Items
	for i, doc := range docs {
		got, err := parseDocument(doc, source, lim)
		if err != nil {
			if len(docs) > 1 {
				err = fmt.Errorf("line %d: %w", i+1, err)
			}
			return nil, err
		}
		items = append(items, got...)
	}
	return items, nil
}

func parseDocument(b []byte, source string, lim attestation.Limits) (Items, error) {
	var shape struct {
		MediaType    string            `json:"mediaType"`
		PayloadType  string            `json:"payloadType"`
		Attestations []json.RawMessage `json:"attestations"`
	}
	if err := strictjson.Unmarshal(b, &shape); err != nil {
		return nil, fmt.Errorf("evidence %s: %w", source, err)
	}
	switch {
	case shape.PayloadType != "":
		e, err := attestation.ParseEnvelope(b, lim)
		if err != nil {
			return nil, fmt.Errorf("evidence %s: %w", source, err)
		}
		bundle, err := attestation.FromEnvelope(e)
		if err != nil {
			return nil, fmt.Errorf("evidence %s: %w", source, err)
		}
		return Items{{Source: source, Bundle: bundle.Bytes()}}, nil
	case shape.Attestations != nil:
		var items Items
		for i, a := range shape.Attestations {
			var one struct {
				Bundle json.RawMessage `json:"bundle"`
			}
			if err := strictjson.Unmarshal(a, &one); err != nil || len(one.Bundle) == 0 {
				return nil, fault.Newf(fault.Invalid, "evidence %s: attestations[%d] has no bundle", source, i)
			}
			items = append(items, Item{Source: source, Bundle: one.Bundle})
		}
		if len(items) == 0 {
			return nil, fault.Newf(fault.Invalid, "evidence %s holds no attestation", source)
		}
		return items, nil
	case strings.HasPrefix(shape.MediaType, "application/vnd.dev.sigstore.bundle"):
		return Items{{Source: source, Bundle: b}}, nil
	}
	return nil, fault.Newf(fault.Invalid, "evidence %s is neither a Sigstore bundle nor a DSSE envelope (mediaType %.80q)", source, shape.MediaType)
}
