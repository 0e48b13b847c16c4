package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"assay/internal/durable"
	"assay/internal/fault"
	"assay/trust"

	"github.com/spf13/cobra"
)

// finding is one probe's outcome.
type finding struct {
	Probe  string `json:"probe"`
	Status string `json:"status"` // ok, warning, failed
	Found  string `json:"found"`
	Mend   string `json:"mend,omitempty"`
}

func (a *app) doctorCommand() *cobra.Command {
	var f readyFlags
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Probe a running site and say what is wrong and how to mend it",
		Long: `Probe a running site: does it answer, is its clock right, does its log hold
under its own trusted root, is its TUF metadata fresh, is the data folder
private. Exit code 0 when all is well, 1 with failures, 2 when the site cannot
be reached.

With --stage it says whether the site is ready for production, and how mature it
is, by trying its defences and not by reading its configuration: an unsigned push
(--repository), a Pod by dry run (--kubeconfig), the last page and who took it, the
last restore, services without owner or runbook. Exit code 0 when all checks pass, 1
when one fails, 2 when something is not known.`,
		Example: "  assay doctor --data ./data\n  assay doctor --server https://assay.example -o json\n  assay doctor --stage production --repository probes/unsigned --kubeconfig ~/.kube/config",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
			defer cancel()
			if f.stage != "" {
				return a.ready(ctx, &f)
			}
			s, err := a.connect(ctx, "doctor@localhost", "", true)
			if err != nil {
				return err
			}
			var all []finding
			for _, p := range []struct {
				name string
				run  func(context.Context) (string, string, error)
			}{
				{"server is ready", s.probeReady},
				{"clock agrees", s.probeClock},
				{"trusted root reads", s.probeRoot},
				{"log holds under its key", s.probeLog},
				{"TUF metadata is fresh", s.probeTUF},
				{"data folder is private", s.probeData},
				{"keys are sealed", s.probeKeys},
			} {
				found, mend, err := p.run(ctx)
				f := finding{Probe: p.name, Status: "ok", Found: found, Mend: mend}
				switch {
				case errors.Is(err, errSkip):
					continue
				case errors.Is(err, errWarning):
					f.Status = "warning"
				case err != nil:
					f.Status, f.Found = "failed", err.Error()
				}
				all = append(all, f)
			}
			failed := 0
			if err := a.print(all, func(w io.Writer) {
				for _, f := range all {
					colour := green
					if f.Status != "ok" {
						colour = red
					}
					fmt.Fprintf(w, "%s\t%s\t%s\n", a.paint(fmt.Sprintf("%-7s", f.Status), colour), f.Probe, line(f.Found))
					if f.Mend != "" && f.Status != "ok" {
						fmt.Fprintf(w, "\t\tmend: %s\n", clean(f.Mend))
					}
				}
			}); err != nil {
				return err
			}
			for _, f := range all {
				if f.Status == "failed" {
					failed++
				}
			}
			if failed > 0 {
				return &exitError{1}
			}
			return nil
		},
	}
	f.add(cmd)
	cmd.AddCommand(a.doctorRecordCommand())
	return cmd
}

var (
	errSkip    = errors.New("does not apply")
	errWarning = errors.New("warning")
)

func (s *session) get(ctx context.Context, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.status.PublicURL+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, fault.Newf(fault.Unavailable, "%w", err)
	}
	return resp, nil
}

func (s *session) probeReady(ctx context.Context) (string, string, error) {
	resp, err := s.get(ctx, "/readyz")
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return s.status.PublicURL + ", version " + s.status.Version, "", nil
	case http.StatusNotFound:
		return "health is on the operations listener, not here", "", nil
	}
	return "", "read the server's log", fmt.Errorf("/readyz answers %d", resp.StatusCode)
}

func (s *session) probeClock(ctx context.Context) (string, string, error) {
	resp, err := s.get(ctx, "/")
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	at, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return "", "", errSkip
	}
	skew := time.Since(at).Abs().Truncate(time.Second)
	if skew > 10*time.Second {
		return fmt.Sprintf("the server's clock and this one differ by %s", skew), "run NTP on both: tokens and certificates live for minutes", errWarning
	}
	return fmt.Sprintf("within %s of this machine's", max(skew, time.Second)), "", nil
}

func (s *session) probeRoot(ctx context.Context) (string, string, error) {
	r, err := s.root(ctx, "")
	if err != nil {
		return "", "", err
	}
	p := r.Parts()
	for _, ca := range append(append([]trust.Authority{}, p.CAs...), p.TSAs...) {
		for _, c := range ca.Chain {
			if left := time.Until(c.NotAfter); left < 30*24*time.Hour {
				return fmt.Sprintf("certificate %s ends %s", c.Subject, stamp(c.NotAfter)), "rotate it before that", errWarning
			}
		}
	}
	return fmt.Sprintf("%d CA, %d TSA, %d log, %d certificate log", len(p.CAs), len(p.TSAs), len(p.Logs), len(p.CTLogs)), "", nil
}

func (s *session) probeLog(ctx context.Context) (string, string, error) {
	if s.admin == nil {
		return "", "", errSkip // a remote log's key has to be pinned: assay log verify --trusted-root
	}
	_, cp, err := s.tree(ctx, &logFlags{})
	if err != nil {
		return "", "stop writing to this site and compare with a monitor's state or a backup", err
	}
	return fmt.Sprintf("%d entries, checkpoint of %s signed and its tree whole", cp.Size, cp.Origin), "", nil
}

func (s *session) probeTUF(ctx context.Context) (string, string, error) {
	resp, err := s.get(ctx, "/tuf/timestamp.json")
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var m struct {
		Signed struct {
			Type    string    `json:"_type"`
			Expires time.Time `json:"expires"`
		} `json:"signed"`
	}
	if err != nil || resp.StatusCode != http.StatusOK || json.Unmarshal(b, &m) != nil || m.Signed.Type != "timestamp" {
		return "", "read the server's log", fmt.Errorf("timestamp.json: status %d, type %q", resp.StatusCode, m.Signed.Type)
	}
	if left := time.Until(m.Signed.Expires); left <= 0 {
		return "", "read the server's log: it refreshes this by itself", fmt.Errorf("timestamp.json ended %s", stamp(m.Signed.Expires))
	}
	return fmt.Sprintf("%s, fresh until %s", s.status.Services.TUF, stamp(m.Signed.Expires)), "", nil
}

func (s *session) probeData(context.Context) (string, string, error) {
	if s.app.data == "" {
		return "", "", errSkip
	}
	for _, sub := range []string{".", "keys", "run", "log", "ct", "blobs"} {
		if err := durable.CheckPrivate(filepath.Join(s.app.data, sub)); err != nil {
			return "", "", err
		}
	}
	return s.app.data, "", nil
}

func (s *session) probeKeys(context.Context) (string, string, error) {
	if s.app.data == "" {
		return "", "", errSkip
	}
	files, err := filepath.Glob(filepath.Join(s.app.data, "keys", "*.pem"))
	if err != nil || len(files) == 0 {
		return "", "", errSkip
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return "", "", err
		}
		if bytes.Contains(b, []byte("BEGIN PRIVATE KEY")) {
			return "keys lie in the clear, under the folder's mode alone", "stop the server and seal them: assay keys encrypt (docs/keys.md)", errWarning
		}
	}
	return fmt.Sprintf("%d key files", len(files)), "", nil
}
