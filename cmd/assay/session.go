package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"assay/client"
	"assay/internal/fault"
	"assay/internal/strictyaml"
	"assay/telemetry"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// clientConfig is the command line's own settings: flags over environment over
// this file.
type clientConfig struct {
	Server string `yaml:"server"`
	Data   string `yaml:"data"`
	CAFile string `yaml:"ca_file"`
	Output string `yaml:"output"`
}

// settle fills the global flags that were not given.
func (a *app) settle(cmd *cobra.Command) error {
	if err := emptyFlags(cmd); err != nil {
		return err
	}
	path := a.configFile
	if path == "" {
		path = os.Getenv("ASSAY_CLIENT_CONFIG")
	}
	wanted := path != ""
	if !wanted {
		if dir, err := os.UserConfigDir(); err == nil {
			path = filepath.Join(dir, "assay", "client.yaml")
		}
	}
	var file clientConfig
	if b, err := os.ReadFile(path); err == nil {
		if err := strictyaml.Unmarshal(b, &file); err != nil {
			return usagef("%s: %w", path, err)
		}
	} else if wanted || !errors.Is(err, os.ErrNotExist) && path != "" {
		return usagef("client configuration: %w", err)
	}
	first := func(dst *string, env, fromFile string) {
		if *dst == "" {
			*dst = os.Getenv(env)
		}
		if *dst == "" {
			*dst = fromFile
		}
	}
	first(&a.caFile, "ASSAY_CA_FILE", file.CAFile)
	first(&a.output, "ASSAY_OUTPUT", file.Output)
	// A flag for one of the two ways to a server beats the other's variable.
	if a.server == "" && a.data == "" {
		first(&a.server, "ASSAY_SERVER", "")
		first(&a.data, "ASSAY_DATA", "")
	}
	if a.server == "" && a.data == "" {
		a.server, a.data = file.Server, file.Data
	}
	switch a.output {
	case "", "table":
		a.output = "table"
	case "json", "yaml":
	default:
		return usagef("--output %q: want table, json or yaml", a.output)
	}
	return nil
}

// emptyFlags refuses a flag that was given without a value, which is a variable
// of a script that was not set: --certificate-identity "$WHO" must not turn into
// a check of something else (CVE-2026-44310).
func emptyFlags(cmd *cobra.Command) error {
	var err error
	cmd.Flags().Visit(func(f *pflag.Flag) {
		switch v := f.Value.(type) {
		case pflag.SliceValue:
			if slices.Contains(v.GetSlice(), "") || len(v.GetSlice()) == 0 {
				err = usagef("--%s is given and empty", f.Name)
			}
		default:
			if f.Value.String() == "" {
				err = usagef("--%s is given and empty", f.Name)
			}
		}
	})
	return err
}

// session is a command's way to one server.
type session struct {
	app    *app
	http   *http.Client
	status *client.Status // nil without a server
	admin  *client.Client // nil without a data folder

	subject   string            // who the admin socket mints tokens for
	token     string            // --identity-token
	published map[string][]byte // by a TUF repository that was named: the targets of one state of it
	base      string            // the server's address, as it was given

	mu     sync.Mutex
	minted map[string]client.TokenAnswer // by audience
}

