package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"assay/backup"
	"assay/blob/s3"
	"assay/config"
	"assay/internal/fault"
	"assay/internal/keyring"
	"assay/server"

	"github.com/spf13/cobra"
)

// backupFlags say where backups lie and what opens them.
type backupFlags struct {
	app        *app
	config     string
	place      string // a folder, or "s3"
	recipients []string
	passphrase string
	identity   string
	key        string
}

func (f *backupFlags) repository(cmd *cobra.Command, name string) {
	cmd.Flags().StringVar(&f.config, "config", "", "the site's configuration file, for its backup, blob, store and keys sections")
	cmd.Flags().StringVar(&f.place, name, "", `where backups lie: a folder, or "s3" for backup.s3 of the configuration (default: what it names)`)
}

func (f *backupFlags) opening(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.identity, "identity", "", "age identity file (AGE-SECRET-KEY-1…) that opens the backup")
	cmd.Flags().StringVar(&f.passphrase, "passphrase", "", "file:PATH of the passphrase that opens the backup")
	cmd.Flags().StringVar(&f.key, "key", "", "who must have signed it: fingerprint sha256:… or PEM file of the site's backup key")
}

// load reads the configuration, with --data over it.
func (f *backupFlags) load() (config.Config, error) {
	cfg, err := config.Load(f.config, os.Environ())
	if err != nil {
		return cfg, err
	}
	if f.app.data != "" {
		cfg.Data = f.app.data
	}
	return cfg, nil
}

// open opens the repository that the flags or the configuration name.
func (f *backupFlags) open(ctx context.Context, cfg config.Config, create bool) (backup.Repo, error) {
	place := f.place
	if place == "" {
		place = cfg.Backup.Folder
		if cfg.Backup.S3.Enabled() {
			if place != "" {
				return nil, usagef("the configuration names backup.folder and backup.s3: choose one")
			}
			place = "s3"
		}
	}
	switch {
	case place == "":
		return nil, usagef("no place of backups: name a folder, or set backup.folder or backup.s3 in --config FILE")
	case place == "s3":
		if !cfg.Backup.S3.Enabled() {
			return nil, usagef("s3 wants backup.s3 in --config FILE")
		}
		return s3.OpenObjects(ctx, cfg.Backup.S3.Options())
	case strings.Contains(place, "://"):
		return nil, usagef(`%q: want a folder, or "s3" with backup.s3 in --config FILE`, line(place))
	}
	return backup.OpenFolder(place, create)
}

func (f *backupFlags) keys(cfg config.Config, reading bool) (backup.Keys, error) {
	k := backup.Keys{Recipients: f.recipients}
	place := f.passphrase
	if place == "" && len(f.recipients) == 0 && f.identity == "" {
		k.Recipients, place = cfg.Backup.Recipients, cfg.Backup.Passphrase
	}
	var err error
	if place != "" {
		k.Passphrase, err = config.Secret(place)
		return k, err
	}
	if !reading && len(k.Recipients) == 0 {
		return k, usagef("a backup holds the site's keys and is always encrypted: give --recipient age1… (age-keygen makes one), --passphrase file:PATH, or backup.recipients in --config FILE")
	}
	if reading && f.identity != "" {
		k.Identities, err = os.ReadFile(f.identity)
		if err != nil {
			return k, usagef("--identity: %w", err)
		}
	}
	return k, nil
}

// fingerprint reads --key.
func (f *backupFlags) fingerprint() (string, error) {
	if f.key == "" || strings.HasPrefix(f.key, "sha256:") {
		return f.key, nil
	}
	b, err := os.ReadFile(f.key)
	if err != nil {
		return "", usagef("--key: want sha256:… or a PEM file: %w", err)
	}
	pub, err := keyring.ParsePublic(b)
	if err != nil {
		return "", usagef("--key %s: %w", line(f.key), err)
	}
	return keyring.Fingerprint(pub)
}

// pick gives the backup that is asked for: by id, or the newest.
func (f *backupFlags) pick(ctx context.Context, r backup.Repo, id string) (backup.Listed, error) {
	want, err := f.fingerprint()
	if err != nil {
		return backup.Listed{}, err
	}
	if id == "" {
		ids, err := backup.IDs(ctx, r)
		if err != nil {
			return backup.Listed{}, err
		}
		if len(ids) == 0 {
			return backup.Listed{}, fault.Newf(fault.NotFound, "there is no backup there")
		}
		id = ids[len(ids)-1]
	}
	return backup.Get(ctx, r, id, want)
}

