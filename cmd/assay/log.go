package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"assay/internal/fault"
	"assay/tlog"
	"assay/tlog/rekor"
	"assay/trust"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"
)

func (a *app) logCommand() *cobra.Command {
	return group("log", "The transparency log", a.logInspect(), a.logVerify(), a.logMonitor(), a.logVKey())
}

// logFlags say which log is read and under whose key.
type logFlags struct{ root string }

func (f *logFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.root, "trusted-root", "", "trusted root that pins the log's key; needed with --server, since a log's own word on its key is worth nothing")
}

// logKeys are the pinned keys of a log: current now, newest first, and past.
type logKeys struct{ current, past []note.Verifier }

// openLog gives the log's source and its pinned keys.
func (s *session) openLog(ctx context.Context, f *logFlags) (tlog.Source, logKeys, error) {
	if f.root == "" && s.admin == nil {
		return nil, logKeys{}, usagef("want --trusted-root FILE to pin the log's key (assay trust export writes one on the server's machine)")
	}
	root, err := s.root(ctx, f.root)
	if err != nil {
		return nil, logKeys{}, err
	}
	keys, err := logVerifiers(root, s.status.Services.Rekor, time.Now())
	if err != nil {
		return nil, logKeys{}, err
	}
	if s.admin != nil {
		// The owner of the socket may read all, without a token for each tile.
		return tlog.HTTP{URL: s.admin.Base + "/rekor/api/v2", Client: s.admin.HTTP}, keys, nil
	}
	return tlog.HTTP{URL: s.status.Services.Rekor + "/api/v2", Client: s.logClient()}, keys, nil
}

