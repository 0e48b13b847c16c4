package authority

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"path/filepath"
	"testing"
	"time"

	"assay/identity"
	"assay/tlog"
	"assay/tlog/ct"

	rfc6962 "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
)

// realLog trusts the log of tlog/ct.
type realLog struct {
	trusted
	log *ct.CT
}

func (m *realLog) CTLogs() map[string]*root.TransparencyLog {
	id := m.log.ID()
	return map[string]*root.TransparencyLog{hex.EncodeToString(id[:]): {ID: id[:], PublicKey: testKey.Public(), ValidityPeriodStart: time.Now().Add(-time.Hour)}}
}

// With the real second log: the SCT in the certificate verifies, and the log
// holds the TBSCertificate that verifiers rebuild from it.
func TestRealCTLog(t *testing.T) {
	s := newSite(t, siteOptions{})
	must(t, s.db.Migrate(bg, tlog.Migrations))
	log, err := ct.Open(bg, ct.Options{
		Options: tlog.Options{Dir: filepath.Join(t.TempDir(), "ct"), Origin: "ct.example.com", Signer: testKey, DB: s.db},
		Issuers: s.material.CAChain,
	})
	must(t, err)
	defer func() { must(t, log.Close()) }()
	ca, err := NewCA(CAOptions{Chain: s.material.CAChain, Signer: s.material.CASigner, SCT: log, Verifier: s.verifier, DB: s.db})
	must(t, err)
	for want := range uint64(3) {
		chain, err := ca.Issue(bg, identity.Principal{}, verifiedToken(t, s, "alice@example.com"), testKey.Public(), prove(t, "alice@example.com"))
		must(t, err)
		trust := &realLog{trusted{s: s}, log}
		chains, err := verify.VerifyLeafCertificate(time.Now(), chain[0], trust)
		must(t, err)
		if err := verify.VerifySignedCertificateTimestamp(chains, 1, trust); err != nil {
			t.Error(err)
		}
		raw, err := log.Log().Leaf(bg, want)
		must(t, err)
		var entry rfc6962.MerkleTreeLeaf
		rest, err := cttls.Unmarshal(raw, &entry)
		must(t, err)
		pre := entry.TimestampedEntry.PrecertEntry
		if len(rest) != 0 || pre == nil || !bytes.Equal(pre.TBSCertificate, withoutSCT(t, s, chain[0])) {
			t.Errorf("entry %d is not the certificate without its SCT list", want)
		}
	}
}

// withoutSCT is the TBSCertificate as a verifier rebuilds it.
func withoutSCT(t *testing.T, s *site, leaf *x509.Certificate) []byte {
	t.Helper()
	tmpl := *leaf
	tmpl.ExtraExtensions = leaf.Extensions[:len(leaf.Extensions)-1]
	pre, err := signCert(&tmpl, s.material.CAChain[0], leaf.PublicKey, s.material.CASigner)
	must(t, err)
	return pre.RawTBSCertificate
}
