package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"assay/event"
	"assay/internal/fault"
	"assay/tlog"
	"assay/tlog/ct"
	"assay/tlog/rekor"
	"assay/tlog/watch"
	"assay/trust"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
)

// monitorFlags say what is watched, and who is told.
type monitorFlags struct {
	logFlags
	state      string
	once       bool
	every      time.Duration
	identities []string
	keys       []string
	audit      bool
	auditKeys  []string
	compare    []string
	witnesses  []string
	minWitness int
	webhook    string
	metrics    string
}

// monitor is one run of assay log monitor.
type monitor struct {
	a       *app
	s       *session
	f       *monitorFlags
	log, ct *tlog.Monitor // ct: nil where the root names no certificate log
	audit   *watch.Audit  // nil: not asked for
	watched *watch.Watched
	known   []*tlog.WitnessKey
	http    *http.Client // of the webhook and of --compare

	size, checked *prometheus.GaugeVec
	alerts        *prometheus.CounterVec
	sightings     prometheus.Counter
}

// told is one line of the monitor's output and one message to the webhook.
type told struct {
	Type    string             `json:"type"` // checked, sighting, audit, alert
	Time    time.Time          `json:"time"`
	Log     string             `json:"log,omitempty"`     // origin
	Message string             `json:"message,omitempty"` // of an alert
	Kind    string             `json:"kind,omitempty"`    // of an alert: fork, unverified, audit, witness, unavailable
	Report  *tlog.Report       `json:"report,omitempty"`
	Seen    *watch.Sighting    `json:"seen,omitempty"`
	Audit   *watch.AuditReport `json:"audit,omitempty"`
}

func (a *app) logMonitor() *cobra.Command {
	f := &monitorFlags{}
	cmd := &cobra.Command{
		Use:   "monitor --state FILE",
		Short: "Watch the log from outside: is what comes an extension of what was?",
		Long: `Keep the last seen checkpoints of the log and of the certificate log in FILE and
FILE.ct, away from the site, and check that each new one extends it. A log that
was rewritten, or shows two faces, ends the command with exit code 1 and leaves
the proof beside FILE. With --identity and --key entries and certificates of
those are reported, one line each; with --audit the site's audit chain is held
against what was seen of it and against the heads in the log. These read
entries and heads, for which a role is needed.`,
		Example: `  assay log monitor --server https://assay.example --trusted-root root.json --state monitor.json
  assay log monitor --data ./data --state monitor.json --once --identity '.*@example\.com' --audit
  assay log monitor --data ./data --state monitor.json --once --compare https://mirror.example/checkpoint`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := a.newMonitor(cmd.Context(), f)
			if err != nil {
				return err
			}
			return m.run(cmd.Context())
		},
	}
	f.register(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.state, "state", "", "file of the last seen checkpoint; others of its name with an ending lie beside it")
	fl.BoolVar(&f.once, "once", false, "check once and end")
	fl.DurationVar(&f.every, "interval", time.Minute, "time between checks")
	fl.StringArrayVar(&f.identities, "identity", nil, "report entries and certificates of identities that this regular expression matches whole (RE2), or of a key's fingerprint; can be repeated")
	fl.StringArrayVar(&f.keys, "key", nil, "report entries of the key with this fingerprint (sha256:…); can be repeated")
	fl.BoolVar(&f.audit, "audit", false, "follow the audit chain")
	fl.StringArrayVar(&f.auditKeys, "audit-key", nil, "fingerprint of the site's audit key, pinned; without it the site is asked, and every key ever seen counts")
	fl.StringArrayVar(&f.compare, "compare", nil, "file or URL of a checkpoint of this log that others were shown (a witness, a mirror); can be repeated")
	fl.StringArrayVar(&f.witnesses, "witness", nil, "verifier key (vkey) of a witness whose cosignature on checkpoints is looked for; can be repeated")
	fl.IntVar(&f.minWitness, "min-witness", 0, "alert when fewer of them cosigned the checkpoint")
	fl.StringVar(&f.webhook, "webhook", "", "https URL to which sightings and alerts are posted as JSON")
	fl.StringVar(&f.metrics, "metrics", "", "address of a listener for /metrics and /healthz, for example 127.0.0.1:9091")
	return cmd
}

