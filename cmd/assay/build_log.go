package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"assay/artifact"
	"assay/builder/buildlog"
	"assay/client"
	"assay/internal/fault"
	"assay/internal/secret"

	"github.com/spf13/cobra"
)

// buildLogCommand looks after what builds print.
func (a *app) buildLogCommand() *cobra.Command {
	return group("build-log", "What builds print, by build and artifact", a.buildLogUpload(), a.buildLogList(), a.buildLogShow(), a.buildLogSearch(), a.buildLogDelete())
}

func (a *app) buildLogUpload() *cobra.Command {
	var as string
	var u client.BuildLogUpload
	var targets []string
	cmd := &cobra.Command{
		Use:   "upload --build ID [--artifact TARGET …] [FILE]",
		Short: "Add a file, or standard input, to the log of a build",
		Long: `Add lines to the log of a build. ID is the build's, as its provenance names it
(invocationId); with it the log is shown at the artifacts that the provenance is
about. What is known as a secret by its form, or by the name before it, is taken
out, here and at the server; look through what you upload all the same.

A log is the uploader's word: it is signed by nobody and proves nothing.`,
		Example: `  make 2>&1 | tee make.log; assay build-log upload --build "$BUILD" make.log
  assay build-log upload --build 4711 --repository team/app --artifact registry.example/team/app:v1 < make.log`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if err := buildlog.ValidBuild(u.Build); err != nil {
				return usagef("--build: %w", err)
			}
			s, err := a.connect(ctx, as, "", true)
			if err != nil {
				return err
			}
			for _, text := range targets {
				t, err := s.resolve(ctx, text)
				if err != nil {
					return err
				}
				u.Artifacts = append(u.Artifacts, t.digest)
			}
			in := a.stdin
			if len(args) == 1 && args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return fault.Wrap(fault.Invalid, err)
				}
				defer f.Close()
				in = f
			}
			l, err := s.uploadLog(ctx, u, in, nil)
			if err != nil {
				return err
			}
			return a.print(l, func(w io.Writer) { showLog(w, l) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&u.Build, "build", "", "the build's ID")
	f.StringVar(&u.Repository, "repository", "", "whose log it is: who may read its evidence may read the log")
	f.StringSliceVar(&targets, "artifact", nil, "what the build made: an image, a file or a digest")
	f.StringVar(&u.Stream, "stream", "", "stdout, stderr, … for all lines")
	f.StringVar(&as, "subject", "", "with --data: the local identity to upload as")
	return cmd
}

// partSize is how much of a log goes in one request.
const partSize = 4 << 20

