package evidence

import (
	"context"
	"errors"
	"sync"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/blob"
	"assay/blob/sweep"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
	"assay/telemetry"
	"assay/trust"
)

// The codes of refusals that package trust knows nothing of.
const (
	CodeTooLarge  = "bundle.too-large"   // over a limit
	CodeManifest  = "manifest.malformed" // what was pushed is no manifest that holds evidence
	CodeMissing   = "content.missing"    // the manifest names content that is not there
	CodeTampered  = "content.tampered"   // content does not have the digest that names it
	CodeOtherwise = "other"              // stands in events for refusals of too many sorts at once
)

// submission is one bundle as it is brought.
type submission struct {
	raw    []byte
	bundle *attestation.Bundle // of raw, when it was parsed already
	legacy bool
	// payload and image are those of a legacy signature, whose bundle signs the
	// payload, which names the image.
	payload []byte
	image   artifact.Digest
	// about is the subject that it was attached to; "" when it stands alone.
	about artifact.Digest
}

// prepared is a bundle that was verified.
type prepared struct {
	record   Record // without subject and time
	subjects []artifact.Digest
	raw      []byte
	payload  []byte
	inline   bool
	signed   string     // what was signed, see signedKey
	made     maker      // what a revocation may name besides the signer
	merges   *mergeBody // that hold what nobody merged; nil: none is told of
	unlogged bool       // by one of our identities, and in no log of ours
	kept     []Record   // of the bundle that is kept in its place; nil: none
}

// records gives one Record a subject.
func (p *prepared) records() []Record {
	if p.kept != nil {
		return p.kept
	}
	out := make([]Record, len(p.subjects))
	for i, d := range p.subjects {
		out[i] = p.record
		out[i].Subject = d
	}
	return out
}

// Ingest takes in one Sigstore bundle: parses it under the caps, verifies it,
// and stores it durably in one transaction with the event attestation.ingested.
// It gives one record for each digest that the bundle is about.
//
// Bytes that are known already, and were verified under the current trust
// epoch, are not verified again: isNew is false, and a repository that they had
// not come from yet is added. So it is with other bytes that carry the same
// signature and prove no more than a bundle that is kept (anyone can write a
// bundle anew): the records are those of the bundle that is kept.
//
// What does not verify is fault.Unverified with a trust.Code, what is no bundle
// fault.Invalid or fault.TooLarge; both are noted as rejected. Other errors
// (fault.Unavailable, fault.NoSpace, …) say nothing about the bundle.
func (s *Store) Ingest(ctx context.Context, bundle []byte, from Origin) (records []Record, isNew bool, err error) {
	if err := from.validate(); err != nil {
		return nil, false, err
	}
	return s.ingest(ctx, submission{raw: bundle}, from)
}

// tellSpan ends a span with what an ingestion came to.
func tellSpan(span telemetry.Span, records []Record, err error) {
	if span.On() && len(records) > 0 {
		span.Text(telemetry.AttestationID, records[0].ID)
		span.Text(telemetry.ManifestDigest, string(records[0].Subject))
		span.Text(telemetry.EvidenceOf, records[0].PredicateType)
		span.Int(telemetry.Items, int64(len(records)))
	}
	span.End(err)
}

func (s *Store) ingest(ctx context.Context, sub submission, from Origin) (records []Record, isNew bool, err error) {
	ctx, span := telemetry.Start(ctx, "evidence.ingest")
	defer func() { tellSpan(span, records, err) }()
	if int64(len(sub.raw)) > s.limits.Attestation.MaxBundle {
		return nil, false, s.refused(ctx, "", sub, from, s.tooLarge(len(sub.raw)))
	}
	id := ID(sub.raw)
	k, records, err := s.lookUp(ctx, id, sub, from)
	if err != nil {
		s.met.ingested.WithLabelValues(resultError).Inc()
		return nil, false, err
	}
	if records != nil {
		return records, false, s.addOrigin(ctx, k, from)
	}
	p, err := s.verify(ctx, id, sub, k.epoch)
	if err != nil {
		return nil, false, s.refused(ctx, id, sub, from, err)
	}
	if err = s.keepLarge(ctx, p); err == nil {
		err = s.db.Update(ctx, func(tx *store.Tx) (err error) {
			isNew, err = put(ctx, tx, p, from)
			return err
		})
	}
	if err == nil {
		err = s.keepLarge(ctx, p) // where they were there before, they may have gone just then
	}
	if err != nil {
		s.met.ingested.WithLabelValues(resultError).Inc()
		return nil, false, err
	}
	s.count(isNew)
	return p.records(), isNew, nil
}