// logClient reads a log's tiles with the token of this session.
func (s *session) logClient() *http.Client {
	return &http.Client{
		Timeout:   30 * time.Second,
		Transport: &bearer{s: s, next: s.http.Transport},
		// The token would go along to wherever a redirect points.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// logVerifiers finds the keys of the log at base among the root's logs.
func logVerifiers(root *trust.Root, base string, now time.Time) (logKeys, error) {
	want, err := url.Parse(base)
	if err != nil {
		return logKeys{}, fault.Wrap(fault.Invalid, err)
	}
	var keys logKeys
	for _, l := range root.Parts().Logs {
		if u, err := url.Parse(l.URL); err == nil && u.Hostname() == want.Hostname() {
			v, err := tlog.NewVerifier(u.Hostname(), l.Key)
			switch {
			case err != nil:
				return logKeys{}, err
			case l.Window.Contains(now):
				keys.current = append(keys.current, v)
			default:
				keys.past = append(keys.past, v)
			}
		}
	}
	if len(keys.current) > 0 {
		return keys, nil
	}
	return logKeys{}, fault.Newf(fault.Unverified, "the trusted root knows no log of %s whose key holds today", want.Hostname())
}

// bearer adds a token of the API where a log asks for a role.
type bearer struct {
	s    *session
	next http.RoundTripper
}

func (b *bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.Contains(r.URL.Path, "/tile/entries/") || strings.Contains(r.URL.Path, "/tile/data/") {
		token, err := b.s.tokenFor(r.Context(), "assay-api")
		if err != nil {
			return nil, err
		}
		if token != "" {
			r = r.Clone(r.Context())
			r.Header.Set("Authorization", "Bearer "+token)
		}
	}
	return b.next.RoundTrip(r)
}

func (s *session) tree(ctx context.Context, f *logFlags) (*tlog.Tree, tlog.Checkpoint, error) {
	src, keys, err := s.openLog(ctx, f)
	if err != nil {
		return nil, tlog.Checkpoint{}, err
	}
	b, err := src.Checkpoint(ctx)
	if err != nil {
		return nil, tlog.Checkpoint{}, err
	}
	cp, err := tlog.ParseCheckpoint(b, keys.current[0], keys.current[1:]...)
	if err != nil {
		return nil, cp, err
	}
	t, err := tlog.LoadTree(ctx, src, tlog.Plain{}, cp)
	return t, cp, err
}

func (a *app) logInspect() *cobra.Command {
	var f logFlags
	cmd := &cobra.Command{
		Use:   "inspect INDEX",
		Short: "Show one entry, proved to be in the log",
		Example: `  assay log inspect --data ./data 0
  assay log inspect --server https://assay.example --trusted-root root.json 17 -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			index, err := strconv.ParseUint(args[0], 10, 63)
			if err != nil {
				return usagef("INDEX %q: want a number from 0", clean(args[0]))
			}
			s, err := a.connect(ctx, "operator@localhost", "", true)
			if err != nil {
				return err
			}
			tree, cp, err := s.tree(ctx, &f)
			if err != nil {
				return err
			}
			if index >= cp.Size {
				return fault.Newf(fault.NotFound, "the log has %d entries, the last is %d", cp.Size, int64(cp.Size)-1)
			}
			// Records are checked against the signed checkpoint as they are read.
			rs, err := tree.Records(ctx, index, index+1)
			if err != nil {
				return err
			}
			in := rekor.Inspect(rs[0])
			return a.print(in, func(w io.Writer) {
				fmt.Fprintf(w, "index\t%d of %d\n", in.Index, cp.Size)
				fmt.Fprintf(w, "kind\t%s %s\n", dash(in.Kind), clean(in.Version))
				fmt.Fprintf(w, "signed\t%s\n", dash(in.Digest))
				fmt.Fprintf(w, "identity\t%s\n", dash(in.Identity))
				fmt.Fprintf(w, "issuer\t%s\n", dash(in.Issuer))
				fmt.Fprintf(w, "key\t%s\n", dash(in.KeyFingerprint))
				fmt.Fprintf(w, "leaf hash\t%s\n", in.LeafHash)
				fmt.Fprintf(w, "in the log\tproved under the checkpoint of %s at size %d\n", clean(cp.Origin), cp.Size)
			})
		},
	}
	f.register(cmd)
	return cmd
}

// logReport is what log verify prints.
type logReport struct {
	Origin  string `json:"origin"`
	Size    uint64 `json:"size"`
	Root    string `json:"root"`
	Entries uint64 `json:"entries_read"`
}

func (a *app) logVerify() *cobra.Command {
	var f logFlags
	var hashesOnly bool
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Read the whole log and prove every entry under its signed checkpoint",
		Long: `Read the checkpoint, check its signature under the pinned key, read every
entry, and prove it a member of the signed tree. With --hashes-only the hash
tiles alone are checked, which needs no role.`,
		Example: `  assay log verify --data ./data
  assay log verify --server https://assay.example --trusted-root root.json --hashes-only`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			s, err := a.connect(ctx, "operator@localhost", "", true)
			if err != nil {
				return err
			}
			tree, cp, err := s.tree(ctx, &f)
			if err != nil {
				return err
			}
			out := logReport{Origin: cp.Origin, Size: cp.Size, Root: fmt.Sprintf("%x", cp.Root)}
			const page = 256
			for from := uint64(0); from < cp.Size && !hashesOnly; from += page {
				rs, err := tree.Records(ctx, from, min(from+page, cp.Size))
				if err != nil {
					return err
				}
				out.Entries += uint64(len(rs))
				if terminal(a.stderr) {
					a.notef("\r%d of %d entries", out.Entries, cp.Size)
				}
			}
			if terminal(a.stderr) && out.Entries > 0 {
				a.notef("\n")
			}
			return a.print(out, func(w io.Writer) {
				fmt.Fprintf(w, "log\t%s\n", clean(out.Origin))
				fmt.Fprintf(w, "size\t%d\n", out.Size)
				fmt.Fprintf(w, "root hash\t%s\n", out.Root)
				fmt.Fprintf(w, "verified\tcheckpoint signature, hash tiles, %d entries\n", out.Entries)
			})
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&hashesOnly, "hashes-only", false, "do not read entries")
	return cmd
}