func (a *app) newMonitor(ctx context.Context, f *monitorFlags) (*monitor, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	m := &monitor{a: a, f: f, http: &http.Client{Timeout: 15 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	var err error
	if m.watched, err = watch.NewWatched(f.identities, f.keys); err != nil {
		return nil, usagef("%w", err)
	}
	for _, v := range f.witnesses {
		k, err := tlog.ParseWitnessKey(v)
		if err != nil {
			return nil, usagef("--witness: %w", err)
		}
		m.known = append(m.known, k)
	}
	if m.s, err = a.connect(ctx, "operator@localhost", "", true); err != nil {
		return nil, err
	}
	src, keys, err := m.s.openLog(ctx, &f.logFlags)
	if err != nil {
		return nil, err
	}
	m.log = &tlog.Monitor{Source: src, Verifier: keys.current[0], Others: keys.current[1:], Past: keys.past, State: f.state}
	if !m.watched.None() || f.audit {
		m.log.Entry = m.entry
	}
	if err := m.openCT(ctx); err != nil {
		return nil, err
	}
	if f.audit {
		m.audit = &watch.Audit{Heads: m.heads, Keys: m.auditKeys, State: f.state + ".audit"}
	}
	return m, m.listen(ctx)
}

func (f *monitorFlags) check() error {
	if f.state == "" {
		return usagef("want --state FILE: where the last seen checkpoint is kept")
	}
	if f.every < time.Second {
		return usagef("--interval %s: want 1s or more", f.every)
	}
	if dir := filepath.Dir(f.state); dir != "." {
		if _, err := os.Stat(dir); err != nil {
			return usagef("--state: %w", err)
		}
	}
	if f.minWitness < 0 || f.minWitness > len(f.witnesses) {
		return usagef("--min-witness %d: want 0 to the number of --witness, which is %d", f.minWitness, len(f.witnesses))
	}
	if f.webhook != "" {
		u, err := url.Parse(f.webhook)
		if err != nil || u.Host == "" || u.Scheme != "https" && !(u.Scheme == "http" && isLoopback(u.Hostname())) {
			return usagef("--webhook: want https://HOST/PATH; http is for loopback only")
		}
	}
	return nil
}

// openCT finds the certificate log in the trusted root.
func (m *monitor) openCT(ctx context.Context) error {
	root, err := m.s.root(ctx, m.f.root)
	if err != nil {
		return err
	}
	base, err := url.Parse(m.s.status.PublicURL)
	if err != nil {
		return fault.Wrap(fault.Invalid, err)
	}
	src := tlog.HTTP{URL: m.s.status.PublicURL + "/ct", Folder: ct.Codec{}.Folder(), Client: m.s.logClient()}
	if m.s.admin != nil {
		src.URL, src.Client = m.s.admin.Base+"/ct", m.s.admin.HTTP
	}
	c := &tlog.Monitor{Source: src, Codec: ct.Codec{}, State: m.f.state + ".ct"}
	for _, l := range root.Parts().CTLogs {
		if err := addCTKey(c, l, base.Hostname()); err != nil {
			return err
		}
	}
	if c.Verifier == nil {
		return nil
	}
	if !m.watched.None() {
		c.Entry = m.certificate
	}
	m.ct = c
	return nil
}

func addCTKey(c *tlog.Monitor, l trust.Log, host string) error {
	if u, err := url.Parse(l.URL); err != nil || u.Hostname() != host {
		return nil //nolint:nilerr // another site's log, however it writes its name
	}
	v, err := tlog.NewCTVerifier(host+"/ct", l.Key)
	if err != nil {
		return err
	}
	switch now := time.Now(); {
	case !l.Window.Contains(now):
		c.Past = append(c.Past, v)
	case c.Verifier == nil:
		c.Verifier = v
	default:
		c.Others = append(c.Others, v)
	}
	return nil
}

func (m *monitor) heads(ctx context.Context, after int64) (out []event.Head, err error) {
	raw, err := m.s.api().Heads(ctx, after)
	for _, b := range raw {
		var h event.Head
		if err := json.Unmarshal(b, &h); err != nil {
			return nil, err
		}
		out = append(out, h)
	}
	return out, err
}

func (m *monitor) auditKeys(ctx context.Context) (out []string, err error) {
	if len(m.f.auditKeys) > 0 {
		return m.f.auditKeys, nil
	}
	keys, err := m.s.api().Keys(ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range keys.Items {
		if k.Role == "audit" {
			out = append(out, k.Fingerprint)
		}
	}
	if len(out) == 0 {
		return nil, fault.Newf(fault.Unavailable, "the site names no audit key; name it with --audit-key")
	}
	return out, nil
}

func (m *monitor) entry(ctx context.Context, r tlog.Record) error {
	in := rekor.Inspect(r)
	if m.audit != nil {
		if err := m.audit.Entry(in); err != nil {
			return err
		}
	}
	if m.watched.Matches(in.Identity, in.KeyFingerprint) {
		return m.sighted(ctx, watch.InLog(in))
	}
	return nil
}

func (m *monitor) certificate(ctx context.Context, r tlog.Record) error {
	s, err := watch.InCT(r)
	if err != nil { // the log goes on; nothing that cannot be read counts as clean
		m.alert(ctx, "unverified", err)
		return nil
	}
	if m.watched.Matches(s.Identity, s.Key) {
		return m.sighted(ctx, s)
	}
	return nil
}

func (m *monitor) sighted(ctx context.Context, s watch.Sighting) error {
	m.sightings.Inc()
	t := told{Type: "sighting", Time: time.Now().UTC(), Seen: &s}
	m.post(ctx, t)
	return m.tell(t, func(w io.Writer) {
		what := "entry"
		if s.Log == "ct" {
			what = "certificate"
		}
		who := s.Identity
		if who == "" {
			who = s.Key
		}
		fmt.Fprintf(w, "%s %d\t%s\t%s\t%s\n", what, s.Index, line(who), dash(s.Issuer), dash(s.Digest))
	})
}

// tell prints one thing: with -o json as one line.
func (m *monitor) tell(t told, table func(io.Writer)) error {
	if m.a.output == "json" {
		b, err := plainJSON(t, "")
		if err != nil {
			return err
		}
		_, err = m.a.stdout.Write(b)
		return err
	}
	return m.a.print(t, table)
}

func (m *monitor) alert(ctx context.Context, kind string, err error) {
	m.alerts.WithLabelValues(kind).Inc()
	t := told{Type: "alert", Time: time.Now().UTC(), Kind: kind, Message: err.Error()}
	m.post(ctx, t)
	if m.a.output == "json" {
		if perr := m.tell(t, nil); perr != nil {
			m.a.notef("assay: %s\n", clean(perr.Error()))
		}
	}
}

// post sends to the webhook. A failure is told, and does not end the watch.
func (m *monitor) post(ctx context.Context, t told) {
	if m.f.webhook == "" {
		return
	}
	b, err := plainJSON(t, "")
	if err == nil {
		var req *http.Request
		if req, err = http.NewRequestWithContext(ctx, http.MethodPost, m.f.webhook, bytes.NewReader(b)); err == nil {
			req.Header.Set("Content-Type", "application/json")
			var resp *http.Response
			if resp, err = m.http.Do(req); err == nil {
				_ = resp.Body.Close()
				if resp.StatusCode/100 != 2 {
					err = fmt.Errorf("it answers %s", resp.Status)
				}
			}
		}
	}
	if err != nil {
		m.alerts.WithLabelValues("webhook").Inc()
		m.a.notef("assay: the webhook was not reached: %s\n", clean(err.Error()))
	}
}

// listen serves metrics where an address was given.
func (m *monitor) listen(ctx context.Context) error {
	reg := prometheus.NewRegistry()
	m.size = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "assay_monitor_size", Help: "Entries of a log's last good checkpoint."}, []string{"log"})
	m.checked = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "assay_monitor_checked_seconds", Help: "When a log, or the audit chain, was found good last, in seconds since 1970."}, []string{"log"})
	m.alerts = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "assay_monitor_alerts_total", Help: "Alerts by kind: fork, unverified, audit, witness, unavailable, webhook."}, []string{"kind"})
	m.sightings = prometheus.NewCounter(prometheus.CounterOpts{Name: "assay_monitor_sightings_total", Help: "Entries and certificates of watched identities and keys."})
	reg.MustRegister(m.size, m.checked, m.alerts, m.sightings)
	if m.f.metrics == "" {
		return nil
	}
	l, err := net.Listen("tcp", m.f.metrics)
	if err != nil {
		return usagef("--metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second}
	go func() { <-ctx.Done(); _ = srv.Close() }()
	go func() { _ = srv.Serve(l) }()
	m.a.notef("metrics at http://%s/metrics\n", l.Addr())
	return nil
}

// run checks until the end, or until something is found that is not good.
func (m *monitor) run(ctx context.Context) error {
	for {
		err := m.check(ctx)
		switch {
		case ctx.Err() != nil && !m.f.once:
			return nil
		case err == nil:
		case m.f.once || !errors.Is(err, fault.Unavailable):
			m.alert(ctx, alertKind(err), err)
			return err
		default:
			m.alert(ctx, "unavailable", err)
			m.a.notef("assay: %s\n", clean(err.Error()))
		}
		if m.f.once {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(m.f.every):
		}
	}
}

// errAudit and errWitness mark what an alert is about.
var errAudit, errWitness = errors.New("audit chain"), errors.New("witnesses")

func alertKind(err error) string {
	switch {
	case errors.Is(err, errAudit):
		return "audit"
	case errors.Is(err, errWitness):
		return "witness"
	case errors.Is(err, fault.Tampered):
		return "fork"
	case errors.Is(err, fault.Unverified):
		return "unverified"
	}
	return "unavailable"
}

func (m *monitor) check(ctx context.Context) error {
	if m.audit != nil {
		if err := m.audit.Open(ctx); err != nil {
			return fmt.Errorf("%w: %w", errAudit, err)
		}
	}
	if err := m.consistent(ctx, "log", m.log); err != nil {
		return err
	}
	if m.ct != nil {
		if err := m.consistent(ctx, "ct", m.ct); err != nil {
			return fmt.Errorf("certificate log: %w", err)
		}
	}
	if m.audit != nil {
		rep, err := m.audit.Check(ctx)
		if err != nil {
			return fmt.Errorf("%w: %w", errAudit, err)
		}
		m.checked.WithLabelValues("audit").SetToCurrentTime()
		if err := m.tell(told{Type: "audit", Time: time.Now().UTC(), Audit: &rep}, func(w io.Writer) {
			begun := ""
			if rep.First {
				begun = ", begun now"
			}
			fmt.Fprintf(w, "audit chain\tbatch %d\t%d events, %d heads in the log%s\n", rep.Batch, rep.Events, rep.Logged, begun)
		}); err != nil {
			return err
		}
	}
	return m.compareAll(ctx)
}

// consistent checks one log and says so.
func (m *monitor) consistent(ctx context.Context, name string, of *tlog.Monitor) error {
	rep, err := of.Check(ctx)
	if err != nil {
		return err
	}
	m.size.WithLabelValues(name).Set(float64(rep.Size))
	m.checked.WithLabelValues(name).SetToCurrentTime()
	return m.tell(told{Type: "checked", Time: time.Now().UTC(), Log: rep.Origin, Report: &rep}, func(w io.Writer) {
		if rep.First {
			fmt.Fprintf(w, "%s\tsize %d\tbegun at size %d: what was before is taken on trust\n", clean(rep.Origin), rep.Size, rep.Size)
			return
		}
		fmt.Fprintf(w, "%s\tsize %d\tconsistent since %d\n", clean(rep.Origin), rep.Size, rep.Before)
	})
}

// compareAll looks at the cosignatures, and at what others were shown.
func (m *monitor) compareAll(ctx context.Context) error {
	if m.f.minWitness > 0 {
		b, err := m.log.Source.Checkpoint(ctx)
		if err != nil {
			return err
		}
		if n := len(tlog.Cosignatures(b, m.known)); n < m.f.minWitness {
			return fmt.Errorf("%w: %w", errWitness, fault.Newf(fault.Unverified, "the checkpoint has cosignatures of %d known witnesses, want %d", n, m.f.minWitness))
		}
	}
	for _, place := range m.f.compare {
		b, err := m.readCheckpoint(ctx, place)
		if err != nil {
			return fmt.Errorf("--compare %s: %w", line(place), err)
		}
		if err := m.log.Compare(ctx, b); err != nil {
			return fmt.Errorf("compared with %s: %w", line(place), err)
		}
	}
	return nil
}

func (m *monitor) readCheckpoint(ctx context.Context, place string) ([]byte, error) {
	if !strings.HasPrefix(place, "https://") && !strings.HasPrefix(place, "http://") {
		return readFileCapped(place, "--compare")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, place, nil)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	resp, err := m.http.Do(req)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fault.Newf(fault.Unavailable, "it answers %s", resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, 128<<10))
}
