package main

import (
	"context"
	"os"
	"path/filepath"

	"assay/internal/fault"
	"assay/trust"
	"assay/trust/revocation"
	"assay/trust/tuf"
	"assay/verify"

	"github.com/spf13/cobra"
)

// listFlags say where a verifier has its list of revocations from.
type listFlags struct {
	file    string // --revocations
	tufRoot string
	mirror  string
	offline bool
}

func (l *listFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&l.tufRoot, "tuf-root", "", "the site's TUF root.json, whose keys sign its lists (assay trust root)")
}

// cacheDir is where this user's Assay remembers what it has seen of the world:
// nothing there is a secret, and all of it guards against what is older.
func cacheDir() (string, error) {
	if dir := os.Getenv("ASSAY_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", usagef("no folder to remember lists in: set ASSAY_CACHE (%w)", err)
	}
	return filepath.Join(dir, "assay"), nil
}

// readRevocations opens the list of a file under those of the roots whose log
// holds it, and holds it against the newest one seen.
func (a *app) readRevocations(ctx context.Context, f *listFlags, roots []*trust.Root) (map[string]*revocation.Signed, error) {
	if f.tufRoot == "" {
		return nil, usagef("want --tuf-root root.json: whose keys sign the list; assay trust root writes it")
	}
	anchor, err := a.readInput(f.tufRoot, 1<<20)
	if err != nil {
		return nil, err
	}
	b, err := a.readInput(f.file, 16<<20)
	if err != nil {
		return nil, err
	}
	return acceptRevocations(ctx, b, anchor, roots)
}

// acceptRevocations opens a list under the keys of a TUF root, and remembers it.
func acceptRevocations(ctx context.Context, b, tufRoot []byte, roots []*trust.Root) (map[string]*revocation.Signed, error) {
	roles, err := tuf.ReadRoleKeys(tufRoot)
	if err != nil {
		return nil, usagef("--tuf-root: %w", err)
	}
	authority := revocation.Authority{Online: roles.Targets, Root: roles.Root, RootThreshold: roles.Threshold}
	covered := map[string]*revocation.Signed{}
	var first error
	for _, r := range roots {
		signed, err := revocation.Open(ctx, b, authority, r)
		if err == nil {
			covered[r.Name()] = signed
		} else if first == nil {
			first = err
		}
	}
	if len(covered) == 0 {
		if first == nil {
			first = fault.Newf(fault.Unverified, "a revocation list needs a trusted root, whose log holds it")
		}
		return nil, first
	}
	dir, err := cacheDir()
	if err != nil {
		return nil, err
	}
	for _, signed := range covered {
		if err := (revocation.Memory{Dir: filepath.Join(dir, "revocations")}).Accept(ctx, signed); err != nil {
			return nil, err
		}
	}
	return covered, nil
}

// fromTUF gets the targets of one state of a TUF repository, with the trusted
// root and the list of revocations of it read; no list is nil.
func (s *session) fromTUF(ctx context.Context, url string, anchor []byte, offline bool) (map[string][]byte, *trust.Root, *revocation.Signed, error) {
	dir, err := cacheDir()
	if err != nil {
		return nil, nil, nil, err
	}
	got, root, err := tuf.FetchTargets(ctx, tuf.ClientOptions{
		URL: url, Root: anchor, CacheDir: filepath.Join(dir, "tuf"), HTTP: s.http, Offline: offline,
	}, tuf.TargetTrustedRoot, tuf.TargetRevocations, tuf.TargetForeignRoots, tuf.TargetDelegations)
	if err != nil {
		return nil, nil, nil, err
	}
	if got[tuf.TargetTrustedRoot] == nil {
		return nil, nil, nil, fault.Newf(fault.Unverified, "TUF repository %s has no %s", url, tuf.TargetTrustedRoot)
	}
	r, err := trust.ParseTrustedRoot(got[tuf.TargetTrustedRoot], trust.WithName(url))
	if err != nil || got[tuf.TargetRevocations] == nil {
		return got, r, nil, err
	}
	lists, err := acceptRevocations(ctx, got[tuf.TargetRevocations], root, []*trust.Root{r})
	if err != nil {
		return nil, nil, nil, err
	}
	list := lists[r.Name()]
	if list.List.Use != revocation.Online {
		return nil, nil, nil, fault.Newf(fault.Unverified, "TUF repository %s publishes a list that was signed to be carried: somebody may be hiding newer ones", url)
	}
	return got, r, list, nil
}

// check refuses flags that need one another.
func (l *listFlags) check() error {
	switch {
	case l.file != "" && l.tufRoot == "", l.mirror != "" && l.tufRoot == "":
		return usagef("--revocations and --tuf-mirror want --tuf-root root.json: whose keys sign the list; assay trust root writes it")
	case l.tufRoot != "" && l.file == "" && l.mirror == "":
		return usagef("--tuf-root goes with --tuf-mirror URL or with --revocations FILE")
	case l.offline && l.mirror == "":
		return usagef("--offline goes with --tuf-mirror: what was fetched from there before is used")
	}
	return nil
}

// fromMirror gets all trust from the TUF repository that was named.
func (s *session) fromMirror(ctx context.Context, l *listFlags, o *verify.VerifierOptions) (*trust.Root, error) {
	anchor, err := s.app.readInput(l.tufRoot, 1<<20)
	if err != nil {
		return nil, err
	}
	targets, r, list, err := s.fromTUF(ctx, l.mirror, anchor, l.offline)
	if err != nil {
		return nil, err
	}
	s.published = targets
	if list != nil {
		o.Lists[r.Name()] = list
	}
	return r, nil
}

// serverLists gets the list that the server's own TUF repository publishes.
func (s *session) serverLists(ctx context.Context, r *trust.Root, o *verify.VerifierOptions) error {
	anchor, err := s.api().TUFRoot(ctx)
	if err != nil {
		return err
	}
	_, _, list, err := s.fromTUF(ctx, s.status.Services.TUF, anchor, false)
	if err == nil && list != nil {
		o.Lists[r.Name()] = list
	}
	return err
}
