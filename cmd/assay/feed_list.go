package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"assay/api"
	"assay/client"
	"assay/internal/fault"

	"github.com/spf13/cobra"
)

func (a *app) feedListCommand() *cobra.Command {
	var as string
	var maxAge time.Duration
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the feeds: how many records, how old, and what went wrong",
		Long: `List the feeds of advisories, and the lists of exploited flaws (kev, epss): how
many records they have, when they were last looked at with success, and what went
wrong since. A feed that is stale or doubted counts as unknown, never as clean.

With --data DIR on which no server runs, those of that folder.`,
		Example: "  assay feed list\n  assay feed list -o json\n  assay feed list --data ./air --max-age 168h",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := a.feeds(cmd.Context(), as, maxAge)
			if err != nil {
				return err
			}
			return a.print(all, func(w io.Writer) {
				fmt.Fprintln(w, "FEED\tECOSYSTEM\tRECORDS\tOPERATION\tSTATE\tCHECKED\tCHANGED\tPROBLEM")
				for _, f := range all.Items {
					fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\n", line(f.Name), dash(f.Ecosystem), f.Records, f.Operation, feedState(f), dashed(f.Checked), dashed(f.Changed), dash(or(blockedWord(f.Blocked), f.Problem)))
				}
			})
		},
	}
	cmd.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	cmd.Flags().DurationVar(&maxAge, "max-age", 48*time.Hour, "with --data and no server: how old a feed may be")
	return cmd
}

// feedState is what a feed is good for.
func feedState(f client.Feed) string {
	switch {
	case f.Operation == 0 && f.Records == 0 && f.Problem != "":
		return "failed" // nothing is in force, and what came was not taken
	case f.Operation == 0 && f.Records == 0:
		return "missing"
	case f.Blocked != "":
		return "doubted"
	case f.Stale:
		return "stale"
	}
	return "fresh"
}

// feeds are those of the server, or of a data folder where none runs.
func (a *app) feeds(ctx context.Context, as string, maxAge time.Duration) (*client.List[client.Feed], error) {
	out := &client.List[client.Feed]{Items: []client.Feed{}}
	var lists []client.ExploitList
	if a.noServer() {
		feeds, exploits, done, err := a.localFeeds(ctx, false)
		if err != nil {
			return nil, err
		}
		defer done()
		all, err := feeds.Sources(ctx)
		if err != nil {
			return nil, err
		}
		for _, s := range all {
			out.Items = append(out.Items, api.WireFeed(s, time.Now(), maxAge))
		}
		known, err := exploits.Lists(ctx)
		if err != nil {
			return nil, err
		}
		for _, l := range known {
			one := api.WireExploits(l)
			one.Stale = time.Since(l.Checked) > maxAge
			lists = append(lists, one)
		}
	} else {
		s, err := a.connect(ctx, as, "", true)
		if err != nil {
			return nil, err
		}
		if out, err = s.api().Feeds(ctx); err != nil {
			return nil, err
		}
		known, err := s.api().Exploits(ctx)
		if err != nil {
			return nil, err
		}
		lists = known.Items
	}
	for _, l := range lists {
		checked := l.Checked
		out.Items = append(out.Items, client.Feed{Name: l.Name, Records: int64(l.Records), Checked: &checked, Archive: l.Digest, Stale: l.Stale})
	}
	return out, nil
}

func (a *app) feedLogCommand() *cobra.Command {
	var name, as string
	cmd := &cobra.Command{
		Use:     "log [ECOSYSTEM]",
		Short:   "List the imports of a feed, newest first, refused ones with the reason",
		Example: "  assay feed log\n  assay feed log npm\n  assay feed log --name internal",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			ecosystem := strings.Join(args, "")
			all, err := s.api().FeedOperations(cmd.Context(), name, ecosystem)
			if err != nil {
				return err
			}
			if len(all.Items) == 0 {
				return fault.Newf(fault.NotFound, "no import of feed %s is on record; assay feed list names the feeds and their ecosystems (kev and epss are replaced whole, and have no log)", line(strings.TrimSpace(name+" "+ecosystem)))
			}
			return a.print(all, func(w io.Writer) {
				fmt.Fprintln(w, "OPERATION\tSTATE\tECOSYSTEM\tFINISHED\tADDED\tCHANGED\tWITHDRAWN\tREMOVED\tPROBLEM")
				for _, o := range all.Items {
					fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\n", o.ID, line(o.State), dash(o.Ecosystem), dashed(o.Finished), o.Added, o.Changed, o.Withdrawn, o.Removed, dash(o.Problem))
				}
			})
		},
	}
	cmd.Flags().StringVar(&name, "name", "osv", "the feed")
	cmd.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return cmd
}
