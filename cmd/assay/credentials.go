package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"assay/internal/durable"
	"assay/internal/fault"
	"assay/internal/oidcflow"
)

// savedLogins is the file of what assay login obtained, by the server's
// host[:port] and by audience. Its mode is 0600, and a file that others can read
// is not read.
type savedLogins map[string]map[string]savedLogin

type savedLogin struct {
	Issuer  string    `json:"issuer,omitempty"`
	Client  string    `json:"client_id,omitempty"`
	User    string    `json:"user,omitempty"`    // as docker-credential-assay store was told
	Token   string    `json:"token"`             // an ID token, or what store was given
	Refresh string    `json:"refresh,omitempty"` // to get another ID token
	Expires time.Time `json:"expires,omitzero"`  // of Token; zero: it does not say
}

const maxLogins = 1 << 20

func loginsPath() (string, error) {
	if p := os.Getenv("ASSAY_CREDENTIALS"); p != "" {
		return p, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", usagef("no place for credentials: %w; set ASSAY_CREDENTIALS to a file", err)
	}
	return filepath.Join(dir, "assay", "credentials.json"), nil
}

func readLogins() (savedLogins, error) {
	path, err := loginsPath()
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return savedLogins{}, nil
	}
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fault.Newf(fault.Invalid, "%s has mode %04o and others can read it: chmod 600 it, and log in anew if anybody did", path, st.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxLogins))
	if err != nil {
		return nil, err
	}
	l := savedLogins{}
	if err := json.Unmarshal(b, &l); err != nil {
		return nil, fault.Newf(fault.Invalid, "%s does not read: %w; remove it and log in anew", path, err)
	}
	return l, nil
}

// changeLogins edits the file under a lock, so that two commands at once lose
// nothing.
func changeLogins(edit func(savedLogins)) error {
	path, err := loginsPath()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	var lock io.Closer
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if lock, err = durable.Lock(path + ".lock"); err == nil || !errors.Is(err, fault.Conflict) || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	l, err := readLogins()
	if err != nil {
		return err
	}
	edit(l)
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(path, append(b, '\n'), 0o600)
}

// savedToken gives the token that was saved for a server and an audience,
// renewed where it ends within a minute; "" without an error when there is none.
// A token goes to the host that it was obtained for, and nowhere else.
func savedToken(ctx context.Context, a *app, host, audience string) (user, token string, err error) {
	l, err := readLogins()
	if err != nil {
		return "", "", err
	}
	s, ok := l[host][audience]
	if !ok {
		return "", "", nil
	}
	if s.Expires.IsZero() || time.Until(s.Expires) > time.Minute {
		return s.User, s.Token, nil
	}
	if s.Refresh == "" {
		if time.Now().Before(s.Expires) {
			return s.User, s.Token, nil
		}
		return "", "", fault.Newf(fault.Unauthenticated, "the login at %s for %s has ended; log in anew: assay login --server https://%s", host, audience, host)
	}
	h, err := a.httpClient()
	if err != nil {
		return "", "", err
	}
	t, err := (&oidcflow.Client{Issuer: s.Issuer, ID: s.Client, HTTP: h}).Refresh(ctx, s.Refresh)
	if err != nil {
		return "", "", fmt.Errorf("renew the login at %s; log in anew if that cannot be: %w", host, err)
	}
	s.Token, s.Refresh, s.Expires = t.IDToken, t.Refresh, t.Expires
	return s.User, s.Token, changeLogins(func(l savedLogins) { l.set(host, audience, s) })
}

func (l savedLogins) set(host, audience string, s savedLogin) {
	if l[host] == nil {
		l[host] = map[string]savedLogin{}
	}
	l[host][audience] = s
}

func (l savedLogins) hosts(audience string) []string {
	var out []string
	for host, by := range l {
		if _, ok := by[audience]; ok {
			out = append(out, host)
		}
	}
	slices.Sort(out)
	return out
}

// registryHost brings what a client names a registry by into host[:port]: a
// bare host, or an address as docker has it. ok is false for anything else.
func registryHost(text string) (host string, ok bool) {
	text = strings.TrimSpace(text)
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http" || len(u.Host) > 260 {
		return "", false
	}
	if p := strings.Trim(u.Path, "/"); p != "" && p != "v1" && p != "v2" {
		return "", false
	}
	return strings.ToLower(u.Host), true
}
