package main

import (
	"context"
	"fmt"
	"maps"

	"assay/tlog"
	"assay/trust"
	"assay/trust/delegation"
	"assay/trust/foreign"
	"assay/trust/tuf"
	"assay/verify"

	"github.com/spf13/cobra"
)

// minimum are thresholds that were named on the command line.
type minimum struct {
	sct, log, tsa int
	witness       int
	vkeys         []string
	keys          []*tlog.WitnessKey
	given         bool
}

func (m *minimum) register(cmd *cobra.Command) {
	cmd.Flags().IntVar(&m.sct, "min-sct", 1, "certificate logs that must have promised a certificate; lowering it is told on standard error")
	cmd.Flags().IntVar(&m.log, "min-log", 1, "transparency logs that must hold a signature; lowering it is told on standard error")
	cmd.Flags().IntVar(&m.tsa, "min-tsa", 0, "timestamp authorities that must have stamped it")
	cmd.Flags().StringArrayVar(&m.vkeys, "witness", nil, "verifier key (vkey) of a witness whose cosignature on the log's checkpoint counts; can be repeated")
	cmd.Flags().IntVar(&m.witness, "min-witness", 0, "distinct --witness that must have cosigned it")
}

// settle checks the thresholds, and says loudly which are lower than by default.
func (m *minimum) settle(a *app, cmd *cobra.Command) error {
	fl := cmd.Flags()
	if m.given = fl.Changed("min-sct") || fl.Changed("min-log") || fl.Changed("min-tsa") || len(m.vkeys) > 0 || m.witness != 0; !m.given {
		return nil
	}
	for _, v := range m.vkeys {
		k, err := tlog.ParseWitnessKey(v)
		if err != nil {
			return usagef("--witness: %w", err)
		}
		m.keys = append(m.keys, k)
	}
	if m.witness < 0 || m.witness > len(m.keys) {
		return usagef("--min-witness %d: want 0 to the number of --witness, which is %d", m.witness, len(m.keys))
	}
	for _, t := range []struct {
		flag string
		n    int
		what string
	}{{"--min-sct", m.sct, "a certificate that no certificate log holds is accepted"}, {"--min-log", m.log, "a signature that no transparency log holds is accepted"}, {"--min-tsa", m.tsa, ""}} {
		switch {
		case t.n < 0 || t.n > 16:
			return usagef("%s %d: want 0 to 16", t.flag, t.n)
		case t.n == 0 && t.what != "":
			a.notef("assay: WARNING: %s 0: %s\n", t.flag, t.what)
		}
	}
	return nil
}

// apply gives the root the thresholds. A certificate needs a trusted time in any
// case.
func (m *minimum) apply(r *trust.Root) (*trust.Root, error) {
	if !m.given {
		return r, nil
	}
	return trust.ParseTrustedRoot(r.Bytes(), trust.WithName(r.Name()), trust.WithWitnesses(m.keys...), trust.WithThresholds(trust.Thresholds{SCT: m.sct, TLog: m.log, TSA: m.tsa, Witness: m.witness, Time: max(1, m.tsa)}))
}

