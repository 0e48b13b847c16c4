// Package tier says how critical an artifact is, and what that makes of the match
// of its bills of materials with the advisories in force: of tier 1 the gate waits
// for it, of others it is done in the background, within a budget.
//
// The tier is that of the service to which the artifact belongs, by the site's
// catalogue. What nobody classified is of tier 1, and so is what runs in
// production, or lies where what runs in production came from, whatever the
// catalogue says.
package tier

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"assay/artifact"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/inventory"
	"assay/store"
	"assay/store/lane"
)

// Rules are what a site wants of its tiers.
type Rules struct {
	// Wait is how long a push of evidence waits for the match, where the gate waits
	// for it. What is not matched by then stays staged, and is promoted when it is.
	Wait time.Duration `yaml:"wait"`
	// Waiting is how many pushes wait at once. Those beyond are answered at once,
	// and stay staged until they are matched.
	Waiting int `yaml:"waiting"`
	// Background are the tiers that are matched in the background, each with its
	// budget: processor seconds for each second, 0.5 for half a processor. The gate
	// lets what is of them pass while the match waits. Of all others the gate waits;
	// tier 1 cannot be among them. Absent: 2 to 4, half a processor in all; {}: none.
	Background map[int]float64 `yaml:"background"`
	// Within is for how long after a bill of materials came what is of a background
	// tier may pass without having been matched. After that it counts as unknown.
	Within time.Duration `yaml:"within"`
	// Readers is how many bills of materials are read at once, besides one that
	// somebody waits for.
	Readers int `yaml:"readers"`
	// Production is the tier that runs in production at the least. A service of a
	// less critical tier is raised to it where it runs in production.
	Production int `yaml:"production"`
}

// Default are rules that are safe: the most critical tier waits, all else is
// matched in the background within an hour, half a processor for all of it.
func Default() Rules {
	return Rules{
		Wait: 10 * time.Second, Waiting: 32, Within: time.Hour, Readers: 1, Production: inventory.MostCritical,
	}
}

// backgrounds are the tiers of a site that names none. They are no part of
// [Default], since what a file says would be added to them.
func backgrounds() map[int]float64 { return map[int]float64{2: 0.25, 3: 0.15, 4: 0.1} }

// Validate completes rules, and says what is wrong with them. Errors are
// [fault.Invalid].
func (r *Rules) Validate() error {
	if r.Background == nil {
		r.Background = backgrounds()
	}
	switch {
	case r.Wait < 0 || r.Wait > time.Minute:
		return fault.Newf(fault.Invalid, "wait %s: want 0 to 1m, since a client waits for the answer", r.Wait)
	case r.Waiting < 1 || r.Waiting > 10_000:
		return fault.Newf(fault.Invalid, "waiting %d: want 1 to 10000", r.Waiting)
	case r.Within < 0 || r.Within > 7*24*time.Hour:
		return fault.Newf(fault.Invalid, "within %s: want 0 to 168h", r.Within)
	case r.Readers < 1 || r.Readers > 64:
		return fault.Newf(fault.Invalid, "readers %d: want 1 to 64", r.Readers)
	case r.Production < inventory.MostCritical || r.Production > inventory.LeastCritical:
		return fault.Newf(fault.Invalid, "production %d: want a tier, %d (the most critical) to %d", r.Production, inventory.MostCritical, inventory.LeastCritical)
	}
	for _, n := range slices.Sorted(maps.Keys(r.Background)) {
		if n <= inventory.MostCritical || n > inventory.LeastCritical {
			return fault.Newf(fault.Invalid, "background tier %d: want %d to %d; of tier 1 the gate waits for the match", n, inventory.MostCritical+1, inventory.LeastCritical)
		}
		if b := r.Background[n]; !(b > 0 && b <= 64) {
			return fault.Newf(fault.Invalid, "background tier %d: budget %g, want over 0 to 64 processor seconds for each second", n, b)
		}
	}
	return nil
}

// Gated says whether the gate waits for the match of a tier.
func (r *Rules) Gated(tier int) bool { _, background := r.Background[tier]; return !background }

// Where a tier comes from.
const (
	FromCatalogue = "catalogue"    // the service's tier
	FromWorkloads = "workloads"    // raised, since it runs in production
	FromNobody    = "unclassified" // nobody classified it, which counts as tier 1
)

// Standing is how critical an artifact is, and whose it is.
type Standing struct {
	Tier       int // what counts
	Catalogue  int // what the catalogue says, the most critical of all services; 0: nothing
	Source     string
	Services   []string // to which it belongs, the most critical first
	Team       string   // of the first; the platform's where nobody owns it; "" of none
	Owned      bool     // somebody does
	Exposure   string   // the worst of all services
	Production bool     // it, or what lies in its repository, runs in production
	Known      bool     // somebody tells what runs
	// Environment is the first service's; "": it does not say.
	Environment string
}

// Options of a [Book]. DB and Inventory are required.
type Options struct {
	DB        *store.DB
	Inventory *inventory.Store
	// Stored says in which repositories of this site's registry a digest lies, and
	// which indexes name it; nil: in none.
	Stored func(ctx context.Context, tx *store.Tx, digest artifact.Digest) (repositories []string, indexes []artifact.Digest, err error)
	Rules  Rules

	Clock      clock.Clock           // nil: clock.System
	Registerer prometheus.Registerer // nil: no metrics
}

// Book says of artifacts how critical they are. It is safe for many goroutines.
type Book struct {
	o      Options
	budget *budget
	waits  chan struct{}
	met    *metrics

	mu     sync.Mutex
	stamp  [2]int64                 // of the inventory, when it was read
	ofBook *inventory.Catalogue     // and the catalogue
	runs   map[inventory.Place]bool // images that run in production, by where they lie
	told   bool
	readAt time.Time
}

