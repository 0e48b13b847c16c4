package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"assay/event"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/internal/netguard"
	"assay/store"
	"assay/telemetry"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	longest    = time.Hour
	giveUp     = 72 * time.Hour
	keepDead   = 30 * 24 * time.Hour
	timeout    = 15 * time.Second
	inFlight   = 8 // requests at once
	perHook    = 2 // of these, to one hook: a slow receiver must not hold up the others
	maxAnswer  = 1 << 10
	leeway     = timeout + 15*time.Second // until another worker may try
	idlePoll   = 2 * time.Second
	minSecret  = 16
	maxSecrets = 4 << 10
)

// Options of a [Sender]. DB, Events, Hooks, Secret and Source are required.
type Options struct {
	DB     *store.DB
	Events *event.Log
	Hooks  func() []*Hook // in force now
	// Secret reads the secret at "file:PATH" or "credential:NAME".
	Secret     func(place string) ([]byte, error)
	Source     string // the site's URL, the source of its events
	Host       string // of its registry, as it stands in references
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// FirstWait is the time before the second attempt; it doubles each time.
	// Default 5 s.
	FirstWait time.Duration
}

// Sender queues and sends.
type Sender struct {
	o     Options
	wake  chan struct{}
	sent  *prometheus.CounterVec
	mu    sync.Mutex
	busy  map[string]int          // requests under way, by hook
	conns map[string]*http.Client // by what a hook's connection depends on
}

// New makes a sender over a database that was migrated with [Migrations].
func New(o Options) *Sender {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.FirstWait <= 0 {
		o.FirstWait = 5 * time.Second
	}
	s := &Sender{o: o, wake: make(chan struct{}, 1), busy: map[string]int{}, conns: map[string]*http.Client{}}
	s.sent = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "assay_webhook_deliveries_total", Help: "Attempts to tell a webhook of an event, by outcome.",
	}, []string{"outcome"})
	for _, outcome := range []string{"taken", "retried", "given_up"} {
		s.sent.WithLabelValues(outcome)
	}
	if o.Registerer != nil {
		o.Registerer.MustRegister(s.sent)
	}
	return s
}

// Run queues and sends until ctx ends.
func (s *Sender) Run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- s.o.Events.ConsumeWanted(ctx, "webhook", s.queue, s.wanted) }()
	err := s.work(ctx)
	return errors.Join(err, <-done)
}

func (s *Sender) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// wanted are the kinds of events that some hook asks for: most events are pulls,
// and most hooks want none of them.
func (s *Sender) wanted() []event.Kind {
	kinds := []event.Kind{} // none, rather than all
	hooks := s.o.Hooks()
	for _, k := range event.Kinds() {
		if slices.ContainsFunc(hooks, func(h *Hook) bool {
			return slices.ContainsFunc(h.Events, func(p string) bool { return matches(p, k.Kind) })
		}) {
			kinds = append(kinds, k.Kind)
		}
	}
	if len(kinds) > 30 {
		return nil // all: a look for each would cost more than it spares
	}
	return kinds
}

// queue enters a delivery for each event and hook that wants it.
func (s *Sender) queue(ctx context.Context, tx *store.Tx, batch []event.Event) error {
	hooks := s.o.Hooks()
	queued := false
	for i := range batch {
		e := &batch[i]
		for _, h := range hooks {
			if !h.wants(e) {
				continue
			}
			body, ctype, err := render(e, s.o.Source, s.o.Host)
			if err != nil {
				return err
			}
			now := store.Micros(tx.Now())
			if _, err := tx.Exec(ctx, `INSERT INTO webhook_delivery (id, hook, event, kind, body, type, created, due, attempts, given_up, problem) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, 0, '') ON CONFLICT (id) DO NOTHING`,
				e.ID+"/"+h.Name, h.Name, e.ID, string(e.Kind), body, ctype, now, now); err != nil {
				return err
			}
			queued = true
		}
	}
	if queued {
		tx.OnCommit(s.nudge)
	}
	return nil
}

