package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"assay/artifact"
	"assay/backup"
	"assay/client"
	"assay/internal/fault"
	"assay/internal/oci"

	"github.com/spf13/cobra"
)

type repairFlags struct {
	backupFlags
	all     bool
	from    string
	replica string
	at      string
	as      string
	plain   []string
}

func (a *app) registryRepair() *cobra.Command {
	f := &repairFlags{backupFlags: backupFlags{app: a}}
	c := &cobra.Command{
		Use:   "repair DIGEST…|--all",
		Short: "Fetch damaged blobs again, and release what their damage kept back",
		Long: `Repair puts the right bytes in the place of damaged ones, layers and manifests
alike, and lifts the quarantine that the damage made; one that a person made
stays. Bytes with another digest are refused wherever they come from, and change
nothing.

Without a source, the server asks what it knows itself: the upstream of a
gateway's repository, and registry.replicas of its configuration. Otherwise:

  --from HOST/REPOSITORY      that repository of another registry
  --from https://HOST/PREFIX  another registry with the same repositories; --replica is the same
  --backup DIR                backups of this site, newest first, or one of them (--at)

What is fetched here is fetched with the credentials of docker login, or with the
secret that opens the backup, which the server never sees.

Exit code 0: all is whole. 1: something is damaged still.`,
		Example: `  assay registry repair --all
  assay registry repair sha256:3f… --from registry-b.example/team/app
  assay registry repair --all --replica https://registry-b.example
  assay registry repair --all --backup /mnt/backups --identity key.txt`,
		RunE: func(cmd *cobra.Command, args []string) error {
			digests := make([]artifact.Digest, 0, len(args))
			for _, text := range args {
				d, err := artifact.ParseDigest(text)
				if err != nil {
					return usagef("%w", err)
				}
				digests = append(digests, d)
			}
			return a.repair(cmd.Context(), f, digests)
		},
	}
	fl := c.Flags()
	fl.BoolVar(&f.all, "all", false, "every blob that is known to be damaged; assay registry scrub looks for more")
	fl.StringVar(&f.from, "from", "", "HOST/REPOSITORY, or the URL of a registry with the same repositories")
	fl.StringVar(&f.replica, "replica", "", "URL of a registry with the same repositories")
	fl.StringSliceVar(&f.plain, "plain-http", nil, "HOST that speaks http, besides loopback")
	fl.StringVar(&f.as, "subject", "", "with --data: the local identity to ask as")
	f.repository(c, "backup")
	f.opening(c)
	fl.StringVar(&f.at, "at", "", "with --backup: one backup's id (default: all, newest first)")
	return c
}

func (a *app) repair(ctx context.Context, f *repairFlags, digests []artifact.Digest) error {
	if f.all == (len(digests) > 0) {
		return usagef("want DIGEST…, or --all")
	}
	named := 0
	for _, text := range []string{f.from, f.replica, f.place} {
		if text != "" {
			named++
		}
	}
	if named > 1 {
		return usagef("--from, --replica and --backup: want one of them")
	}
	s, err := a.connect(ctx, f.as, "", true)
	if err != nil {
		return err
	}
	c := s.api()
	var done []client.Repair
	if f.from == "" && f.replica == "" && f.place == "" {
		done, err = c.Repair(ctx, client.RepairRequest{Digests: digests, All: f.all})
	} else {
		done, err = f.repairFrom(ctx, c, digests)
	}
	if err != nil {
		return err
	}
	list := client.List[client.Repair]{Items: done}
	if list.Items == nil {
		list.Items = []client.Repair{}
	}
	if err := a.print(list, func(w io.Writer) {
		if len(done) == 0 {
			fmt.Fprintf(w, "nothing is known to be damaged\n")
		}
		for _, r := range done {
			fmt.Fprintf(w, "%s\t%s\t%s\n", r.State, line(string(r.Digest)), line(from(r.Source)))
			for _, t := range r.Tried {
				fmt.Fprintf(w, "\t%s\t%s\n", line(t.Source), line(t.Error))
			}
			if r.State == "damaged" && len(r.Tried) == 0 {
				fmt.Fprintf(w, "\t\tno known source has it: give --from, --replica or --backup\n")
			}
		}
	}); err != nil {
		return err
	}
	for _, r := range done {
		if r.State == "damaged" {
			return &exitError{1}
		}
	}
	return nil
}

func from(source string) string {
	if source == "" {
		return ""
	}
	return "from " + source
}

