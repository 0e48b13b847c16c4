package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"assay/artifact"
	"assay/client"
	"assay/internal/fault"
	"assay/transfer"

	"github.com/spf13/cobra"
)

func (a *app) bundleCommand() *cobra.Command {
	return group("bundle", "Carry images, evidence and trust to a site without a network", a.bundleExport(), a.bundleImport(), a.bundleInspect(), a.bundleList())
}

func (a *app) bundleExport() *cobra.Command {
	var q client.BundleExport
	var feeds []string
	var again int64
	c := &cobra.Command{
		Use:   "export --to TARGET --repository PATTERN FILE",
		Short: "Write one signed file with what is new for another site",
		Long: `Write one signed file for a site that no network joins: the repositories' images
and referrers, the evidence about them, and this site's roots, revocations and
delegations. Only what the target was not sent before goes in, unless --full.

Each file for a target has the next number, and is imported in that order. A file
that was lost on the way is written anew by --again NUMBER, byte for byte.
The file is also an OCI image layout: skopeo copy oci-archive:FILE:REPOSITORY:TAG …`,
		Example: `  assay bundle export --to plant-7 --repository 'team/**' plant-7.tar
  assay bundle export --to plant-7 --repository 'team/**' --policies --feed osv=./osv plant-7.tar
  assay bundle export --to plant-7 --again 3 plant-7-3.tar`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if q.Target == "" {
				return usagef("--to TARGET: for whom is it? such as --to plant-7")
			}
			if f := cmd.Flags(); f.Changed("again") && (again < 1 || f.Changed("full") || f.Changed("repository") || f.Changed("policies") || f.Changed("feed")) {
				return usagef("--again NUMBER gives a bundle as it was made: it goes with --to alone")
			}
			s, err := a.connect(ctx, "", "", true)
			if err != nil {
				return err
			}
			b := &client.Bundle{Target: q.Target, Sequence: again}
			if again == 0 {
				if q.Feeds, err = a.uploadFeeds(ctx, s, feeds); err != nil {
					return err
				}
				if q.Repositories == nil {
					q.Repositories = []string{}
				}
				if b, err = s.api().MakeBundle(ctx, q); err != nil {
					return err
				}
			}
			n, took, err := a.fetchBundle(ctx, s, b, args[0])
			if err != nil {
				return fmt.Errorf("%w; the bundle is made: assay bundle export --to %s --again %d FILE fetches it", err, b.Target, b.Sequence)
			}
			b.Bytes = n
			if args[0] == "-" {
				return nil
			}
			return a.print(b, func(w io.Writer) {
				fmt.Fprintf(w, "wrote\t%s\nbundle\t%d for %s\ncontent\t%s\nsize\t%d bytes in %s\n", line(args[0]), b.Sequence, line(b.Target), content(b), n, took.Round(time.Millisecond))
				if !b.Expires.IsZero() {
					fmt.Fprintf(w, "import by\t%s\n", stamp(b.Expires))
				}
			})
		},
	}
	f := c.Flags()
	f.StringVar(&q.Target, "to", "", "name of the site that it is for; each has a sequence of its own")
	f.StringSliceVar(&q.Repositories, "repository", nil, "repositories to carry, a pattern such as team/**; none: trust alone")
	f.BoolVar(&q.Full, "full", false, "everything, also what the target was sent before")
	f.BoolVar(&q.Policies, "policies", false, "documents of kind Policy and Repository too")
	f.StringArrayVar(&feeds, "feed", nil, "NAME=DIR: a folder whose files are carried under a name")
	f.Int64Var(&again, "again", 0, "the bundle of this number once more, as it was made")
	return c
}

func content(b *client.Bundle) string {
	switch {
	case b.Members == 0:
		return "as it was made"
	case b.Full:
		return fmt.Sprintf("everything, %d members", b.Members)
	}
	return fmt.Sprintf("what is new, %d members", b.Members)
}

// fetchBundle streams a bundle into a file, which appears when it is whole.
func (a *app) fetchBundle(ctx context.Context, s *session, b *client.Bundle, path string) (n int64, took time.Duration, err error) {
	start := time.Now()
	r, size, err := s.api().BundleContent(ctx, b.Target, b.Sequence)
	if err != nil {
		return 0, 0, err
	}
	defer r.Close()
	out := a.stdout
	done := func() error { return nil }
	if path != "-" {
		f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".part-*")
		if err != nil {
			return 0, 0, usagef("%w", err)
		}
		defer os.Remove(f.Name()) // is gone when it was renamed
		defer f.Close()
		out, done = f, func() error {
			return errors.Join(f.Sync(), f.Close(), os.Rename(f.Name(), path))
		}
	}
	n, err = io.Copy(out, r)
	if err == nil && size >= 0 && n != size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return n, 0, fault.Newf(fault.Unavailable, "the bundle broke off after %d of %d bytes: %w", n, size, err)
	}
	return n, time.Since(start), done()
}

