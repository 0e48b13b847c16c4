package assess

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"assay/artifact"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/internal/oci"
	"assay/inventory"
	"assay/policy"
	"assay/verify"
	"assay/vuln/exploit"
	"assay/vuln/feed"
)

// Options of a [Run]. Client and Policy are required; the client should send by
// [ReadOnly].
type Options struct {
	Client *oci.Client
	Policy *policy.Policy
	Judged Judged
	// Verifier is what signatures are verified with; nil: no root of trust is known, and
	// all of them are claims.
	Verifier *verify.Verifier
	// Keys are the fingerprints of its keys, and NoLog that these need no log: for the
	// report.
	Keys  []string
	NoLog bool
	// Scope is where it runs, as policies select on it.
	Scope policy.Scope

	Feeds    *feed.Store   // advisories; nil: what is malicious or exploited is unknown
	Exploits *exploit.Book // with Feeds
	MaxAge   time.Duration // how old advisories may be (default 48 h)
	From     string        // where they are from, for the report
	// Scan makes a bill of materials of an image that has none that verified; nil: none is
	// made. The policy is not asked about it: who scans is not who built.
	Scan func(ctx context.Context, ref artifact.Reference) ([]Component, []string, error)

	// Limit is how many digests are looked at (default 5,000), Parallel how many at once
	// (default 16), and PerHost how many of one registry (default 8).
	Limit, Parallel, PerHost int
	// Each bounds the look at one digest (default 60 s; with Scan 10 min).
	Each time.Duration
	// Progress is told how far it is, from several goroutines; nil: nobody is.
	Progress func(done, of int)
	Clock    clock.Clock // nil: clock.System
}

