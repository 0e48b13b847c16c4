package server

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"assay/alert"
	"assay/artifact"
	"assay/config"
	"assay/event"
	"assay/gate"
	"assay/internal/fault"
	"assay/inventory"
	"assay/slo"
	"assay/store"

	dto "github.com/prometheus/client_model/go"
)

// watch is what looks at the site as a whole.
type watch struct {
	slo    *slo.Store
	alerts *alert.Store
}

// openWatch makes the indicators and the alerts.
func (s *Server) openWatch() {
	holder := rand.Text()
	s.watch.slo = slo.New(slo.Options{
		DB: s.db, Events: s.events, Clock: s.clock, Logger: s.log, Holder: holder,
		Objectives: func() *slo.Objectives {
			if d := s.desired.Load(); d != nil {
				return d.Objectives
			}
			return nil
		},
		Locate: s.placeOfEvent, Running: (&runningFacts{s: s}).all, Signed: signedPush, Health: s.health,
	})
	s.reg.MustRegister(slo.NewCollector(s.watch.slo))
	s.watch.alerts = alert.New(alert.Options{
		DB: s.db, Events: s.events, Clock: s.clock, Logger: s.log, Holder: holder, Registerer: s.reg, Site: s.public, Secret: config.Secret,
		Receivers: func() []*alert.Receiver { return s.desired.Load().Receivers }, Catalogue: s.catalogue, Locate: s.placeOfEvent,
		Objectives: func(ctx context.Context) ([]slo.Status, error) { return s.watch.slo.Status(ctx, time.Time{}) },
		Outage:     s.watch.slo.Verified,
	})
}

// watchWork is what goes on besides requests.
func (s *Server) watchWork(work map[string]func(context.Context) error) {
	work["indicators"] = s.watch.slo.Follow
	work["looks"] = s.watch.slo.Run
	work["alerts"] = s.watch.alerts.Run
}

// placeOf says whose the subject of an event is, and where: by the event itself,
// the catalogue, and what runs, in this order.
func (s *Server) placeOfEvent(ctx context.Context, tx *store.Tx, e *event.Event) (p slo.Place, err error) {
	p = slo.Place{Team: e.Team, Service: e.Service, Environment: e.Env, Cluster: e.Cluster}
	var named struct {
		Repository string `json:"repository"`
		Tag        string `json:"tag"`
	}
	switch b := e.Body.(type) {
	case json.RawMessage:
		_ = json.Unmarshal(b, &named) // another type is no name
	case map[string]string:
		named.Repository = b["repository"]
	}
	if e.Digest != "" {
		// Where it came first: whoever copies it later does not become its owner.
		repository, media, kind := "", "", ""
		err := tx.QueryRow(ctx, `SELECT repository, media_type, artifact_type FROM registry_manifest WHERE digest = ? AND (? = '' OR repository = ?) ORDER BY pushed_at, repository LIMIT 1`, string(e.Digest), named.Repository, named.Repository).Scan(&repository, &media, &kind)
		if err != nil && !errors.Is(err, fault.NotFound) {
			return p, err
		}
		named.Repository, p.Kind = cmp.Or(named.Repository, repository), kindOf(media, kind)
		if named.Tag == "" && named.Repository != "" {
			err := tx.QueryRow(ctx, `SELECT tag FROM registry_tag WHERE repository = ? AND digest = ? ORDER BY moved_at DESC, tag LIMIT 1`, named.Repository, string(e.Digest)).Scan(&named.Tag)
			if err != nil && !errors.Is(err, fault.NotFound) {
				return p, err
			}
		}
	}
	if named.Repository != "" && named.Tag != "" {
		p.Release = named.Repository + ":" + named.Tag
	}
	book := s.catalogue()
	if p.Service == "" && book != nil && (e.Digest != "" || named.Repository != "") {
		if all := book.OfArtifact(e.Digest, inventory.Place{Repository: named.Repository}); len(all) > 0 {
			p.Service, p.Team, p.Environment = all[0].Name, cmp.Or(p.Team, all[0].Team), cmp.Or(p.Environment, all[0].Environment)
		}
	}
	if p.Service == "" && e.Digest != "" {
		err := tx.QueryRow(ctx, `SELECT service, team, environment FROM inventory_workload WHERE digest = ? AND ended = 0 AND service > '' ORDER BY service LIMIT 1`, string(e.Digest)).Scan(&p.Service, &p.Team, &p.Environment)
		if err != nil && !errors.Is(err, fault.NotFound) {
			return p, err
		}
	}
	if p.Team == "" && p.Service != "" && book != nil {
		if v := book.Service(p.Service); v != nil {
			p.Team = v.Team
		}
	}
	return p, nil
}