// work takes what is due and sends it, some at once.
func (s *Sender) work(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, inFlight)
	next := time.Now()
	for ctx.Err() == nil {
		if now := time.Now(); now.After(next) {
			if err := s.prune(ctx); err != nil && ctx.Err() == nil {
				s.o.Logger.WarnContext(ctx, "old deliveries could not be pruned", "error", err)
			}
			next = now.Add(time.Hour)
		}
		found, err := s.take(ctx)
		if err != nil && ctx.Err() == nil {
			s.o.Logger.ErrorContext(ctx, "the queue of webhooks could not be read", "error", err)
		}
		for _, d := range found {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return nil
			}
			wg.Go(func() {
				defer func() { <-slots }()
				s.deliver(ctx, d)
			})
		}
		if len(found) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
		case <-s.wake:
		case <-time.After(idlePoll):
		}
	}
	return nil
}

// take leases what is due: nobody else tries it until the lease ends.
func (s *Sender) take(ctx context.Context) (out []Delivery, err error) {
	full := s.full()
	err = s.o.DB.Update(ctx, func(tx *store.Tx) error {
		out = nil
		now := store.Micros(tx.Now())
		rows, err := tx.Query(ctx, `SELECT `+deliveryColumns+`, body FROM webhook_delivery WHERE given_up = 0 AND due <= ? ORDER BY due, id LIMIT 64`, now)
		if err != nil {
			return err
		}
		taken := map[string]int{}
		for rows.Next() {
			var body []byte
			d, err := scanDelivery(rows.Scan, &body)
			if err != nil {
				rows.Close()
				return err
			}
			if d.body = body; full[d.Hook]+taken[d.Hook] >= perHook || len(out) == inFlight {
				continue
			}
			taken[d.Hook]++
			out = append(out, d)
		}
		rows.Close()
		if err := rows.Err(); err != nil {
			return err
		}
		for _, d := range out {
			if _, err := tx.Exec(ctx, `UPDATE webhook_delivery SET due = ?, attempts = attempts + 1 WHERE id = ?`, now+leeway.Microseconds(), d.ID); err != nil {
				return err
			}
		}
		return nil
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range out {
		s.busy[d.Hook]++
	}
	return out, err
}

func (s *Sender) full() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]int, len(s.busy))
	for k, v := range s.busy {
		out[k] = v
	}
	return out
}

// deliver makes one attempt and notes its outcome.
func (s *Sender) deliver(ctx context.Context, d Delivery) {
	defer func() {
		s.mu.Lock()
		if s.busy[d.Hook]--; s.busy[d.Hook] <= 0 {
			delete(s.busy, d.Hook)
		}
		s.mu.Unlock()
		s.nudge()
	}()
	err := s.attempt(ctx, d)
	if ctx.Err() != nil && err != nil {
		return // the lease ends by itself
	}
	if err := s.note(context.WithoutCancel(ctx), d, err); err != nil {
		s.o.Logger.ErrorContext(ctx, "the outcome of a delivery could not be noted; it is sent again", "hook", d.Hook, "delivery", d.ID, "error", err)
	}
}

// errGone says that the receiver wants no more of it.
var errGone = errors.New("410 Gone")

func (s *Sender) attempt(ctx context.Context, d Delivery) error {
	var hook *Hook
	for _, h := range s.o.Hooks() {
		if h.Name == d.Hook {
			hook = h
		}
	}
	if hook == nil {
		return errGone // the document was deleted
	}
	c, err := s.client(hook)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, hook.URL, bytes.NewReader(d.body))
	if err != nil {
		return err
	}
	if err := s.head(req, hook, d); err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer))
	switch {
	case resp.StatusCode/100 == 2:
		return nil
	case resp.StatusCode == http.StatusGone:
		return errGone
	}
	return fmt.Errorf("the receiver answered %d", resp.StatusCode)
}