// trustHere finds what to verify with: what was named, else what the server
// publishes.
func (s *session) trustHere(ctx context.Context, f *verifyFlags, o *verify.VerifierOptions, t *verify.Target) error {
	fromServer := false
	if err := f.lists.check(); err != nil {
		return err
	}
	if f.lists.mirror != "" {
		r, err := s.fromMirror(ctx, &f.lists, o)
		if err != nil {
			return undecided(err)
		}
		if r, err = f.minimum.apply(r); err != nil {
			return err
		}
		o.Roots = append(o.Roots, r)
	}
	for _, path := range f.roots {
		r, err := readRoot(path)
		if err != nil {
			return err
		}
		if r, err = f.minimum.apply(r); err != nil {
			return err
		}
		o.Roots = append(o.Roots, r)
	}
	switch {
	case f.ignoreTlog && len(o.Keys) == 0:
		return usagef("--insecure-ignore-tlog goes with --key: a certificate lives ten minutes and means nothing without trusted time")
	case f.ignoreTlog:
		o.KeyThresholds = &trust.Thresholds{}
		// No log is asked, but whether the key is revoked is where there is a server
		// to ask.
		if len(o.Roots) == 0 && s.status != nil {
			r, err := s.root(ctx, "")
			if err == nil {
				err = s.serverLists(ctx, r, o)
			}
			if err != nil {
				return undecided(err)
			}
		}
	case len(o.Roots) == 0 && (f.foreignRoots == "" || s.status != nil):
		r, err := s.root(ctx, "")
		if err != nil {
			return undecided(err)
		}
		if r, err = f.minimum.apply(r); err != nil {
			return err
		}
		o.Roots, fromServer = append(o.Roots, r), true
		if err := s.serverLists(ctx, r, o); err != nil {
			return undecided(err)
		}
	}
	if f.lists.file != "" {
		lists, err := s.app.readRevocations(ctx, &f.lists, o.Roots)
		if err != nil {
			return err
		}
		maps.Copy(o.Lists, lists)
	}
	if err := s.foreignHere(ctx, f, o, t, fromServer); err != nil {
		return err
	}
	return s.delegationsHere(ctx, f, o, t, fromServer)
}

// publisher is who published foreign roots: a registry, told from another of the
// same name, such as two on localhost, by the logs of the root beside it.
func publisher(registry string, roots []*trust.Root) (of []string) {
	for _, r := range roots {
		for _, id := range r.LogIDs() {
			of = append(of, registry+"\x00"+id)
		}
	}
	if len(of) == 0 {
		of = []string{registry}
	}
	return of
}

// own makes a target of the publisher's registry one of its own, as patterns
// name it.
func own(t *verify.Target, registry string) {
	if registry != "" && t.Registry == registry {
		t.Registry = ""
	}
}

func (s *session) foreignHere(ctx context.Context, f *verifyFlags, o *verify.VerifierOptions, t *verify.Target, fromServer bool) error {
	var b []byte
	var err error
	switch {
	case f.foreignRoots != "":
		b, err = s.app.readInput(f.foreignRoots, 16<<20)
	case s.published[tuf.TargetForeignRoots] != nil:
		b = s.published[tuf.TargetForeignRoots]
	case fromServer:
		if b, err = s.api().ForeignRootsExport(ctx); err != nil {
			return undecided(err)
		}
	default:
		return nil
	}
	if err != nil {
		return err
	}
	p, roots, err := foreign.ParsePublished(b)
	if err != nil {
		return fmt.Errorf("foreign roots: %w", err)
	}
	if err := s.app.newest("foreign-roots", publisher(p.Registry, o.Roots), p.Version, p.NewerThan); err != nil {
		return err
	}
	o.Foreign = roots
	own(t, p.Registry)
	return nil
}

func (s *session) delegationsHere(ctx context.Context, f *verifyFlags, o *verify.VerifierOptions, t *verify.Target, fromServer bool) error {
	var p *delegation.Published
	var err error
	switch {
	case f.delegations != "":
		if len(o.Roots) == 0 {
			return usagef("--delegations wants the organisation's --trusted-root, which proves their signatures")
		}
		o.Delegations, p, err = s.app.readDelegations(ctx, f.delegations, o.Roots[0], o.Judges()...)
	case s.published[tuf.TargetDelegations] != nil:
		o.Delegations, p, err = compileDelegations(ctx, s.published[tuf.TargetDelegations], o.Roots[0], o.Judges()...)
	case fromServer:
		b, gerr := s.api().DelegationsExport(ctx)
		if gerr != nil {
			return undecided(gerr)
		}
		o.Delegations, p, err = compileDelegations(ctx, b, o.Roots[0], o.Judges()...)
	default:
		return nil
	}
	if err != nil {
		return fmt.Errorf("delegations: %w", err)
	}
	if err := s.app.newest("delegations", p.Keys, p.Version, p.NewerThan); err != nil {
		return err
	}
	own(t, p.Registry)
	return nil
}