func (a *app) uploadFeeds(ctx context.Context, s *session, feeds []string) (out []client.BundleFeed, err error) {
	for _, f := range feeds {
		name, dir, ok := strings.Cut(f, "=")
		if !ok || !transfer.ValidName(name) {
			return nil, usagef("--feed %q: want NAME=DIR, the name of lower-case letters, digits, \".\", \"_\" and \"-\"", clean(f))
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			return nil, usagef("--feed: %w", err)
		}
		pr, pw := io.Pipe()
		go func() { pw.CloseWithError(tarFolder(pw, root)) }()
		one, err := s.api().UploadFeed(ctx, name, pr)
		_ = pr.Close() // lets the writer end
		err = errors.Join(err, root.Close())
		if err != nil {
			return nil, fmt.Errorf("feed %s: %w", name, err)
		}
		out = append(out, *one)
	}
	return out, nil
}

// tarFolder writes the plain files below a folder. A symbolic link is an error:
// what it names may lie anywhere.
func tarFolder(w io.Writer, root *os.Root) error {
	t := tar.NewWriter(w)
	err := fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return fault.Newf(fault.Invalid, "%s is no plain file", path)
		}
		f, err := root.Open(filepath.FromSlash(path))
		if err != nil {
			return err
		}
		defer f.Close()
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path, Size: info.Size(), Mode: 0o644}); err != nil {
			return err
		}
		_, err = io.CopyN(t, f, info.Size())
		return err
	})
	return errors.Join(err, t.Close())
}

// rootDigest reads the root.json that an exporter is held to.
func rootDigest(path string) (artifact.Digest, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", usagef("--root: %w", err)
	}
	if len(b) > 1<<20 || !strings.Contains(string(b), `"root"`) {
		return "", usagef("--root %s: this is no TUF root.json; assay trust root writes it at the exporter", line(path))
	}
	return artifact.Digest(transfer.PinOf(b)), nil
}

func (a *app) openBundle(path string) (io.ReadCloser, error) {
	if path == "-" {
		return io.NopCloser(a.stdin), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, usagef("%w", err)
	}
	return f, nil
}

