// Package credential keeps what Assay itself hands out to prove an identity by,
// and what it no longer believes: robots and their tokens, revocations of
// credentials, and the break-glass administrator.
//
// A [Store] answers from memory. What one replica changes the others know within
// half a second ([Store.Run]), so that a revoked token ends everywhere within a
// second, scoped tokens that it bought included: every door asks [Store.Check]
// at every request.
package credential

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"assay/identity"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/internal/glob"
	"assay/store"
)

// RobotIssuer is the issuer of robots' identities. No OIDC issuer can have this
// name: those are https URLs.
const RobotIssuer = "assay:robots"

// Right is a role within a scope.
type Right struct {
	Role    identity.Role     `json:"role"`
	Scope   string            `json:"scope"` // a pattern of repositories, see internal/glob
	Actions []identity.Action `json:"actions,omitempty"`
}

// Robot is a machine account with rights of its own.
type Robot struct {
	Name        string              `json:"name"` // lower-case letters, digits, - and ., at most 63
	Description string              `json:"description,omitempty"`
	Rights      []Right             `json:"rights"`
	Audiences   []identity.Audience `json:"audiences"` // doors that it opens: assay-registry, assay-api
	CreatedAt   time.Time           `json:"created_at"`
	CreatedBy   string              `json:"created_by"`
	Tokens      []Token             `json:"tokens"`
}

// Token is one secret of a robot, without the secret.
type Token struct {
	ID        string    `json:"id"`
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by"`
	Expires   time.Time `json:"expires"`
	Revoked   time.Time `json:"revoked,omitzero"`
	LastUsed  time.Time `json:"last_used,omitzero"` // to the minute
	Live      bool      `json:"live"`
}

// Options of a [Store].
type Options struct {
	DB     *store.DB
	Clock  clock.Clock  // nil: the system's
	Logger *slog.Logger // nil: none
	// MaxLife is the longest life of a robot's token; 0: 90 days.
	MaxLife time.Duration
	// Local is the URL of the embedded issuer, who vouches for the break-glass
	// administrator.
	Local string
	// Changed is called after what is in force has changed: the grants of
	// [Store.Grants] are others now. It must not call the store's writers.
	Changed func()
	// Settle brings records of pulls that are not in the database yet there, before
	// a revocation counts those that it makes unauthorised; nil: all are.
	Settle func(ctx context.Context) error
}

const defaultMaxLife = 90 * 24 * time.Hour

// Store keeps robots, revocations and break-glass sessions. It is safe for many
// goroutines.
type Store struct {
	o       Options
	now     clock.Clock
	log     *slog.Logger
	snap    atomic.Pointer[snapshot]
	loading sync.Mutex
	asked   atomic.Int64 // when an unknown id last made the store look again, unix ms

	mu   sync.Mutex
	used map[string]time.Time // ids of tokens used and not noted yet
}

// snapshot is what is in force.
type snapshot struct {
	generation int64
	robots     map[string]*robot
	tokens     map[string]*token // by id
	revoked    map[revokedKey]time.Time
	glass      map[string]time.Time // subject to end
}

type robot struct {
	rights    []Right
	audiences []identity.Audience
}

type token struct {
	robot            string
	hash             []byte
	created, expires time.Time
	revoked          time.Time
}

type revokedKey struct{ issuer, name string } // name "" with a credential's id as issuer

