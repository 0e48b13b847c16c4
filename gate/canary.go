package gate

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"assay/admission"
	"assay/artifact"
	"assay/client"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/inventory"
	"assay/slo"
	"assay/store"
	"assay/vuln/finding"

	"github.com/prometheus/client_golang/prometheus"
)

// The verdicts about a canary.
const (
	Proceed  = "proceed"
	Wait     = "wait"
	Rollback = "rollback"
)

// The checks of a canary, as reasons name them.
const (
	CheckVerification = "verification"
	CheckFindings     = "findings"
	CheckBudget       = "budget"
	CheckDuration     = "duration"
	CheckShare        = "share"
)

// Rules are the least that a canary must have. A question may ask for more of
// them, never for less.
type Rules struct {
	LeastDuration time.Duration
	LeastShare    float64 // percent of the traffic
	// Severity from which on a new finding rolls a canary back: critical, high,
	// medium or low.
	Severity string
	// WithoutScan lets canaries proceed of which it is not known what they hold.
	WithoutScan bool
	// PassSpent lets a canary proceed although its service's budget was spent before
	// it began: it may be what mends it.
	PassSpent bool
}

// Flaws gives what is known of an artifact's vulnerabilities.
type Flaws func(ctx context.Context, subject artifact.Digest, repository string) ([]finding.Finding, finding.State, error)

// Options of a [Gate]. All are required but Clock, Logger and Registerer.
type Options struct {
	DB        *store.DB
	Judge     admission.Judge
	Inventory *inventory.Store
	Flaws     Flaws
	// Objectives gives how the objectives of a service stand at a time; zero: now.
	Objectives func(ctx context.Context, service string, at time.Time) ([]slo.Status, error)
	// Parts lists the manifests of an index; none of others.
	Parts func(ctx context.Context, d artifact.Digest) ([]artifact.Digest, error)
	// OfService says whether the catalogue has a repository of the own registry as a
	// service's.
	OfService func(service, repository string) bool
	// ArtifactType gives what a manifest of the own registry says that it is; ""
	// when it says nothing, or is not there.
	ArtifactType func(ctx context.Context, repository string, d artifact.Digest) (string, error)
	Host         func() string // of the own registry
	Rules        Rules
	Clock        clock.Clock
	Logger       *slog.Logger
	Registerer   prometheus.Registerer
}

// Gate answers questions. It is safe for concurrent use.
type Gate struct {
	o       Options
	answers *prometheus.CounterVec
}

// New makes a gate over a database that was migrated with [Migrations].
func New(o Options) (*Gate, error) {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	g := &Gate{o: o, answers: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "assay_gate_answers_total", Help: "Answers to controllers of canaries, pipelines and function platforms.",
	}, []string{"door", "verdict"})}
	if o.Registerer != nil {
		if err := o.Registerer.Register(g.answers); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// canary is a question on its way to an answer.
type canary struct {
	g     *Gate
	q     *client.CanaryQuestion
	rules Rules
	actor string
	share *float64
	place admission.Place
	refs  []artifact.Reference
	hold  map[artifact.Digest]bool // the canary's digests, with their parts
	repos map[string]bool
	trial trial
	ran   []inventory.Ran
	told  bool // somebody tells what runs

	stranger bool // the service is none of who asks
	since    time.Time
	answer   *client.CanaryAnswer
}

// Images are the references of a question, checked: those who answer it say first
// whether the caller may know of them. A question that names none is of what runs
// in the place of a workload.
func (g *Gate) Images(ctx context.Context, q *client.CanaryQuestion) ([]artifact.Reference, error) {
	if len(q.Images) > maxImages {
		return nil, fault.Newf(fault.TooLarge, "want at most %d images", maxImages)
	}
	for _, f := range []struct{ name, text string }{{"service", q.Service}, {"environment", q.Environment}, {"cluster", q.Cluster}, {"namespace", q.Namespace}, {"workload", q.Workload}} {
		if f.text != "" && !nameRE.MatchString(f.text) {
			return nil, fault.Newf(fault.Invalid, "%s %.80q: want letters, digits, . _ and -, at most 253", f.name, f.text)
		}
	}
	if q.Service == "" {
		return nil, fault.Newf(fault.Invalid, "service: want the name of the service whose canary it is, as in the catalogue")
	}
	if !slices.Contains([]string{"", ControllerArgo, ControllerFlagger}, q.Controller) {
		return nil, fault.Newf(fault.Invalid, "controller %.40q: want %s or %s", q.Controller, ControllerArgo, ControllerFlagger)
	}
	if len(q.Images) == 0 {
		return g.found(ctx, q)
	}
	return references("images", q.Images)
}

func references(what string, texts []string) (out []artifact.Reference, err error) {
	for _, text := range texts {
		r, err := artifact.ParseReference(text)
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "%s: %w", what, err)
		}
		if r.Tag == "" && r.Digest == "" {
			r.Tag = "latest"
		}
		out = append(out, r)
	}
	return out, nil
}

