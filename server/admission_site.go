package server

import (
	"context"
	"crypto/sha256"
	"slices"
	"strings"
	"sync"
	"time"

	"assay/admission"
	"assay/event"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/store"
	"assay/verify"
)

// admissionSite answers the webhooks that run as processes of their own.
type admissionSite struct {
	s *Server

	mu      sync.Mutex
	bundles map[string]*madeBundle
}

// madeBundle is a cluster's last bundle.
type madeBundle struct {
	sum     [sha256.Size]byte // of what it says
	version int64
	raw     []byte
	looked  time.Time
	issued  time.Time
}

const (
	bundleLook   = 5 * time.Second // at most that often it is looked what stands
	maxDecisions = 200_000
	maxReason    = 2000 // of a denial, in a bundle
)

func (a *admissionSite) Judge(ctx context.Context, q admission.Question) *admission.Reply {
	ans, err := a.s.admission.judge.Judge(ctx, q)
	if ans != nil && ans.Digest != "" && (err != nil || ans.Soft) {
		ans = a.seen(ctx, *ans, q.Place)
	}
	return admission.ReplyOf(ans, err)
}

// seen says of an answer whether what it is about runs there already.
func (a *admissionSite) seen(ctx context.Context, ans admission.Answer, p admission.Place) *admission.Answer {
	runs, err := running{a.s}.Runs(ctx, p.Cluster, p.Namespace, ans.Digest)
	ans.Runs = runs && err == nil
	return &ans
}

// Bundle gives the cluster's newest bundle, or nil when that is the version that
// the caller has.
func (a *admissionSite) Bundle(ctx context.Context, cluster string, version int64) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.bundles == nil {
		a.bundles = map[string]*madeBundle{}
	}
	now := a.s.clock()
	m := a.bundles[cluster]
	if m == nil || now.Sub(m.looked) >= bundleLook || now.Before(m.looked) {
		next, err := a.make(ctx, cluster, now, m)
		if err != nil {
			return nil, err
		}
		a.bundles[cluster], m = next, next
	}
	if m.version == version {
		return nil, nil //nolint:nilnil // there is none that is newer
	}
	return m.raw, nil
}

// make makes a bundle, unless the last one says the same and is young.
func (a *admissionSite) make(ctx context.Context, cluster string, now time.Time, last *madeBundle) (*madeBundle, error) {
	b := &admission.Bundle{Cluster: cluster, Hosts: append([]string{a.s.host()}, a.s.cfg.Admission.Hosts...)}
	w, err := a.gather(ctx, cluster)
	if err != nil {
		return nil, err
	}
	said := w.Sum()
	sum := sha256.Sum256(append(said[:], strings.Join(b.Hosts, "\x00")...))
	if last != nil && last.sum == sum && now.Sub(last.issued) < admission.BundleLife/2 {
		again := *last
		again.looked = now
		return &again, nil
	}
	b.Issued, b.Expires = now.UTC().Truncate(time.Second), now.UTC().Add(admission.BundleLife).Truncate(time.Second)
	if b.Version, err = admission.NextVersion(ctx, a.s.db, cluster); err != nil {
		return nil, err
	}
	key, err := a.s.keys.LoadOrCreate(ctx, keyAdmission)
	if err != nil {
		return nil, err
	}
	raw, err := w.Seal(ctx, key, b)
	return &madeBundle{sum, b.Version, raw, now, now}, err
}

// gather writes what stands for a cluster: decisions as they are read, then those
// that depend on what runs, and what is blocked.
func (a *admissionSite) gather(ctx context.Context, cluster string) (w *admission.BundleWriter, err error) {
	var soft []admission.Entry
	begin := func() { w, soft = admission.NewBundleWriter(), nil }
	if err := a.s.engine.InScopes(ctx, admission.ClusterScopes(cluster), maxDecisions, begin, func(d *verify.Decision) error {
		e := entryOf(d)
		if e.Soft {
			soft = append(soft, e)
			return nil
		}
		return w.Entry(&e)
	}); err != nil {
		return nil, err
	}
	for i := range soft {
		e := &soft[i]
		rest := strings.TrimPrefix(e.Scope, admission.ClusterScopes(cluster))
		namespace := rest[:max(0, strings.IndexAny(rest, "/@"))]
		e.Runs = a.seen(ctx, admission.Answer{Digest: e.Digest}, admission.Place{Cluster: cluster, Namespace: namespace}).Runs
		if err := w.Entry(e); err != nil {
			return nil, err
		}
	}
	for after := ""; ; {
		page, err := a.s.gate.Blocks(ctx, after, 1000)
		if err != nil {
			return nil, err
		}
		for _, x := range page {
			if err := w.Blocked(&admission.Blocked{Digest: x.Digest, Reason: string(x.State) + ": " + x.Reason}); err != nil {
				return nil, err
			}
		}
		if len(page) < 1000 {
			return w, nil
		}
		after = string(page[len(page)-1].Digest)
	}
}

func entryOf(d *verify.Decision) admission.Entry {
	e := admission.Entry{Digest: d.Digest, Scope: d.ScopeID, Allow: d.Allowed(), Mode: d.Mode, Decision: d.ID, Policy: d.Policy, Until: d.ValidUntil.Unix()}
	if !e.Allow {
		e.Reason, e.Soft = excerpt.Text(d.Reason(), maxReason), admission.Soft(d)
	}
	return e
}

// Record writes what a webhook of a cluster told, as that cluster's.
func (a *admissionSite) Record(ctx context.Context, cluster string, list []event.Event) error {
	for i := range list {
		e := &list[i]
		switch e.Kind {
		case event.AdmissionAllowed, event.AdmissionDenied, event.AdmissionWarned:
		default:
			return fault.Newf(fault.Invalid, "event %.60q: a webhook tells of admission alone", e.Kind)
		}
		e.Cluster = cluster
		if !strings.HasPrefix(e.Actor, "k8s:") {
			e.Actor = "k8s:" + e.Actor
		}
	}
	return a.s.db.Update(ctx, func(tx *store.Tx) error { return event.AppendAll(ctx, tx, slices.Clone(list)) })
}
