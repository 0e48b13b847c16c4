package admission

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/policy"
)

// DoorContainerd names the door of nodes in events: containerd's image verifier.
const DoorContainerd = "containerd"

// NodeQuestion asks whether a node may pull an image. A node does not know for
// which namespace it pulls.
type NodeQuestion struct {
	Reference artifact.Reference // with the digest that is pulled
	// Place is the node's own: the cluster, and the namespace as which it is decided
	// what no Pod was decided about, such as images of static Pods.
	Place Place
	Node  string
}

// maxStanding bounds the namespaces whose decisions are looked at for one node.
const maxStanding = 32

// JudgeNode says whether a node may pull: what may run in any namespace of its
// cluster, and else what may at the node's own place.
func (l *Local) JudgeNode(ctx context.Context, q NodeQuestion, runs Running) (*Answer, error) {
	own := Question{Reference: q.Reference, Place: q.Place}
	d, repository := q.Reference.Digest, q.Reference.Repository
	if d == "" {
		return nil, fault.Newf(fault.Invalid, "a node says which digest it pulls")
	}
	if l.o.Standing == nil || !l.own(q.Reference.Host) {
		return l.Judge(ctx, own)
	}
	scopes, err := l.o.Standing(ctx, d, ClusterScopes(q.Place.Cluster))
	if err != nil {
		return &Answer{Digest: d}, undecided(err)
	}
	_, mediaType, err := l.o.Registry.Resolve(ctx, repository, string(d))
	if err != nil {
		return &Answer{Digest: d}, undecided(err)
	}
	scopes = slices.DeleteFunc(scopes, func(id string) bool { return !strings.HasSuffix(id, "@"+repository) })
	for _, id := range scopes[:min(len(scopes), maxStanding)] {
		place := placeOf(id, q.Place.Cluster)
		if place == q.Place {
			continue
		}
		a, err := l.judge(ctx, repository, d, mediaType, place, true)
		if err != nil {
			return a, err
		}
		if a.Blocked != "" || !a.Refuses() {
			return a, nil
		}
		if again, err := l.runsAgain(ctx, runs, place, a); err != nil || again {
			return a, err
		}
	}
	a, err := l.Judge(ctx, own)
	if err == nil && a.Refuses() {
		_, err = l.runsAgain(ctx, runs, q.Place, a)
	}
	return a, err
}

// runsAgain says of a deny that comes only from what time did whether the image
// runs at the place already, so that it may start again.
func (l *Local) runsAgain(ctx context.Context, runs Running, p Place, a *Answer) (bool, error) {
	if runs == nil || !a.Soft || a.Blocked != "" {
		return false, nil
	}
	var err error
	a.Runs, err = runs.Runs(ctx, p.Cluster, p.Namespace, a.Digest)
	return a.Runs, err
}

// placeOf reads a place out of the id of a scope.
func placeOf(id, cluster string) Place {
	rest, _, _ := strings.Cut(strings.TrimPrefix(id, ClusterScopes(cluster)), "@")
	namespace, environment, _ := strings.Cut(rest, "/")
	return Place{Cluster: cluster, Namespace: namespace, Environment: environment}
}

