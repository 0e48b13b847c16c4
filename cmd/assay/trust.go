package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"assay/internal/durable"
	"assay/internal/fault"
	"assay/trust"

	"github.com/spf13/cobra"
)

func (a *app) trustCommand() *cobra.Command {
	var out string
	export := &cobra.Command{
		Use:   "export [--out FILE]",
		Short: "Write the trusted root: all that an offline verifier needs",
		Long: `Write one file, a Sigstore trusted_root.json: the keys and certificates of the
CA, the logs and the timestamp authority with the times in which each holds.
With it, assay verify --trusted-root and cosign verify --trusted-root need no
network at all. Carry it by a way that you trust.`,
		Example: "  assay trust export --data ./data --out trusted_root.json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			b, err := s.api().TrustExport(cmd.Context())
			if err != nil {
				return err
			}
			if _, err := trust.ParseTrustedRoot(b); err != nil {
				return fmt.Errorf("the server's trusted root: %w", err)
			}
			return a.writeOut(out, b)
		},
	}
	export.Flags().StringVar(&out, "out", "", "the file; default is standard output")
	var rootOut string
	root := &cobra.Command{
		Use:     "root [--out FILE]",
		Short:   "Write the TUF root.json that cosign initialize --root wants",
		Example: "  assay trust root --data ./data --out root.json\n  cosign initialize --mirror http://127.0.0.1:8484/tuf --root root.json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			b, err := s.api().TUFRoot(cmd.Context())
			if err != nil {
				return err
			}
			return a.writeOut(rootOut, b)
		},
	}
	root.Flags().StringVar(&rootOut, "out", "", "the file; default is standard output")
	inspect := &cobra.Command{
		Use:     "inspect FILE",
		Short:   "Show what a trusted root trusts, and when",
		Example: "  assay trust inspect trusted_root.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			r, err := readRoot(args[0])
			if err != nil {
				return err
			}
			return a.printRoot(r)
		},
	}
	return group("trust", "Roots of trust", append([]*cobra.Command{export, root, inspect, a.trustImport(), a.trustRoots(), a.trustDelegate(), a.trustDelegations()}, a.ceremonyCommands()...)...)
}

func (a *app) writeOut(path string, b []byte) error {
	if path == "" || path == "-" {
		_, err := a.stdout.Write(b)
		return err
	}
	if err := writeFile(path, b); err != nil {
		return err
	}
	a.notef("wrote %s (%d bytes)\n", line(path), len(b))
	return nil
}

// writeFile writes durably, and into a device or a pipe as it is: replacing
// /dev/stdout or /dev/null by a file would be a surprise.
func writeFile(path string, b []byte) error {
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		if st.IsDir() {
			return usagef("%s is a folder", line(path))
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return usagef("%w", err)
		}
		_, err = f.Write(b)
		return errors.Join(err, f.Close())
	}
	if err := durable.WriteFile(path, b, 0o644); err != nil {
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
			return usagef("%w", err)
		}
		return err
	}
	return nil
}

// readRoot reads a trusted root from a file that the caller trusts.
func readRoot(path string) (*trust.Root, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, usagef("trusted root: %w", err)
	}
	if st.Size() > 4<<20 {
		return nil, fault.Newf(fault.TooLarge, "%s: %d bytes are too many for a trusted root", path, st.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, usagef("trusted root: %w", err)
	}
	r, err := trust.ParseTrustedRoot(b, trust.WithName(path))
	if err != nil {
		var tuf struct {
			Signed struct {
				Type string `json:"_type"`
			} `json:"signed"`
		}
		if json.Unmarshal(b, &tuf) == nil && tuf.Signed.Type != "" {
			return nil, usagef("%s is TUF metadata (%s), not a trusted root: assay trust export writes one", path, clean(tuf.Signed.Type))
		}
		return nil, usagef("%s: %w", path, err)
	}
	return r, nil
}

// root finds the roots to verify under: the file that was named, else the
// server's own, by the admin socket or over TLS.
func (s *session) root(ctx context.Context, path string) (*trust.Root, error) {
	if path != "" {
		return readRoot(path)
	}
	if s.status == nil {
		return nil, usagef("no trust: give --trusted-root FILE (assay trust export writes one), or a server")
	}
	b, err := s.api().TrustExport(ctx)
	if err != nil {
		return nil, err
	}
	return trust.ParseTrustedRoot(b, trust.WithName(s.status.PublicURL))
}

type rootRow struct {
	What  string `json:"what"`
	URL   string `json:"url"`
	Key   string `json:"key"`
	Start string `json:"start"`
	End   string `json:"end,omitempty"`
}

func (a *app) printRoot(r *trust.Root) error {
	var rows []rootRow
	add := func(what, url, key string, w trust.Window) {
		row := rootRow{What: what, URL: url, Key: key, Start: stamp(w.Start)}
		if !w.End.IsZero() {
			row.End = stamp(w.End)
		}
		rows = append(rows, row)
	}
	p := r.Parts()
	for _, c := range p.CAs {
		fp, _ := trust.KeyFingerprint(c.Chain[len(c.Chain)-1].PublicKey)
		add("certificate authority", c.URL, fp, c.Window)
	}
	for _, c := range p.TSAs {
		fp, _ := trust.KeyFingerprint(c.Chain[len(c.Chain)-1].PublicKey)
		add("timestamp authority", c.URL, fp, c.Window)
	}
	for _, l := range p.Logs {
		fp, _ := trust.KeyFingerprint(l.Key)
		add("transparency log", l.URL, fp, l.Window)
	}
	for _, l := range p.CTLogs {
		fp, _ := trust.KeyFingerprint(l.Key)
		add("certificate log", l.URL, fp, l.Window)
	}
	return a.print(rows, func(w io.Writer) {
		fmt.Fprintln(w, "WHAT\tURL\tKEY\tFROM\tUNTIL")
		for _, row := range rows {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", row.What, dash(row.URL), row.Key, row.Start, dash(row.End))
		}
	})
}
