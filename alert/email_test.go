package alert

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/store"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// post is a mail server: go-smtp's, with or without TLS, that wants a password.
type post struct {
	addr string
	mu   sync.Mutex
	user string       // who logged in
	mail []string     // whole messages
	wire bytes.Buffer // what clients sent before TLS
}

const postPassword = "correct horse battery"

func (p *post) NewSession(*smtp.Conn) (smtp.Session, error) { return &postSession{p: p}, nil }

type postSession struct {
	p  *post
	in bool
}

func (s *postSession) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *postSession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if password != postPassword {
			return smtp.ErrAuthFailed
		}
		s.p.mu.Lock()
		defer s.p.mu.Unlock()
		s.p.user, s.in = user, true
		return nil
	}), nil
}

func (s *postSession) Mail(string, *smtp.MailOptions) error {
	if !s.in {
		return smtp.ErrAuthRequired
	}
	return nil
}

func (s *postSession) Rcpt(string, *smtp.RcptOptions) error { return nil }

func (s *postSession) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.p.mail = append(s.p.mail, string(b))
	return err
}

func (*postSession) Reset() {}

func (*postSession) Logout() error { return nil }

// heard keeps what a client sends.
type heard struct {
	net.Conn
	p *post
}

func (h heard) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	h.p.mu.Lock()
	defer h.p.mu.Unlock()
	h.p.wire.Write(b[:n])
	return n, err
}

type heardListener struct {
	net.Listener
	p *post
}

func (l heardListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return heard{c, l.p}, err
}

// newPost starts one. TLS: "" has none, "start" offers STARTTLS, "implicit" begins
// with it.
func newPost(t *testing.T, mode string, certificate tls.Certificate) *post {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &post{addr: l.Addr().String()}
	s := smtp.NewServer(p)
	s.Domain, s.ReadTimeout, s.WriteTimeout, s.AllowInsecureAuth = "localhost", 10*time.Second, 10*time.Second, mode == ""
	s.ErrorLog = discard{}
	var in net.Listener = heardListener{l, p}
	switch mode {
	case "start":
		s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}}
	case "implicit":
		in = tls.NewListener(in, &tls.Config{Certificates: []tls.Certificate{certificate}})
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(in) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return p
}

type discard struct{}

func (discard) Printf(string, ...any) {}
func (discard) Println(...any)        {}

// ownCertificate is one for 127.0.0.1 that vouches for itself, and its PEM file.
func ownCertificate(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mail"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

// Mail with a password goes over TLS to the server whose certificate holds, and to
// no other: neither the mail nor the password is said to one that cannot prove
// itself.
func TestThreat_Alerts_MailAndItsPasswordGoOverTLS(t *testing.T) {
	certificate, ca := ownCertificate(t)
	_, otherCA := ownCertificate(t)
	for name, c := range map[string]struct {
		mode, scheme, ca, secret string
		want                     string // of the error; "" when it arrives
	}{
		"STARTTLS":                     {"start", "smtp", ca, "jo:" + postPassword, ""},
		"TLS from the start":           {"implicit", "smtps", ca, "jo:" + postPassword, ""},
		"another authority":            {"start", "smtp", otherCA, "jo:" + postPassword, "certificate"},
		"another, from the start":      {"implicit", "smtps", otherCA, "jo:" + postPassword, "certificate"},
		"no TLS, with a password":      {"", "smtp", ca, "jo:" + postPassword, "STARTTLS"},
		"a wrong password":             {"start", "smtp", ca, "jo:wrong-" + postPassword, "535"},
		"a secret that is none":        {"start", "smtp", ca, postPassword, "USER:PASSWORD"},
		"no password where one is due": {"start", "smtp", ca, "", "502"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPost(t, c.mode, certificate)
			spec := Spec{Type: TypeEmail, URL: c.scheme + "://" + p.addr, From: "assay@example.com", To: []string{"oncall@example.com"}, Default: true, AllowPrivate: true, CABundle: c.ca}
			if c.secret != "" {
				spec.Secret = "file:x"
			}
			s := newSite(t, store.SQLite, receiver(t, "mail", spec))
			s.o.Secret = func(string) ([]byte, error) { return []byte(c.secret), nil }
			d, err := s.Test(t.Context(), "mail", "jo")
			p.mu.Lock()
			defer p.mu.Unlock()
			if c.want == "" {
				if err != nil || d.Taken.IsZero() || p.user != "jo" || len(p.mail) != 1 || !strings.Contains(p.mail[0], "Subject: ") {
					t.Errorf("%+v, %v: %q got %q", d, err, p.user, p.mail)
				}
			} else if err == nil || !strings.Contains(err.Error(), c.want) || len(p.mail) > 0 {
				t.Errorf("%v, want one with %q; %d messages", err, c.want, len(p.mail))
			}
			for _, said := range []string{p.wire.String(), errText(err), d.Problem} {
				for _, secret := range []string{postPassword, base64.StdEncoding.EncodeToString([]byte("\x00jo\x00" + postPassword)), "oncall@example.com"} {
					if strings.Contains(said, secret) && !(secret == "oncall@example.com" && said != p.wire.String()) {
						t.Errorf("%q was said in clear: %q", secret, said)
					}
				}
			}
		})
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
