package slo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"assay/event"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/store"
)

// causeTakenBack are denials that became allows: false positives, where the budget
// policy leaves them out.
const causeTakenBack = "taken-back"

// kinds are the events that are counted one by one. Pulls are tallied: there are
// too many.
var kinds = []event.Kind{
	event.ArtifactPushed, event.DecisionMade, event.DecisionChanged, event.AdmissionAllowed, event.AdmissionDenied, event.AdmissionWarned,
	event.AttestationIngested, event.AttestationRejected, event.FeedImported, event.FindingOpened, event.TrustRevoked, event.PullUnauthorized,
	event.StoreTampered, event.RunnerAnomaly, event.SignerUnlogged, event.AlertOpened,
}

// body is what is read of events' bodies; a member of another type is absent.
type body struct {
	Repository   string `json:"repository"`
	ArtifactType string `json:"artifact_type"`
	Subject      string `json:"subject"`
	Profile      string `json:"profile"`
	Verdict      string `json:"verdict"`
	From         string `json:"from"`
	Reason       string `json:"reason"`
	Cause        string `json:"cause"`
	Predicate    string `json:"predicate_type"`
	Feed         string `json:"feed"`
	Ecosystem    string `json:"ecosystem"`
	Operation    int64  `json:"operation"`
	Since        string `json:"since"`
	Target       string `json:"target"`
	Count        int64  `json:"count"`
	What         string `json:"what"`
	Name         string `json:"name"`
	Of           string `json:"of"`
	AfterMS      int64  `json:"after_ms"`
}

// Follow counts what happens, until ctx ends.
func (s *Store) Follow(ctx context.Context) error {
	return s.o.Events.Consume(ctx, "slo", s.take, kinds...)
}

func (s *Store) take(ctx context.Context, tx *store.Tx, batch []event.Event) error {
	var samples []Sample
	for i := range batch {
		e := &batch[i]
		var b body
		if raw, ok := e.Body.(json.RawMessage); ok {
			_ = json.Unmarshal(raw, &b) // what an event lacks is not counted
		}
		more, err := s.count(ctx, tx, e, &b)
		if err != nil {
			return err
		}
		samples = append(samples, more...)
	}
	return s.Add(ctx, tx, samples, true)
}

// count makes samples of an event.
func (s *Store) count(ctx context.Context, tx *store.Tx, e *event.Event, b *body) ([]Sample, error) {
	place, err := s.locate(ctx, tx, e)
	if err != nil {
		return nil, err
	}
	sample := func(id ID, good, bad, unknown int64) Sample {
		return Sample{Indicator: id, At: e.Time, Place: place, Good: good, Bad: bad, Unknown: unknown}
	}
	refused := func(cause, why string) ([]Sample, error) {
		x := sample(FailedVerifications, 0, 1, 0)
		x.Extra = map[string]string{"cause": cause}
		return []Sample{x}, s.note(ctx, tx, e, place, FailedVerifications, false, why)
	}
	switch e.Kind {
	case event.ArtifactPushed:
		return nil, s.wait(ctx, tx, e, b)
	case event.DecisionMade:
		if b.Verdict == "allow" {
			return []Sample{sample(FailedVerifications, 1, 0, 0)}, nil
		}
		return refused(CauseSecurity, "denied")
	case event.DecisionChanged:
		if b.From == "deny" && b.Verdict == "allow" {
			x := sample(FailedVerifications, 0, 1, 0)
			x.Only, x.Extra = true, map[string]string{"cause": causeTakenBack}
			return []Sample{x}, nil
		}
	case event.AdmissionAllowed:
		return []Sample{sample(FailedVerifications, 1, 0, 0)}, nil
	case event.AdmissionDenied, event.AdmissionWarned:
		if b.Cause == CauseInfrastructure {
			return refused(CauseInfrastructure, b.Reason)
		}
		return refused(CauseSecurity, b.Reason)
	case event.AttestationIngested:
		out := []Sample{sample(FailedVerifications, 1, 0, 0)}
		if strings.HasPrefix(b.Predicate, "https://slsa.dev/provenance/") {
			out = append(out, sample(BuilderIncidents, 1, 0, 0))
		}
		return out, nil
	case event.AttestationRejected:
		return refused(CauseSecurity, b.Reason)
	case event.FeedImported:
		_, err := tx.Exec(ctx, `INSERT INTO slo_origin (key, since) VALUES (?, ?) ON CONFLICT (key) DO NOTHING`, b.origin(), store.Micros(e.Time))
		return nil, err
	case event.FindingOpened:
		var since int64
		err := tx.QueryRow(ctx, `SELECT since FROM slo_origin WHERE key = ?`, b.origin()).Scan(&since)
		if errors.Is(err, fault.NotFound) {
			return []Sample{sample(DetectionTime, 0, 0, 1)}, nil
		}
		if err != nil {
			return nil, err
		}
		return s.detected(ctx, tx, e, place, store.Time(since), "finding of feed "+b.Feed)
	case event.TrustRevoked:
		out, err := s.detected(ctx, tx, e, place, parseTime(b.Since), "revocation of "+b.Target)
		if b.Target == "builder" {
			out = append(out, sample(BuilderIncidents, 0, 1, 0))
			err = errors.Join(err, s.note(ctx, tx, e, place, BuilderIncidents, false, "builder revoked: "+b.Reason))
		}
		return out, err
	case event.PullUnauthorized:
		out, err := s.detected(ctx, tx, e, place, parseTime(b.Since), "unauthorised pulls")
		if err != nil {
			return nil, err
		}
		return append(out, sample(UnauthorizedPulls, 0, max(1, b.Count), 0)), s.note(ctx, tx, e, place, UnauthorizedPulls, false, fmt.Sprintf("%d pulls: %s", max(1, b.Count), b.Reason))
	case event.AlertOpened:
		// What was detected is told of when there is an alert: that is added to what was
		// counted with the event.
		switch event.Kind(b.Of) {
		case event.FindingOpened, event.TrustRevoked, event.PullUnauthorized:
			x := sample(DetectionTime, 0, 0, 0)
			x.Sum = float64(max(0, b.AfterMS)) / 1000
			return []Sample{x}, nil
		}
		return nil, nil
	case event.StoreTampered:
		return []Sample{sample(DetectionTime, 0, 0, 1)}, nil
	case event.RunnerAnomaly, event.SignerUnlogged:
		return []Sample{sample(BuilderIncidents, 0, 1, 0), sample(DetectionTime, 0, 0, 1)}, s.note(ctx, tx, e, place, BuilderIncidents, false, string(e.Kind)+" "+b.What+" "+b.Name)
	}
	return nil, nil
}

