package alert

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"assay/event"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/internal/netguard"
	"assay/store"
	"assay/telemetry"
)

const (
	sendTimeout = 15 * time.Second
	sendLease   = 2 * sendTimeout
	longestWait = time.Hour
	giveUpAfter = 72 * time.Hour
	inFlight    = 4 // to one receiver at a time
	idlePoll    = 2 * time.Second
	maxAnswer   = 64 << 10
)

// connections are HTTP clients, by what a receiver's connection depends on.
type connections struct {
	mu  sync.Mutex
	all map[string]*http.Client
}

// Send sends what is queued until ctx ends. Each receiver is a lane of its own: one
// that hangs, with however much before it, holds up no other.
func (s *Store) Send(ctx context.Context) error {
	var lanes sync.WaitGroup
	defer lanes.Wait()
	var mu sync.Mutex
	busy := map[string]bool{}
	for ctx.Err() == nil {
		mu.Lock()
		skip := maps.Clone(busy)
		mu.Unlock()
		due, err := s.lease(ctx, skip)
		if err != nil && ctx.Err() == nil {
			s.o.Logger.ErrorContext(ctx, "the queue of notices could not be read", "error", err)
		}
		for receiver, list := range byReceiver(due) {
			mu.Lock()
			busy[receiver] = true
			mu.Unlock()
			lanes.Go(func() {
				s.deliver(ctx, list)
				mu.Lock()
				delete(busy, receiver)
				mu.Unlock()
				s.nudge()
			})
		}
		t := time.NewTimer(idlePoll)
		select {
		case <-ctx.Done():
		case <-s.wake:
		case <-t.C:
		}
		t.Stop()
	}
	return nil
}

func byReceiver(list []queued) map[string][]queued {
	out := map[string][]queued{}
	for i := range list {
		out[list[i].Receiver] = append(out[list[i].Receiver], list[i])
	}
	return out
}

// SendDue makes one attempt at each of some notices that are due, waits for all of
// them, and says how many those were.
func (s *Store) SendDue(ctx context.Context) (int, error) {
	due, err := s.lease(ctx, nil)
	if err != nil {
		return 0, err
	}
	s.deliver(ctx, due)
	return len(due), nil
}

func (s *Store) deliver(ctx context.Context, due []queued) {
	var wg sync.WaitGroup
	for _, d := range due {
		wg.Go(func() {
			ref, err := s.attempt(ctx, &d)
			if ctx.Err() != nil && err != nil {
				return // the lease ends by itself
			}
			if err := s.outcome(context.WithoutCancel(ctx), &d, ref, err); err != nil {
				s.o.Logger.ErrorContext(ctx, "the outcome of a notice could not be noted; it is sent again", "notice", d.ID, "error", err)
			}
		})
	}
	wg.Wait()
}

// queued is a delivery with what only tests have.
type queued struct {
	Delivery
	body string
}