// New makes a book. Errors are [fault.Invalid].
func New(o Options) (*Book, error) {
	if o.DB == nil || o.Inventory == nil {
		return nil, fault.Newf(fault.Invalid, "tier: Options.DB and Inventory are required")
	}
	if err := o.Rules.Validate(); err != nil {
		return nil, err
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	met, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	return &Book{o: o, budget: newBudget(o.Rules.Background, o.Clock), waits: make(chan struct{}, o.Rules.Waiting), met: met}, nil
}

// Rules are those in force.
func (b *Book) Rules() *Rules { return &b.o.Rules }

// runsAge is after how long what runs is read again though nothing seems to have
// changed: an environment that a reporter names otherwise.
const runsAge = 15 * time.Second

// Of says how critical a digest is. In a repository it is judged as what lies
// there; with "" as what lies in any.
func (b *Book) Of(ctx context.Context, tx *store.Tx, digest artifact.Digest, repository string) (s Standing, err error) {
	repositories, indexes := []string(nil), []artifact.Digest(nil)
	if b.o.Stored != nil {
		if repositories, indexes, err = b.o.Stored(ctx, tx, digest); err != nil {
			return s, err
		}
	}
	if repository != "" {
		repositories = []string{repository}
	}
	places := make([]inventory.Place, len(repositories))
	for i, r := range repositories {
		places[i] = inventory.Place{Repository: r}
	}
	runs, err := b.running(ctx, tx)
	if err != nil {
		return s, err
	}
	for _, p := range places {
		s.Production = s.Production || runs[p]
	}
	book := b.o.Inventory.Catalogue()
	all := book.OfArtifact(digest, places...)
	for _, d := range append([]artifact.Digest{digest}, indexes...) {
		services, production, err := b.o.Inventory.Serving(ctx, tx, d)
		if err != nil {
			return s, err
		}
		s.Production = s.Production || production
		for _, name := range services {
			if x := book.Service(name); x != nil && !slices.Contains(all, x) {
				all = append(all, x)
			}
		}
	}
	b.mu.Lock()
	s.Known = b.told
	b.mu.Unlock()
	s.settle(book, all, b.o.Rules.Production)
	return s, nil
}

// settle takes the worst of all services.
func (s *Standing) settle(book *inventory.Catalogue, all []*inventory.Service, production int) {
	slices.SortFunc(all, func(a, b *inventory.Service) int {
		if a.Criticality() != b.Criticality() {
			return a.Criticality() - b.Criticality()
		}
		return strings.Compare(a.Name, b.Name)
	})
	s.Tier, s.Source, s.Exposure = inventory.MostCritical, FromNobody, inventory.ExposedInternet
	if len(all) == 0 {
		s.Team, s.Owned = book.Owner(nil)
		return
	}
	s.Team, s.Owned = book.Owner(all[0])
	s.Environment = all[0].Environment
	worst := len(inventory.Exposures()) - 1
	for _, x := range all {
		s.Services = append(s.Services, x.Name)
		worst = min(worst, slices.Index(inventory.Exposures(), x.Reach()))
		if x.Classified() && (s.Catalogue == 0 || x.Tier < s.Catalogue) {
			s.Catalogue = x.Tier
		}
	}
	s.Exposure = inventory.Exposures()[worst]
	if !all[0].Classified() || slices.ContainsFunc(all, func(x *inventory.Service) bool { return !x.Classified() }) {
		return // of one that nobody classified nothing says less than tier 1
	}
	s.Tier, s.Source = all[0].Criticality(), FromCatalogue
	if s.Production && s.Tier > production {
		s.Tier, s.Source = production, FromWorkloads
	}
}

// running is which places hold what runs in production.
func (b *Book) running(ctx context.Context, tx *store.Tx) (map[inventory.Place]bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now, book := b.o.Clock(), b.o.Inventory.Catalogue()
	stamp, err := b.o.Inventory.Stamp(ctx, tx)
	if err != nil {
		return nil, err
	}
	if age := now.Sub(b.readAt); b.runs != nil && age >= 0 && age < runsAge && stamp == b.stamp && book == b.ofBook {
		return b.runs, nil
	}
	images, err := b.o.Inventory.Images(ctx, tx)
	if err != nil {
		return nil, err
	}
	runs := map[inventory.Place]bool{}
	for _, i := range images {
		if i.Production {
			if p := b.o.Inventory.PlaceOf(i.Image); p.Repository != "" {
				runs[p] = true
			}
		}
	}
	if b.told, err = b.o.Inventory.Told(ctx, tx); err != nil {
		return nil, err
	}
	b.runs, b.readAt, b.stamp, b.ofBook = runs, now, stamp, book
	return runs, nil
}

// Tier is that of a digest wherever it lies, the most critical.
func (b *Book) Tier(ctx context.Context, tx *store.Tx, digest artifact.Digest) (int, error) {
	s, err := b.Of(ctx, tx, digest, "")
	return s.Tier, err
}

// Urgent lists the tiers that the gate waits for.
func (b *Book) Urgent() (out []int) {
	for n := 1; n <= lane.Tiers; n++ {
		if b.o.Rules.Gated(n) {
			out = append(out, n)
		}
	}
	return out
}

// Ready lists the tiers that may go on.
func (b *Book) Ready() (out []int) {
	for n := 1; n <= lane.Tiers; n++ {
		if b.o.Rules.Gated(n) || b.budget.ready(n) {
			out = append(out, n)
		}
	}
	return out
}

// Spent takes processor time from a tier's budget.
func (b *Book) Spent(tier int, cpu time.Duration) { b.budget.spend(tier, cpu) }

var _ lane.Lanes = (*Book)(nil)