func (b *body) origin() string {
	return excerpt.Text(fmt.Sprintf("feed/%s/%s/%d", b.Feed, b.Ecosystem, b.Operation), 300)
}

func parseTime(s string) time.Time {
	t, _ := time.Parse(time.RFC3339, s)
	return t
}

// detected is how long it took until an event told of what could be known.
func (s *Store) detected(ctx context.Context, tx *store.Tx, e *event.Event, place Place, since time.Time, what string) ([]Sample, error) {
	x := Sample{Indicator: DetectionTime, At: e.Time, Place: place}
	took := e.Time.Sub(since)
	switch {
	case since.IsZero():
		x.Unknown = 1
		return []Sample{x}, nil
	case took <= s.within():
		x.Good = 1
	default:
		x.Bad = 1
		if err := s.note(ctx, tx, e, place, DetectionTime, false, fmt.Sprintf("%s: seen after %s", what, took.Round(time.Minute))); err != nil {
			return nil, err
		}
	}
	x.Sum = max(0, took.Seconds())
	return []Sample{x}, nil
}

func (s *Store) within() time.Duration {
	for _, o := range s.Objectives().All {
		if o.Indicator == DetectionTime {
			return o.Within
		}
	}
	return 24 * time.Hour
}

// locate says whose an event is; what nobody knows stays "".
func (s *Store) locate(ctx context.Context, tx *store.Tx, e *event.Event) (Place, error) {
	if s.o.Locate == nil {
		return Place{Team: e.Team, Service: e.Service, Environment: e.Env, Cluster: e.Cluster}, nil
	}
	return s.o.Locate(ctx, tx, e)
}

// wait holds a push until its signature had time to come. Evidence, parts that
// refer to others, and dev pushes are no artifacts to be signed.
func (s *Store) wait(ctx context.Context, tx *store.Tx, e *event.Event, b *body) error {
	if e.Digest == "" || b.Subject != "" || b.Profile == "dev" || strings.Contains(b.ArtifactType, "sigstore") || strings.Contains(b.ArtifactType, "in-toto") {
		return nil
	}
	_, err := tx.Exec(ctx, `INSERT INTO slo_waiting (digest, repository, pushed, event) VALUES (?, ?, ?, ?) ON CONFLICT (digest, repository) DO NOTHING`, string(e.Digest), b.Repository, store.Micros(e.Time), e.ID)
	return err
}

// note keeps an artifact behind a number. Of too many the oldest go.
func (s *Store) note(ctx context.Context, tx *store.Tx, e *event.Event, p Place, id ID, unknown bool, why string) error {
	return s.noteItem(ctx, tx, Item{Indicator: id, Digest: e.Digest, Place: p, Reason: why, Unknown: unknown, Since: e.Time, Seen: e.Time, Event: e.ID}, e.ID)
}

func (s *Store) noteItem(ctx context.Context, tx *store.Tx, x Item, key string) error {
	unknown := 0
	if x.Unknown {
		unknown = 1
	}
	p := &x.Place
	_, err := tx.Exec(ctx, `INSERT INTO slo_item (sli, digest, key, reason, unknown, team, service, environment, cluster, release, kind, event, since, seen) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (sli, digest, key) DO UPDATE SET reason = excluded.reason, unknown = excluded.unknown, seen = excluded.seen`,
		string(x.Indicator), string(x.Digest), key, excerpt.Line(x.Reason, 300, ' '), unknown, p.Team, p.Service, p.Environment, p.Cluster, clip(p.Release), p.Kind, x.Event, store.Micros(x.Since), store.Micros(x.Seen))
	return err
}
