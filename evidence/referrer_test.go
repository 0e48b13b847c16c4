package evidence_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/artifact"
	"assay/attestation"
	"assay/blob"
	"assay/event"
	"assay/evidence"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
	"assay/trust"
	"assay/trust/trusttest"
)

// push puts bytes where the registry would.
func (s *site) push(t *testing.T, b []byte) artifact.Digest {
	t.Helper()
	d, err := blob.Put(t.Context(), s.blobs, b)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (s *site) pushJSON(t *testing.T, v any) artifact.Digest {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return s.push(t, b)
}

func (s *site) layer(t *testing.T, mediaType string, b []byte, annotations map[string]string) attestation.Descriptor {
	t.Helper()
	return attestation.Descriptor{MediaType: mediaType, Digest: s.push(t, b), Size: int64(len(b)), Annotations: annotations}
}

// image is a manifest; subject "" makes one without.
func (s *site) image(t *testing.T, subject artifact.Digest, layers ...attestation.Descriptor) artifact.Digest {
	t.Helper()
	m := map[string]any{"schemaVersion": 2, "mediaType": attestation.MediaTypeOCIManifest, "layers": layers,
		"config": attestation.Descriptor{MediaType: attestation.MediaTypeOCIEmpty, Digest: attestation.EmptyConfigDigest, Size: 2}}
	if subject != "" {
		m["artifactType"] = attestation.MediaTypeBundle
		m["subject"] = attestation.Descriptor{MediaType: attestation.MediaTypeOCIManifest, Digest: subject, Size: 7}
	}
	return s.pushJSON(t, m)
}

func (s *site) referrer(t *testing.T, subject, manifest artifact.Digest) {
	t.Helper()
	if err := s.Referrer(t.Context(), subject, "team/app", manifest, attestation.MediaTypeBundle); err != nil {
		t.Fatal(err)
	}
}

// rejections gives "code id" of what was refused for a subject.
func (s *site) rejections(t *testing.T, subject artifact.Digest) (out []string) {
	t.Helper()
	all, err := s.Rejected(t.Context(), subject)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if r.Subject != subject || r.Repository != "team/app" || r.Source != evidence.SourceRegistry || r.Reason == "" || r.At.IsZero() {
			t.Errorf("rejection %+v", r)
		}
		out = append(out, r.Code+" "+r.ID)
	}
	return out
}

func (s *site) records(t *testing.T, subject artifact.Digest) []evidence.Record {
	t.Helper()
	got, err := s.List(t.Context(), evidence.Filter{Subject: subject})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestReferrerBundle(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		bundle := s.world.Sign(t, trusttest.Request{Statement: trusttest.Statement([]byte("app"), attestation.PredicateSPDX), Leaf: leaf()})
		raw, err := attestation.NewReferrerManifest(attestation.Descriptor{MediaType: attestation.MediaTypeOCIManifest, Digest: digest("app"), Size: 3}, bundle, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		s.push(t, bundle.Bytes())
		d := s.push(t, raw)
		for range 2 { // the registry may ask again
			s.referrer(t, digest("app"), d)
		}
		got := s.records(t, digest("app"))
		if len(got) != 1 || got[0].ID != evidence.ID(bundle.Bytes()) || got[0].Repository != "team/app" || got[0].Source != evidence.SourceRegistry || got[0].Legacy {
			t.Errorf("records %+v", got)
		}
		if n := len(s.events(t, event.AttestationIngested)); n != 1 {
			t.Errorf("%d events, want 1", n)
		}
		if r := s.rejections(t, digest("app")); r != nil {
			t.Errorf("rejections %v, want none", r)
		}
	})
}