// uploadLog sends a log in parts, each of whole lines, without the secrets that
// are known.
func (s *session) uploadLog(ctx context.Context, u client.BuildLogUpload, in io.Reader, known []string) (l *client.BuildLog, err error) {
	// As who signs, so that the log and the provenance have one identity.
	c := s.api()
	if s.admin != nil && s.subject != "" {
		c = &client.Client{Base: s.base, HTTP: s.http, Token: func(ctx context.Context) (string, error) { return s.mint(ctx, "assay-api") }}
	}
	r := secret.NewRedactor(known)
	buf := make([]byte, 0, partSize)
	send := func(b []byte) error {
		var out strings.Builder
		for _, line := range strings.SplitAfter(string(b), "\n") {
			text, end := strings.CutSuffix(line, "\n")
			out.WriteString(r.Line(text))
			if end {
				out.WriteByte('\n')
			}
		}
		if out.Len() == 0 {
			return nil
		}
		l, err = c.UploadBuildLog(ctx, u, []byte(out.String()))
		if errors.Is(err, fault.Denied) && s.admin != nil && c != s.admin {
			c = s.admin // the identity may not, and who may open the socket may
			l, err = c.UploadBuildLog(ctx, u, []byte(out.String()))
		}
		return err
	}
	for {
		n, rerr := io.ReadFull(in, buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		last := rerr == io.EOF || rerr == io.ErrUnexpectedEOF
		if rerr != nil && !last {
			return l, rerr
		}
		cut := len(buf)
		if !last {
			if i := strings.LastIndexByte(string(buf), '\n'); i >= 0 {
				cut = i + 1
			}
		}
		if err := send(buf[:cut]); err != nil {
			return l, err
		}
		if buf = append(buf[:0], buf[cut:]...); last {
			break
		}
	}
	if l == nil {
		return nil, fault.Newf(fault.Invalid, "the log is empty: nothing was uploaded")
	}
	return l, nil
}

func showLog(w io.Writer, l *client.BuildLog) {
	fmt.Fprintf(w, "log\t%s\nbuild\t%s\n", line(l.ID), line(l.Build))
	fmt.Fprintf(w, "uploader\t%s\n", dash(l.Identity))
	if l.Repository != "" {
		fmt.Fprintf(w, "repository\t%s\n", line(l.Repository))
	}
	for _, d := range l.Artifacts {
		fmt.Fprintf(w, "artifact\t%s\n", line(string(d)))
	}
	if l.Provenance != "" {
		fmt.Fprintf(w, "provenance\t%s\t%s\n", line(l.Provenance), signedBy(l))
	}
	fmt.Fprintf(w, "lines\t%d\n", l.Lines)
	if l.Dropped > 0 {
		fmt.Fprintf(w, "dropped\t%d lines over the bound of a log\n", l.Dropped)
	}
	if l.Redacted > 0 {
		fmt.Fprintf(w, "redacted\t%d secrets\n", l.Redacted)
	}
}

func signedBy(l *client.BuildLog) string {
	if l.SameIdentity {
		return "of the same identity"
	}
	return "of another identity"
}

// logFilter reads a target into a filter.
func (s *session) logFilter(ctx context.Context, args []string, f *client.BuildLogFilter) error {
	if len(args) == 0 {
		return nil
	}
	t, err := s.resolve(ctx, args[0])
	if err != nil {
		return err
	}
	f.Digest = t.digest
	if f.Repository == "" {
		f.Repository = repositoryOf(t)
	}
	return nil
}

func (a *app) buildLogList() *cobra.Command {
	var as string
	var f client.BuildLogFilter
	cmd := &cobra.Command{
		Use:     "list [TARGET]",
		Short:   "List logs: of an artifact's builds, or all",
		Example: "  assay build-log list 127.0.0.1:8484/team/app:v1\n  assay build-log list --build bld_0197… -o json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err == nil {
				err = s.logFilter(cmd.Context(), args, &f)
			}
			if err != nil {
				return err
			}
			page, err := s.api().BuildLogs(cmd.Context(), f)
			if err != nil {
				return err
			}
			return a.print(page, func(w io.Writer) {
				fmt.Fprintln(w, "LOG\tBUILD\tLINES\tCHANGED\tUPLOADER\tPROVENANCE")
				for i := range page.Items {
					l := &page.Items[i]
					prov := "–"
					if l.Provenance != "" {
						prov = signedBy(l)
					}
					fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\n", line(l.ID), line(l.Build), l.Lines, stamp(l.ChangedAt), dash(l.Identity), prov)
				}
				if page.Next != "" {
					fmt.Fprintf(w, "more: --after %s\n", line(page.Next))
				}
			})
		},
	}
	buildLogFlags(cmd, &f, &as)
	return cmd
}

func buildLogFlags(cmd *cobra.Command, f *client.BuildLogFilter, as *string) {
	cmd.Flags().StringVar(&f.Build, "build", "", "only of this build")
	cmd.Flags().StringVar(&f.Repository, "repository", "", "the repository that you may read, where it is not all")
	cmd.Flags().StringVar(&f.After, "after", "", "continue after this cursor")
	cmd.Flags().IntVar(&f.Limit, "limit", 100, "at most so many")
	cmd.Flags().StringVar(as, "subject", "", "with --data: the local identity to ask as")
}