// found are the images that the workload of a question runs.
func (g *Gate) found(ctx context.Context, q *client.CanaryQuestion) (out []artifact.Reference, err error) {
	if q.Namespace == "" || q.Workload == "" {
		return nil, fault.Newf(fault.Invalid, "images: want the canary's images, or namespace and workload of what runs them")
	}
	ran, err := g.o.Inventory.Ran(ctx, inventory.RanFilter{Cluster: q.Cluster, Namespace: q.Namespace, Workload: q.Workload, Running: true}, 200)
	if err != nil {
		return nil, err
	}
	for _, r := range ran {
		ref, err := artifact.ParseReference(r.Image)
		if err != nil || r.Digest == "" {
			return nil, fault.Newf(fault.Undecided, "workload %s in namespace %s runs an image whose name or digest is not known: name the canary's images", q.Workload, q.Namespace)
		}
		ref.Tag, ref.Digest = "", r.Digest
		if !slices.Contains(out, ref) {
			out = append(out, ref)
		}
	}
	if len(out) == 0 {
		return nil, NotSeen(q)
	}
	return out, nil
}

// NotSeen is the answer about a workload that is not seen to run, and to whoever may
// not know whether it does.
func NotSeen(q *client.CanaryQuestion) error {
	return fault.Newf(fault.Undecided, "no workload %s is seen to run in namespace %s: the inventory does not know it (yet), or it is not for you to know; name the canary's images", q.Workload, q.Namespace)
}

// Canary judges a canary whose images were settled by [Gate.Images]. The error is
// that the question is wrong; whatever cannot be found out is a reason to wait.
//
// What a service has and how it fares is for those who read evidence anywhere, and
// for those whose images it runs: another who names it waits.
func (g *Gate) Canary(ctx context.Context, asks Asker, q *client.CanaryQuestion, refs []artifact.Reference) (*client.CanaryAnswer, error) {
	c := &canary{g: g, q: q, actor: asks.Actor, refs: refs, rules: g.o.Rules, hold: map[artifact.Digest]bool{}, repos: map[string]bool{},
		place:  admission.Place{Cluster: q.Cluster, Namespace: q.Namespace, Environment: q.Environment, Claimed: true},
		answer: &client.CanaryAnswer{Verdict: Proceed, Service: q.Service, Environment: q.Environment, Images: []client.CanaryImage{}, Reasons: []client.CanaryReason{}, Findings: []client.CanaryFinding{}}}
	if err := c.settle(); err != nil {
		return nil, err
	}
	c.verification(ctx)
	if err := c.look(ctx); err != nil {
		return nil, err
	}
	if asks.ReadsAll || c.concerns() {
		c.findings(ctx)
		c.budget(ctx)
		c.duration()
		c.traffic()
	} else {
		c.stranger = true
		c.ran, c.answer.Instances, c.since = nil, 0, time.Time{}
		c.say(CheckDuration, Wait, "service %s%s is not known to run an image of these repositories, so nothing is said of it: enter the repositories into the catalogue, or let who asks read evidence", q.Service, in(q.Environment))
	}
	c.conclude(ctx)
	g.answers.WithLabelValues("canary", c.answer.Verdict).Inc()
	return c.answer, g.record(ctx, c)
}