// One layer that does not verify does not keep the others out.
func TestReferrerManyLayers(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db, func(o *evidence.Options) { o.Limits.Attestation.MaxBundle = 1 << 20 })
		good := s.attest(t, "app", attestation.PredicateSPDX)
		forged := bytes.Replace(s.attest(t, "app", attestation.PredicateOpenVEX), []byte(`"payload":"e`), []byte(`"payload":"f`), 1)
		elsewhere := s.attest(t, "other", attestation.PredicateSPDX)
		bt := attestation.MediaTypeBundle
		missing := attestation.Descriptor{MediaType: bt, Digest: digest("nowhere"), Size: 10}
		huge := attestation.Descriptor{MediaType: bt, Digest: digest("huge"), Size: 1 << 40}
		lie := s.layer(t, bt, bytes.Repeat([]byte(" "), 2<<20), nil)
		lie.Size = 10
		d := s.image(t, digest("app"),
			s.layer(t, bt, forged, nil), missing, huge, lie, s.layer(t, bt, elsewhere, nil),
			s.layer(t, "text/plain", []byte("a readme"), nil), s.layer(t, attestation.MediaTypeDSSE, []byte("{}"), nil),
			s.layer(t, bt, good, nil))
		s.referrer(t, digest("app"), d)
		if got := s.records(t, digest("app")); len(got) != 1 || got[0].ID != evidence.ID(good) {
			t.Errorf("records %+v, want the good bundle", got)
		}
		// Evidence about another digest is not taken in by the way: who may push
		// here may have no say there.
		if got := s.records(t, digest("other")); len(got) != 0 {
			t.Errorf("%d records about another artifact, want none", len(got))
		}
		want := map[string]bool{
			trust.CodeTLogMismatch + " " + evidence.ID(forged):  true,
			trust.CodeArtifact + " " + evidence.ID(elsewhere):   true,
			evidence.CodeMissing + " " + string(missing.Digest): true,
			evidence.CodeTooLarge + " " + string(huge.Digest):   true,
			evidence.CodeTooLarge + " " + string(lie.Digest):    true,
		}
		got := map[string]bool{}
		for _, r := range s.rejections(t, digest("app")) {
			got[r] = true
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("rejections (-want +got):\n%s", d)
		}
		// Once it verifies (its subject was pushed right, its root is known), a
		// refusal is history.
		s.ingest(t, elsewhere, "")
		s.referrer(t, digest("other"), s.image(t, digest("other"), s.layer(t, bt, elsewhere, nil)))
		if r := s.rejections(t, digest("other")); r != nil {
			t.Errorf("rejections %v, want none", r)
		}
		// Known bytes attached to the wrong artifact are still refused.
		s.referrer(t, digest("third"), s.image(t, digest("third"), s.layer(t, bt, elsewhere, nil)))
		if r := s.rejections(t, digest("third")); len(r) != 1 || !strings.HasPrefix(r[0], trust.CodeArtifact) {
			t.Errorf("rejections %v, want one for another artifact", r)
		}
	})
}

// The index behind a fallback tag: every bundle manifest that it lists.
func TestReferrerFallbackIndex(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		var listed []attestation.Descriptor
		var want []string
		add := func(subject string, artifactType string) string {
			b := s.attest(t, "app", attestation.PredicateSPDX)
			d := s.image(t, digest(subject), s.layer(t, attestation.MediaTypeBundle, b, nil))
			listed = append(listed, attestation.Descriptor{MediaType: attestation.MediaTypeOCIManifest, Digest: d, Size: 1, ArtifactType: artifactType})
			return evidence.ID(b)
		}
		want = append(want, add("app", attestation.MediaTypeBundle), add("app", ""))
		add("app", "application/vnd.example.sbom") // of another type: not looked at
		add("other", attestation.MediaTypeBundle)  // names another subject than the index
		listed = append(listed, attestation.Descriptor{MediaType: attestation.MediaTypeOCIManifest, Digest: digest("gone"), ArtifactType: attestation.MediaTypeBundle})
		nested := s.pushJSON(t, map[string]any{"schemaVersion": 2, "mediaType": attestation.MediaTypeOCIIndex, "manifests": listed})
		listed = append(listed, attestation.Descriptor{MediaType: attestation.MediaTypeOCIIndex, Digest: nested})
		index := s.pushJSON(t, map[string]any{"schemaVersion": 2, "mediaType": attestation.MediaTypeOCIIndex, "manifests": listed})
		s.referrer(t, digest("app"), index)
		var got []string
		for _, r := range s.records(t, digest("app")) {
			got = append([]string{r.ID}, got...)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("records (-want +got):\n%s", d)
		}
		if r := s.rejections(t, digest("app")); len(r) != 3 {
			t.Errorf("rejections %v, want three: another subject, a manifest that is gone, an index in the index", r)
		}
	})
}

// simpleSigning is the document that cosign signed before bundles.
func simpleSigning(image artifact.Digest) []byte {
	return fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":"registry.example/team/app"},"image":{"docker-manifest-digest":"%s"},"type":"cosign container image signature"},"optional":null}`, image)
}