// repairFrom fetches here and brings it to the server.
func (f *repairFlags) repairFrom(ctx context.Context, c *client.Client, digests []artifact.Digest) ([]client.Repair, error) {
	for _, d := range digests { // so that the server knows what is wrong with it
		if _, err := c.Scrub(ctx, d); err != nil {
			return nil, err
		}
	}
	known, err := c.Damages(ctx)
	if err != nil {
		return nil, err
	}
	at := map[artifact.Digest]client.Damage{}
	for _, k := range known {
		at[k.Digest] = k
		if f.all {
			digests = append(digests, k.Digest)
		}
	}
	var bad []client.Damage
	out := make([]client.Repair, len(digests))
	place := map[artifact.Digest]int{}
	for i, d := range digests {
		out[i] = client.Repair{Digest: d, State: "whole"}
		if k, ok := at[d]; ok {
			out[i].State = "damaged"
			place[d] = i
			bad = append(bad, k)
		}
	}
	note := func(d artifact.Digest, source string, r *client.Repair, err error) {
		i := place[d]
		if err == nil {
			r.Tried = out[i].Tried
			out[i] = *r
			return
		}
		out[i].Tried = append(out[i].Tried, client.RepairTry{Source: source, Error: err.Error()})
	}
	if f.place != "" {
		return out, f.fromBackups(ctx, c, bad, note)
	}
	locate, err := f.locate()
	if err != nil {
		return nil, err
	}
	reg := oci.New(oci.Options{UserAgent: "assay/" + version(), Insecure: f.plain})
	for _, k := range bad {
		for _, ref := range locate(k) {
			source := ref.Host + "/" + ref.Repository
			r, err := fetchTo(ctx, reg, c, ref, k, source)
			if note(k.Digest, source, r, err); err == nil {
				break
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
	}
	return out, nil
}

func fetchTo(ctx context.Context, reg *oci.Client, c *client.Client, ref artifact.Reference, k client.Damage, source string) (*client.Repair, error) {
	body, err := reg.Content(ctx, ref, k.Digest, k.Manifest, k.Size)
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	kept := &keeper{r: body}
	r, err := c.RepairWith(ctx, k.Digest, source, kept)
	if kept.err != nil {
		return nil, kept.err // why the upload broke off
	}
	return r, err
}

// keeper remembers why a stream broke off.
type keeper struct {
	r   io.Reader
	err error
}

func (k *keeper) Read(b []byte) (int, error) {
	n, err := k.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		k.err = err
	}
	return n, err
}

// locate says where a damaged blob may lie at the source that was named.
func (f *repairFlags) locate() (func(client.Damage) []artifact.Reference, error) {
	text := f.from
	if f.replica != "" {
		text = f.replica
		if !strings.Contains(text, "://") {
			return nil, usagef("--replica %q: want https://HOST or https://HOST/PREFIX", clean(text))
		}
	}
	if !strings.Contains(text, "://") {
		ref, err := artifact.ParseReference(text)
		if err != nil {
			return nil, usagef("--from: %w", err)
		}
		return func(client.Damage) []artifact.Reference {
			return []artifact.Reference{{Host: ref.Host, Repository: ref.Repository}}
		}, nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, usagef("%q: want https://HOST or https://HOST/PREFIX; credentials are those of docker login", clean(text))
	}
	if u.Scheme == "http" {
		f.plain = append(f.plain, u.Host)
	}
	return func(k client.Damage) (out []artifact.Reference) {
		for _, r := range k.Repositories {
			out = append(out, artifact.Reference{Host: u.Host, Repository: strings.Trim(strings.Trim(u.Path, "/")+"/"+r, "/")})
		}
		return out
	}, nil
}

// fromBackups looks for all that is damaged in one backup after the other.
func (f *repairFlags) fromBackups(ctx context.Context, c *client.Client, bad []client.Damage, note func(artifact.Digest, string, *client.Repair, error)) (err error) {
	cfg, err := f.load()
	if err != nil {
		return err
	}
	keys, err := f.keys(cfg, true)
	if err != nil {
		return err
	}
	repo, err := f.open(ctx, cfg, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, repo.Close()) }()
	ids := []string{f.at}
	if f.at == "" {
		if ids, err = backup.IDs(ctx, repo); err != nil {
			return err
		}
		if len(ids) == 0 {
			return fault.Newf(fault.NotFound, "there is no backup there")
		}
	}
	open := map[artifact.Digest]bool{}
	for _, k := range bad {
		open[k.Digest] = true
	}
	for n := len(ids) - 1; n >= 0 && len(open) > 0; n-- {
		l, err := f.pick(ctx, repo, ids[n])
		if err != nil {
			return err
		}
		var want []artifact.Digest
		for _, k := range bad {
			if open[k.Digest] {
				want = append(want, k.Digest)
			}
		}
		source := "backup " + l.ID
		left, err := backup.Blobs(ctx, l, repo, keys, want, func(ctx context.Context, d artifact.Digest, _ int64, body io.Reader) error {
			kept := &keeper{r: body}
			r, err := c.RepairWith(ctx, d, source, kept)
			if kept.err != nil {
				err = kept.err
			}
			if note(d, source, r, err); err == nil {
				delete(open, d)
			}
			return ctx.Err()
		})
		if err != nil {
			return err
		}
		for _, d := range left {
			note(d, source, nil, fault.Newf(fault.NotFound, "it has no such blob"))
		}
	}
	return nil
}
