package admission

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"assay/artifact"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/policy"
	"assay/verify"
)

// Registry is what a [Local] asks about images. Errors of its methods are
// fault.NotFound for what is not there, else that it cannot be said.
type Registry interface {
	// Resolve gives what a tag or digest names in a repository, as everybody sees it.
	Resolve(ctx context.Context, repository, reference string) (d artifact.Digest, mediaType string, err error)
	// Blocked says why a digest, or a part of it, is revoked or under quarantine;
	// "": it is not. It answers from memory, as a rule.
	Blocked(ctx context.Context, d artifact.Digest) (string, error)
	// Wholes lists the indexes of a repository that have a manifest as a part.
	Wholes(ctx context.Context, repository string, d artifact.Digest) ([]artifact.Digest, error)
}

// Engine makes decisions and looks them up; verify.Engine is one.
type Engine interface {
	Current(ctx context.Context, digest artifact.Digest, scopeID string) (*verify.Decision, error)
	Decide(ctx context.Context, t verify.Target, scope policy.Scope, p *policy.Policy) (*verify.Decision, error)
}

// LocalOptions of a [Local]. All but Standing, Hosts, External and
// Clock are required.
type LocalOptions struct {
	Engine   Engine
	Registry Registry
	Policies func() *policy.Set
	// Placed enters into a scope whose an artifact is; nil: nothing is known of it.
	Placed func(ctx context.Context, subject policy.Subject, scope policy.Scope) (policy.Scope, error)
	// Standing lists the scopes, by their ids that begin with prefix, in which a
	// decision about a digest stands; nil: none. Nodes are answered by it.
	Standing func(ctx context.Context, d artifact.Digest, prefix string) ([]string, error)
	Host     func() string // the registry's name in references
	Hosts    []string      // further names under which nodes know it
	External External      // nil: images of other registries are denied
	Clock    clock.Clock
}

// Local judges in the server itself: decisions are looked up, and made when there
// is none, once for all who ask meanwhile.
type Local struct {
	o       LocalOptions
	flights singleflight.Group

	mu     sync.Mutex
	denied map[string]time.Time // when a deny was last made again
}

// NewLocal makes a Judge.
func NewLocal(o LocalOptions) *Local {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	return &Local{o: o, denied: map[string]time.Time{}}
}

const (
	// deniedRest is how long a deny stands before it is made again when somebody
	// asks: what was missing may be there now.
	deniedRest = time.Second
	maxDenied  = 10_000
	// maxWholes bounds the indexes that are asked about for one manifest.
	maxWholes = 8
)

// Judge resolves the reference once and says what was decided about what it
// names. With an error the answer may be there and holds what is known.
func (l *Local) Judge(ctx context.Context, q Question) (*Answer, error) {
	if !l.own(q.Reference.Host) {
		if l.o.External != nil && l.o.External.Covers(q.Reference) {
			return l.judgeExternal(ctx, q)
		}
		return nil, fault.Newf(fault.Denied, "it is of registry %s; want an image of %s, or of a repository behind its gateway", q.Reference.Host, l.o.Host())
	}
	repository, what := q.Reference.Repository, q.Reference.Tag
	if q.Reference.Digest != "" {
		what = string(q.Reference.Digest)
	}
	d, mediaType, err := l.o.Registry.Resolve(ctx, repository, what)
	if err != nil {
		if q.Reference.Digest != "" && fault.KindOf(err) != fault.NotFound {
			return &Answer{Digest: q.Reference.Digest}, undecided(err)
		}
		return nil, undecided(err)
	}
	a, err := l.judge(ctx, repository, d, mediaType, q.Place, q.Standing)
	if err != nil || a.Allowed() || a.Blocked != "" {
		return a, err
	}
	return l.asPart(ctx, repository, q, a)
}

func (l *Local) own(host string) bool {
	return strings.EqualFold(host, l.o.Host()) || slices.ContainsFunc(l.o.Hosts, func(h string) bool { return strings.EqualFold(h, host) })
}

// undecided marks an error of which nobody said what it is.
func undecided(err error) error {
	switch fault.KindOf(err) {
	case fault.Internal, fault.Unavailable, fault.NoSpace:
		return fault.Wrap(fault.Undecided, err)
	}
	return err
}

func (l *Local) judge(ctx context.Context, repository string, d artifact.Digest, mediaType string, place Place, standing bool) (*Answer, error) {
	blocked, err := l.o.Registry.Blocked(ctx, d)
	if err != nil {
		return &Answer{Digest: d}, undecided(err)
	}
	if blocked != "" {
		return &Answer{Digest: d, Verdict: policy.Deny, Mode: policy.Enforce, Blocked: blocked, Basis: BasisDecision}, nil
	}
	t := verify.Target{Digest: d, Kind: policy.Image, MediaType: mediaType, Repository: repository}
	return l.judgeTarget(ctx, t, Question{Place: place, Standing: standing}, func() {})
}