func (s *Store) count(isNew bool) {
	if isNew {
		s.met.ingested.WithLabelValues(resultNew).Inc()
		return
	}
	s.met.ingested.WithLabelValues(resultDuplicate).Inc()
}

func (s *Store) tooLarge(n int) error {
	return fault.Newf(fault.TooLarge, "bundle of %d bytes, want at most %d; raise the limit in the configuration if this is expected", n, s.limits.Attestation.MaxBundle)
}

// lookUp asks, before anything costly, whether the bytes are known. records is
// set when there is nothing to verify.
func (s *Store) lookUp(ctx context.Context, id string, sub submission, from Origin) (k known, records []Record, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		k, records, err = s.find(ctx, tx, id, sub, from)
		return err
	})
	return k, records, err
}

func (s *Store) find(ctx context.Context, tx *store.Tx, id string, sub submission, from Origin) (k known, records []Record, err error) {
	if k, err = findKnown(ctx, tx, id, from.Repository); err != nil {
		return k, nil, err
	}
	if k.epoch, err = s.epoch(ctx, tx); err != nil {
		return k, nil, err
	}
	if !k.found || k.row.TrustEpoch != k.epoch || sub.payload != nil && !k.payload {
		return k, nil, nil
	}
	records, err = findRecords(ctx, tx, id)
	if sub.about != "" && !hasSubject(records, sub.about) {
		records = nil // attached to something else than it is about: refuse it as if it were new
	}
	return k, records, err
}

func hasSubject(records []Record, d artifact.Digest) bool {
	for i := range records {
		if records[i].Subject == d {
			return true
		}
	}
	return false
}

// addOrigin notes where known bytes came from this time.
func (s *Store) addOrigin(ctx context.Context, k known, from Origin) error {
	if !k.origin {
		err := s.db.Update(ctx, func(tx *store.Tx) error {
			return putOrigin(ctx, tx, &k.row, store.Micros(k.row.IngestedAt), from)
		})
		if err != nil {
			s.met.ingested.WithLabelValues(resultError).Inc()
			return err
		}
	}
	s.count(false)
	return nil
}

