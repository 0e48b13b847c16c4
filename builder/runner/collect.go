package runner

import (
	"context"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"assay/internal/clock"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/internal/secret"
)

// Options say what is looked at. The zero value of a field means this machine.
type Options struct {
	InvocationID string      // of the build, as in its provenance; required
	Dir          string      // the build's folder: marks do not lie in it, disk is measured there
	Caches       []CacheSpec // what outlives builds and is read or written by this one
	Clock        clock.Clock
	// Ask gives another's clock, by its name (server or tsa) and how exact its
	// answer is. nil: nobody is asked.
	Ask func(ctx context.Context) (at time.Time, exact time.Duration, source string, err error)

	Root   string                      // in place of "/", below which proc and etc are read
	Getenv func(string) (string, bool) // os.LookupEnv
	Marks  []Place                     // nil: DefaultPlaces
	Look   bool                        // look at marks and leave none: no build follows
}

func (o *Options) settle() error {
	if !buildID.MatchString(o.InvocationID) {
		return fault.Newf(fault.Invalid, "runner evidence: invocation id %.80q: want the provenance's", o.InvocationID)
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Root == "" {
		o.Root = "/"
	}
	if o.Getenv == nil {
		o.Getenv = os.LookupEnv
	}
	if o.Dir == "" {
		o.Dir = "."
	}
	if o.Marks == nil {
		o.Marks = DefaultPlaces()
	}
	return checkCaches(o.Caches)
}

// Collect looks at the machine before the build and leaves its marks. What can
// not be looked at is said in Problems and is no error: a build does not fail
// since a machine hides. Errors are [fault.Invalid] for options, and ctx's.
func Collect(ctx context.Context, o Options) (*Evidence, error) {
	if err := o.settle(); err != nil {
		return nil, err
	}
	now := o.Clock().UTC()
	e := &Evidence{Build: Build{InvocationID: o.InvocationID, StartedOn: now.Truncate(time.Millisecond)}}
	s := system{root: o.Root, getenv: o.Getenv, problem: e.problem}
	e.Machine = s.machine(now)
	e.Image = s.image()
	e.Claims = s.claims()
	if runtime.GOOS == "linux" {
		e.Load = s.load(o.Dir)
	}
	e.Use = lookAndMark(o.Marks, o.Dir, !o.Look, now, e.problem)
	if o.Ask != nil {
		e.askClock(ctx, o)
	}
	for _, c := range o.Caches {
		sum, err := HashCache(ctx, c.Path)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			e.problem("cache " + c.Key + ": " + err.Error())
		}
		e.Caches = append(e.Caches, Cache{Key: c.Key, Restored: sum.Digest})
	}
	return e, nil
}

// Finished is what a build brought, beside its products.
type Finished struct {
	Tools  []Tool      // programs that ran; the same name and digest count once
	Caches []CacheSpec // as given to [Collect]
	Clock  clock.Clock
}

// Finish looks at the machine after the build. The evidence is complete then.
func (e *Evidence) Finish(ctx context.Context, f Finished) error {
	if f.Clock == nil {
		f.Clock = clock.System
	}
	e.addTools(f.Tools)
	for _, c := range f.Caches {
		i := slices.IndexFunc(e.Caches, func(x Cache) bool { return x.Key == c.Key })
		if i < 0 {
			return fault.Newf(fault.Invalid, "cache %s was not named before the build", c.Key)
		}
		sum, err := HashCache(ctx, c.Path)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			e.problem("cache " + c.Key + ": " + err.Error())
			continue
		}
		e.Caches[i].Saved, e.Caches[i].Files, e.Caches[i].Bytes = sum.Digest, sum.Files, sum.Bytes
	}
	e.Build.FinishedOn = f.Clock().UTC().Truncate(time.Millisecond)
	return e.Validate()
}

func (e *Evidence) addTools(tools []Tool) {
	for _, t := range tools {
		t.Name, t.Version = clip(t.Name), clip(t.Version)
		if t.Name == "" || t.Digest.Validate() != nil {
			continue
		}
		if slices.ContainsFunc(e.Tools, func(x Tool) bool { return x.Name == t.Name && x.Digest == t.Digest }) {
			continue
		}
		if len(e.Tools) == maxTools {
			e.Left++
			continue
		}
		e.Tools = append(e.Tools, t)
	}
	slices.SortFunc(e.Tools, func(a, b Tool) int {
		return strings.Compare(a.Name+"\x00"+string(a.Digest), b.Name+"\x00"+string(b.Digest))
	})
}

// problem notes what could not be looked at, once, and not for ever.
func (e *Evidence) problem(text string) {
	if text = clip(text); len(e.Problems) < maxSigns && !slices.Contains(e.Problems, text) {
		e.Problems = append(e.Problems, text)
	}
}

func (e *Evidence) askClock(ctx context.Context, o Options) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	before := o.Clock()
	at, exact, source, err := o.Ask(ctx)
	took := o.Clock().Sub(before)
	if err != nil {
		e.problem("clock: " + err.Error())
		return
	}
	c := &Clock{Source: source, Offset: before.Add(took / 2).Sub(at).Milliseconds(), Uncertainty: (took/2 + exact).Milliseconds()}
	if !oneOf(source, sources) || c.Offset > maxClock || c.Offset < -maxClock {
		e.problem("clock: an answer that is out of range")
		return
	}
	e.Clock = c
}

// clip makes any text one that may stand in the document.
func clip(s string) string {
	s = excerpt.Line(s, maxText, ' ')
	if secret.Looking(s) {
		return "(left out: it looks like a secret)"
	}
	return s
}