// lease takes what is due of receivers that are not busy, a few of each, pages
// first: nobody else tries it until the lease ends. Notices of one group go to one
// receiver one after the other, in their order.
func (s *Store) lease(ctx context.Context, busy map[string]bool) (out []queued, err error) {
	err = s.o.DB.Update(ctx, func(tx *store.Tx) error {
		out = nil
		now := tx.Now()
		names, err := store.Values[string](ctx, tx, `SELECT DISTINCT receiver FROM alert_delivery WHERE taken = 0 AND given_up = 0 AND due <= ? ORDER BY receiver`, now)
		if err != nil {
			return err
		}
		for _, name := range names {
			if busy[name] {
				continue
			}
			some, err := dueTo(ctx, tx, name)
			if err != nil {
				return err
			}
			out = append(out, some...)
		}
		for _, d := range out {
			if _, err := tx.Exec(ctx, `UPDATE alert_delivery SET due = ?, attempts = attempts + 1 WHERE id = ?`, store.Micros(now.Add(sendLease)), d.ID); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

func dueTo(ctx context.Context, tx *store.Tx, receiver string) (out []queued, err error) {
	rows, err := tx.Query(ctx, `SELECT `+deliveryColumns+`, body FROM alert_delivery d WHERE receiver = ? AND taken = 0 AND given_up = 0 AND due <= ?
		AND NOT EXISTS (SELECT 1 FROM alert_delivery e WHERE e.grp = d.grp AND e.receiver = d.receiver AND e.taken = 0 AND e.given_up = 0 AND (e.created < d.created OR e.created = d.created AND e.id < d.id))
		ORDER BY CASE WHEN EXISTS (SELECT 1 FROM alert_group g WHERE g.id = d.grp AND g.severity = 'ticket') THEN 1 ELSE 0 END, due, id LIMIT ?`, receiver, tx.Now(), inFlight)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var q queued
		if q.Delivery, err = scanDelivery(rows.Scan, &q.body); err != nil {
			return nil, err
		}
		out = append(out, q)
	}
	return out, rows.Err()
}

// errGone says that there is nobody to be told any more.
var errGone = errors.New("the receiver is no more")

// attempt sends a notice, made of what the group is now. ref is what the receiver
// called it.
func (s *Store) attempt(ctx context.Context, d *queued) (ref string, err error) {
	r := s.receiver(d.Receiver)
	if r == nil {
		return "", errGone
	}
	n, err := s.notice(ctx, d)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	m := message{s: s, r: r, n: n, key: d.ID}
	if m.title, err = render(r.title, n); err != nil {
		return "", err
	}
	m.title = excerpt.Line(m.title, 250, ' ')
	if m.text, err = render(r.text, n); err != nil {
		return "", err
	}
	if r.Secret != "" {
		b, err := s.o.Secret(r.Secret)
		if err != nil {
			return "", err // it says that it is about the secret
		}
		m.secret = strings.TrimSpace(string(b))
	}
	if m.ref, err = s.refOf(ctx, d.Group, d.Receiver); err != nil {
		return "", err
	}
	ref, err = m.send(ctx)
	if err != nil && m.secret != "" {
		err = errors.New(withoutSecret(err.Error(), m.secret))
	}
	return ref, err
}

// withoutSecret takes a secret out of what a receiver answered or a library says:
// as it is, its password alone, and as they go over the wire.
func withoutSecret(text, secret string) string {
	forms := []string{secret}
	if user, password, ok := strings.Cut(secret, ":"); ok && !strings.HasPrefix(password, "//") {
		forms = append(forms, password, base64.StdEncoding.EncodeToString([]byte("\x00"+user+"\x00"+password)))
	}
	if u, err := url.Parse(secret); err == nil && u.Host != "" {
		forms = append(forms, u.String(), u.EscapedPath(), u.Path, path.Base(u.Path))
	}
	for _, f := range forms {
		for _, f := range []string{f, url.QueryEscape(f), url.PathEscape(f), base64.StdEncoding.EncodeToString([]byte(f))} {
			if len(f) > 3 { // less is no secret, and stands in every text
				text = strings.ReplaceAll(text, f, "[secret]")
			}
		}
	}
	return text
}

func (s *Store) refOf(ctx context.Context, group, receiver string) (ref string, err error) {
	err = s.o.DB.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(ctx, `SELECT COALESCE(MAX(ref), '') FROM alert_delivery WHERE grp = ? AND receiver = ? AND ref <> ''`, group, receiver).Scan(&ref)
	})
	return ref, err
}

func (s *Store) notice(ctx context.Context, d *queued) (*Notice, error) {
	occasion, _, _ := strings.Cut(d.Occasion, ":")
	if occasion == OccasionTest {
		n := sample()
		n.Test, n.ID, n.Site, n.At = true, d.Group, s.o.Site, d.Created
		n.Group.ID, n.Group.Opened, n.First.Group = d.Group, d.Created, d.Group
		n.First.Summary = d.body
		n.Group.Alerts[0] = n.First
		n.URL = s.o.Site + "/ui/alerts"
		return n, nil
	}
	n := &Notice{ID: d.Group + "/" + d.Occasion, Occasion: occasion, Site: s.o.Site, URL: s.o.Site + "/ui/alerts?group=" + d.Group, At: s.o.Clock().UTC()}
	err := s.o.DB.View(ctx, func(tx *store.Tx) (err error) {
		if n.Group, err = groupOf(ctx, tx, d.Group); err != nil {
			return err
		}
		return s.fill(ctx, tx, &n.Group, 100)
	})
	if err != nil {
		return nil, err
	}
	if len(n.Group.Alerts) == 0 {
		return nil, errGone
	}
	n.First = n.Group.Alerts[0]
	for _, a := range n.Group.Alerts {
		if !slices.Contains(n.Rules, a.Rule) {
			n.Rules = append(n.Rules, a.Rule)
		}
	}
	return n, nil
}

// outcome writes how an attempt went: taken, to be tried again, or given up.
func (s *Store) outcome(ctx context.Context, d *queued, ref string, failure error) error {
	what := "retried"
	err := s.o.DB.Update(ctx, func(tx *store.Tx) error {
		now := tx.Now()
		switch {
		case failure == nil:
			what = "taken"
			_, err := tx.Exec(ctx, `UPDATE alert_delivery SET taken = ?, problem = '', ref = ? WHERE id = ?`, now, excerpt.Text(ref, 300), d.ID)
			return err
		case errors.Is(failure, errGone) || now.Sub(d.Created) >= giveUpAfter:
			what = "given_up"
			if _, err := tx.Exec(ctx, `UPDATE alert_delivery SET given_up = 1, problem = ? WHERE id = ?`, excerpt.Text(failure.Error(), 300), d.ID); err != nil {
				return err
			}
			return event.Append(ctx, tx, event.Event{Kind: event.AlertUndelivered, Actor: "system:alert", Body: map[string]any{
				"group": d.Group, "receiver": d.Receiver, "attempts": d.Attempts + 1, "reason": excerpt.Text(failure.Error(), 300),
			}})
		}
		what = "retried"
		wait := longestWait
		if d.Attempts < 10 {
			wait = min(longestWait, s.o.FirstWait<<d.Attempts)
		}
		_, err := tx.Exec(ctx, `UPDATE alert_delivery SET due = ?, problem = ? WHERE id = ?`, store.Micros(now.Add(wait)), excerpt.Text(failure.Error(), 300), d.ID)
		return err
	})
	if err == nil {
		s.metrics.deliveries.WithLabelValues(what).Inc()
	}
	if failure != nil {
		s.o.Logger.WarnContext(ctx, "a receiver did not take a notice", "receiver", d.Receiver, "notice", d.ID, "attempt", d.Attempts+1, "outcome", what, "error", failure)
	}
	return err
}

// Test queues a notice that says it is a test, and makes its first attempt.
// Errors are fault.NotFound, and what the attempt failed by.
func (s *Store) Test(ctx context.Context, receiver, by string) (d Delivery, err error) {
	if s.receiver(receiver) == nil {
		return d, fault.Newf(fault.NotFound, "no receiver is %.80q: see assay alert receivers", receiver)
	}
	group := newID("test_")
	q := queued{body: "sent by " + by}
	if err := s.o.DB.Update(ctx, func(tx *store.Tx) error {
		// Its lease is taken with it: nobody else sends it meanwhile.
		if err := s.enter(ctx, tx, group, OccasionTest, receiver, q.body, sendLease); err != nil {
			return err
		}
		q.Delivery = Delivery{ID: group + "/" + OccasionTest + "/" + receiver, Group: group, Occasion: OccasionTest, Receiver: receiver, Created: tx.Now()}
		_, err := tx.Exec(ctx, `UPDATE alert_delivery SET attempts = 1 WHERE id = ?`, q.ID)
		return err
	}); err != nil {
		return d, err
	}
	ref, failure := s.attempt(ctx, &q)
	noted := s.o.DB.Update(ctx, func(tx *store.Tx) error {
		problem, taken, dead := "", tx.Now(), 0
		if failure != nil {
			problem, dead = excerpt.Text(failure.Error(), 300), 1 // a test is not tried again
			_, err := tx.Exec(ctx, `UPDATE alert_delivery SET given_up = ?, problem = ? WHERE id = ?`, dead, problem, q.ID)
			return err
		}
		q.Taken = taken
		_, err := tx.Exec(ctx, `UPDATE alert_delivery SET taken = ?, ref = ? WHERE id = ?`, taken, excerpt.Text(ref, 300), q.ID)
		return err
	})
	q.Ref, q.Attempts = ref, 1
	if failure != nil {
		return q.Delivery, fault.Newf(fault.Unavailable, "receiver %s did not take the test: %w", receiver, failure)
	}
	return q.Delivery, noted
}

// client is the connection of a receiver: no redirects, checked addresses.
func (s *Store) client(r *Receiver) (*http.Client, error) {
	key := fmt.Sprint(r.AllowPrivate, " ", r.CABundle)
	s.conns.mu.Lock()
	defer s.conns.mu.Unlock()
	if c := s.conns.all[key]; c != nil {
		return c, nil
	}
	conf, err := r.tls()
	if err != nil {
		return nil, err
	}
	c := &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: telemetry.Transport(&http.Transport{
			DialContext: r.dialer().DialContext, TLSClientConfig: conf, TLSHandshakeTimeout: 5 * time.Second,
			MaxIdleConns: 16, MaxIdleConnsPerHost: 2, IdleConnTimeout: 30 * time.Second, MaxResponseHeaderBytes: 32 << 10, ForceAttemptHTTP2: true,
		}),
	}
	if s.conns.all == nil {
		s.conns.all = map[string]*http.Client{}
	}
	s.conns.all[key] = c
	return c, nil
}

