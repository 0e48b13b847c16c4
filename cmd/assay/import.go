package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"

	"assay/artifact"
	"assay/internal/glob"
	"assay/internal/oci"
	"assay/registry/migrate"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"
)

func (a *app) importCommand() *cobra.Command {
	return group("import", "Bring over what another registry, or a Dependency-Track, holds", a.importFrom("registry"), a.importFrom("harbor"), a.importDependencyTrack())
}

type registryImportFlags struct {
	to, state, out string
	repositories   []string
	plain          []string
	dry            bool
}

func (a *app) importFrom(kind string) *cobra.Command {
	f := &registryImportFlags{}
	cmd := &cobra.Command{
		Use:  kind + " URL --to HOST[/PREFIX]",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runImport(cmd.Context(), kind, args[0], f) },
	}
	const common = ` with what is signed and said about them (referrers, .sig, .att and .sbom tags),
digests unchanged, each tag last. With --state it goes on where an earlier run
broke off. Credentials of both sides are those of docker login. Nothing is
applied here: that the destination's gate judges what comes is its own affair.

Exit code 0: all is there. 1: something could not be copied; the report says what.`
	if kind == "harbor" {
		cmd.Short = "Copy a Harbor's images, and write its rules as documents to look at"
		cmd.Long = "Harbor copies projects, repositories and artifacts, tagged and not," + common + `

With --out, projects' visibility and tag immutability become Repository documents
for review. Retention rules and robot accounts are listed, and not taken over.`
		cmd.Example = `  assay import harbor https://harbor.example --to registry.example --state move.state --out docs.yaml
  assay import harbor https://harbor.example --to registry.example --dry-run -o json`
	} else {
		cmd.Short = "Copy the images of any registry with a catalog"
		cmd.Long = "Registry copies all tags of the repositories that the catalog lists," + common + `

The protocol does not list what has no tag: that stays behind, unless a tagged
index or a referrer leads to it.`
		cmd.Example = `  assay import registry https://old.example --to registry.example/old --repositories 'team/**' --state move.state`
	}
	fl := cmd.Flags()
	fl.StringVar(&f.to, "to", "", "HOST or HOST/PREFIX to copy to")
	fl.StringSliceVar(&f.repositories, "repositories", nil, "globs of the repositories to bring; default all")
	fl.StringVar(&f.state, "state", "", "FILE that remembers what is done")
	fl.StringSliceVar(&f.plain, "plain-http", nil, "HOST that speaks http, besides loopback")
	fl.BoolVar(&f.dry, "dry-run", false, "list, and copy nothing")
	if kind == "harbor" {
		fl.StringVar(&f.out, "out", "", "FILE for the documents made of Harbor's rules")
	}
	return cmd
}

func (a *app) runImport(ctx context.Context, kind, from string, f *registryImportFlags) error {
	u, err := url.Parse(from)
	if err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.Scheme != "https" && u.Scheme != "http" {
		return usagef("%q: want https://HOST", clean(from))
	}
	if f.to == "" && !f.dry {
		return usagef("want --to HOST[/PREFIX]")
	}
	if f.to != "" {
		if _, err := artifact.ParseReference(strings.TrimSuffix(f.to, "/") + "/x"); err != nil {
			return usagef("--to %q: want HOST or HOST/PREFIX", clean(f.to))
		}
	}
	var patterns []glob.Glob
	for _, p := range f.repositories {
		g, err := glob.Parse(p)
		if err != nil {
			return usagef("--repositories: %w", err)
		}
		patterns = append(patterns, g)
	}
	plain := f.plain
	if u.Scheme == "http" {
		plain = append(plain, u.Host)
	}
	c := oci.New(oci.Options{UserAgent: "assay/" + version(), Insecure: plain})
	inv := &migrate.Inventory{}
	if kind == "harbor" {
		h := &migrate.Harbor{URL: u.Scheme + "://" + u.Host}
		if h.User, h.Password, err = dockerLogin(u.Host); err != nil {
			return err
		}
		inv, err = h.Inventory(ctx, patterns)
	} else {
		inv.Items, err = migrate.Enumerate(ctx, c, u.Host, patterns)
		inv.NotTaken = []string{"manifests without a tag that nothing leads to: the protocol does not list them"}
	}
	if err != nil {
		return err
	}
	report := &migrate.Report{NotTaken: inv.NotTaken, Failed: []string{}}
	if f.out != "" {
		if _, prefix, ok := strings.Cut(strings.TrimSuffix(f.to, "/"), "/"); ok { // the rules are for where the images go
			for i := range inv.Rules {
				inv.Rules[i].Pattern = prefix + "/" + inv.Rules[i].Pattern
			}
			for i := range inv.Kept {
				for n := range inv.Kept[i].Repositories {
					inv.Kept[i].Repositories[n] = prefix + "/" + inv.Kept[i].Repositories[n]
				}
			}
		}
		if err := migrate.WriteDocuments(f.out, u.Host, inv.Rules, inv.Kept); err != nil {
			return err
		}
		report.Documents = f.out
	}
	if f.dry {
		return a.printImport(report, inv.Items)
	}
	bar := a.progress()
	m := &migrate.Mover{From: c, To: c, Source: u.Host, Target: strings.TrimSuffix(f.to, "/"), State: f.state, Step: bar.step,
		Progress: func(i migrate.Item, n, of int) {
			bar.mu.Lock()
			bar.what = fmt.Sprintf("%d of %d, %s: ", n+1, of, line(i.Repository))
			bar.mu.Unlock()
		}}
	err = m.Move(ctx, inv.Items, report)
	bar.end()
	if err != nil {
		return err
	}
	if err := a.printImport(report, nil); err != nil {
		return err
	}
	if len(report.Failed) > 0 {
		return &exitError{1}
	}
	return nil
}

func (a *app) printImport(r *migrate.Report, listed []migrate.Item) error {
	return a.print(r, func(w io.Writer) {
		for _, i := range listed {
			fmt.Fprintf(w, "would copy\t%s %s\n", line(i.Repository), line(i.Tag+string(i.Digest)))
		}
		fmt.Fprintf(w, "copied\t%d, %d bytes\n", r.Copied, r.Bytes)
		fmt.Fprintf(w, "done before\t%d\n", r.Done)
		for _, f := range r.Failed {
			fmt.Fprintf(w, "failed\t%s\n", line(f))
		}
		for _, n := range r.NotTaken {
			fmt.Fprintf(w, "not taken over\t%s\n", line(n))
		}
		if r.Documents != "" {
			fmt.Fprintf(w, "documents\t%s, to read and then to apply\n", line(r.Documents))
		}
	})
}

// dockerLogin gives the name and password that docker login kept for a host.
func dockerLogin(host string) (user, password string, err error) {
	reg, err := name.NewRegistry(host)
	if err != nil {
		return "", "", usagef("%w", err)
	}
	auth, err := authn.DefaultKeychain.Resolve(reg)
	if err != nil {
		return "", "", err
	}
	c, err := auth.Authorization()
	if err != nil {
		return "", "", err
	}
	return c.Username, c.Password, nil
}
