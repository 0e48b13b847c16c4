package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/admission"
	"assay/client"
	"assay/config"
	"assay/event"
)

// TestGatekeeper asks a running site as Gatekeeper does, by a certificate of its
// own: by evidence that is really signed, and after a revocation.
func TestGatekeeper(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gk"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	raw, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, true, func(c *config.Config) {
		c.Admission = config.Admission{Listen: "127.0.0.1:0", Cluster: "c1", GatekeeperCA: file}
	})
	s.apply(s.policyDoc("me@example.com"), false)
	manifest, good := s.image("shop/app", "v1", "layer one")
	s.signImage("shop/app", manifest)
	s.image("shop/unsigned", "v1", "layer two")
	r := s.reviewer()
	own := r.http
	trusted := own.Transport.(*http.Transport).Clone()
	trusted.TLSClientConfig.MinVersion = tls.VersionTLS13
	trusted.TLSClientConfig.Certificates = []tls.Certificate{{Certificate: [][]byte{raw}, PrivateKey: key}}
	ask := func(c *http.Client) (out admission.ProviderResponse) {
		t.Helper()
		body := `{"apiVersion":"externaldata.gatekeeper.sh/v1beta1","kind":"ProviderRequest","request":{"keys":["shop ` + s.host() + `/shop/app:v1","shop ` + s.host() + `/shop/unsigned:v1","shop nginx"]}}`
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+s.admission.listener.Addr().String()+admission.PathGatekeeper, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if out := ask(own); len(out.Response.Items) != 0 || !strings.Contains(out.Response.SystemError, "want a client certificate") {
		t.Fatalf("without a certificate: %+v", out)
	}
	gk := &http.Client{Transport: trusted}
	items := ask(gk).Response.Items
	if len(items) != 3 || items[0].Value == nil || items[0].Value.Decision != "allowed" || items[0].Value.Digest != good ||
		items[1].Value == nil || items[1].Value.Decision != "denied" || !strings.Contains(strings.Join(items[1].Value.Reasons, ""), "signatures/who") || !strings.Contains(items[2].Error, "docker.io") {
		b, _ := json.Marshal(items)
		t.Fatalf("%s", b)
	}
	// An API server shows none, and is answered as ever.
	if a := r.ask(admission.PathMutate, "shop", s.host()+"/shop/app:v1"); !a.Allowed {
		t.Errorf("%+v", a.Status)
	}
	if _, err := s.admin.Revoke(t.Context(), client.RevokeRequest{Entries: []client.Revocation{{Kind: "artifact", Digest: good, InvalidSince: time.Unix(0, 0), Reason: "backdoor"}}}); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool {
		v := ask(gk).Response.Items[0].Value
		return v != nil && v.Decision == "denied" && strings.Contains(strings.Join(v.Reasons, ""), "backdoor")
	})
	await(t, func() bool {
		for _, e := range s.eventsOf(event.AdmissionDenied) {
			if b, _ := json.Marshal(e.Body); strings.Contains(string(b), `"door":"gatekeeper"`) && e.Actor == "k8s:gatekeeper/gk" && e.Digest == good {
				return true
			}
		}
		return false
	})
}
