package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"assay/backup"
	"assay/internal/fault"
	"assay/server"
	"assay/tlog"

	"github.com/spf13/cobra"
)

func (a *app) restoreCommand() *cobra.Command {
	f := &backupFlags{app: a}
	var to, at string
	cmd := &cobra.Command{
		Use:   "restore --from DIR --to EMPTYFOLDER --key sha256:… --identity FILE",
		Short: "Make a site out of a backup, and check all of it",
		Long: `Restore a backup into an absent or empty folder, and check it: every blob by its
digest, every log from its entries to its signed checkpoint, the chain of events
and that its published heads are in the log, the database, and that every blob
that rows name is there. --config names another database or bucket to restore
into; both must be empty.

The site that comes out serves what it has, and its log takes no entries until
"assay restore reconcile": clients may have seen entries that the backup has not.`,
		Example: `  assay restore --from /mnt/backups --to /var/lib/assay-new --key sha256:9f86… --identity key.txt
  assay restore --config /etc/assay/config.yaml --from s3 --to ./data --key backup.pub --passphrase file:pass`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			ctx := cmd.Context()
			switch {
			case to == "":
				return usagef("want --to: an absent or empty folder")
			case f.key == "":
				return usagef("want --key: whose signature counts. Anyone who knows a recipient can write an encrypted backup; the fingerprint is what assay backup create prints, and assay keys list")
			}
			cfg, err := f.load()
			if err != nil {
				return err
			}
			keys, err := f.keys(cfg, true)
			if err != nil {
				return err
			}
			target, err := server.RestoreTarget(cfg, to, a.logger())
			if err != nil {
				return err
			}
			r, err := f.open(ctx, cfg, false)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, r.Close()) }()
			l, err := f.pick(ctx, r, at)
			if err != nil {
				return err
			}
			rep, err := backup.Restore(ctx, l, r, keys, target)
			if err != nil {
				return err
			}
			if err := a.report("restored and whole", rep); err != nil {
				return err
			}
			a.notef("The log takes no entries yet: assay restore reconcile --data %s (see --help)\n", line(target.Data))
			return nil
		},
	}
	f.repository(cmd, "from")
	f.opening(cmd)
	cmd.Flags().StringVar(&to, "to", "", "the folder to restore into, absent or empty")
	cmd.Flags().StringVar(&at, "at", "", "the backup's id (default: the newest)")
	cmd.AddCommand(a.restoreReconcile())
	return cmd
}

func (a *app) restoreReconcile() *cobra.Command {
	f := &backupFlags{app: a}
	var checkpoints, copies []string
	var acceptLoss bool
	var reason string
	cmd := &cobra.Command{
		Use:   "reconcile --data DIR --checkpoint FILE",
		Short: "Let the log of a restored, stopped site go on",
		Long: `A log that goes on from an older state forks for whoever saw more of it. Say, for
both logs of the site (log and ct), how far they had come:

  --checkpoint FILE     a checkpoint that was seen outside since the backup: a signed
                        note, or the state file of "assay log monitor". One of at
                        least the restored size that the restored log contains
                        lets that log go on; one that is longer or contradicts it
                        does not.
  --from-log NAME=FROM  a newer copy of a log, NAME log or ct, FROM a folder or the
                        URL above /checkpoint and /tile: checked against the log's key,
                        and copied.
  --accept-loss         for logs of which nothing is known outside, with --reason;
                        an alert in the event log.

The server must be stopped.`,
		Example: `  assay restore reconcile --data ./data --checkpoint monitor.json --checkpoint ct.checkpoint
  assay restore reconcile --data ./data --from-log log=/mnt/mirror/log --accept-loss --reason "no copy of ct; see INC-7"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			ctx := cmd.Context()
			cfg, err := f.load()
			if err != nil {
				return err
			}
			if acceptLoss && strings.TrimSpace(reason) == "" {
				return usagef("--accept-loss wants --reason")
			}
			o, err := server.OpenOffline(ctx, cfg, version(), a.logger())
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, o.Close()) }()
			unlock, err := server.LockSite(cfg)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, unlock.Close()) }()
			q := backup.Question{
				Data: o.Site.Data, DB: o.Site.DB, Logs: o.Site.Logs, AcceptLoss: acceptLoss, Reason: reason,
				By: fmt.Sprintf("uid:%d", os.Getuid()), Now: time.Now, From: map[string]tlog.Source{},
			}
			for _, c := range checkpoints {
				b, err := os.ReadFile(c)
				if err != nil {
					return usagef("--checkpoint: %w", err)
				}
				q.Known = append(q.Known, b)
			}
			for _, c := range copies {
				name, from, ok := strings.Cut(c, "=")
				folder := ""
				for _, l := range q.Logs {
					if l.Name == name {
						folder = "entries"
						if l.CT {
							folder = "data"
						}
					}
				}
				switch {
				case !ok || folder == "":
					return usagef("--from-log %q: want log=FROM or ct=FROM", line(c))
				case strings.HasPrefix(from, "https://"), strings.HasPrefix(from, "http://127.0.0.1"), strings.HasPrefix(from, "http://localhost"):
					q.From[name] = tlog.HTTP{URL: from, Folder: folder, Client: &http.Client{Timeout: time.Minute}}
				case strings.Contains(from, "://"):
					return usagef("--from-log %q: want a folder or an https URL", line(c))
				default:
					q.From[name] = tlog.Dir{Path: from, Folder: folder}
				}
			}
			outs, err := backup.Reconciliation(ctx, q)
			if errors.Is(err, fault.Undecided) {
				return fmt.Errorf("the log stays as it is: %w", err)
			}
			if err != nil {
				return err
			}
			return a.print(outs, func(w io.Writer) {
				fmt.Fprintf(w, "LOG\tORIGIN\tRESTORED\tGOES ON FROM\tBY\n")
				for _, l := range outs {
					fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\n", l.Name, line(l.Origin), l.Restored, l.Size, l.How)
				}
			})
		},
	}
	cmd.Flags().StringVar(&f.config, "config", "", "the site's configuration file")
	cmd.Flags().StringArrayVar(&checkpoints, "checkpoint", nil, "file of a checkpoint seen outside; may be repeated")
	cmd.Flags().StringArrayVar(&copies, "from-log", nil, "NAME=FROM of a newer copy of a log; may be repeated")
	cmd.Flags().BoolVar(&acceptLoss, "accept-loss", false, "let logs go on of which nothing is known outside")
	cmd.Flags().StringVar(&reason, "reason", "", "why the loss is taken")
	return cmd
}
