package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"assay/client"
	"assay/internal/fault"

	"github.com/spf13/cobra"
)

func (a *app) vulnDiffCommand() *cobra.Command {
	var as, since string
	cmd := &cobra.Command{
		Use:   "diff BEFORE [AFTER]",
		Short: "Show which findings opened, went away or changed between two artifacts, scans or times",
		Long: `Show what differs between the findings of two artifacts, of two results of
"assay scan -o json" (files whose names end in .json, which need no server), or with
--since of one artifact then and now. A flaw of a package is one finding, whichever
versions of the package are affected; what a statement takes away is none.

What an artifact had at a time is told of the bills of materials that are in force
today, and rated by today's records; statements are left out.

Ends with 0 when nothing opened, with 1 when something did, with 2 when nothing did
but not all of the second is known.`,
		Example: `  assay vuln diff team/app:v1 team/app:v2
  assay vuln diff team/app:v2 --since 720h
  assay vuln diff main.json branch.json -o json`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 2) == (since != "") {
				return usagef("want AFTER, or --since for one artifact then and now")
			}
			d, err := a.vulnDiff(cmd.Context(), as, since, args)
			if err != nil {
				return unjudged(err)
			}
			if err := a.print(d, func(w io.Writer) { tableOfDiff(w, d) }); err != nil {
				return err
			}
			switch {
			case len(d.Opened) > 0:
				return &exitError{1}
			case !d.Coverage.Complete():
				return &exitError{2}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	cmd.Flags().StringVar(&since, "since", "", "compare one artifact with itself at this time: RFC 3339, or a duration ago such as 720h")
	return cmd
}

func (a *app) vulnDiff(ctx context.Context, as, since string, args []string) (*client.FindingsDiff, error) {
	var at time.Time
	if since != "" {
		if ago, err := time.ParseDuration(since); err == nil && ago > 0 {
			at = time.Now().Add(-ago)
		} else if at, err = time.Parse(time.RFC3339, since); err != nil {
			return nil, usagef("--since %.40q: want a time as 2026-03-01T00:00:00Z, or a duration as 720h", since)
		}
		args = []string{args[0], args[0]}
	}
	var s *session
	var both [2]*client.Findings
	for i, target := range args {
		if strings.HasSuffix(target, ".json") {
			if since != "" {
				return nil, usagef("--since is about artifacts of a server: %s is the result of one scan", target)
			}
			got, err := readFindings(target)
			if err != nil {
				return nil, err
			}
			both[i] = got
			continue
		}
		if s == nil {
			var err error
			if s, err = a.connect(ctx, as, "", true); err != nil {
				return nil, err
			}
		}
		t, err := s.resolve(ctx, target)
		if err != nil {
			return nil, err
		}
		repository := ""
		if t.image != nil {
			repository = t.image.Repository
		}
		if i == 0 && !at.IsZero() {
			both[i], err = s.api().FindingsAt(ctx, t.digest, repository, at)
		} else {
			both[i], err = s.api().Findings(ctx, t.digest, repository)
		}
		if err != nil {
			return nil, err
		}
	}
	return both[1].Against(both[0]), nil
}

// readFindings reads what assay scan -o json wrote.
func readFindings(path string) (*client.Findings, error) {
	const most = 256 << 20
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	if len(b) > most {
		return nil, fault.Newf(fault.TooLarge, "%s: more than %d MiB", path, most>>20)
	}
	var got client.Findings
	if err := json.Unmarshal(b, &got); err != nil {
		return nil, fault.Newf(fault.Invalid, "%s: %v: want what assay scan -o json wrote", path, err)
	}
	if got.Items == nil {
		return nil, fault.Newf(fault.Invalid, "%s holds no items: want what assay scan -o json wrote", path)
	}
	return &got, nil
}

func tableOfDiff(w io.Writer, d *client.FindingsDiff) {
	fmt.Fprintln(w, "CHANGE\tFLAW\tSEVERITY\tCOMPONENT\tFIXED\tPATH\tWHAT")
	row := func(change string, f *client.Finding, what string) {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", change, line(f.Name), line(f.Severity), line(f.Component), dash(f.Fixed), line(pathOf(f)), line(what))
	}
	for i := range d.Opened {
		row("opened", &d.Opened[i], "-")
	}
	for i := range d.Changed {
		c := &d.Changed[i]
		row("changed", &c.After, changeText(c))
	}
	for i := range d.Resolved {
		f, what := &d.Resolved[i], "gone"
		if f.Statement != nil {
			what = f.Status + ", by " + f.Statement.Author
		}
		row("resolved", f, what)
	}
	fmt.Fprintf(w, "%d opened, %d resolved, %d kept, of which %d changed\n", len(d.Opened), len(d.Resolved), d.Kept, len(d.Changed))
	for _, u := range unknowns(d.Coverage) {
		fmt.Fprintf(w, "unknown: %s\n", line(u))
	}
}

func changeText(c *client.FindingChange) string {
	var all []string
	for _, what := range c.What {
		before, after := "", ""
		switch what {
		case "severity":
			before, after = c.Before.Severity, c.After.Severity
		case "status":
			before, after = c.Before.Status, c.After.Status
		case "fixed":
			before, after = cmp.Or(c.Before.Fixed, "none"), cmp.Or(c.After.Fixed, "none")
		case "version":
			before, after = c.Before.Version, c.After.Version
		default:
			all = append(all, what)
			continue
		}
		all = append(all, fmt.Sprintf("%s %s to %s", what, before, after))
	}
	return strings.Join(all, "; ")
}

// pathOf is how a finding's component is reached, as people read it.
func pathOf(f *client.Finding) string {
	switch {
	case len(f.Path) > 1:
		short := make([]string, len(f.Path))
		for i, p := range f.Path {
			short[i] = p[strings.LastIndexByte(p, '/')+1:]
		}
		if n := len(short); n > 5 {
			short = append(append(short[:2:2], fmt.Sprintf("%d more", n-4)), short[n-2:]...)
		}
		return strings.Join(short, " > ")
	case f.Via != "":
		return f.Direct + ", by " + f.Via
	}
	return f.Direct
}
