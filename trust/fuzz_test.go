package trust

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"testing"

	"assay/attestation"
	"assay/internal/fault"
	"assay/internal/vectors"
)

func FuzzParseTrustedRoot(f *testing.F) {
	for _, c := range readConformance(f) {
		f.Add(c.root)
	}
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1","tlogs":[{}],"timestampAuthorities":[{"certChain":{}}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseTrustedRoot(b)
		if err != nil {
			if !errors.Is(err, fault.Unverified) || Code(err) != CodeRootMalformed && Code(err) != CodeKeyUnsupported {
				t.Errorf("error %q of kind %v: %v", Code(err), fault.KindOf(err), err)
			}
			return
		}
		// What parses is written, and what is written parses to the same.
		w, err := r.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseTrustedRoot(w)
		if err != nil {
			t.Fatalf("written root does not parse: %v", err)
		}
		if w2, _ := again.MarshalJSON(); string(w2) != string(w) {
			t.Errorf("written differently the second time:\n%s\n%s", w, w2)
		}
	})
}

func FuzzVerifyBundle(f *testing.F) {
	roots := map[string]*Root{}
	var all []*Root
	for _, c := range readConformance(f) {
		f.Add(c.bundle)
		r := roots[string(c.root)]
		if r == nil {
			var err error
			if r, err = ParseTrustedRoot(c.root); err != nil {
				continue
			}
			roots[string(c.root)] = r
			all = append(all, r)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := attestation.ParseBundle(raw, attestation.Limits{})
		if err != nil {
			return
		}
		for _, r := range all {
			v, err := r.VerifyBundle(t.Context(), b, VerifyOptions{AnyArtifact: true, AnyIdentity: true})
			if err == nil {
				if v.TrustedTime.IsZero() || len(v.Logs) == 0 {
					t.Errorf("accepted without time or log: %+v", v)
				}
				continue
			}
			if Code(err) == "" || !errors.Is(err, fault.Unverified) {
				t.Errorf("refused without a code: %v", err)
			}
		}
	})
}

func FuzzParseToken(f *testing.F) {
	for _, c := range readConformance(f) {
		if b, err := attestation.ParseBundle(c.bundle, attestation.Limits{}); err == nil {
			for _, s := range b.Timestamps() {
				f.Add(s)
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		tok, err := parseToken(b)
		if err == nil && (len(tok.imprint) != tok.imprintAlg.Size() || len(tok.msgDigest) == 0 || tok.serial == nil && tok.keyID == nil) {
			t.Errorf("incomplete token: %+v", tok)
		}
	})
}

func FuzzParseCheckpoint(f *testing.F) {
	for _, c := range readConformance(f) {
		if b, err := attestation.ParseBundle(c.bundle, attestation.Limits{}); err == nil {
			for _, e := range b.LogEntries() {
				f.Add(e.GetInclusionProof().GetCheckpoint().GetEnvelope())
			}
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := parseCheckpoint(s)
		if err == nil && (len(c.root) != 32 || len(c.sigs) == 0 || c.origin == "" || len(c.text) >= len(s)) {
			t.Errorf("incomplete checkpoint: %+v", c)
		}
	})
}

func FuzzCertificate(f *testing.F) {
	for _, c := range readConformance(f) {
		if b, err := attestation.ParseBundle(c.bundle, attestation.Limits{}); err == nil && b.Certificate() != nil {
			for _, e := range b.Certificate().Extensions {
				if e.Id.Equal(oidSCTList) || e.Id.Equal(oidSAN) {
					f.Add(e.Value, b.Certificate().RawTBSCertificate)
				}
			}
		}
	}
	f.Fuzz(func(_ *testing.T, ext, tbs []byte) {
		c := &x509.Certificate{RawTBSCertificate: tbs, Extensions: []pkix.Extension{{Id: oidSCTList, Value: ext}, {Id: oidSAN, Value: ext}}}
		_, _ = parseSCTs(c)
		_, _ = precertTBS(c)
		_, _ = CertificateIdentity(c)
	})
}

// TestHostileCheckpoints are the shared hostile checkpoints (C2SP
// tlog-checkpoint).
func TestHostileCheckpoints(t *testing.T) {
	for _, name := range []string{"03.txt", "05.txt"} {
		b := vectors.Read(t, "hostile/checkpoint", name)
		if _, err := parseCheckpoint(string(b)); Code(err) != CodeTLogCheckpoint {
			t.Errorf("%s: %v, want %s", name, err, CodeTLogCheckpoint)
		}
	}
}