// Open reads what is in force.
func Open(ctx context.Context, o Options) (*Store, error) {
	s := &Store{o: o, now: o.Clock, log: o.Logger, used: map[string]time.Time{}}
	if s.now == nil {
		s.now = clock.System
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.o.MaxLife == 0 {
		s.o.MaxLife = defaultMaxLife
	}
	return s, s.load(ctx, true)
}

// Run follows what other replicas change, within half a second, and notes when
// tokens were last used. It ends with ctx.
func (s *Store) Run(ctx context.Context) error {
	tick := time.NewTicker(400 * time.Millisecond)
	defer tick.Stop()
	flush := time.NewTicker(30 * time.Second)
	defer flush.Stop()
	for {
		select {
		case <-ctx.Done():
			return s.Flush(context.WithoutCancel(ctx))
		case <-tick.C:
			if err := s.load(ctx, false); err != nil && ctx.Err() == nil {
				s.log.Warn("credentials could not be read; those in force stay", "error", err)
			}
		case <-flush.C:
			if err := s.Flush(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("the last use of robots' tokens could not be noted", "error", err)
			}
		}
	}
}

// load reads the tables if another generation is in them.
func (s *Store) load(ctx context.Context, always bool) error {
	s.loading.Lock()
	defer s.loading.Unlock()
	var next *snapshot
	err := s.o.DB.View(ctx, func(tx *store.Tx) error {
		g, err := generation(ctx, tx)
		if err != nil {
			return err
		}
		if old := s.snap.Load(); old != nil && old.generation == g && !always {
			next = nil
			return nil
		}
		next, err = readSnapshot(ctx, tx, g)
		return err
	})
	if err != nil {
		return fmt.Errorf("read credentials: %w", err)
	}
	if next != nil {
		s.snap.Store(next)
		if s.o.Changed != nil {
			s.o.Changed()
		}
	}
	return nil
}

// Grants are the rights of all robots that have a token, and of the break-glass
// administrators of now, for [identity.Access.Set].
func (s *Store) Grants() []identity.Grant {
	snap := s.snap.Load()
	if snap == nil {
		return nil
	}
	var out []identity.Grant
	live := map[string]bool{}
	now := s.now()
	for _, t := range snap.tokens {
		live[t.robot] = live[t.robot] || t.state(now) == nil
	}
	for name, r := range snap.robots {
		if !live[name] {
			continue
		}
		for _, right := range r.rights {
			out = append(out, identity.Grant{Issuer: RobotIssuer, Subject: name, Role: right.Role, Scope: right.Scope, Actions: right.Actions})
		}
	}
	for subject, end := range snap.glass {
		if now.Before(end) {
			out = append(out, identity.Grant{Issuer: s.o.Local, Subject: subject, Role: identity.RoleAdmin, Scope: "**"})
		}
	}
	slices.SortFunc(out, func(a, b identity.Grant) int { return strings.Compare(a.Subject+"\n"+a.Scope, b.Subject+"\n"+b.Scope) })
	return out
}

// errSecret tells nobody which part of a token is wrong.
var errSecret = fault.Newf(fault.Unauthenticated, "the robot's token is unknown, has expired or was revoked; an admin makes another with assay robot rotate")

func (t *token) state(now time.Time) error {
	if !t.revoked.IsZero() || !now.Before(t.expires) {
		return errSecret
	}
	return nil
}

// Verify proves a robot by its token, for one door. Errors are
// [fault.Unauthenticated]. A text of the wrong form costs no look-up.
func (s *Store) Verify(ctx context.Context, secret string, aud identity.Audience) (identity.Principal, error) {
	id, ok := parseSecret(secret)
	if !ok {
		return identity.Principal{}, errSecret
	}
	snap := s.snap.Load()
	t := snap.tokens[id]
	if t == nil {
		// Another replica may have made it within the last half second. Guessing
		// ids must not read the database at will.
		now := time.Now().UnixMilli()
		if last := s.asked.Load(); now-last > 100 && s.asked.CompareAndSwap(last, now) {
			if err := s.load(ctx, false); err != nil {
				return identity.Principal{}, err
			}
			snap = s.snap.Load()
		}
		if t = snap.tokens[id]; t == nil {
			return identity.Principal{}, errSecret
		}
	}
	if !sameSecret(secret, t.hash) {
		return identity.Principal{}, errSecret
	}
	p := identity.Principal{
		Issuer: RobotIssuer, Subject: t.robot, Name: t.robot, Kind: identity.KindRobot,
		Credential: identity.Credential{ID: "robot:" + id, IssuedAt: t.created, Expires: t.expires},
	}
	if err := t.state(s.now()); err != nil {
		return identity.Principal{}, t.refusal(p, err)
	}
	r := snap.robots[t.robot]
	if r == nil {
		return identity.Principal{}, errSecret
	}
	if !slices.Contains(r.audiences, aud) {
		return identity.Principal{}, fault.Newf(fault.Unauthenticated, "robot %s is not for %s; it was made for %v", t.robot, aud, r.audiences)
	}
	s.note(id)
	return p, nil
}

// refusal says of a token that was proven what ended it: whoever has it knows no
// more by that, and those who read the trail know who tries.
func (t *token) refusal(p identity.Principal, err error) error {
	switch {
	case !t.revoked.IsZero():
		return &identity.RevokedError{Principal: p, Err: fault.Newf(fault.Unauthenticated, "the token of robot %s was revoked; an admin makes another with assay robot rotate", t.robot)}
	case err != nil:
		return fault.Newf(fault.Unauthenticated, "the token of robot %s ended on %s; an admin makes another with assay robot rotate", t.robot, t.expires.UTC().Format(time.RFC3339))
	}
	return nil
}

// Check says whether what proved p still proves it: nil, or
// [fault.Unauthenticated] once its credential was revoked or has ended. It reads
// memory alone and is asked at every request.
func (s *Store) Check(p identity.Principal) error {
	if p.Kind == identity.KindSystem || p.IsAnonymous() {
		return nil
	}
	snap := s.snap.Load()
	if id, ok := strings.CutPrefix(p.Credential.ID, "robot:"); ok {
		t := snap.tokens[id]
		if t == nil || snap.robots[t.robot] == nil {
			return errSecret
		}
		if err := t.state(s.now()); err != nil {
			return t.refusal(p, err)
		}
	}
	revoked := func(k revokedKey) bool {
		at, ok := snap.revoked[k]
		return ok && !p.Credential.IssuedAt.After(at)
	}
	if p.Credential.ID != "" && revoked(revokedKey{issuer: p.Credential.ID}) ||
		revoked(revokedKey{p.Issuer, p.Subject}) || p.Name != "" && revoked(revokedKey{p.Issuer, p.Name}) {
		return &identity.RevokedError{Principal: p, Err: fault.Newf(fault.Unauthenticated, "this credential was revoked; log in anew")}
	}
	if p.Issuer == s.o.Local && strings.HasPrefix(p.Subject, glassPrefix) {
		if end, ok := snap.glass[p.Subject]; !ok || !s.now().Before(end) {
			return fault.Newf(fault.Unauthenticated, "this break-glass session has ended")
		}
	}
	return nil
}

// note remembers that a token was used.
func (s *Store) note(id string) {
	at := s.now().Truncate(time.Minute)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[id] = at
}

// Flush writes down when tokens were last used.
func (s *Store) Flush(ctx context.Context) error {
	s.mu.Lock()
	used := s.used
	s.used = map[string]time.Time{}
	s.mu.Unlock()
	if len(used) == 0 {
		return nil
	}
	return s.o.DB.Update(ctx, func(tx *store.Tx) error {
		for id, at := range used {
			if _, err := tx.Exec(ctx, `UPDATE credential_token SET last_used = ? WHERE id = ? AND last_used < ?`, store.Micros(at), id, store.Micros(at)); err != nil {
				return err
			}
		}
		return nil
	})
}

var robotName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)