func (a *app) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

func (a *app) backupCommand() *cobra.Command {
	return group("backup", "Back up a site while it runs", a.backupCreate(), a.backupList(), a.backupVerify(), a.backupPrune())
}

func (a *app) backupCreate() *cobra.Command {
	f := &backupFlags{app: a}
	var keyOut string
	cmd := &cobra.Command{
		Use:   "create --to DIR --recipient age1…",
		Short: "Make a backup: consistent, incremental, encrypted, signed",
		Long: `Back up a site, running or stopped: one snapshot of its database, the log at that
size, every blob, keys and certificates. What the backup before has is not
written again. Everything is encrypted to the recipients (age); what unlocks the
keys is never in it. The running server signs the manifest.

Exit code 1 when blobs were missing or damaged: the rest is in the backup.`,
		Example: `  assay backup create --data ./data --to /mnt/backups --recipient age1qz…
  assay backup create --config /etc/assay/config.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			ctx := cmd.Context()
			cfg, err := f.load()
			if err != nil {
				return err
			}
			keys, err := f.keys(cfg, false)
			if err != nil {
				return err
			}
			o, err := server.OpenOffline(ctx, cfg, version(), a.logger())
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, o.Close()) }()
			signer, done, err := server.BackupSigner(ctx, cfg, o.Site.DB, a.prompt("Passphrase of the keys: "))
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, done()) }()
			r, err := f.open(ctx, cfg, true)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, r.Close()) }()
			began := time.Now()
			l, err := backup.Create(ctx, o.Site, r, keys, signer)
			if err != nil {
				return err
			}
			if err := a.print(l, func(w io.Writer) {
				fmt.Fprintf(w, "backup\t%s\nobjects\t%d, %s; new %d, %s\nblobs\t%d, %s\nrows\t%d\nfiles\t%d\nlog\t%s\nsigned by\t%s\ntook\t%s\n", l.ID, l.Counts.Objects, bytesOf(l.Counts.Bytes),
					l.Counts.New, bytesOf(l.Counts.NewBytes), l.Counts.Blobs, bytesOf(l.Counts.BlobBytes), l.Counts.Rows, l.Counts.Files, heads(l.Logs), l.Key, time.Since(began).Round(time.Millisecond))
			}); err != nil {
				return err
			}
			if keyOut != "" {
				if err := os.WriteFile(keyOut, []byte(l.PEM), 0o644); err != nil { //nolint:gosec // a public key
					return fmt.Errorf("--key-out: %w", err)
				}
			}
			if l.Counts.Missing+l.Counts.Damaged > 0 {
				a.notef("%d blobs that the database names were not there, %d were damaged: they are not in the backup\n", l.Counts.Missing, l.Counts.Damaged)
				return &exitError{1}
			}
			return nil
		},
	}
	f.repository(cmd, "to")
	cmd.Flags().StringArrayVar(&f.recipients, "recipient", nil, "age recipient (age1…), as age-keygen prints it; may be repeated")
	cmd.Flags().StringVar(&f.passphrase, "passphrase", "", "file:PATH of a passphrase, instead of recipients")
	cmd.Flags().StringVar(&keyOut, "key-out", "", "write the public key that signed it, for --key of verify and restore; keep it elsewhere")
	return cmd
}

func heads(logs []backup.LogHead) string {
	var s []string
	for _, l := range logs {
		s = append(s, fmt.Sprintf("%s %d entries", line(l.Name), l.Size))
	}
	return strings.Join(s, ", ")
}

// bytesOf is a number of bytes as people say it.
func bytesOf(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}

func (a *app) backupList() *cobra.Command {
	f := &backupFlags{app: a}
	cmd := &cobra.Command{
		Use:     "list --from DIR",
		Short:   "List backups, oldest first",
		Example: "  assay backup list --from /mnt/backups\n  assay backup list --config /etc/assay/config.yaml -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			ctx := cmd.Context()
			cfg, err := f.load()
			if err != nil {
				return err
			}
			r, err := f.open(ctx, cfg, false)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, r.Close()) }()
			want, err := f.fingerprint()
			if err != nil {
				return err
			}
			ids, err := backup.IDs(ctx, r)
			if err != nil {
				return err
			}
			all := []backup.Listed{}
			for _, id := range ids {
				l, err := backup.Get(ctx, r, id, want)
				if err != nil {
					return err
				}
				all = append(all, l)
			}
			return a.print(all, func(w io.Writer) {
				fmt.Fprintf(w, "ID\tHOST\tTAKEN\tLOG\tSIZE\tNEW\tSIGNED BY\n")
				for _, l := range all {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.ID, line(l.Host), stamp(l.CreatedAt), heads(l.Logs), bytesOf(l.Counts.Bytes), bytesOf(l.Counts.NewBytes), l.Key)
				}
			})
		},
	}
	f.repository(cmd, "from")
	cmd.Flags().StringVar(&f.key, "key", "", "who must have signed them: fingerprint sha256:… or PEM file of the site's backup key")
	return cmd
}

func (a *app) backupVerify() *cobra.Command {
	f := &backupFlags{app: a}
	var at string
	cmd := &cobra.Command{
		Use:   "verify --from DIR --key sha256:…",
		Short: "Check a backup where it lies, without restoring it",
		Long: `Check the signature of a backup and each object against the signed list: every
flipped bit and every missing object is found, without any secret. With --identity
or --passphrase everything is decrypted too and checked against its digest. Only a
restore checks log, events and database; rehearse it.`,
		Example: `  assay backup verify --from /mnt/backups --key sha256:9f86…
  assay backup verify --from /mnt/backups --key backup.pub --identity key.txt --at 20261122T200000.000Z-abcdefgh`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			ctx := cmd.Context()
			if f.key == "" {
				return usagef("want --key: whose signature counts (assay backup create prints the fingerprint)")
			}
			cfg, err := f.load()
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
			var keys *backup.Keys
			if f.identity != "" || f.passphrase != "" {
				k, err := f.keys(cfg, true)
				if err != nil {
					return err
				}
				keys = &k
			}
			rep, err := backup.Verify(ctx, l, r, keys)
			if err != nil {
				return err
			}
			return a.report("whole", rep)
		},
	}
	f.repository(cmd, "from")
	f.opening(cmd)
	cmd.Flags().StringVar(&at, "at", "", "the backup's id (default: the newest)")
	return cmd
}

func (a *app) report(verdict string, rep backup.Report) error {
	return a.print(rep, func(w io.Writer) {
		fmt.Fprintf(w, "backup\t%s of %s, %s\nobjects\t%d\n", rep.Backup, line(rep.Host), verdict, rep.Objects)
		if rep.Rows+int64(rep.Files) > 0 {
			fmt.Fprintf(w, "rows\t%d\nfiles\t%d\nblobs\t%d\ncontent\t%s\n", rep.Rows, rep.Files, rep.Blobs, bytesOf(rep.Bytes))
		}
		fmt.Fprintf(w, "log\t%s\n", heads(rep.Logs))
		if len(rep.Missing) > 0 {
			fmt.Fprintf(w, "missing\t%d blobs that were not there when it was made\n", len(rep.Missing))
		}
	})
}

func (a *app) backupPrune() *cobra.Command {
	f := &backupFlags{app: a}
	var keep int
	cmd := &cobra.Command{
		Use:   "prune --from DIR --keep N",
		Short: "Remove all but the newest backups, and what none of those needs",
		Long: `Remove all but the N newest backups, then the objects that none of these needs
and that are older than a day: younger ones may belong to a backup that is being
made.`,
		Example: "  assay backup prune --from /mnt/backups --keep 30",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if keep < 1 {
				return usagef("want --keep N, 1 or more")
			}
			cfg, err := f.load()
			if err != nil {
				return err
			}
			r, err := f.open(cmd.Context(), cfg, false)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, r.Close()) }()
			p, err := backup.Prune(cmd.Context(), r, keep, time.Now())
			if err != nil {
				return err
			}
			return a.print(p, func(w io.Writer) {
				fmt.Fprintf(w, "removed %d backups and %d objects, %s\n", len(p.Backups), p.Objects, bytesOf(p.Bytes))
			})
		},
	}
	f.repository(cmd, "from")
	cmd.Flags().IntVar(&keep, "keep", 0, "how many of the newest stay")
	return cmd
}