// JudgeNode answers a node out of the bundle.
func (b *Bundle) JudgeNode(ref artifact.Reference, now time.Time) (*Answer, error) {
	d := ref.Digest
	if why := b.blocked(d); why != "" {
		return &Answer{Digest: d, Verdict: policy.Deny, Mode: policy.Enforce, Blocked: why, Basis: BasisBundle}, nil
	}
	if !slices.ContainsFunc(b.Hosts, func(h string) bool { return strings.EqualFold(h, ref.Host) }) {
		ref.Repository = ref.Host + "/" + ref.Repository // as scopes name it
		if !slices.ContainsFunc(b.Entries, func(e Entry) bool { return strings.HasSuffix(e.Scope, "@"+ref.Repository) }) {
			return nil, fault.Newf(fault.Denied, "it is of registry %s; want an image of %s", ref.Host, strings.Join(b.Hosts, " or "))
		}
	}
	var last *Answer
	for i := range b.Entries {
		e := &b.Entries[i]
		if e.Digest != d || !strings.HasSuffix(e.Scope, "@"+ref.Repository) || !strings.HasPrefix(e.Scope, ClusterScopes(b.Cluster)) {
			continue
		}
		one := newOffline(&Bundle{Expires: b.Expires, Entries: []Entry{*e}})
		a, err := one.judge(Question{Reference: ref, Place: placeOf(e.Scope, b.Cluster)}, now)
		if err != nil {
			continue // it ended
		}
		if !a.Refuses() || a.Soft && a.Runs {
			return a, nil
		}
		last = a
	}
	if last == nil {
		return &Answer{Digest: d}, fault.Newf(fault.Undecided, "the server does not answer, and the bundle of %s has no decision that still holds about %s in this cluster", b.Issued.UTC().Format(time.RFC3339), d.Short())
	}
	return last, nil
}

func (b *Bundle) blocked(d artifact.Digest) string {
	for _, x := range b.Blocked {
		if x.Digest == d {
			return x.Reason
		}
	}
	return ""
}

// NodeVerdict is what a node is told, and what is recorded of it.
type NodeVerdict struct {
	Outcome string // allowed, denied, or warned: not allowed, and yet not refused
	Reason  string // in words; "": allowed
	Event   event.Event
}

// NodeVerdictOf says what an answer means to a node. What is no answer is denied.
func NodeVerdictOf(q NodeQuestion, a *Answer, err error) NodeVerdict {
	image := excerpt.Line(q.Reference.String(), 300, '.')
	v := verdictOn{image: &Image{Use: "node", Name: q.Node, Reference: q.Reference.String()}, answer: a, err: err}
	if err == nil && a == nil {
		v.err = fault.Newf(fault.Undecided, "there is no answer")
	}
	v.restart = v.err == nil && a.Soft && a.Runs && a.Blocked == ""
	out := NodeVerdict{Outcome: v.outcome(false)}
	b := &body{
		Namespace: excerpt.Line(q.Place.Namespace, 63, '.'), Object: excerpt.Line("Node "+q.Node, 300, '.'), Operation: "PULL", Image: image, Used: []string{},
		Mode: string(v.mode()), Restart: v.restart, Door: DoorContainerd,
	}
	kind := event.AdmissionAllowed
	switch out.Outcome {
	case "denied":
		kind = event.AdmissionDenied
	case "warned":
		kind = event.AdmissionWarned
	}
	e := event.Event{Kind: kind, Digest: q.Reference.Digest, Cluster: q.Place.Cluster, Env: q.Place.Environment, Body: b}
	if a != nil {
		b.Decision, b.Basis = a.Decision, a.Basis
	}
	if out.Outcome != "allowed" {
		out.Reason = v.text(q.Place.Namespace)
		b.Reason = excerpt.Text(out.Reason, 1000)
		if errors.Is(v.err, fault.Undecided) || noAnswer(v.err) {
			b.Cause = "infrastructure"
		}
	}
	out.Event = e
	return out
}

// Result is what a reply says.
func (r *Reply) Result() (*Answer, error) { return r.result() }

// NoteNode is an event of what was let pass without having been asked about.
func NoteNode(q NodeQuestion, reason string) event.Event {
	return event.Event{Kind: event.AdmissionWarned, Digest: q.Reference.Digest, Cluster: q.Place.Cluster, Env: q.Place.Environment, Body: &body{
		Namespace: excerpt.Line(q.Place.Namespace, 63, '.'), Object: excerpt.Line("Node "+q.Node, 300, '.'), Operation: "PULL", Image: excerpt.Line(q.Reference.String(), 300, '.'),
		Used: []string{}, Mode: string(policy.Audit), Reason: excerpt.Text(reason, 1000), Door: DoorContainerd,
	}}
}

// Normalize reads an image's reference as container runtimes complete it.
func Normalize(s string) (artifact.Reference, error) { return normalize(s) }