// Asker is who asks.
type Asker struct {
	Actor    string
	ReadsAll bool // what runs and how it fares, of all teams
}

// concerns says whether the service is of the question's images: it runs one of their
// repositories, or the catalogue says so.
func (c *canary) concerns() bool {
	for i := range c.ran {
		if c.repos[placeOf(c.ran[i].Image)] {
			return true
		}
	}
	return slices.ContainsFunc(c.refs, func(r artifact.Reference) bool {
		return r.Host == c.g.o.Host() && c.g.o.OfService(c.q.Service, r.Repository)
	})
}

// settle reads what the question asks for beyond the site's rules.
func (c *canary) settle() error {
	if c.q.LeastDuration != "" {
		d, err := time.ParseDuration(c.q.LeastDuration)
		if err != nil || d < 0 || d > 90*24*time.Hour {
			return fault.Newf(fault.Invalid, "least_duration %.40q: want a duration such as 10m, at most 90 days", c.q.LeastDuration)
		}
		c.rules.LeastDuration = max(c.rules.LeastDuration, d)
	}
	least, err := percent("least_share", c.q.LeastShare)
	if err != nil {
		return err
	}
	if least != nil {
		c.rules.LeastShare = max(c.rules.LeastShare, *least)
	}
	c.share, err = percent("share", c.q.Share)
	return err
}

func percent(what, text string) (*float64, error) {
	if text == "" {
		return nil, nil
	}
	v, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
	if err != nil || !(v >= 0 && v <= 100) {
		return nil, fault.Newf(fault.Invalid, "%s %.40q: want percent, 0 to 100", what, text)
	}
	return &v, nil
}

// say gives a reason.
func (c *canary) say(check, verdict, format string, args ...any) {
	c.answer.Reasons = append(c.answer.Reasons, client.CanaryReason{Check: check, Verdict: verdict, Text: fmt.Sprintf(format, args...)})
}

// verification asks for the decision about each image.
func (c *canary) verification(ctx context.Context) {
	for _, ref := range c.refs {
		one := client.CanaryImage{Image: ref.String(), Digest: ref.Digest}
		a, err := c.g.o.Judge.Judge(ctx, admission.Question{Reference: ref, Place: c.place})
		switch {
		case err != nil && fault.KindOf(err) == fault.Denied:
			one.Verdict = "deny"
			c.say(CheckVerification, Rollback, "%s: %v", ref, err)
		case err != nil:
			one.Verdict = "undecided"
			c.g.o.Logger.WarnContext(ctx, "no answer about a canary", "image", ref.String(), "error", err)
			c.say(CheckVerification, Wait, "%s could not be decided (%s)", ref, fault.KindOf(err))
		default:
			one.Digest, one.Verdict, one.Decision, one.Policy = a.Digest, string(a.Verdict), a.Decision, a.Policy
			switch {
			case a.Blocked != "":
				one.Verdict = "deny"
				c.say(CheckVerification, Rollback, "%s: %s", ref, a.Blocked)
			case a.Refuses():
				c.say(CheckVerification, Rollback, "%s is denied by policy %s: %s", ref, a.Policy, failures(a))
			case !a.Allowed():
				c.say(CheckVerification, Proceed, "%s would be denied by policy %s, which is in mode %s: %s", ref, a.Policy, a.Mode, failures(a))
			default:
				c.say(CheckVerification, Proceed, "%s is allowed by policy %s", ref, a.Policy)
			}
		}
		if one.Digest != "" {
			c.hold[one.Digest] = true
		}
		c.repos[ref.Host+"/"+ref.Repository] = true
		c.answer.Images = append(c.answer.Images, one)
	}
}

