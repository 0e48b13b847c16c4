package server

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"assay/attestation"
	"assay/authority/rotation"
	"assay/identity"
	"assay/store"
	"assay/trust"
	"assay/trust/delegation"
	"assay/trust/revocation"
	"assay/trust/tuf"
	"assay/verify"
)

// trustPoll is how often the database is asked whether another replica changed
// trust: what is revoked there is refused here within a second.
const trustPoll = 400 * time.Millisecond

// revocationsPoll is how often it is looked whether the list has to be signed
// anew: many times within its validity, also when that failed at first.
const revocationsPoll = time.Minute

// trustState is what this process verifies with at an instant. It is immutable:
// a change makes another one, which all doors ask from then on.
type trustState struct {
	root     *trust.Root      // the site's own
	verifier *verify.Verifier // of all bundles
	targets  map[string][]byte
	keys     []rotation.Key // the site's own
	// revocations is the site's list; nil before the first one was made.
	revocations *revocation.Signed

	foreign     []importedRoot     // in force
	domains     map[string]*domain // of other sites, by their root's name
	delegations *delegation.Set    // all

	epoch, revision int64 // of the database that it was made from
}

// trustDraft is a trustState while it is made: what the loader of each kind of
// document adds to.
type trustDraft struct {
	own         trust.Parts            // the own authorities, which become the own root
	verify      verify.VerifierOptions // foreign roots, keys and checks; the own root comes first
	targets     map[string][]byte      // what TUF publishes beside the trusted root
	foreign     []importedRoot         // those of verify.Foreign, for people
	domains     map[string]*domain
	keys        []rotation.Key
	revocations *revocation.Signed
}

// trustLoader puts the documents of one kind into a draft. It is called with
// none when there is none.
type trustLoader struct {
	kind trust.DocumentKind
	load func(ctx context.Context, docs []trust.Document, d *trustDraft) error
}

// trustLoaders are the parts of trust, in the order in which they are put
// together.
func (s *Server) trustLoaders() []trustLoader {
	return []trustLoader{
		{trust.DocAuthority, s.loadAuthorities},
		{trust.DocRevocations, s.loadRevocations},
		{trust.DocRoot, s.loadForeign},
		{trust.DocDomain, s.loadDomains},
		{trust.DocDelegation, s.loadDelegations}, // the last: it needs the own authorities, whole
	}
}

// live is the part of a server that holds its trust state.
type live struct {
	state     atomic.Pointer[trustState]
	making    sync.Mutex // one state is made at a time
	publish   sync.Mutex // and one published
	published *trustState
}

// trust is what counts now. It is never nil once the server is open.
func (s *Server) trust() *trustState { return s.live.state.Load() }

// reloadTrust makes the trust state anew and publishes it: at the start, after
// a change that this process made, and after one that it learned of.
func (s *Server) reloadTrust(ctx context.Context) error {
	if err := s.db.View(ctx, s.takeTrust(ctx, true)); err != nil {
		return err
	}
	return s.publishTrust(ctx)
}

// followTrust takes over what another replica changed.
func (s *Server) followTrust(ctx context.Context) error {
	if err := s.db.View(ctx, s.takeTrust(ctx, false)); err != nil {
		return err
	}
	return s.publishTrust(ctx)
}

// takeTrust reads what the database says, unless it is what is in force. A
// document that cannot be read leaves the state as it is, and then nothing is
// decided: the epoch of the database is not that of the state.
func (s *Server) takeTrust(ctx context.Context, always bool) func(tx *store.Tx) error {
	return func(tx *store.Tx) error {
		epoch, revision, err := trust.Revision(ctx, tx)
		if err != nil {
			return err
		}
		newer := func(t *trustState) bool {
			return t == nil || t.epoch < epoch || t.revision < revision
		}
		if !always && !newer(s.trust()) {
			return nil
		}
		s.live.making.Lock()
		defer s.live.making.Unlock()
		// Of two that read at once, the one that read more stays.
		if t := s.trust(); !newer(t) && (t.epoch > epoch || t.revision > revision || !always) {
			return nil
		}
		next, err := s.makeTrust(ctx, tx)
		if err != nil {
			return fmt.Errorf("trust of epoch %d: %w", epoch, err)
		}
		next.epoch, next.revision = epoch, revision
		s.live.state.Store(next)
		return nil
	}
}