// annotations are those of a .sig or .att layer, of a bundle with a timestamp.
func annotations(t *testing.T, d *trusttest.Draft) map[string]string {
	t.Helper()
	out := map[string]string{attestation.AnnotationCosignSignature: ""}
	if m := d.GetMessageSignature(); m != nil {
		out[attestation.AnnotationCosignSignature] = base64.StdEncoding.EncodeToString(m.Signature)
	}
	if d.Cert != nil {
		out[attestation.AnnotationCosignCertificate] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.Cert.Raw}))
	}
	raw, err := json.Marshal(map[string][]byte{"SignedRFC3161Timestamp": d.Stamps()[0].SignedTimestamp})
	if err != nil {
		t.Fatal(err)
	}
	out[attestation.AnnotationCosignTimestamp] = string(raw)
	return out
}

// noLog accepts what carries no log entry, as a site does that takes legacy
// signatures whose log entry no bundle can hold.
func noLog(o *evidence.Options) {
	v := o.Verifier.(*rootVerifier)
	o.Verifier = verifierFunc(func(ctx context.Context, b *attestation.Bundle) (*trust.Verified, error) {
		return v.root.VerifyBundle(ctx, b, trust.VerifyOptions{AnyArtifact: true, AnyIdentity: true, Keys: v.keys, Thresholds: &trust.Thresholds{SCT: 1, Time: 1}})
	})
}

// The image behind a .sig tag: each layer is a signature over a document that
// names the image.
func TestReferrerLegacySignature(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db, noLog)
		mine, other := simpleSigning(digest("app")), simpleSigning(digest("other"))
		sign := func(doc []byte) map[string]string {
			return annotations(t, s.world.Draft(t, trusttest.Request{Artifact: doc, Leaf: leaf(), NoLog: true}))
		}
		forged := sign(simpleSigning(digest("forged")))
		d := s.image(t, "", s.layer(t, attestation.MediaTypeSimpleSigning, mine, sign(mine)),
			s.layer(t, attestation.MediaTypeSimpleSigning, other, sign(other)),
			s.layer(t, attestation.MediaTypeSimpleSigning, mine, forged),
			s.layer(t, attestation.MediaTypeSimpleSigning, []byte(`{"critical":null}`), sign(mine)))
		for range 2 {
			s.referrer(t, digest("app"), d)
		}
		got := s.records(t, digest("app"))
		if len(got) != 1 || !got[0].Legacy || got[0].Scheme != trust.SchemeMessage || got[0].Signer.Subject != testSubject {
			t.Fatalf("records %+v, want one legacy signature", got)
		}
		items, more, err := s.Evidence(t.Context(), digest("app"))
		if err != nil || more || len(items) != 1 || !items[0].Legacy || !bytes.Equal(items[0].Payload, mine) {
			t.Fatalf("%d items (%v), want one with the signed document", len(items), err)
		}
		// Who verifies again has all that it takes.
		b, err := attestation.ParseBundle(items[0].Bundle, attestation.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		image, reference, err := attestation.ParseSimpleSigning(items[0].Payload, attestation.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.verifier.root.VerifyLegacySignature(t.Context(), &attestation.LegacySignature{Bundle: b, Payload: items[0].Payload, Image: image, Reference: reference},
			trust.VerifyOptions{Artifact: digest("app").Set(), AnyIdentity: true, Thresholds: &trust.Thresholds{SCT: 1, Time: 1}})
		if err != nil {
			t.Errorf("what is stored does not verify again: %v", err)
		}
		if n := len(s.records(t, digest("other"))); n != 0 {
			t.Errorf("%d records about another image, want none", n)
		}
		if r := s.rejections(t, digest("app")); len(r) != 3 {
			t.Errorf("rejections %v, want three: another image, a signature over another document, no document", r)
		}
	})
}

// A legacy document that was altered in the store is not served.
func TestReferrerLegacyTampered(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite), noLog)
	doc := simpleSigning(digest("app"))
	d := s.image(t, "", s.layer(t, attestation.MediaTypeSimpleSigning, doc, annotations(t, s.world.Draft(t, trusttest.Request{Artifact: doc, Leaf: leaf(), NoLog: true}))))
	s.referrer(t, digest("app"), d)
	s.exec(t, `UPDATE evidence_bundle SET payload = ?`, simpleSigning(digest("evil")))
	if _, _, err := s.Evidence(t.Context(), digest("app")); !errors.Is(err, fault.Tampered) {
		t.Errorf("%v, want tampered", err)
	}
}