func failures(a *admission.Answer) string {
	var out []string
	for _, f := range a.Failed[:min(3, len(a.Failed))] {
		out = append(out, f.Name+": "+cmp.Or(f.Found, "not as wanted"))
	}
	return strings.Join(out, "; ")
}

// look reads what runs, and since when the canary does.
func (c *canary) look(ctx context.Context) error {
	g := c.g
	for d := range c.hold {
		parts, err := g.o.Parts(ctx, d)
		if err != nil {
			return err
		}
		for _, p := range parts {
			c.hold[p] = true
		}
	}
	var err error
	if c.ran, err = g.o.Inventory.Ran(ctx, inventory.RanFilter{Service: c.q.Service, Environment: c.q.Environment, Cluster: c.q.Cluster}, 1000); err != nil {
		return err
	}
	if err := g.o.DB.View(ctx, func(tx *store.Tx) (err error) { c.told, err = g.o.Inventory.Told(ctx, tx); return err }); err != nil {
		return err
	}
	running := 0
	for i := range c.ran {
		r := &c.ran[i]
		if !c.hold[r.Digest] || r.Instances == 0 {
			continue
		}
		running += r.Instances
		if c.since.IsZero() || r.First.Before(c.since) {
			c.since = r.First
		}
	}
	c.answer.Instances = running
	if c.trial, err = g.trialOf(ctx, c.key()); err == nil && !c.told {
		c.since = c.trial.first // nobody tells what runs: the first question is all that is known
	}
	return err
}

// duration holds the site's own record of when the canary began against the rule.
func (c *canary) duration() {
	if c.since.IsZero() {
		c.say(CheckDuration, Wait, "the canary is not seen to run yet in service %s%s", c.q.Service, in(c.q.Environment))
		return
	}
	what := "it was first seen to run"
	if !c.told {
		what = "no cluster tells what runs, and it was first asked about"
	}
	ran := max(0, c.g.o.Clock().Sub(c.since))
	c.answer.Since, c.answer.Seconds = c.since, int64(ran/time.Second)
	verdict := Proceed
	if ran < c.rules.LeastDuration {
		verdict = Wait
	}
	c.say(CheckDuration, verdict, "%s %s ago, at %s; at least %s is wanted", what, ran.Round(time.Second), c.since.UTC().Format(time.RFC3339), c.rules.LeastDuration)
}

func in(environment string) string {
	if environment == "" {
		return ""
	}
	return " in environment " + environment
}

// traffic holds the share of the traffic against the rule: as the controller says,
// else by how many instances run.
func (c *canary) traffic() {
	share, by := c.share, "as its controller says"
	if share == nil {
		mine, all := 0, 0
		for _, r := range c.ran {
			if r.Instances == 0 || !c.repos[placeOf(r.Image)] {
				continue
			}
			all += r.Instances
			if c.hold[r.Digest] {
				mine += r.Instances
			}
		}
		if all == 0 {
			c.say(CheckShare, Wait, "nobody says which share of the traffic the canary has: give share, or have the cluster's inventory reported")
			return
		}
		v := 100 * float64(mine) / float64(all)
		share, by = &v, fmt.Sprintf("%d of %d instances", mine, all)
	}
	c.answer.Share = share
	verdict := Proceed
	if *share < c.rules.LeastShare {
		verdict = Wait
	}
	c.say(CheckShare, verdict, "%.4g %% of the traffic (%s); at least %.4g %% is wanted", *share, by, c.rules.LeastShare)
}

// placeOf is host and repository of an image's name; "" when it cannot be read.
func placeOf(image string) string {
	r, err := artifact.ParseReference(image)
	if err != nil {
		return ""
	}
	return r.Host + "/" + r.Repository
}
