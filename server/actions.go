package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"assay/action"
	"assay/admission"
	"assay/artifact"
	"assay/client"
	"assay/internal/fault"
	"assay/inventory"
	"assay/policy/bundle"
	"assay/registry/gate"
	"assay/store"
	"assay/verify/replay"
)

// actionsPoll is how late it is told again that nobody answered.
const actionsPoll = 10 * time.Second

// openActions makes what holds back automatic actions that touch much of what runs.
func (s *Server) openActions() (err error) {
	s.actions, err = action.New(action.Options{
		DB: s.db, Registerer: s.reg, Carry: s.carryAction,
		Limits: action.Limits{Share: s.cfg.Action.Share, Least: s.cfg.Action.Least, Window: s.cfg.Action.Window, Answer: s.cfg.Action.Answer},
	})
	return err
}

// carryAction does what a person answered.
func (s *Server) carryAction(ctx context.Context, tx *store.Tx, e *action.Entry, yes bool) (done bool, err error) {
	if e.Kind != action.Quarantine {
		return false, nil // who follows the bundle puts it in force
	}
	if s.gate == nil {
		return false, fault.Newf(fault.Unavailable, "no registry is here")
	}
	if yes {
		if err := s.gate.QuarantineTx(ctx, tx, e.Digest, e.DecidedBy, e.Reason); err != nil {
			return false, err
		}
	}
	// Another reason may wait for an answer of its own; once under quarantine it says
	// nothing more.
	waits, err := action.Waits(ctx, tx, action.Quarantine, string(e.Digest))
	if err != nil || waits && !yes {
		return false, err
	}
	return yes, s.gate.GoOnTx(ctx, tx, e.Digest)
}

// quarantine is the registry's, for those below it, where it touches little of what
// runs. What touches much waits for a person, and nothing new may run it meanwhile;
// held says so.
func (s *Server) quarantine(ctx context.Context, d artifact.Digest, actor, reason string) (held string, err error) {
	if s.gate == nil {
		return "", fault.Newf(fault.Unavailable, "no registry is here")
	}
	err = s.db.Update(ctx, func(tx *store.Tx) error {
		held = ""
		may, e, err := s.actions.Propose(ctx, tx, action.Proposal{Kind: action.Quarantine, Key: string(d) + " " + reason, Digest: d, Reason: reason, Actor: actor}, func() (action.Reach, error) {
			all, err := gate.Reach(ctx, tx, d)
			if err != nil {
				return action.Reach{}, err
			}
			spots := make(map[inventory.Spot]bool, len(all))
			for _, one := range all {
				spots[inventory.Spot{Digest: one}] = true
			}
			touched, running, err := s.inventory.Spread(ctx, tx, spots)
			return action.Reach{Touched: touched, Running: running}, err
		})
		switch {
		case err != nil:
			return err
		case may:
			return s.gate.QuarantineTx(ctx, tx, d, actor, reason)
		}
		if held = e.ID; e.State != action.Held {
			return nil // a person said no
		}
		return s.gate.WaitTx(ctx, tx, d, actor, fmt.Sprintf("%s; its quarantine touches %d of %d workloads and waits for a person (%s)", reason, e.Touched, e.Running, e.ID))
	})
	return held, err
}

// mayActivate says whether a bundle that is followed may be put in force now, or why
// it waits. e is the action; nil: it touches nothing that runs.
func (s *Server) mayActivate(ctx context.Context, q client.PolicyBundleActivate, c bundle.Claim, digest artifact.Digest) (e *action.Entry, err error) {
	p := action.Proposal{
		Kind: action.PolicyBundle, Key: fmt.Sprintf("%s %d %s", c.Name, c.Version, digest), Digest: digest, Actor: "system:policy-bundles",
		Reason: fmt.Sprintf("version %d of the policies %s, followed at %s", c.Version, c.Name, q.Origin),
	}
	known, err := s.actions.Known(ctx, p.Kind, p.Key)
	if err != nil && !errors.Is(err, fault.NotFound) {
		return nil, err
	}
	var reach action.Reach
	if known == nil {
		if reach, p.By, err = s.bundleReach(ctx, q); err != nil {
			return nil, err
		}
	}
	may := false
	if err := s.db.Update(ctx, func(tx *store.Tx) (err error) {
		if err := s.actions.Supersede(ctx, tx, p.Kind, c.Name+" ", p.Key, p.Actor, fmt.Sprintf("version %d lies there now", c.Version)); err != nil {
			return err
		}
		may, e, err = s.actions.Propose(ctx, tx, p, func() (action.Reach, error) { return reach, nil })
		return err
	}); err != nil || may {
		return e, err
	}
	if e.State == action.Refused {
		return e, fault.Newf(fault.Denied, "%s refused version %d (%s): %s", e.DecidedBy, c.Version, e.ID, e.Answer)
	}
	return e, fault.Newf(fault.Denied, "version %d would refuse %d of the %d workloads that run, and waits for a person: assay action approve %s", c.Version, e.Touched, e.Running, e.ID)
}

// bundleReach counts the workloads that a bundle would refuse: of what would be is
// not known, it counts as refused.
func (s *Server) bundleReach(ctx context.Context, q client.PolicyBundleActivate) (reach action.Reach, by []string, err error) {
	report, signers, err := s.api.BundleEffect(ctx, q)
	if err != nil {
		return reach, nil, err
	}
	for _, w := range signers {
		who, _, _ := strings.Cut(w, " (issuer ")
		by = append(by, who)
	}
	spots := map[inventory.Spot]bool{}
	add := func(d artifact.Digest, scope string) {
		if place, is := admission.PlaceOfScope(scope); is {
			spots[inventory.Spot{Cluster: place.Cluster, Namespace: place.Namespace, Digest: d}] = true
			return
		}
		// From the registry's gate all pull. By other scopes nothing runs: a question
		// about a place is not a workload.
		if s.gate != nil && s.gate.OwnScope(scope) {
			spots[inventory.Spot{Digest: d}] = true
		}
	}
	for i := range report.Flips {
		if f := &report.Flips[i]; f.To == replay.Refused && f.Stands {
			add(f.Digest, f.Scope)
		}
	}
	for _, u := range report.Unknown {
		add(u.Digest, u.Scope)
	}
	err = s.db.View(ctx, func(tx *store.Tx) (err error) {
		reach.Touched, reach.Running, err = s.inventory.Spread(ctx, tx, spots)
		return err
	})
	if report.Cut {
		reach.Touched = reach.Running // more than can be listed
	}
	return reach, by, err
}