func (a *app) bundleImport() *cobra.Command {
	var q client.BundleImport
	var root string
	c := &cobra.Command{
		Use:   "import FILE",
		Short: "Import the file of another site: all of it, or nothing",
		Long: `Import a file that assay bundle export wrote at another site. Its signed list is
proved first: by the exporter's TUF root, which you give the first time and which
came to you by another way than the file; by the log; by its number and its age.
Then everything becomes visible in one step, under the rules of this site: what
the gate refuses is listed, and does not keep the rest out.

The exporter becomes a foreign root of trust here, for the repositories that it
carried or that --namespace names, with its revocations and delegations.`,
		Example: `  assay bundle import plant-7.tar --root hq-root.json
  assay bundle import plant-7.tar
  assay bundle import plant-7.tar --root hq-root.json --namespace 'team/**' --apply-policies`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if root != "" {
				if q.Root, err = rootDigest(root); err != nil {
					return err
				}
			}
			f, err := a.openBundle(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			// Hidden from the HTTP client, which would close it.
			got, err := s.api().ImportBundle(cmd.Context(), struct{ io.Reader }{f}, q)
			if err != nil {
				return err
			}
			if err := a.print(got, func(w io.Writer) { printImported(w, got) }); err != nil {
				return err
			}
			if len(got.Refused) > 0 {
				return fault.Newf(fault.Denied, "%d things were not let in; the rest was imported", len(got.Refused))
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&root, "root", "", "TUF root.json of the exporter (assay trust root there); the first time")
	f.StringVar(&q.Name, "name", "", "name of the foreign root that the exporter becomes; default is by its host name")
	f.StringSliceVar(&q.Namespaces, "namespace", nil, "repositories for which it is trusted, patterns; default is those that it selected, the first time")
	f.BoolVar(&q.ApplyPolicies, "apply-policies", false, "apply the documents in it, as assay apply would")
	return c
}

func printImported(w io.Writer, got *client.BundleImported) {
	fmt.Fprintf(w, "imported\tbundle %d of %s\nmanifests\t%d\nevidence\t%d\nfeeds\t%d\nrevocations\tversion %d\n", got.Sequence, line(got.Origin), got.Manifests, got.Evidence, got.Feeds, got.Revocations)
	for _, c := range got.Changes {
		fmt.Fprintf(w, "%s\t%s %s\n", line(c.Action), line(c.Kind), line(c.Name))
	}
	for _, r := range got.Refused {
		name := r.Repository
		if r.Tag != "" {
			name += ":" + r.Tag
		}
		fmt.Fprintf(w, "REFUSED\t%s %s: %s\n", line(name), line(string(r.Digest)), line(r.Reason))
	}
}

// inspected is what assay bundle inspect says of a file.
type inspected struct {
	Verified bool                  `json:"verified"` // under the root that was given
	Digest   artifact.Digest       `json:"digest"`
	SignedAt time.Time             `json:"signed_at"`
	LogIndex int64                 `json:"log_index"`
	Bytes    int64                 `json:"bytes"`
	Kinds    map[transfer.Kind]int `json:"kinds"`
	Manifest *transfer.Manifest    `json:"manifest"`
}

func (a *app) bundleInspect() *cobra.Command {
	var root string
	c := &cobra.Command{
		Use:   "inspect FILE [--root root.json]",
		Short: "Look into a bundle and verify it, without a server",
		Long: `Read a whole bundle, hold each member to the signed list, and say what is in it.
With --root the list is proved to be that site's, and the command ends in 0.
Without, it is only found consistent with itself: the command ends in 2.`,
		Example: "  assay bundle inspect plant-7.tar --root hq-root.json\n  assay bundle inspect plant-7.tar -o json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			pin := transfer.Unpinned
			if root != "" {
				d, err := rootDigest(root)
				if err != nil {
					return err
				}
				pin = transfer.Pin(d)
			}
			f, err := a.openBundle(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			rd, err := transfer.Open(cmd.Context(), f, func(string, int64) (transfer.Pin, error) { return pin, nil }, time.Now())
			if err != nil {
				return err
			}
			if err := rd.Each(cmd.Context(), func(transfer.Member, io.Reader) error { return nil }); err != nil {
				return err
			}
			out := inspected{
				Verified: root != "", Digest: rd.Digest, SignedAt: rd.SignedAt, LogIndex: rd.LogIndex, Manifest: rd.Manifest,
				Bytes: transfer.Size(rd.Bundle, rd.Manifest), Kinds: map[transfer.Kind]int{},
			}
			for _, m := range rd.Manifest.Members {
				out.Kinds[m.Kind]++
			}
			if err := a.print(&out, func(w io.Writer) { printInspected(w, &out) }); err != nil {
				return err
			}
			if root == "" {
				return fault.Newf(fault.Undecided, "the bundle is whole; whose it is was not checked: give --root")
			}
			return nil
		},
	}
	c.Flags().StringVar(&root, "root", "", "TUF root.json of the exporter that it must be of")
	return c
}

func printInspected(w io.Writer, out *inspected) {
	m := out.Manifest
	what := "adds to bundle " + fmt.Sprint(m.Sequence-1)
	if m.Full {
		what = "full"
	}
	state := "VERIFIED"
	if !out.Verified {
		state = "UNVERIFIED"
	}
	fmt.Fprintf(w, "%s\tbundle %d of %s for %s, %s\n", state, m.Sequence, line(m.Origin), line(m.Target), what)
	fmt.Fprintf(w, "signed\t%s, log index %d\nimport by\t%s\nmanifest\t%s\n", stamp(out.SignedAt), out.LogIndex, stamp(m.Expires), out.Digest)
	fmt.Fprintf(w, "repositories\t%s\n", dash(strings.Join(m.Selection.Repositories, " ")))
	for _, k := range []transfer.Kind{transfer.KindManifest, transfer.KindBlob, transfer.KindEvidence, transfer.KindFeed, transfer.KindPolicies} {
		fmt.Fprintf(w, "%s\t%d\n", k, out.Kinds[k])
	}
	fmt.Fprintf(w, "size\t%d bytes\n", out.Bytes)
}

func (a *app) bundleList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the bundles that were made here, and how far imports are",
		Example: "  assay bundle list --data ./data",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			l, err := s.api().Bundles(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(l, func(w io.Writer) {
				fmt.Fprintln(w, "WAY\tSITE\tNUMBER\tTIME\tDIGEST\tREVOCATIONS\tREPOSITORIES")
				for _, e := range l.Exported {
					fmt.Fprintf(w, "out\t%s\t%d\t%s\t%s\t-\t-\n", line(e.Target), e.Sequence, stamp(e.Time), line(e.Digest.Short()))
				}
				for _, o := range l.Origins {
					fmt.Fprintf(w, "in\t%s\t%d\t%s\t%s\t%s\t%s\n", line(o.Origin), o.Sequence, stamp(o.ImportedAt), line(o.Digest.Short()), line(o.Revocations), line(strings.Join(o.Namespaces, " ")))
				}
			})
		},
	}
}