func (r *Receiver) dialer() *net.Dialer {
	return &net.Dialer{Timeout: 5 * time.Second, Control: netguard.Control(r.AllowPrivate)}
}

func (r *Receiver) tls() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if r.CABundle == "" {
		return conf, nil
	}
	pem, err := os.ReadFile(r.CABundle)
	if err != nil {
		return nil, fmt.Errorf("caBundle: %w", err)
	}
	conf.RootCAs = x509.NewCertPool()
	if !conf.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fault.Newf(fault.Invalid, "caBundle %s holds no PEM certificate", r.CABundle)
	}
	return conf, nil
}

// call sends JSON (nil: nothing) and gives the answer of a 2xx; anything else is an error.
func (m *message) call(ctx context.Context, method, address string, body any, set func(http.Header)) ([]byte, error) {
	var b []byte
	if body != nil {
		var err error
		if b, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	c, err := m.s.client(m.r)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "assay")
	req.Header.Set("Idempotency-Key", m.key)
	if set != nil {
		set(req.Header)
	}
	if m.r.Type == TypeWebhook && m.secret != "" {
		sign(req.Header, m.secret, m.key, b)
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode/100 != 2 {
		return nil, &answerError{resp.StatusCode, excerpt.Line(string(answer), 200, ' ')}
	}
	return answer, err
}