// connect finds the server. Without --server and --data, want says whether
// that is an error.
func (a *app) connect(ctx context.Context, subject, token string, want bool) (*session, error) {
	s := &session{app: a, subject: subject, token: token}
	var err error
	if s.http, err = a.httpClient(); err != nil {
		return nil, err
	}
	base := a.server
	if a.data != "" {
		s.admin = client.Socket(filepath.Join(a.data, "run", "admin.sock"))
		st, err := s.admin.Status(ctx)
		if err != nil {
			return nil, fault.Newf(fault.Unavailable, "no server answers on the admin socket of %s: start one with assay up --data %s (%w)", a.data, a.data, err)
		}
		if base == "" {
			s.base, s.status = st.PublicURL, st
			return s, nil
		}
	}
	if base == "" {
		if want {
			return nil, usagef("no server: give --server URL (ASSAY_SERVER), or --data DIR of a local one (ASSAY_DATA)")
		}
		return s, nil
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, usagef("--server: want https://HOST[:PORT] and nothing else")
	}
	if u.Scheme != "https" && !(u.Scheme == "http" && isLoopback(u.Hostname())) {
		return nil, usagef("--server %q: want https; http is for loopback only", base)
	}
	s.base = u.Scheme + "://" + u.Host
	if s.status, err = (&client.Client{Base: s.base, HTTP: s.http}).Status(ctx); err != nil {
		return nil, err
	}
	return s, bound(u, s.status)
}