func (o *Options) defaults() error {
	if o.Client == nil || o.Policy == nil {
		return fault.Newf(fault.Invalid, "assess: want a client of registries and a policy")
	}
	o.MaxAge = orDefault(o.MaxAge, 48*time.Hour)
	o.Limit, o.Parallel, o.PerHost = orDefault(o.Limit, 5000), orDefault(o.Parallel, 16), orDefault(o.PerHost, 8)
	if o.Each <= 0 {
		if o.Each = time.Minute; o.Scan != nil {
			o.Each = 10 * time.Minute
		}
	}
	if o.Progress == nil {
		o.Progress = func(int, int) {}
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	return nil
}

func orDefault[N int | time.Duration](n, other N) N {
	if n <= 0 {
		return other
	}
	return n
}

// Run is one look. Sources are named first, in any order, then [Run.Look] is called
// once.
type Run struct {
	o       Options
	began   time.Time
	sources []Source
	list    []*subject
	of      map[string]*subject // by digest, or by image where nobody reports one
	tags    map[string]*tag
	hosts   map[string]*host
	mu      sync.Mutex // of hosts, and of how far it is
	tick    func()     // something was looked at; nil: nobody counts
	leftOut int
}

// subject is an artifact to be looked at.
type subject struct {
	digest     artifact.Digest
	images     []string // as they were named
	places     []artifact.Reference
	where      []string
	containers int
	reason     string // why there is no digest
	unread     bool   // since it could not be asked for
	out        *Digest
}

// tag is what something runs by.
type tag struct {
	ref     artifact.Reference
	running map[artifact.Digest][]string // who runs what by it
	now     artifact.Digest
	lists   []artifact.Digest // of an index: what it is made of
	state   string
	reason  string
}

// New makes a run; errors are fault.Invalid.
func New(o Options) (*Run, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	return &Run{o: o, began: o.Clock(), of: map[string]*subject{}, tags: map[string]*tag{}, hosts: map[string]*host{}}, nil
}

// Cluster names what runs in a cluster. err is why not all of it is there.
func (r *Run) Cluster(name string, all []inventory.Workload, unread int, err error) {
	s := Source{Kind: "cluster", Name: text(name, 200), Found: len(all), Unread: unread}
	if err != nil {
		s.Problem = text(err.Error(), 400)
	}
	for i := range all {
		w := &all[i]
		where := text(strings.Join([]string{name, w.Namespace, w.Kind, w.Name, w.Container}, "/"), 300)
		ref, err := reference(w.Image)
		sub := r.subject(w.Digest, w.Image)
		if sub == nil {
			s.LeftOut++
			continue
		}
		sub.containers++
		sub.where = note(sub.where, where, 20)
		switch {
		case err != nil:
			sub.reason = "its image is no reference that can be read: " + text(err.Error(), 200)
		case w.Digest == "":
			sub.reason = "the node reports no digest of a manifest"
		default:
			sub.place(ref)
		}
		if err == nil && ref.Tag != "" && ref.Digest == "" && w.Digest != "" {
			key := ref.String()
			t := r.tags[key]
			if t == nil {
				t = &tag{ref: ref, running: map[artifact.Digest][]string{}}
				r.tags[key] = t
			}
			t.running[w.Digest] = note(t.running[w.Digest], where, 5)
		}
	}
	r.sources = append(r.sources, s)
}

// subject is the artifact of a digest; nil when there are too many.
func (r *Run) subject(d artifact.Digest, image string) *subject {
	key := string(d)
	if key == "" {
		key = "image:" + image
	}
	s := r.of[key]
	if s == nil {
		if len(r.list) >= r.o.Limit {
			r.leftOut++
			return nil
		}
		s = &subject{digest: d}
		r.of[key] = s
		r.list = append(r.list, s)
	}
	s.images = note(s.images, text(image, 300), 10)
	return s
}

// maxPlaces is in how many repositories evidence about one digest is looked for.
const maxPlaces = 4

func (s *subject) place(ref artifact.Reference) {
	p := artifact.Reference{Host: ref.Host, Repository: ref.Repository}
	if len(s.places) < maxPlaces && !slices.Contains(s.places, p) {
		s.places = append(s.places, p)
	}
}

// note adds a text that is not there yet, while there are fewer than so many.
func note(list []string, s string, most int) []string {
	if len(list) < most && !slices.Contains(list, s) {
		return append(list, s)
	}
	return list
}

// Images names artifacts by references. Those with a tag are resolved, once, when they
// are named.
func (r *Run) Images(ctx context.Context, kind, name string, refs []string) {
	s := Source{Kind: kind, Name: text(name, 200), Found: len(refs)}
	s.LeftOut = r.images(ctx, refs)
	r.sources = append(r.sources, s)
}

func (r *Run) images(ctx context.Context, refs []string) (leftOut int) {
	type named struct {
		image  string
		ref    artifact.Reference
		digest artifact.Digest
		err    error
	}
	all := make([]named, len(refs))
	r.each(ctx, len(refs), func(i int) string {
		all[i].image = refs[i]
		all[i].ref, all[i].err = reference(refs[i])
		return all[i].ref.Host
	}, func(ctx context.Context, i int) error {
		n := &all[i]
		if n.err != nil {
			return nil //nolint:nilerr // no registry failed: it is no reference, and is told as such
		}
		if n.digest = n.ref.Digest; n.digest == "" {
			n.digest, n.err = r.resolve(ctx, n.ref)
		}
		return n.err
	}, func(i int, err error) { all[i].err = err })
	for i := range all {
		n := &all[i]
		s := r.subject(n.digest, n.image)
		if s == nil {
			leftOut++
			continue
		}
		if n.err != nil {
			s.reason, s.unread = text(n.err.Error(), 300), true
			continue
		}
		s.place(n.ref)
	}
	return leftOut
}

// resolve asks where a tag points.
func (r *Run) resolve(ctx context.Context, ref artifact.Reference) (artifact.Digest, error) {
	d, err := r.o.Client.Head(ctx, dialed(ref))
	if err != nil || d != "" {
		return d, err
	}
	m, err := r.o.Client.Manifest(ctx, dialed(ref))
	if err != nil {
		return "", err
	}
	return m.Digest, nil
}

// Bounds of a look at a registry.
const (
	maxTags  = 10   // of a repository, the last that it lists
	maxRepos = 2000 // of a registry
)

// Registry names what a registry lists: of each repository some tags.
func (r *Run) Registry(ctx context.Context, host string) {
	s := Source{Kind: "registry", Name: text(host, 200)}
	repos, err := r.o.Client.Catalog(ctx, host)
	if err != nil {
		s.Problem = text(err.Error(), 400)
	}
	if len(repos) > maxRepos {
		s.Problem = fmt.Sprintf("%d repositories of %d are left out", len(repos)-maxRepos, len(repos))
		repos = repos[:maxRepos]
	}
	found := make([][]string, len(repos))
	cut, failed := make([]int, len(repos)), make([]error, len(repos))
	r.each(ctx, len(repos), func(int) string { return host }, func(ctx context.Context, i int) error {
		ref := artifact.Reference{Host: host, Repository: repos[i]}
		if !artifact.ValidRepository(repos[i]) {
			return fault.Newf(fault.Invalid, "repository %.100q is none", repos[i])
		}
		tags, more, err := r.o.Client.TagsUpTo(ctx, dialed(ref), 1000)
		if err != nil {
			return err
		}
		for j := len(tags) - 1; j >= 0; j-- {
			switch {
			case beside(tags[j]) || !artifact.ValidTag(tags[j]):
			case len(found[i]) == maxTags:
				cut[i]++
			default:
				found[i] = append(found[i], host+"/"+repos[i]+":"+tags[j])
			}
		}
		if more {
			cut[i]++
		}
		return nil
	}, func(i int, err error) { failed[i] = err })
	var refs []string
	unread := 0
	for i := range repos {
		refs, s.LeftOut = append(refs, found[i]...), s.LeftOut+cut[i]
		if failed[i] != nil {
			unread++
			s.Problem = text("some repositories could not be listed: "+failed[i].Error(), 400)
		}
	}
	s.Found, s.Unread = len(refs), unread
	s.LeftOut += r.images(ctx, refs)
	r.sources = append(r.sources, s)
}

// beside says whether a tag holds what is said about an image, by the older schemes.
func beside(t string) bool {
	rest, ok := strings.CutPrefix(t, "sha256-")
	return ok && len(rest) >= 64
}

// Look looks at all that was named. It ends early with ctx, and gives what is known
// until then: what was not looked at is unknown.
func (r *Run) Look(ctx context.Context) *Report {
	tags := slices.Sorted(maps.Keys(r.tags))
	total := len(r.list) + len(tags)
	done := 0
	r.tick = func() {
		r.mu.Lock()
		done++
		n := done
		r.mu.Unlock()
		r.o.Progress(n, total)
	}
	defer func() { r.tick = nil }()
	r.each(ctx, len(r.list), func(i int) string {
		if s := r.list[i]; len(s.places) > 0 {
			return s.places[0].Host
		}
		return ""
	}, func(ctx context.Context, i int) error {
		s := r.list[i]
		out := s.blank()
		if err := r.look(ctx, s, out); err != nil {
			return err
		}
		s.out = out
		return nil
	}, func(i int, err error) {
		s := r.list[i]
		s.out = s.blank()
		s.out.Problem, s.out.problems = text(err.Error(), 300), true
	})
	r.each(ctx, len(tags), func(i int) string { return r.tags[tags[i]].ref.Host }, func(ctx context.Context, i int) error {
		return r.lookUp(ctx, r.tags[tags[i]])
	}, func(i int, err error) {
		t := r.tags[tags[i]]
		t.state, t.reason = "unknown", text(err.Error(), 300)
	})
	return r.report(ctx)
}

func (s *subject) blank() *Digest {
	slices.Sort(s.images)
	slices.Sort(s.where)
	return &Digest{
		Digest: s.digest, Images: s.images, Where: s.where, Containers: s.containers, Problem: s.reason,
		Signed: Unknown, Provenance: Unknown, SBOM: Unknown, Malicious: Unknown, Exploited: Unknown, Verdict: "unknown", problems: s.unread,
	}
}

// lookUp says where a tag points now. What is not there is gone; what nobody answers
// is unknown.
func (r *Run) lookUp(ctx context.Context, t *tag) error {
	d, err := r.resolve(ctx, t.ref)
	if errors.Is(err, fault.NotFound) {
		t.state, t.reason = "gone", "the registry has no such tag now"
		return nil
	}
	if err != nil {
		return err
	}
	t.now, t.state = d, "there"
	if len(t.running) == 1 && t.running[d] != nil {
		return nil
	}
	// Some nodes report the image of their platform in place of the index.
	m, err := r.o.Client.Manifest(ctx, dialed(t.ref).WithDigest(d))
	if err != nil {
		return err
	}
	parts, err := m.Parts()
	if err != nil {
		return err
	}
	for _, p := range parts.Manifests {
		t.lists = append(t.lists, p.Digest)
	}
	return nil
}

func (t *tag) is(d artifact.Digest) bool { return d == t.now || slices.Contains(t.lists, d) }
