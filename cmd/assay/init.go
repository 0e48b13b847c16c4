package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"assay/builder/pipeline"
	"assay/client"
	"assay/internal/fault"

	"github.com/spf13/cobra"
)

func (a *app) initCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "init",
		Short:   "Write what a repository needs to begin",
		Example: "  assay init ci github --image assay.example/team/app --products app -- make app",
	}
	cmd.AddCommand(a.initCICommand(), a.initProfileCommand())
	return cmd
}

func (a *app) initCICommand() *cobra.Command {
	var o pipeline.Options
	var force, toStdout bool
	cmd := &cobra.Command{
		Use:                   "ci SYSTEM --image HOST/REPOSITORY --products FILE … [flags] -- COMMAND [ARG …]",
		DisableFlagsInUseLine: true,
		Short:                 "Write a pipeline that builds, attests, pushes and verifies",
		Long: `Write a CI pipeline for ` + strings.Join(pipeline.Systems(), ", ") + `: it fetches assay from your site, held to a
digest; builds under assay run; pushes the image with its provenance; signs;
and asks the site whether the image may run. It holds no secret: jobs use their
CI system's own short-lived tokens. What it brings in is pinned by digest.

Beside the pipeline, .assay/site.yaml holds what an operator of the site
applies once, so that the jobs are let in and their images allowed.`,
		Example: `  assay init ci github --server https://assay.example --source org/app \
    --image assay.example/org/app --materials . --products app -- make app
  assay init ci gitlab --stdout --image assay.example/group/app --products app -- make app`,
		ValidArgs: pipeline.Systems(),
		Args: func(_ *cobra.Command, args []string) error {
			switch len(args) {
			case 0:
				return usagef("for which CI system? Want one of %s", strings.Join(pipeline.Systems(), ", "))
			case 1:
				return usagef("what builds it? Name the command after --, for example: assay init ci %s --image HOST/REPOSITORY --products app -- make app", clean(args[0]))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.System = pipeline.System(args[0])
			if !slices.Contains(pipeline.Systems(), args[0]) {
				return usagef("no CI system %q: want one of %s", line(args[0]), strings.Join(pipeline.Systems(), ", "))
			}
			o.Command = args[1:]
			if o.Image == "" {
				return usagef("want --image HOST/REPOSITORY: where do the images go?")
			}
			host, repository, _ := strings.Cut(o.Image, "/")
			if o.Source == "" {
				o.Source = repository
			}
			if o.Server = a.server; o.Server == "" {
				o.Server = "https://" + host
			}
			if err := a.pinProgram(cmd, &o); err != nil {
				return err
			}
			p, err := pipeline.Write(o)
			if err != nil {
				return usagef("%w", err)
			}
			if toStdout {
				_, err := a.stdout.Write(p.Body)
				return err
			}
			site := filepath.Join(".assay", "site.yaml")
			for path, body := range map[string][]byte{p.Path: p.Body, site: p.Site} {
				if err := create(path, body, force); err != nil {
					return err
				}
			}
			return a.print(map[string]string{"pipeline": p.Path, "site": site}, func(w io.Writer) {
				fmt.Fprintf(w, "pipeline\t%s\nsite\t%s\tan operator looks at it, then: assay apply -f %s\n", p.Path, site, site)
			})
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&o.Image, "image", "", "where images go: HOST/REPOSITORY; each build's tag is its commit")
	fl.StringVar(&o.Source, "source", "", "the repository's name at its forge, OWNER/NAME; in Tekton the namespace (default: the image's repository)")
	fl.StringVar(&o.Branch, "branch", "main", "the protected branch whose commits are built")
	fl.StringSliceVar(&o.Materials, "materials", nil, "files or folders that the build reads")
	fl.StringSliceVar(&o.Products, "products", nil, "files that the build makes")
	fl.BoolVar(&o.Trace, "trace", false, "observe the build: files, programs, connections")
	fl.StringVar(&o.Platform, "platform", "linux-"+runtime.GOARCH, "of the runners: OS-ARCH of the program that they fetch")
	fl.StringVar(&o.SHA256, "sha256", "", "digest of the program (default: of the one that the site has, else this one's)")
	fl.BoolVar(&force, "force", false, "replace files that are there")
	fl.BoolVar(&toStdout, "stdout", false, "print the pipeline and write nothing")
	return cmd
}

// pinProgram finds the digest of the program that runners will fetch: the
// site says it, and when it is this very program, we know it ourselves.
func (a *app) pinProgram(cmd *cobra.Command, o *pipeline.Options) error {
	if o.SHA256 != "" {
		return nil
	}
	h, err := a.httpClient()
	if err != nil {
		return err
	}
	u, err := url.Parse(o.Server)
	if err != nil || u.Host == "" {
		return usagef("--server %s: want https://HOST[:PORT]", line(o.Server))
	}
	list, err := (&client.Client{Base: o.Server, HTTP: h}).Downloads(cmd.Context())
	switch {
	case err != nil && o.Platform == runtime.GOOS+"-"+runtime.GOARCH:
		o.SHA256, err = ownDigest()
		if err == nil {
			a.notef("assay: %s does not answer; the pipeline is pinned to this program, sha256 %s\n", line(o.Server), o.SHA256)
		}
		return err
	case err != nil:
		return fault.Newf(fault.Unavailable, "the program for %s: %w; give its --sha256", line(o.Platform), err)
	}
	for _, d := range list.Items {
		if d.OS+"-"+d.Arch == o.Platform {
			o.SHA256 = d.SHA256
			return nil
		}
	}
	return fault.Newf(fault.NotFound, "%s has no program for %s: give --platform of the site's own, or have runners get it elsewhere and give --sha256", line(o.Server), line(o.Platform))
}

func ownDigest() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// create writes a new file, and replaces one only when told to.
func create(path string, body []byte, force bool) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // a folder of the user's repository
		return err
	}
	how := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if force {
		how = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	mode := os.FileMode(0o644)
	if strings.HasSuffix(path, ".sh") {
		mode = 0o755
	}
	f, err := os.OpenFile(path, how, mode)
	if os.IsExist(err) {
		return fault.Newf(fault.Conflict, "%s is there: look at it, then give --force, or --stdout to merge by hand", path)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(body)
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}
