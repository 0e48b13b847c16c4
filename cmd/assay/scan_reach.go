package main

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"

	"assay/client"
	"assay/internal/fault"
	"assay/vuln"
	"assay/vuln/reach"
)

// reachability has govulncheck say which of the findings about Go modules the
// target's code comes to.
func (a *app) reachability(ctx context.Context, target string, got *client.Findings) error {
	if _, err := os.Stat(target); err != nil {
		return usagef("--reachability looks into a folder with Go source, or into a Go program: %q is none", clean(target))
	}
	if !a.noServer() {
		return usagef("--reachability needs the advisories' own symbols: want --data DIR of a folder on which no server runs (assay feed import --data DIR PATH)")
	}
	feeds, _, done, err := a.localFeeds(ctx, false)
	if err != nil {
		return err
	}
	defer done()
	var all []*vuln.Advisory
	for _, i := range got.Items {
		for _, r := range i.Records {
			if !strings.HasPrefix(i.Component, "pkg:golang/") || slices.ContainsFunc(all, func(a *vuln.Advisory) bool { return a.ID == r.ID }) {
				continue
			}
			records, err := feeds.Get(ctx, r.ID)
			if err != nil && !errors.Is(err, fault.NotFound) {
				return err
			}
			for _, one := range records {
				all = append(all, one.Advisory)
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	found, err := reach.Run(ctx, target, all)
	if err != nil {
		return err
	}
	for i := range got.Items {
		f := &got.Items[i]
		if !strings.HasPrefix(f.Component, "pkg:golang/") {
			continue
		}
		for _, r := range f.Records {
			if one, is := found[r.ID]; is && (f.Reachability == "" || one.Level == reach.Called) {
				f.Reachability, f.Trace = string(one.Level), one.Trace
			}
		}
	}
	return nil
}

// unreached says that a finding is known not to be called.
func unreached(i client.Finding) bool {
	return !i.Malicious && (i.Reachability == string(reach.Required) || i.Reachability == string(reach.Imported))
}
