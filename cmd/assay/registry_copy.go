package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"assay/artifact"
	"assay/internal/oci"

	"github.com/spf13/cobra"
)

func (a *app) registryCopy() *cobra.Command {
	var recursive bool
	var plain []string
	cmd := &cobra.Command{
		Use:   "copy SOURCE DESTINATION",
		Short: "Copy an image with all that is signed and said about it, its tag last",
		Long: `Copy writes blobs, then manifests, then all referrers (and what refers to them,
and cosign's sha256-….sig, .att and .sbom tags), each under the digest that it
has, and the destination's tag last: whoever pulls by that tag sees all of it or
nothing. Either side may be any registry; credentials are those of docker login.
What is there already is skipped, so a copy that broke off is simply run again.

Without a tag, DESTINATION takes SOURCE's; with --recursive=false, the image is
copied without what refers to it.

Exit code 0: all is there. 1: refused. 64: wrong usage.`,
		Example: `  assay registry copy registry-a.example/team/app:v1 registry-b.example/team/app:v1
  assay registry copy ghcr.io/org/app@sha256:3f… 127.0.0.1:8484/org/app:v1 -o json`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			src, err := artifact.ParseReference(args[0])
			if err != nil {
				return usagef("%w", err)
			}
			dst, err := artifact.ParseReference(args[1])
			if err != nil {
				return usagef("%w", err)
			}
			if src.Tag == "" && src.Digest == "" {
				src.Tag = "latest"
			}
			if dst.Tag == "" && dst.Digest == "" {
				dst.Tag = src.Tag
			}
			c := oci.New(oci.Options{UserAgent: "assay/" + version(), Insecure: plain})
			bar := a.progress()
			copier := &oci.Copier{From: c, To: c, Alone: !recursive, Progress: bar.step}
			done, err := copier.Copy(cmd.Context(), src, dst)
			bar.end()
			if err != nil {
				return err
			}
			return a.print(done, func(w io.Writer) {
				fmt.Fprintf(w, "copied\t%s\n", line(dst.Host+"/"+dst.Repository+tagOf(dst)+"@"+string(done.Digest)))
				fmt.Fprintf(w, "written\t%d manifests, %d blobs, %d bytes\n", done.Manifests, done.Blobs, done.Bytes)
				fmt.Fprintf(w, "there already\t%d\n", done.Skipped)
				fmt.Fprintf(w, "referrers\t%d\n", done.Referrers)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&recursive, "recursive", true, "with what refers to the image, and what refers to that")
	f.StringSliceVar(&plain, "plain-http", nil, "HOST that speaks http, besides loopback")
	return cmd
}

func tagOf(r artifact.Reference) string {
	if r.Tag == "" {
		return ""
	}
	return ":" + r.Tag
}

// progress shows on a terminal how far a copy is.
type progress struct {
	w    io.Writer // nil: no terminal
	what string

	mu      sync.Mutex
	written int64
	steps   int
	shown   time.Time
	width   int
}

func (a *app) progress() *progress {
	p := &progress{}
	if terminal(a.stderr) {
		p.w = a.stderr
	}
	return p
}

func (p *progress) step(s oci.Step) {
	if p.w == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.steps++
	if !s.There {
		p.written += s.Size
	}
	if time.Since(p.shown) < 100*time.Millisecond {
		return
	}
	p.shown = time.Now()
	text := fmt.Sprintf("%s%d manifests and blobs, %.1f MB", p.what, p.steps, float64(p.written)/1e6)
	fmt.Fprintf(p.w, "\r%s%s", text, strings.Repeat(" ", max(0, p.width-len(text))))
	p.width = len(text)
}

func (p *progress) end() {
	if p.w != nil && p.width > 0 {
		fmt.Fprintf(p.w, "\r%s\r", strings.Repeat(" ", p.width))
	}
}