// verify parses and verifies what is new, at most Limits.Verifiers at once: more
// than there are cores would only make each wait longer.
func (s *Store) verify(ctx context.Context, id string, sub submission, epoch int64) (*prepared, error) {
	select {
	case s.turns <- struct{}{}:
		defer func() { <-s.turns }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	start := s.now()
	ctx, span := telemetry.Start(ctx, "evidence.verify")
	span.Text(telemetry.AttestationID, id)
	defer func() {
		telemetry.Observe(ctx, s.met.verify, s.now().Sub(start).Seconds())
		span.End(nil)
	}()
	if sub.bundle == nil && attestation.IsNotation(sub.raw) {
		n, ok := s.verifier.(NotationVerifier)
		if !ok {
			return nil, refusal(trust.CodeBundleMalformed, "a signature of the Notary Project, which nothing here verifies")
		}
		v, err := n.VerifyNotation(ctx, sub.raw)
		if err != nil {
			return nil, err
		}
		return s.prepare(id, sub, v, epoch)
	}
	b := sub.bundle
	if b == nil {
		var err error
		if b, err = attestation.ParseBundle(sub.raw, s.limits.Attestation); err != nil {
			return nil, err
		}
	}
	if err := s.countSubjects(b); err != nil {
		return nil, err
	}
	v, err := s.verifier.Verify(ctx, b)
	if err != nil {
		return nil, err
	}
	return s.prepare(id, sub, v, epoch)
}

// countSubjects caps the subjects before any cryptography. A subject with a
// strong digest takes at least 80 bytes, so a short payload cannot hold too
// many, and is not read twice.
func (s *Store) countSubjects(b *attestation.Bundle) error {
	const least = 80
	e := b.Envelope()
	if e == nil || len(e.Payload) < least*s.limits.Attestation.MaxSubjects {
		return nil
	}
	_, err := e.Statement(s.limits.Attestation)
	if errors.Is(err, fault.TooLarge) {
		return err
	}
	return nil // whatever else is wrong is the verifier's to name
}

// prepare makes rows of what was proved.
func (s *Store) prepare(id string, sub submission, v *trust.Verified, epoch int64) (*prepared, error) {
	p := &prepared{raw: sub.raw, payload: sub.payload, signed: signedKey(sub, v), inline: len(sub.raw) <= s.limits.Inline, record: Record{
		ID: id, Scheme: v.Scheme, Root: v.Root, TrustedTime: v.TrustedTime.UTC().Truncate(time.Microsecond), TimeSource: v.TimeSource,
		LogID: v.LogID, LogIndex: v.LogIndex, Legacy: sub.legacy, Size: int64(len(sub.raw)), TrustEpoch: epoch,
		Signer: Signer{Issuer: v.Identity.Issuer, Subject: v.Identity.Subject, Key: v.KeyFingerprint},
	}}
	if v.TrustedTime.IsZero() {
		p.record.TrustedTime = time.Time{}
	}
	p.made, p.unlogged, p.merges = makerOf(v), s.unlogged(v), mergesOf(v)
	if v.Statement != nil {
		p.record.PredicateType = v.Statement.PredicateType
	}
	if sub.payload != nil {
		// What was signed is the document; the image is what it says.
		if v.Scheme != trust.SchemeMessage || v.PayloadDigest != artifact.SHA256Of(sub.payload) {
			return nil, refusal(trust.CodeArtifact, "signature is over %s, the layer is another document", v.PayloadDigest)
		}
		p.subjects = []artifact.Digest{sub.image}
	} else {
		seen := map[artifact.Digest]bool{}
		for i := range v.Subjects {
			for _, d := range v.Subjects[i].Digest.Strong() {
				if !seen[d] {
					seen[d] = true
					p.subjects = append(p.subjects, d)
				}
			}
			if id := attestation.GitCommit(v.Subjects[i].Digest); id != "" && !seen[CommitKey(id)] {
				seen[CommitKey(id)] = true
				p.subjects = append(p.subjects, CommitKey(id))
			}
		}
	}
	if len(p.subjects) == 0 {
		return nil, refusal(trust.CodeStatement, "the bundle is about nothing with a sha256, sha384 or sha512 digest, and about no git commit")
	}
	if sub.about != "" && !hasSubject(p.records(), sub.about) {
		return nil, refusal(trust.CodeArtifact, "attached to %s, but it is about %s and %d more; attach it to what it is about", sub.about, p.subjects[0], len(p.subjects)-1)
	}
	return p, nil
}

// keepLarge puts a large bundle's bytes where they belong, durably, before the
// row that needs them. A crash in between leaves a blob that nothing needs.
func (s *Store) keepLarge(ctx context.Context, p *prepared) error {
	if p.inline {
		return nil
	}
	if err := sweep.Clear(ctx, s.db, bundleDigest(p.record.ID)); err != nil {
		return err
	}
	return blob.PutAs(ctx, s.blobs, p.raw, bundleDigest(p.record.ID))
}

// ingestedBody is the body of attestation.ingested.
type ingestedBody struct {
	ID            string `json:"id"`
	PredicateType string `json:"predicate_type,omitempty"`
	Issuer        string `json:"issuer,omitempty"`
	Identity      string `json:"identity,omitempty"`
	Key           string `json:"key,omitempty"`
	LogIndex      *int64 `json:"log_index,omitempty"`
	Subjects      int    `json:"subjects"`
	Source        string `json:"source,omitempty"`
	Repository    string `json:"repository,omitempty"`
}

// put writes a verified bundle in tx, with its event when it is new.
func put(ctx context.Context, tx *store.Tx, p *prepared, from Origin) (isNew bool, err error) {
	p.kept = nil // tx may be run again
	r := &p.record
	if !p.inline {
		if gone, err := sweep.Deleting(ctx, tx, bundleDigest(r.ID)); err != nil || len(gone) > 0 {
			return false, errors.Join(err, sweep.Taken(bundleDigest(r.ID)))
		}
	}
	there, err := findKnown(ctx, tx, r.ID, "")
	if err != nil {
		return false, err
	}
	holder, err := claimSigned(ctx, tx, p)
	if err != nil {
		return false, err
	}
	if holder != "" && !there.found {
		return false, putCopy(ctx, tx, p, holder, from)
	}
	if isNew, err = insertBundle(ctx, tx, p, from); err != nil {
		return false, err
	}
	if !isNew {
		r.IngestedAt, r.Repository, r.Source = there.row.IngestedAt, there.row.Repository, there.row.Source
		if err := renewBundle(ctx, tx, p); err != nil {
			return false, err
		}
	} else {
		r.IngestedAt, r.Repository, r.Source = tx.Now(), from.Repository, from.Source
	}
	at := store.Micros(r.IngestedAt)
	if err := insertSubjects(ctx, tx, r.ID, at, p.subjects); err != nil {
		return false, err
	}
	if err := insertBuilt(ctx, tx, r.ID, p.made.source); err != nil {
		return false, err
	}
	if err := putOrigin(ctx, tx, r, at, from); err != nil || !isNew {
		return isNew, err
	}
	if p.unlogged {
		if err := alertUnlogged(ctx, tx, p, from); err != nil {
			return false, err
		}
	}
	body := ingestedBody{ID: r.ID, PredicateType: r.PredicateType, Issuer: r.Signer.Issuer, Identity: r.Signer.Subject,
		Subjects: len(p.subjects), Source: from.Source, Repository: from.Repository}
	if r.Signer.Issuer == "" {
		body.Key = r.Signer.Key
	}
	if r.LogIndex >= 0 {
		body.LogIndex = &r.LogIndex
	}
	if err := event.Append(ctx, tx, event.Event{Kind: event.AttestationIngested, Digest: p.subjects[0], Actor: from.Actor, Body: body}); err != nil {
		return true, err
	}
	if err := tellMerges(ctx, tx, p, from.Actor); err != nil {
		return true, err
	}
	return true, tellFailure(ctx, tx, r, p.subjects[0], from.Actor)
}

// Result is the outcome for one bundle of a batch.
type Result struct {
	Records []Record
	New     bool
	Err     error // as of Ingest
}

// batch is how many bundles of an import share a transaction. Others who write
// wait for it, some ten milliseconds.
const batch = 64

// IngestBatch takes in many bundles from one origin, as [Store.Ingest] does
// each, with far fewer transactions. results[i] is of bundles[i]; each is
// durable, or has an error. The batch is not one transaction: what was stored
// stays when ctx ends in the middle.
func (s *Store) IngestBatch(ctx context.Context, bundles [][]byte, from Origin) []Result {
	out := make([]Result, len(bundles))
	if err := from.validate(); err != nil {
		for i := range out {
			out[i].Err = err
		}
		return out
	}
	// While one chunk is written, the next is verified.
	var wg sync.WaitGroup
	under := make(chan struct{}, 2)
	for at := 0; at < len(bundles); at += batch {
		end := min(at+batch, len(bundles))
		under <- struct{}{}
		wg.Go(func() {
			defer func() { <-under }()
			s.ingestChunk(ctx, bundles[at:end], from, out[at:end])
		})
	}
	wg.Wait()
	return out
}

func (s *Store) ingestChunk(ctx context.Context, bundles [][]byte, from Origin, out []Result) {
	ready := make([]*prepared, len(bundles))
	s.each(len(bundles), func(i int) {
		sub := submission{raw: bundles[i]}
		if int64(len(sub.raw)) > s.limits.Attestation.MaxBundle {
			out[i].Err = s.refused(ctx, "", sub, from, s.tooLarge(len(sub.raw)))
			return
		}
		id := ID(sub.raw)
		k, records, err := s.lookUp(ctx, id, sub, from)
		switch {
		case err != nil:
			out[i].Err = err
		case records != nil:
			out[i] = Result{Records: records, Err: s.addOrigin(ctx, k, from)}
		default:
			p, err := s.verify(ctx, id, sub, k.epoch)
			if err != nil {
				out[i].Err = s.refused(ctx, id, sub, from, err)
				return
			}
			if out[i].Err = s.keepLarge(ctx, p); out[i].Err == nil {
				ready[i] = p
			}
		}
	})
	err := s.db.Update(ctx, func(tx *store.Tx) error {
		for i, p := range ready {
			if p == nil {
				continue
			}
			isNew, err := put(ctx, tx, p, from)
			if err != nil {
				return err
			}
			out[i] = Result{Records: p.records(), New: isNew}
		}
		return nil
	})
	for i, p := range ready {
		switch {
		case p == nil:
		case err != nil:
			out[i] = Result{Err: err}
			s.met.ingested.WithLabelValues(resultError).Inc()
		default:
			out[i].Err = s.keepLarge(ctx, p) // see ingest
			s.count(out[i].New)
		}
	}
}

// each runs fn for 0 to n-1 on as many goroutines as may verify.
func (s *Store) each(n int, fn func(i int)) {
	var wg sync.WaitGroup
	next := make(chan int, n)
	for i := range n {
		next <- i
	}
	close(next)
	for range min(n, s.limits.Verifiers) {
		wg.Go(func() {
			for i := range next {
				fn(i)
			}
		})
	}
	wg.Wait()
}