func (s *Server) makeTrust(ctx context.Context, tx *store.Tx) (*trustState, error) {
	d := &trustDraft{targets: map[string][]byte{}, verify: verify.VerifierOptions{Clock: s.clock}}
	if err := s.configuredTrust(d); err != nil {
		return nil, err
	}
	for _, l := range s.trustLoaders() {
		if !s.decides() && l.kind != trust.DocAuthority {
			continue // this process verifies no evidence, and lacks what lists are checked by
		}
		docs, err := trust.Documents(ctx, tx, l.kind)
		if err != nil {
			return nil, err
		}
		if err := l.load(ctx, docs, d); err != nil {
			return nil, fmt.Errorf("%s: %w", l.kind, err)
		}
	}
	witnesses, err := s.witnessKeys()
	if err != nil {
		return nil, err
	}
	root, err := trust.NewRoot(d.own, trust.WithName(s.data.site.Host), trust.WithWitnesses(witnesses...))
	if err != nil {
		return nil, err
	}
	d.verify.Roots = append([]*trust.Root{root}, d.verify.Roots...)
	v, err := verify.NewVerifier(d.verify)
	if err != nil {
		return nil, err
	}
	return &trustState{
		root: root, verifier: v, targets: d.targets, keys: d.keys, revocations: d.revocations,
		foreign: d.foreign, delegations: d.verify.Delegations, domains: d.domains,
	}, nil
}

// ownWindow begins with the site's first authority.
func (t *trustState) ownWindow() trust.Window {
	if in := rotation.Of(t.keys, rotation.CA); len(in) > 0 {
		return trust.Window{Start: in[0].Start}
	}
	return trust.Window{}
}

// publishTrust publishes the state in force by TUF. What failed is tried again
// by the next poll.
func (s *Server) publishTrust(ctx context.Context) error {
	s.live.publish.Lock()
	defer s.live.publish.Unlock()
	t := s.trust()
	if s.tuf == nil || s.live.published == t {
		return nil // no repository: the process with role api has it
	}
	if err := s.publishTUFKeys(ctx, t.keys); err != nil {
		return err
	}
	service := func(path string) []tuf.Service {
		return []tuf.Service{{URL: s.public + path, Operator: s.operators, Window: t.ownWindow()}}
	}
	targets := maps.Clone(t.targets)
	config, err := tuf.SigningConfig{
		CA: service("/fulcio"), OIDC: service("/oidc"), Log: service("/rekor"), TSA: service("/tsa/api/v1/timestamp"),
	}.JSON()
	if err != nil {
		return err
	}
	targets[tuf.TargetTrustedRoot], targets[tuf.TargetSigningConfig] = t.root.Bytes(), config
	if _, err := s.tuf.Publish(ctx, targets); err != nil {
		return err
	}
	// Only what clients can know of signs.
	if err := s.useKeys(ctx, t.keys); err != nil {
		return err
	}
	s.live.published = t
	return nil
}

// liveVerifier verifies evidence with the trust state of the moment.
type liveVerifier struct{ s *Server }

// Verify is that of the state in force.
func (v liveVerifier) Verify(ctx context.Context, b *attestation.Bundle) (*trust.Verified, error) {
	return v.s.trust().verifier.Verify(ctx, b)
}

// VerifyNotation is that of the state in force.
func (v liveVerifier) VerifyNotation(ctx context.Context, raw []byte) (*trust.Verified, error) {
	return v.s.trust().verifier.VerifyNotation(ctx, raw)
}

// loadedEpoch is the trust epoch as tx, a read-only one, has it; what is newer
// than the state in force is taken over first, so that what is then verified is
// verified under that epoch or a later one.
func (s *Server) loadedEpoch(ctx context.Context, tx *store.Tx) (int64, error) {
	if err := s.takeTrust(ctx, false)(tx); err != nil {
		return 0, err
	}
	return trust.Epoch(ctx, tx)
}

// ownIssuer says whether an issuer's identities are the site's: its own and
// those that are registered.
func (s *Server) ownIssuer(issuer string) bool {
	if issuer == s.local.URL {
		return true
	}
	d := s.desired.Load()
	return d != nil && slices.ContainsFunc(d.Issuers, func(c identity.IssuerConfig) bool { return c.URL == issuer })
}

// ownLog says whether a log, by its ID in hex, is the site's.
func (s *Server) ownLog(id string) bool { return s.trust().root.HasLog(id) }

// backfill looks up what older evidence does not say yet of who made it.
func (s *Server) backfill(ctx context.Context) error {
	for ctx.Err() == nil {
		n, err := s.evidence.Backfill(ctx, 256)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
	}
	<-ctx.Done()
	return nil
}
