package imageverifier

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"assay/admission"
	"assay/client"
	"assay/event"
	"assay/internal/clock"
	"assay/internal/excerpt"
	"assay/internal/fault"
)

// MaxReason is the most that is said to containerd, in bytes.
const MaxReason = 1000

// Judgement is the answer to containerd: exit code 0 or not, and why.
type Judgement struct {
	OK     bool
	Reason string // one line
}

// Verifier answers calls. It is made for one call and works for many.
type Verifier struct {
	c         *Config
	api       *client.Client
	authority []byte
	state     *state
	clock     clock.Clock
	log       *slog.Logger
}

// New opens the files that a configuration names.
func New(c *Config, now clock.Clock, log *slog.Logger) (*Verifier, error) {
	if now == nil {
		now = clock.System
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	v := &Verifier{c: c, clock: now, log: log}
	var err error
	if v.authority, err = readBounded(c.Authority); err != nil {
		return nil, fault.Newf(fault.Invalid, "authority: %w", err)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	if c.CAFile != "" {
		pem, err := readBounded(c.CAFile)
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "ca_file: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fault.Newf(fault.Invalid, "ca_file %s: want certificates, PEM", c.CAFile)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	v.api = &client.Client{Base: c.Server, HTTP: &http.Client{Transport: t}, Token: func(context.Context) (string, error) { return c.token() }}
	v.state, err = openState(c.State)
	return v, err
}

// Verify answers one call within the configured time. It has an answer always.
func (v *Verifier) Verify(ctx context.Context, call *Call) Judgement {
	ctx, cancel := context.WithTimeout(ctx, v.c.Timeout)
	defer cancel()
	j := v.verify(ctx, call)
	if !j.OK && v.c.Audit {
		j = Judgement{true, "would be refused, and audit is on: " + j.Reason}
	}
	j.Reason = excerpt.Line("assay: "+j.Reason, MaxReason, ' ')
	return j
}

func (v *Verifier) question(call *Call) admission.NodeQuestion {
	return admission.NodeQuestion{Reference: call.Reference, Node: v.c.Node, Place: admission.Place{Cluster: v.c.Cluster, Namespace: v.c.Namespace, Environment: v.c.Environment}}
}

func (v *Verifier) verify(ctx context.Context, call *Call) Judgement {
	q := v.question(call)
	for _, b := range v.c.Bootstrap {
		if b.Digest == call.Digest {
			return v.bootstrap(q, b)
		}
	}
	asking, cancel := context.WithTimeout(ctx, v.c.Timeout/2)
	var reply admission.Reply
	err := v.api.JudgeNode(asking, client.NodeQuestion{
		Reference: q.Reference.String(), Cluster: q.Place.Cluster, Namespace: q.Place.Namespace, Environment: q.Place.Environment, Node: q.Node,
	}, &reply)
	cancel()
	if err != nil {
		return v.offline(q, err)
	}
	// What could not be decided there is not decided by what is older here.
	a, err := reply.Result()
	j := judgement(q, a, err, "")
	v.after(ctx)
	return j
}

// bootstrap lets an image pass that the node needs before it can ask, unless the
// last bundle says that it is blocked.
func (v *Verifier) bootstrap(q admission.NodeQuestion, b Bootstrap) Judgement {
	kept, err := v.state.bundle(v.authority, v.c.Cluster)
	if err != nil {
		v.log.Warn("the bundle that is kept cannot be used", "error", err)
	}
	if kept != nil {
		if a, err := kept.JudgeNode(q.Reference, v.clock()); err == nil && a.Blocked != "" {
			return v.told(q, a, nil, "")
		}
	}
	reason := "of the node's bootstrap list: " + b.Reason
	v.queue(admission.NoteNode(q, reason))
	return Judgement{true, reason}
}

// offline answers by the last bundle.
func (v *Verifier) offline(q admission.NodeQuestion, why error) Judgement {
	note := "the server does not answer (" + excerpt.Line(why.Error(), 200, ' ') + "); "
	b, err := v.state.bundle(v.authority, v.c.Cluster)
	if err == nil && b == nil {
		err = fault.Newf(fault.Undecided, "there is no bundle to go on with")
	}
	if err != nil {
		if !errors.Is(err, fault.Undecided) {
			err = fault.Newf(fault.Undecided, "the bundle that is kept cannot be used: %w", err)
		}
		return v.told(q, nil, err, note)
	}
	a, err := b.JudgeNode(q.Reference, v.clock())
	return v.told(q, a, err, note+"by the bundle of "+b.Issued.UTC().Format(time.RFC3339)+": ")
}

// told is an answer that the server does not know of yet.
func (v *Verifier) told(q admission.NodeQuestion, a *admission.Answer, err error, note string) Judgement {
	v.queue(admission.NodeVerdictOf(q, a, err).Event)
	return judgement(q, a, err, note)
}

func (v *Verifier) queue(e event.Event) {
	if err := v.state.queue(e); err != nil {
		v.log.Warn("an event could not be kept for the server", "kind", e.Kind, "digest", e.Digest, "error", err)
	}
}

func judgement(q admission.NodeQuestion, a *admission.Answer, err error, note string) Judgement {
	d := admission.NodeVerdictOf(q, a, err)
	switch d.Outcome {
	case "allowed":
		return Judgement{true, fmt.Sprintf("%sallowed: %s, decision %s of policy %s", note, a.Digest, a.Decision, a.Policy)}
	case "warned":
		return Judgement{true, note + "let pass with a warning: " + d.Reason}
	}
	return Judgement{false, note + "refused: " + d.Reason}
}

// after hands on what waits and fetches a bundle when the last one is old, in the
// time that is left, while the server answers. What fails is tried again by a call
// of the next minute: a pull waits for none of it twice.
func (v *Verifier) after(ctx context.Context) {
	_, at, err := v.state.seen()
	now := time.Now()
	old := err != nil || now.Sub(at) >= v.c.Refresh || now.Before(at)
	if waiting := v.state.waiting(); !old && !waiting || v.state.tried(now, min(v.c.Refresh, tryAgain)) {
		return
	} else if waiting {
		if err := v.handOn(ctx); err != nil {
			v.log.Warn("events wait for the server", "error", err)
			return
		}
	}
	if !old {
		v.state.triedWell()
		return
	}
	if err := v.fetch(ctx); err != nil {
		v.log.Warn("no newer bundle", "error", err)
		return
	}
	v.state.triedWell()
}

// Refresh hands on what waits and fetches the newest bundle.
func (v *Verifier) Refresh(ctx context.Context) (version int64, err error) {
	if err := v.handOn(ctx); err != nil {
		return 0, err
	}
	if err := v.fetch(ctx); err != nil {
		return 0, err
	}
	b, err := v.state.bundle(v.authority, v.c.Cluster)
	if err != nil {
		return 0, err
	}
	if b == nil {
		return 0, fault.Newf(fault.Unavailable, "the server gave no bundle")
	}
	return b.Version, nil
}

func (v *Verifier) fetch(ctx context.Context) error {
	have := int64(0)
	b, err := v.state.bundle(v.authority, v.c.Cluster)
	switch {
	case err != nil: // it is replaced by one that is not older
		v.log.Warn("the bundle that is kept cannot be used", "error", err)
	case b != nil:
		have = b.Version
	}
	raw, err := v.api.AdmissionBundle(ctx, v.c.Cluster, have)
	if err != nil {
		return err
	}
	if len(raw) > 0 {
		return v.state.keep(raw, v.authority, v.c.Cluster)
	}
	return v.state.locked(func() error {
		seen, _, err := v.state.seen()
		if err != nil {
			return err
		}
		return v.state.looked(max(seen, have))
	})
}

func (v *Verifier) handOn(ctx context.Context) error {
	return v.state.handOn(func(list []record) error {
		out := client.AdmissionRecords{Cluster: v.c.Cluster}
		for _, r := range list {
			out.Records = append(out.Records, client.AdmissionRecord{Kind: string(r.Kind), Digest: r.Digest, Actor: "node/" + v.c.Node, Environment: r.Env, Body: r.Body})
		}
		return v.api.RecordAdmission(ctx, out)
	})
}