func (a *app) buildLogShow() *cobra.Command {
	var as string
	var from int64
	var limit int
	cmd := &cobra.Command{
		Use:     "show LOG",
		Short:   "Show the lines of a log; what a terminal would obey is shown as marks",
		Example: "  assay build-log show log_3f…\n  assay build-log show log_3f… --from 1200 --limit 50",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			s, err := a.connect(ctx, as, "", true)
			if err != nil {
				return err
			}
			out := client.List[client.BuildLogLine]{Items: []client.BuildLogLine{}}
			for at := max(from, 1); ; {
				page, err := s.api().BuildLogLines(ctx, args[0], at, min(1000, limit-len(out.Items)))
				if err != nil {
					return err
				}
				out.Items = append(out.Items, page.Items...)
				if out.Next = page.Next; page.Next == "" || len(out.Items) >= limit {
					break
				}
				at = page.Items[len(page.Items)-1].Number + 1
			}
			if a.output != "table" {
				return a.print(out, nil)
			}
			for i := range out.Items {
				a.printf("%s\n", line(out.Items[i].Text))
			}
			if out.Next != "" {
				a.notef("assay: there are more lines: --from %d\n", out.Items[len(out.Items)-1].Number+1)
			}
			return nil
		},
	}
	cmd.Flags().Int64Var(&from, "from", 1, "number of the first line")
	cmd.Flags().IntVar(&limit, "limit", 10000, "at most so many lines")
	cmd.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return cmd
}

func (a *app) buildLogSearch() *cobra.Command {
	var as string
	var f client.BuildLogFilter
	cmd := &cobra.Command{
		Use:     "search TEXT [TARGET]",
		Short:   "Find a text in logs; ends with 1 when it is in none",
		Example: "  assay build-log search 'undefined: foo' 127.0.0.1:8484/team/app:v1\n  assay build-log search panic --build bld_0197…",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err == nil {
				err = s.logFilter(cmd.Context(), args[1:], &f)
			}
			if err != nil {
				return err
			}
			f.Text = args[0]
			found, err := s.api().SearchBuildLogs(cmd.Context(), f)
			if err != nil {
				return err
			}
			if err := a.print(found, func(w io.Writer) {
				for _, l := range found.Items {
					fmt.Fprintf(w, "%s\t%d\t%s\n", line(l.Log), l.Number, line(l.Text))
				}
				if found.Next != "" {
					fmt.Fprintf(w, "more: --after %s\n", line(found.Next))
				}
			}); err != nil {
				return err
			}
			if len(found.Items) == 0 {
				return &exitError{1}
			}
			return nil
		},
	}
	buildLogFlags(cmd, &f, &as)
	cmd.Flags().StringVar(&f.Log, "log", "", "only in this log")
	return cmd
}

func (a *app) buildLogDelete() *cobra.Command {
	var as, reason string
	cmd := &cobra.Command{
		Use:     "delete LOG --reason TEXT",
		Short:   "Take a log away that holds what it should not; its bytes go with the next garbage collection",
		Example: "  assay build-log delete log_3f… --reason 'it holds a password' && assay registry gc --grace 0",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return usagef("want --reason TEXT, for the audit trail")
			}
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			return s.api().DeleteBuildLog(cmd.Context(), args[0], reason)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "for the audit trail")
	cmd.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return cmd
}

// repositoryOf is an image's repository; "" for what is none.
func repositoryOf(t *target) string {
	if t.image == nil {
		return ""
	}
	return t.image.Repository
}

// uploadFile adds a file to a build's log, for a command that does something else
// in the first place.
func (s *session) uploadFile(ctx context.Context, build, repository string, made []artifact.Digest, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fault.Wrap(fault.Invalid, err)
	}
	defer f.Close()
	_, err = s.uploadLog(ctx, client.BuildLogUpload{Build: build, Repository: repository, Artifacts: made}, f, nil)
	return err
}