// kindOf is the kind of artifact, of few: the media types of manifests are
// anybody's to invent.
func kindOf(media, kind string) string {
	all := media + " " + kind
	switch {
	case media == "":
		return ""
	case strings.Contains(all, "helm"):
		return "chart"
	case kind == gate.FunctionType, strings.Contains(all, "wasm"), strings.Contains(all, "function"), strings.Contains(kind, "zip"):
		return "function"
	case strings.Contains(media, "index") || strings.Contains(media, "list"):
		return "index"
	case kind == "" || strings.Contains(kind, "image.config") || strings.Contains(kind, "container.image"):
		return "image"
	}
	return "other"
}

// signedPush says whether an allowed decision found a pushed digest signed.
func signedPush(ctx context.Context, tx *store.Tx, digest artifact.Digest, _ string) (slo.Verdict, error) {
	var bundles, allowed, denied int64
	if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM evidence_subject WHERE subject = ?`, string(digest)).Scan(&bundles); err != nil || bundles == 0 {
		return slo.No, err
	}
	err := tx.QueryRow(ctx, `SELECT COALESCE(SUM(CASE WHEN d.verdict = 'allow' THEN 1 ELSE 0 END), 0), COALESCE(SUM(CASE WHEN d.verdict <> 'allow' THEN 1 ELSE 0 END), 0)
		FROM current_decision c JOIN decision d ON d.id = c.decision_id WHERE c.digest = ?`, string(digest)).Scan(&allowed, &denied)
	return approved(bundles, allowed, denied), err
}

func approved(bundles, allowed, denied int64) slo.Verdict {
	switch {
	case bundles == 0 || denied > 0 && allowed == 0:
		return slo.No
	case allowed > 0:
		return slo.Yes
	}
	return slo.Unknown
}

// health reads this process's own metrics.
func (s *Server) health(ctx context.Context) (h slo.Health, err error) {
	families, err := s.reg.Gather()
	if err != nil {
		return h, err
	}
	for _, f := range families {
		switch f.GetName() {
		case "assay_verify_decisions_total":
			for _, m := range f.GetMetric() {
				n := int64(m.GetCounter().GetValue())
				if label(m, "verdict") == "undecided" {
					h.Undecided += n
				}
			}
		case "assay_verify_seconds":
			for _, m := range f.GetMetric() {
				h.Decisions = int64(m.GetHistogram().GetSampleCount()) //nolint:gosec // a count of questions
				for _, b := range m.GetHistogram().GetBucket() {
					if b.GetUpperBound() == 1 {
						h.Quick = int64(b.GetCumulativeCount()) //nolint:gosec // as above
					}
				}
			}
		case "assay_vuln_scans_total":
			for _, m := range f.GetMetric() {
				h.Scans += int64(m.GetCounter().GetValue())
			}
		case "assay_vuln_scan_cpu_seconds_total":
			for _, m := range f.GetMetric() {
				h.ScanCPU += time.Duration(m.GetCounter().GetValue() * float64(time.Second))
			}
		case "assay_tlog_commit_failures_total":
			for _, m := range f.GetMetric() {
				h.CommitsLost += int64(m.GetCounter().GetValue())
			}
		case "assay_event_heads_backlog_seconds":
			for _, m := range f.GetMetric() {
				h.Backlog = time.Duration(m.GetGauge().GetValue() * float64(time.Second))
			}
		case "assay_feed_age_seconds":
			for _, m := range f.GetMetric() {
				name := strings.TrimSuffix(label(m, "feed")+" "+label(m, "ecosystem"), " ")
				h.Feeds = append(h.Feeds, slo.FeedHealth{Name: name, Fresh: m.GetGauge().GetValue() <= s.cfg.Vuln.MaxAge.Seconds()})
			}
		}
	}
	return h, ctx.Err()
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}
