package main

import (
	"archive/zip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"assay/api"
	"assay/client"
	"assay/vuln/feed"

	"github.com/spf13/cobra"
)

func (a *app) feedCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "feed",
		Short:   "Advisory feeds: bring them in, have them fetched, see how old they are",
		Example: "  assay feed import ./osv\n  assay feed list",
	}
	cmd.AddCommand(a.feedImportCommand(), a.feedListCommand(), a.feedLogCommand(), a.feedAddCommand(), a.feedRemoveCommand(), a.feedSyncCommand(), a.feedStatusCommand(), a.feedAcceptCommand())
	return cmd
}

func (a *app) feedImportCommand() *cobra.Command {
	var name, ecosystem, as string
	var back downgrade
	cmd := &cobra.Command{
		Use:   "import PATH …",
		Short: "Import OSV records, CISA's KEV catalog, EPSS scores",
		Long: `Import advisories in the OSV format. PATH is a zip as the public bucket has it,
a folder of records (*.json), a tree of ECOSYSTEM/all.zip or one ECOSYSTEM of it;
or else CISA's catalog of known exploited vulnerabilities (JSON) or FIRST's exploit
prediction scores (CSV, also under gzip), known by their content, which may lie in
the folder as well. An import comes
into force whole, or not at all: what is corrupt, cut short, too large, or older
than what is in force is refused with the reason, and the old one stays.

Nothing is fetched: bring the files by whatever way is open to you.`,
		Example: `  assay feed import ./osv
  assay feed import --ecosystem npm ./npm-all.zip
  assay feed import --name internal ./advisories/
  assay feed import known_exploited_vulnerabilities.json epss_scores-current.csv.gz`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			why, err := back.why()
			if err != nil {
				return err
			}
			var found []feed.Found
			var lists []string
			for _, path := range args {
				more, err := feed.Find(path)
				if err != nil {
					return err
				}
				for _, f := range more {
					if f.List {
						lists = append(lists, f.Path)
					} else {
						found = append(found, f)
					}
				}
			}
			if ecosystem != "" && len(found) > 1 {
				return usagef("--ecosystem %s is for one archive, %s holds %d", line(ecosystem), line(strings.Join(args, " ")), len(found))
			}
			if a.noServer() {
				return a.importLocally(cmd.Context(), found, lists, name, ecosystem, why)
			}
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			out := client.List[client.FeedOperation]{Items: []client.FeedOperation{}}
			for _, f := range found {
				if ecosystem != "" {
					f.Ecosystem = ecosystem
				}
				op, err := a.importFeed(cmd.Context(), s, f, name, why)
				if err != nil {
					return importError(name, f, err)
				}
				out.Items = append(out.Items, *op)
			}
			for _, path := range lists {
				in, err := os.Open(path)
				if err != nil {
					return err
				}
				l, err := s.api().ImportExploits(cmd.Context(), why, in)
				in.Close()
				if err != nil {
					return fmt.Errorf("%s: %w", line(path), err)
				}
				out.Items = append(out.Items, listImport(l))
			}
			return a.tellImports(out)
		},
	}
	f := cmd.Flags()
	f.StringVar(&name, "name", "osv", "what the feed is called here")
	f.StringVar(&ecosystem, "ecosystem", "", "of its records, where the path does not say")
	back.flags(cmd)
	f.StringVar(&as, "subject", "", "with --data: the local identity to import as")
	return cmd
}

// downgrade is the word of an administrator that a feed may go back.
type downgrade struct {
	allow  bool
	reason string
}

func (d *downgrade) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&d.allow, "allow-downgrade", false, "take what is older than what is in force, or lacks much of it; for administrators, with --reason")
	cmd.Flags().StringVar(&d.reason, "reason", "", "with --allow-downgrade: why, which stands in the events")
}

func (d *downgrade) why() (string, error) {
	if d.allow != (strings.TrimSpace(d.reason) != "") {
		return "", usagef("--allow-downgrade and --reason WHY go together")
	}
	return strings.TrimSpace(d.reason), nil
}

func (a *app) tellImports(out client.List[client.FeedOperation]) error {
	return a.print(out, func(w io.Writer) {
		fmt.Fprintln(w, "FEED\tECOSYSTEM\tSTATE\tADDED\tCHANGED\tWITHDRAWN\tREMOVED\tUNCHANGED\tUNREADABLE")
		for _, o := range out.Items {
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\n", line(o.Name), dash(o.Ecosystem), line(o.State), o.Added, o.Changed, o.Withdrawn, o.Removed, o.Unchanged, len(o.Skipped))
		}
	})
}

// importLocally brings archives into a data folder on which no server runs.
func (a *app) importLocally(ctx context.Context, found []feed.Found, lists []string, name, ecosystem, why string) error {
	feeds, exploits, done, err := a.localFeeds(ctx, true)
	if err != nil {
		return err
	}
	defer done()
	out := client.List[client.FeedOperation]{Items: []client.FeedOperation{}}
	for _, f := range found {
		f.Ecosystem = or(ecosystem, f.Ecosystem)
		archive, err := f.Open()
		if err != nil {
			return importError(name, f, err)
		}
		o := feed.Options{Name: name, Ecosystem: f.Ecosystem, Actor: "system:admin", AllowDowngrade: why != "", Reason: why}
		op, err := feeds.Import(ctx, archive, o)
		archive.Close()
		if err != nil {
			return importError(name, f, err)
		}
		out.Items = append(out.Items, api.WireOperation(op))
	}
	for _, path := range lists {
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		l, err := exploits.Import(ctx, in, "system:admin", why)
		in.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", line(path), err)
		}
		wire := api.WireExploits(l)
		out.Items = append(out.Items, listImport(&wire))
	}
	return a.tellImports(out)
}

// listImport tells of a list as of an operation: it is replaced whole.
func listImport(l *client.ExploitList) client.FeedOperation {
	op := client.FeedOperation{Name: l.Name, State: "in_force", Added: int64(l.Records), Archive: l.Digest}
	if l.Same {
		op.Added, op.Unchanged = 0, int64(l.Records)
	}
	return op
}

// importError says which file could not become which feed.
func importError(name string, f feed.Found, err error) error {
	return fmt.Errorf("%s, for feed %s: %w", line(f.Path), line(strings.TrimSpace(name+" "+f.Ecosystem)), err)
}

// importFeed sends one archive; a folder becomes a zip on its way.
func (a *app) importFeed(ctx context.Context, s *session, f feed.Found, name, why string) (*client.FeedOperation, error) {
	if f.Zip {
		in, err := os.Open(f.Path)
		if err != nil {
			return nil, err
		}
		defer in.Close()
		return s.api().ImportFeed(ctx, name, f.Ecosystem, why, in)
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(zipFolder(w, f.Path)) }()
	defer r.Close()
	return s.api().ImportFeed(ctx, name, f.Ecosystem, why, r)
}

func zipFolder(w io.Writer, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	z := zip.NewWriter(w)
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || filepath.Ext(name) != ".json" || feed.IsList(filepath.Join(dir, name)) {
			return err
		}
		in, err := root.Open(name)
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := z.Create(name)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		return err
	})
	if err != nil {
		return err
	}
	return z.Close()
}

// dashed is an instant that there may not have been.
func dashed(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return stamp(*t)
}