// The image behind an .att tag: each layer is a DSSE envelope.
func TestReferrerLegacyAttestation(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db, noLog)
		st := trusttest.Statement([]byte("app"), attestation.PredicateProvenanceV02)
		draft := s.world.Draft(t, trusttest.Request{Statement: st, Leaf: leaf(), NoLog: true})
		for name, enc := range map[string]*base64.Encoding{"standard": base64.StdEncoding, "URL-safe": base64.URLEncoding} {
			env, err := json.Marshal(map[string]any{"payloadType": attestation.PayloadType, "payload": enc.EncodeToString(st),
				"signatures": []any{map[string]any{"keyid": "", "sig": enc.EncodeToString(draft.GetDsseEnvelope().Signatures[0].Sig)}}})
			if err != nil {
				t.Fatal(err)
			}
			s.referrer(t, digest("app"), s.image(t, "", s.layer(t, attestation.MediaTypeDSSE, env, annotations(t, draft))))
			// Either way it is the same bundle.
			got := s.records(t, digest("app"))
			if len(got) != 1 || !got[0].Legacy || got[0].PredicateType != attestation.PredicateProvenanceV02 {
				t.Errorf("%s: records %+v, want one legacy attestation; rejected: %v", name, got, s.rejections(t, digest("app")))
			}
		}
	})
}

// Manifests that are not what they should be are noted, and no error: the push
// stands, and asking again would not help.
func TestReferrerMalformed(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite))
	both := s.pushJSON(t, map[string]any{"mediaType": attestation.MediaTypeOCIIndex,
		"layers": []any{map[string]any{"digest": digest("x")}}, "manifests": []any{map[string]any{"digest": digest("x")}}})
	for name, d := range map[string]artifact.Digest{
		"not JSON":                 s.push(t, []byte("not json")),
		"layers and manifests":     both,
		"not there":                digest("absent"),
		"two members of one name":  s.push(t, []byte(`{"layers":[],"layers":[]}`)),
		"over 4 MiB":               s.push(t, bytes.Repeat([]byte(" "), 5<<20)),
		"of another subject":       s.image(t, digest("other"), s.layer(t, attestation.MediaTypeBundle, s.attest(t, "app", attestation.PredicateSPDX), nil)),
		"a layer without a digest": s.push(t, []byte(`{"layers":[{"mediaType":"`+attestation.MediaTypeBundle+`","digest":"../../etc/passwd"}]}`)),
	} {
		before := len(s.rejections(t, digest("app")))
		s.referrer(t, digest("app"), d)
		if after := len(s.rejections(t, digest("app"))); after != before+1 {
			t.Errorf("%s: %d rejections more, want 1", name, after-before)
		}
	}
	s.referrer(t, digest("app"), s.push(t, []byte(`{"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"text/plain"}`)))
	if n := len(s.records(t, digest("app"))); n != 0 {
		t.Errorf("%d records, want none", n)
	}
	for range 40 {
		s.referrer(t, digest("app"), s.push(t, []byte(fmt.Sprint("junk ", time.Now().UnixNano()))))
	}
	if n := len(s.rejections(t, digest("app"))); n != 16 {
		t.Errorf("%d rejections are kept, want 16", n)
	}
}

// Layers and listed manifests are capped, the newest (the last) are read.
func TestThreat_Attestation_EndlessLayers(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite), func(o *evidence.Options) { o.Limits.MaxLayers, o.Limits.MaxListed = 3, 2 })
	var layers []attestation.Descriptor
	for range 5 {
		layers = append(layers, s.layer(t, attestation.MediaTypeBundle, s.attest(t, "app", attestation.PredicateSPDX), nil))
	}
	s.referrer(t, digest("app"), s.image(t, digest("app"), layers...))
	if n := len(s.records(t, digest("app"))); n != 3 {
		t.Errorf("%d records, want the last 3 of 5 layers", n)
	}
	var listed []attestation.Descriptor
	for i := range 5 {
		d := s.image(t, digest("listed"), s.layer(t, attestation.MediaTypeBundle, s.attest(t, "listed", fmt.Sprint("https://type.test/", i)), nil))
		listed = append(listed, attestation.Descriptor{MediaType: attestation.MediaTypeOCIManifest, Digest: d})
	}
	s.referrer(t, digest("listed"), s.pushJSON(t, map[string]any{"mediaType": attestation.MediaTypeOCIIndex, "manifests": listed}))
	if got := s.records(t, digest("listed")); len(got) != 2 || got[0].PredicateType != "https://type.test/4" {
		t.Errorf("%d records, want the last 2 of 5", len(got))
	}
	// 100,000 layers do not fit into a manifest.
	m := []byte(`{"layers":[` + strings.TrimSuffix(strings.Repeat(`{"mediaType":"`+attestation.MediaTypeBundle+`","digest":"`+string(digest("x"))+`"},`, 100_000), ",") + `]}`)
	s.referrer(t, digest("huge"), s.push(t, m))
	if r := s.rejections(t, digest("huge")); len(r) != 1 || !strings.HasPrefix(r[0], evidence.CodeTooLarge) {
		t.Errorf("rejections %v, want one: too large", r)
	}
}