// judgeTarget looks up what stands, or has it decided; before is called first.
func (l *Local) judgeTarget(ctx context.Context, t verify.Target, q Question, before func()) (_ *Answer, err error) {
	d, name := t.Digest, t.Repository
	if t.Registry != "" {
		name = t.Registry + "/" + name
	}
	scope := q.Place.Scope(name)
	if l.o.Placed != nil {
		if scope, err = l.o.Placed(ctx, t.Subject(), scope); err != nil {
			return &Answer{Digest: d}, undecided(err)
		}
	}
	p := l.o.Policies().For(t.Subject(), scope)
	dec, err := l.o.Engine.Current(ctx, d, scope.ID)
	if err != nil && !errors.Is(err, fault.NotFound) && !errors.Is(err, fault.Undecided) {
		return &Answer{Digest: d}, undecided(err)
	}
	if err != nil || dec.PolicyHash != p.Hash() || !dec.Allowed() && !q.Standing && l.rested(d, scope.ID) {
		before()
		if dec, err = l.decide(ctx, t, scope, p); err != nil {
			return &Answer{Digest: d}, undecided(err)
		}
	}
	a := answerOf(dec)
	// For whom it is to be mended the registry has a name.
	if t.Registry != "" {
		return a, nil
	}
	short := t.Subject().Target()
	for i, c := range a.Failed {
		a.Failed[i].Mend = strings.Replace(c.Mend, " "+short, " "+l.o.Host()+"/"+short, 1)
	}
	return a, nil
}

// Soft says whether a decision denies only for what time did.
func Soft(d *verify.Decision) bool { return soft(d.Checks, strings.Contains(d.Policy, "+")) }

func answerOf(d *verify.Decision) *Answer {
	a := &Answer{Digest: d.Digest, Verdict: d.Verdict, Mode: d.Mode, Decision: d.ID, Policy: d.Policy, ValidUntil: d.ValidUntil, Basis: BasisDecision}
	if !d.Allowed() {
		a.Failed, a.Soft = failed(d.Checks), Soft(d)
		for _, c := range a.Failed {
			if c.Name == "trust/revoked" || strings.HasSuffix(c.Name, "/trust/revoked") {
				a.Blocked = c.Found
			}
		}
	}
	return a
}

// decide has a decision made, one for all who ask for the same meanwhile. Who
// asks too late to wait gets no answer, and the decision is made all the same.
func (l *Local) decide(ctx context.Context, t verify.Target, scope policy.Scope, p *policy.Policy) (*verify.Decision, error) {
	ch := l.flights.DoChan(string(t.Digest)+" "+scope.ID+" "+p.Hash(), func() (any, error) {
		return l.o.Engine.Decide(context.WithoutCancel(ctx), t, scope, p)
	})
	select {
	case r := <-ch:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*verify.Decision), nil
	case <-ctx.Done():
		return nil, fault.Newf(fault.Undecided, "%s is being decided about, and it takes longer than the API server waits: try again", t.Digest.Short())
	}
}

// rested says whether a deny is to be made again now, and notes that it is.
func (l *Local) rested(d artifact.Digest, scopeID string) bool {
	k, now := string(d)+" "+scopeID, l.o.Clock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if at, ok := l.denied[k]; ok && now.Sub(at) < deniedRest && !now.Before(at) {
		return false
	}
	if len(l.denied) >= maxDenied {
		clear(l.denied)
	}
	l.denied[k] = now
	return true
}

// asPart lets a manifest run that is part of an index which is allowed: the
// index names it by its digest, so who signed the index signed it.
func (l *Local) asPart(ctx context.Context, repository string, q Question, own *Answer) (*Answer, error) {
	wholes, err := l.o.Registry.Wholes(ctx, repository, own.Digest)
	if err != nil {
		return own, nil //nolint:nilerr // the manifest itself is denied, and that stands
	}
	for _, w := range wholes[:min(len(wholes), maxWholes)] {
		if w == own.Digest {
			continue
		}
		_, mediaType, err := l.o.Registry.Resolve(ctx, repository, string(w))
		if err != nil {
			continue
		}
		if a, err := l.judge(ctx, repository, w, mediaType, q.Place, q.Standing); err == nil && a.Allowed() {
			out := *a
			out.Digest, out.Basis = own.Digest, BasisIndex
			return &out, nil
		}
	}
	return own, nil
}