// head sets the headers: CloudEvents in binary mode (HTTP protocol binding 1.0,
// section 3.1), and the signature.
func (s *Sender) head(req *http.Request, h *Hook, d Delivery) error {
	set := req.Header.Set
	set("Content-Type", "application/json")
	set("User-Agent", "assay")
	set("ce-specversion", "1.0")
	set("ce-id", d.Event)
	set("ce-source", s.o.Source)
	set("ce-type", d.ctype)
	set("Idempotency-Key", d.ID)
	set("webhook-id", d.ID)
	at := strconv.FormatInt(time.Now().Unix(), 10)
	set("webhook-timestamp", at)
	if h.Secret == "" {
		return nil
	}
	secret, err := s.o.Secret(h.Secret)
	if err != nil {
		return fmt.Errorf("secret: %w", err)
	}
	secret = bytes.TrimSpace(secret)
	if len(secret) < minSecret || len(secret) > maxSecrets {
		return fault.Newf(fault.Invalid, "the secret at %s has %d bytes, want %d to %d", h.Secret, len(secret), minSecret, maxSecrets)
	}
	set("webhook-signature", "v1,"+Sign(secret, d.ID, at, d.body))
	return nil
}

// Sign is the signature of a request: base64 of HMAC-SHA256 over "id.at.body"
// (Standard Webhooks, section on signatures).
func Sign(secret []byte, id, at string, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(id + "." + at + "."))
	mac.Write(body)
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// client is the connection of a hook: no redirects, checked addresses.
func (s *Sender) client(h *Hook) (*http.Client, error) {
	key := fmt.Sprint(h.AllowPrivate, " ", h.CABundle)
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.conns[key]; c != nil {
		return c, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if h.CABundle != "" {
		pem, err := os.ReadFile(h.CABundle)
		if err != nil {
			return nil, fmt.Errorf("caBundle: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fault.Newf(fault.Invalid, "caBundle %s holds no PEM certificate", h.CABundle)
		}
	}
	d := &net.Dialer{Timeout: 5 * time.Second, Control: netguard.Control(h.AllowPrivate)}
	c := &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: telemetry.Transport(&http.Transport{
			DialContext: d.DialContext, TLSClientConfig: conf, TLSHandshakeTimeout: 5 * time.Second,
			MaxIdleConns: 16, MaxIdleConnsPerHost: perHook, IdleConnTimeout: 30 * time.Second,
			MaxResponseHeaderBytes: 32 << 10, ForceAttemptHTTP2: true,
		}),
	}
	s.conns[key] = c
	return c, nil
}

// note writes the outcome: taken, to be tried again, or given up.
func (s *Sender) note(ctx context.Context, d Delivery, failure error) error {
	outcome := "retried"
	err := s.o.DB.Update(ctx, func(tx *store.Tx) error {
		now := tx.Now()
		switch {
		case failure == nil:
			outcome = "taken"
			_, err := tx.Exec(ctx, `DELETE FROM webhook_delivery WHERE id = ?`, d.ID)
			return err
		case errors.Is(failure, errGone) || now.Sub(d.Created) >= giveUp:
			outcome = "given_up"
			if _, err := tx.Exec(ctx, `UPDATE webhook_delivery SET given_up = 1, problem = ? WHERE id = ?`, clip(failure.Error()), d.ID); err != nil {
				return err
			}
			return event.Append(ctx, tx, event.Event{Kind: event.WebhookFailing, Actor: "system:webhook", Body: map[string]any{
				"hook": d.Hook, "event": d.Event, "kind": string(d.Kind), "attempts": d.Attempts + 1, "reason": clip(failure.Error()),
			}})
		}
		wait := longest
		if d.Attempts < 10 {
			wait = min(longest, s.o.FirstWait<<d.Attempts)
		}
		outcome = "retried"
		_, err := tx.Exec(ctx, `UPDATE webhook_delivery SET due = ?, problem = ? WHERE id = ?`, store.Micros(now.Add(wait)), clip(failure.Error()), d.ID)
		return err
	})
	if err == nil {
		s.sent.WithLabelValues(outcome).Inc()
	}
	if failure != nil {
		s.o.Logger.WarnContext(ctx, "a webhook did not take an event", "hook", d.Hook, "event", d.Event, "attempt", d.Attempts+1, "outcome", outcome, "error", failure)
	}
	return err
}

func clip(s string) string { return excerpt.Text(s, 300) }

func (s *Sender) prune(ctx context.Context) error {
	return s.o.DB.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM webhook_delivery WHERE given_up = 1 AND created < ?`, store.Micros(tx.Now().Add(-giveUp-keepDead)))
		return err
	})
}