// A source that fails is an error: the registry asks again.
func TestReferrerSourceFails(t *testing.T) {
	src := &source{err: fault.Newf(fault.Unavailable, "the disk is gone")}
	s := open(t, storetest.Open(t, store.SQLite), func(o *evidence.Options) { o.Registry = src })
	b := s.attest(t, "app", attestation.PredicateSPDX)
	d := s.image(t, digest("app"), s.layer(t, attestation.MediaTypeBundle, b, nil))
	if err := s.Referrer(t.Context(), digest("app"), "team/app", d, ""); !errors.Is(err, fault.Unavailable) {
		t.Errorf("%v, want unavailable", err)
	}
	if r := s.rejections(t, digest("app")); r != nil {
		t.Errorf("rejections %v, want none", r)
	}
	src.err, src.blobs = nil, s.blobs
	s.referrer(t, digest("app"), d)
	if n := len(s.records(t, digest("app"))); n != 1 {
		t.Errorf("%d records after it recovered, want 1", n)
	}
	if d := cmp.Diff([]string{"team/app", "team/app", "team/app"}, src.asked); d != "" {
		t.Errorf("repositories asked (-want +got):\n%s", d)
	}
}

// source is a registry over a blob store.
type source struct {
	blobs blob.Store
	err   error
	asked []string
}

func (s *source) Manifest(ctx context.Context, repository string, d artifact.Digest) ([]byte, string, error) {
	b, err := s.Blob(ctx, repository, d)
	return b, attestation.MediaTypeOCIManifest, err
}

func (s *source) Blob(ctx context.Context, repository string, d artifact.Digest) ([]byte, error) {
	s.asked = append(s.asked, repository)
	if s.err != nil {
		return nil, s.err
	}
	f, err := s.blobs.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var b bytes.Buffer
	_, err = b.ReadFrom(f)
	return b.Bytes(), err
}

func TestReferrerRefusesArguments(t *testing.T) {
	s := open(t, storetest.Open(t, store.SQLite))
	for _, c := range []struct{ subject, repository, manifest string }{
		{"sha256:1", "team/app", string(digest("m"))}, {string(digest("a")), "../x", string(digest("m"))}, {string(digest("a")), "team/app", "latest"},
	} {
		err := s.Referrer(t.Context(), artifact.Digest(c.subject), c.repository, artifact.Digest(c.manifest), "")
		if !errors.Is(err, fault.Invalid) {
			t.Errorf("%v: %v, want invalid", c, err)
		}
	}
}

// one is a registry whose only manifest is raw, over blobs of "{}".
type one struct{ raw []byte }

func (o *one) Manifest(context.Context, string, artifact.Digest) ([]byte, string, error) {
	return o.raw, "", nil
}

func (o *one) Blob(context.Context, string, artifact.Digest) ([]byte, error) {
	return []byte("{}"), nil
}

// Give -fuzzminimizetime=1x: the database's goroutines make coverage vary, and
// the fuzzer would spend its time on minimising what is not interesting.
func FuzzReferrer(f *testing.F) {
	src := &one{}
	s := open(f, storetest.Open(f, store.SQLite), func(o *evidence.Options) { o.Registry = src })
	f.Add([]byte(`{"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}]}`))
	f.Add([]byte(`{"manifests":[{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}]}`))
	f.Add([]byte(`{"layers":[{"mediaType":"application/vnd.dsse.envelope.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","annotations":{"dev.sigstore.cosign/certificate":"x"}}],"subject":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		src.raw = raw
		if err := s.Referrer(t.Context(), digest("app"), "team/app", artifact.SHA256Of(raw), ""); err != nil {
			t.Fatalf("a pushed manifest is an error of the server: %v", err)
		}
		if n, err := s.List(t.Context(), evidence.Filter{}); err != nil || len(n) != 0 {
			t.Fatalf("%d records (%v) from unsigned bytes", len(n), err)
		}
	})
}
