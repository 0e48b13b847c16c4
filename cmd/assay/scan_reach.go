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
func (a *app) reachability(ctx context.Context, f *gateFlags, target string, got *client.Findings) error {
	if _, err := os.Stat(target); err != nil {
		return usagef("--reachability looks into a folder with Go source, or into a Go program: %q is none", clean(target))
	}
	all, err := a.goAdvisories(ctx, f, got)
	if err != nil {
		return err
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

// goAdvisories are the records by which flaws of Go modules were found, with the
// symbols that they name: of the data folder, or of the server.
func (a *app) goAdvisories(ctx context.Context, f *gateFlags, got *client.Findings) (all []*vuln.Advisory, err error) {
	var ids []string
	for _, i := range got.Items {
		for _, r := range i.Records {
			if strings.HasPrefix(i.Component, "pkg:golang/") && !slices.Contains(ids, r.ID) {
				ids = append(ids, r.ID)
			}
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	if a.noServer() {
		feeds, _, done, err := a.localFeeds(ctx, false)
		if err != nil {
			return nil, err
		}
		defer done()
		for _, id := range ids {
			records, err := feeds.Get(ctx, id)
			if err != nil && !errors.Is(err, fault.NotFound) {
				return nil, err
			}
			for _, one := range records {
				all = append(all, one.Advisory)
			}
		}
		return all, nil
	}
	s, err := a.connect(ctx, f.scan.sign.subject, "", true)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		records, err := s.api().Advisory(ctx, id)
		if err != nil {
			return nil, err
		}
		for _, one := range records.Items {
			record, err := vuln.ParseAdvisory(one.Record)
			if err != nil {
				return nil, err
			}
			if record.ID == id { // the answer also holds those that name it as theirs
				all = append(all, record)
			}
		}
	}
	return all, nil
}

// unreached says that a finding is known not to be called.
func unreached(i client.Finding) bool {
	return !i.Malicious && (i.Reachability == string(reach.Required) || i.Reachability == string(reach.Imported))
}