// bound holds what a server says of itself against how it was reached: tokens go
// to the host that was named, over TLS, and nowhere else (CVE-2026-33540).
func bound(u *url.URL, st *client.Status) error {
	same := func(host string) bool {
		return host == u.Hostname() || isLoopback(host) && isLoopback(u.Hostname())
	}
	for _, text := range []string{st.PublicURL, st.Services.Fulcio, st.Services.Rekor, st.Services.TSA, st.Services.TUF, st.Services.OIDC, u.Scheme + "://" + st.Services.Registry} {
		v, err := url.Parse(text)
		if err != nil || !same(v.Hostname()) || v.Scheme != "https" && !isLoopback(v.Hostname()) {
			return fault.Newf(fault.Unverified, "the server at %s sends its clients to %q, another host or one without TLS; name that one with --server if it is right", u.Host, line(text))
		}
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (a *app) httpClient() (*http.Client, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	if a.caFile != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		pem, err := os.ReadFile(a.caFile)
		if err != nil {
			return nil, usagef("--ca-file: %w", err)
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, usagef("--ca-file %s: no certificate in it", a.caFile)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: telemetry.Transport(t), Timeout: 60 * time.Second}, nil
}

// api is the client of the server's own API: through the admin socket where
// there is one, since who may open it is the server's own user.
func (s *session) api() *client.Client {
	if s.admin != nil {
		return s.admin
	}
	return s.person()
}

// named asks as the local identity that was named, where one was: what people do
// is recorded under their names, and not as the machine's administrator's.
func (s *session) named() *client.Client {
	if s.admin != nil && s.subject != "" {
		return s.person()
	}
	return s.api()
}

func (s *session) person() *client.Client {
	return &client.Client{Base: s.base, HTTP: s.http, Token: func(ctx context.Context) (string, error) {
		token, err := s.tokenFor(ctx, "assay-api")
		if err == nil && token == "" {
			s.app.hint = "no token of audience assay-api was at hand: assay login, or set ASSAY_API_TOKEN, or in GitHub Actions grant permissions: id-token: write"
		}
		return token, err
	}}
}

// tokenFor finds an identity token of an audience: the one that was given, one
// from the admin socket, or what the CI system offers. "" without an error
// means that there is none.
func (s *session) tokenFor(ctx context.Context, audience string) (string, error) {
	if s.token != "" && audience == "sigstore" {
		return readToken(s.token)
	}
	if s.admin != nil && s.subject != "" { // a flag goes before the environment
		return s.mint(ctx, audience)
	}
	env := map[string]string{"sigstore": "SIGSTORE_ID_TOKEN", "assay-api": "ASSAY_API_TOKEN", "assay-registry": "ASSAY_REGISTRY_TOKEN"}[audience]
	if t := os.Getenv(env); t != "" {
		return t, nil
	}
	if t, err := projectedToken(audience); err != nil || t != "" {
		return t, err
	}
	if s.admin != nil {
		return s.mint(ctx, audience)
	}
	if s.base != "" && audience != "sigstore" {
		host, err := s.host()
		if err != nil {
			return "", err
		}
		if _, t, err := savedToken(ctx, s.app, host, audience); err != nil || t != "" {
			return t, err
		}
	}
	return githubToken(ctx, audience)
}

// mint gives a token of the local issuer, the same one while it holds.
func (s *session) mint(ctx context.Context, audience string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a, ok := s.minted[audience]; ok && time.Until(a.Expires) > time.Minute {
		return a.Token, nil
	}
	subject, err := s.localSubject(audience)
	if err != nil {
		return "", err
	}
	a, err := s.admin.Mint(ctx, client.TokenRequest{Subject: subject, Audience: audience, TTL: 300})
	if err != nil {
		return "", err
	}
	if s.minted == nil {
		s.minted = map[string]client.TokenAnswer{}
	}
	s.minted[audience] = *a
	return a.Token, nil
}

// localSubject is who a token of the local issuer is for: who was named, or,
// to look and to push but never to sign, this user.
func (s *session) localSubject(audience string) (string, error) {
	subject := s.subject
	if subject == "" {
		subject = os.Getenv("ASSAY_SUBJECT")
	}
	switch {
	case subject != "":
		return subject, nil
	case audience == "sigstore":
		return "", usagef("who signs? give --subject NAME (ASSAY_SUBJECT), for example --subject you@example.com")
	}
	if u, err := user.Current(); err == nil {
		return u.Username + "@localhost", nil
	}
	return "user@localhost", nil
}

// readToken takes a token, or the path of a file that holds one, as cosign's
// --identity-token does.
func readToken(v string) (string, error) {
	if strings.Count(v, ".") == 2 && !strings.ContainsAny(v, "/\\") {
		return v, nil
	}
	f, err := os.Open(v)
	if err != nil {
		return "", usagef("--identity-token: neither a JWT nor a readable file: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	if err != nil {
		return "", usagef("--identity-token: %w", err)
	}
	if len(b) > maxToken {
		return "", usagef("--identity-token %s: more than %d bytes are no token", v, maxToken)
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return "", usagef("--identity-token %s: the file is empty", v)
	}
	return string(bytes.TrimSpace(b)), nil
}

// projectedToken is a token that Kubernetes writes into a file of the pod and
// renews: ASSAY_TOKEN_DIR/AUDIENCE, or for signing where cosign looks for it.
func projectedToken(audience string) (string, error) {
	path := filepath.Join(os.Getenv("ASSAY_TOKEN_DIR"), audience)
	if os.Getenv("ASSAY_TOKEN_DIR") == "" {
		if audience != "sigstore" {
			return "", nil
		}
		path = "/var/run/sigstore/cosign/oidc-token"
	}
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	t, err := readToken(path)
	if err != nil {
		return "", fmt.Errorf("projected token of audience %s: %w", audience, err)
	}
	return t, nil
}

// maxToken is what servers read of a token, in bytes.
const maxToken = 16 << 10

// githubToken asks GitHub Actions, where a job has id-token: write.
func githubToken(ctx context.Context, audience string) (string, error) {
	endpoint, bearer := os.Getenv("ACTIONS_ID_TOKEN_REQUEST_URL"), os.Getenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
	if endpoint == "" || bearer == "" {
		return "", nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "https" && !isLoopback(u.Hostname()) {
		return "", fault.Newf(fault.Invalid, "ACTIONS_ID_TOKEN_REQUEST_URL is not an https address")
	}
	q := u.Query()
	q.Set("audience", audience)
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	resp, err := (&http.Client{
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}).Do(req)
	if err != nil {
		return "", fault.Newf(fault.Unavailable, "identity token of GitHub Actions: %w", err)
	}
	defer resp.Body.Close()
	var answer struct {
		Value string `json:"value"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&answer); err != nil || answer.Value == "" {
		return "", fault.Newf(fault.Unavailable, "identity token of GitHub Actions: the answer (%d) holds none; the job needs permissions: id-token: write", resp.StatusCode)
	}
	return answer.Value, nil
}
