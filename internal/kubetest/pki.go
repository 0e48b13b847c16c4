package kubetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// pki is the cluster's authority.
type pki struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64
}

// newPKI makes the authority, the API server's certificate, and the key of
// service accounts.
func newPKI(dir string) (*pki, error) {
	p := &pki{dir: dir, next: 2}
	var err error
	if p.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubetest"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, p.key.Public(), p.key)
	if err != nil {
		return nil, err
	}
	if p.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	if err := p.write("ca.pem", "CERTIFICATE", der); err != nil {
		return nil, err
	}
	if err := p.issue("server", pkix.Name{CommonName: "kube-apiserver"}, x509.ExtKeyUsageServerAuth); err != nil {
		return nil, err
	}
	accounts, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	return p, p.write("sa.key", "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(accounts))
}

func (p *pki) write(name, kind string, der []byte) error {
	return os.WriteFile(filepath.Join(p.dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// issue writes NAME.pem and NAME.key.
func (p *pki) issue(name string, subject pkix.Name, use x509.ExtKeyUsage) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(p.next), Subject: subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{use},
	}
	if use == x509.ExtKeyUsageServerAuth {
		t.IPAddresses, t.DNSNames = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(10, 96, 0, 1)}, []string{"localhost", "kubernetes.default.svc"}
	}
	p.next++
	der, err := x509.CreateCertificate(rand.Reader, t, p.cert, key.Public(), p.key)
	if err != nil {
		return err
	}
	if err := p.write(name+".pem", "CERTIFICATE", der); err != nil {
		return err
	}
	k, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return p.write(name+".key", "EC PRIVATE KEY", k)
}

// kubeconfig writes NAME.kubeconfig of a user with a certificate.
func (c *Cluster) kubeconfig(server, name string, groups ...string) error {
	if err := c.pki.issue(name, pkix.Name{CommonName: name, Organization: groups}, x509.ExtKeyUsageClientAuth); err != nil {
		return err
	}
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: test
contexts: [{name: test, context: {cluster: test, user: %[2]q}}]
clusters: [{name: test, cluster: {server: %[1]q, certificate-authority: %[3]q}}]
users: [{name: %[2]q, user: {client-certificate: %[4]q, client-key: %[5]q}}]
`, server, name, c.path("ca.pem"), c.path(name+".pem"), c.path(name+".key"))
	return os.WriteFile(c.path(name+".kubeconfig"), []byte(text), 0o600)
}

// User writes a kubeconfig for a user of the cluster, with no more rights than
// its groups have, and gives its path.
func (c *Cluster) User(name string, groups ...string) (string, error) {
	err := c.kubeconfig(c.Admin.Server(), name, groups...)
	return c.path(name + ".kubeconfig"), err
}