const (
	maxRights = 32
	maxText   = 512
	maxTokens = 16 // of one robot, expired ones not counted
)

// Validate says what is wrong with a robot that is to be made. Errors are
// [fault.Invalid].
func (r Robot) Validate() error {
	if !robotName.MatchString(r.Name) {
		return fault.Newf(fault.Invalid, "robot %.80q: want lower-case letters, digits, - and ., at most 63", r.Name)
	}
	if len(r.Description) > maxText {
		return fault.Newf(fault.Invalid, "robot %s: description of %d bytes, want at most %d", r.Name, len(r.Description), maxText)
	}
	if len(r.Rights) == 0 || len(r.Rights) > maxRights {
		return fault.Newf(fault.Invalid, "robot %s: %d rights, want from 1 to %d (a role and a scope each)", r.Name, len(r.Rights), maxRights)
	}
	for _, right := range r.Rights {
		if right.Role == identity.RoleAdmin {
			return fault.Newf(fault.Invalid, "robot %s: role admin is for people and for assay break-glass, not for a secret that lives for weeks", r.Name)
		}
		if _, err := glob.Parse(right.Scope); err != nil {
			return fmt.Errorf("robot %s: scope: %w", r.Name, err)
		}
		g := identity.Grant{Issuer: RobotIssuer, Subject: r.Name, Role: right.Role, Scope: right.Scope, Actions: right.Actions}
		if err := g.Validate(); err != nil {
			return fmt.Errorf("robot %s: %w", r.Name, err)
		}
	}
	if len(r.Audiences) == 0 {
		return fault.Newf(fault.Invalid, "robot %s: no audience, want %s or %s", r.Name, identity.AudienceRegistry, identity.AudienceAPI)
	}
	for _, a := range r.Audiences {
		if a != identity.AudienceRegistry && a != identity.AudienceAPI {
			return fault.Newf(fault.Invalid, "robot %s: audience %.40q, want %s or %s: a robot does not sign", r.Name, a, identity.AudienceRegistry, identity.AudienceAPI)
		}
	}
	return nil
}
