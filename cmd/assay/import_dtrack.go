package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"

	"assay/client"
	"assay/vuln/dtrack"

	"github.com/spf13/cobra"
)

type dtrackFlags struct {
	key, state, vex, subject string
	reason, until            string
	repositories             []string
	dry, adopt               bool
}

func (a *app) importDependencyTrack() *cobra.Command {
	var f dtrackFlags
	cmd := &cobra.Command{
		Use:   "dependency-track URL",
		Short: "Bring over a Dependency-Track's projects: bills of materials, analyses and suppressions",
		Long: `Bring over what a Dependency-Track holds: each project's bill of materials is
handed in under its name and version, as its CI jobs may go on doing (see PUT
/api/v1/bom). Nobody signed it: it is searched and matched, and evidence of nothing.

What people decided about findings becomes an OpenVEX document (--vex FILE) to look
at; with --adopt the site states it, a document for each project: signed, logged, on
record under who imports, with a reason and an end, so that findings honour it. That
wants the role approver. A decision is about the project as it is handed in here, and
with --repository about images too. Imported again, what changed takes the place of
what was. A suppression without a reason is no decision: it is listed, and not taken
over.

The API key is read from a file, or from DEPENDENCY_TRACK_API_KEY. With --state an
import goes on where an earlier one broke off.

Exit code 0: all is there. 1: something could not be brought over; the report says what.`,
		Example: `  assay import dependency-track https://dtrack.example --api-key-file key --state move.state --vex decisions.openvex.json
  assay import dependency-track https://dtrack.example --adopt --until 180d --repository shop=team/shop
  assay import dependency-track https://dtrack.example --dry-run -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.moveDependencyTrack(cmd.Context(), &f, args[0])
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.key, "api-key-file", "", "FILE with the API key; default the environment's DEPENDENCY_TRACK_API_KEY")
	fl.StringVar(&f.state, "state", "", "FILE that remembers what is done")
	fl.StringVar(&f.vex, "vex", "", "FILE for what was decided, as OpenVEX")
	fl.BoolVar(&f.adopt, "adopt", false, "have the site state what was decided (wants the role approver)")
	fl.StringVar(&f.reason, "reason", "", "with --adopt: why, on record (default that it was decided there)")
	fl.StringVar(&f.until, "until", "180d", "with --adopt: when it ends: 2027-01-31, RFC 3339, or from now on")
	fl.StringArrayVar(&f.repositories, "repository", nil, "PROJECT=PATTERN: what was decided about PROJECT holds for images of these repositories too; can be repeated")
	fl.StringVar(&f.subject, "subject", "", "with --data: the local identity to hand in as")
	fl.BoolVar(&f.dry, "dry-run", false, "list, and hand in nothing")
	return cmd
}

// dtrackReport is what came over.
type dtrackReport struct {
	Projects   int      `json:"projects"`
	BOMs       int      `json:"boms"`
	Done       int      `json:"done_before"`
	Components int      `json:"decided_findings"`
	Statements int      `json:"statements"`
	VEX        string   `json:"vex,omitempty"`
	Adopted    int      `json:"adopted"`            // statements that the site states now and did not before
	Withdrawn  int      `json:"withdrawn"`          // documents that they took the place of
	Proposed   int      `json:"proposed,omitempty"` // statements that wait for another person
	NotTaken   []string `json:"not_taken_over"`
	Failed     []string `json:"failed"`
}

func (a *app) moveDependencyTrack(ctx context.Context, f *dtrackFlags, from string) error {
	u, err := url.Parse(from)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http" {
		return usagef("%q: want https://HOST", clean(from))
	}
	key := os.Getenv("DEPENDENCY_TRACK_API_KEY")
	if f.key != "" {
		b, err := os.ReadFile(f.key)
		if err != nil {
			return err
		}
		key = strings.TrimSpace(string(b))
	}
	if key == "" {
		return usagef("want --api-key-file FILE, or DEPENDENCY_TRACK_API_KEY in the environment")
	}
	done := map[string]bool{}
	if f.state != "" {
		b, err := os.ReadFile(f.state)
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		for l := range strings.Lines(string(b)) {
			if strings.HasSuffix(l, "\n") { // the last one may have been cut short
				done[strings.TrimSpace(l)] = true
			}
		}
	}
	h, err := a.httpClient()
	if err != nil {
		return err
	}
	d := &dtrack.Client{URL: strings.TrimSuffix(from, "/"), Key: key, HTTP: h}
	projects, err := d.Projects(ctx)
	if err != nil {
		return err
	}
	m := &dtrackMove{from: d, host: u.Host}
	if m.repositories, err = repositoriesOf(f.repositories); err != nil {
		return err
	}
	if !f.dry {
		s, err := a.connect(ctx, f.subject, "", true)
		if err != nil {
			return err
		}
		m.to = s.api()
		if f.adopt {
			if m.adopt, err = s.newAdoption(ctx, u.Host, f); err != nil {
				return err
			}
		}
	}
	r := &dtrackReport{Projects: len(projects), NotTaken: []string{}, Failed: []string{}}
	var statements []*dtrack.Statement
	for n, p := range projects {
		if terminal(a.stderr) {
			a.notef("\r\x1b[K%d of %d, %s", n+1, len(projects), line(p.Name))
		}
		name := strings.TrimSpace(p.Name + " " + p.Version)
		some, err := m.project(ctx, p, done[p.UUID], r)
		statements = append(statements, some...)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.Failed = append(r.Failed, name+": "+err.Error())
			continue
		}
		if f.state != "" && !f.dry && !done[p.UUID] {
			if err := appendLine(f.state, p.UUID); err != nil {
				return err
			}
		}
	}
	if terminal(a.stderr) {
		a.notef("\r\x1b[K")
	}
	if r.Statements = len(statements); f.vex != "" && r.Statements > 0 {
		if err := writeVEX(f.vex, u.Host, statements); err != nil {
			return err
		}
		r.VEX = f.vex
	}
	if err := a.print(r, func(w io.Writer) { tableOfMove(w, r) }); err != nil {
		return err
	}
	if len(r.Failed) > 0 {
		return &exitError{1}
	}
	return nil
}

// dtrackMove is one import.
type dtrackMove struct {
	from         *dtrack.Client
	host         string
	to           *client.Client // nil: nothing is handed in
	adopt        *adoption      // nil: nothing is stated
	repositories map[string][]string
}

// project hands in a project's document, unless it was before, and collects what
// was decided.
func (m *dtrackMove) project(ctx context.Context, p dtrack.Project, before bool, r *dtrackReport) (out []*dtrack.Statement, err error) {
	name := strings.TrimSpace(p.Name + " " + p.Version)
	findings, err := m.from.Findings(ctx, p)
	if err != nil {
		return nil, err
	}
	for i := range findings {
		f := &findings[i]
		if err := m.from.Decided(ctx, p, f); err != nil {
			return nil, err
		}
		s, why := dtrack.Convert(p, *f, m.repositories[p.Name]...)
		if s != nil || why != "" {
			r.Components++
		}
		if s != nil {
			out = append(out, s)
		} else if why != "" {
			r.NotTaken = append(r.NotTaken, fmt.Sprintf("%s: %s of %s %s: %s", name, f.Vulnerability.ID, f.Component.Name, f.Component.Version, why))
		}
	}
	if m.adopt != nil {
		if err := m.adopt.project(ctx, m.host, p, out, r); err != nil {
			return out, err
		}
	}
	if before {
		r.Done++
		return out, nil
	}
	bom, err := m.from.BOM(ctx, p)
	if err != nil {
		return out, err
	}
	if len(bom) == 0 {
		r.NotTaken = append(r.NotTaken, name+": it has no bill of materials")
		return out, nil
	}
	if m.to != nil {
		if _, err := m.to.UploadBOM(ctx, client.BOMUpload{ProjectName: p.Name, ProjectVersion: p.Version, AutoCreate: true, BOM: base64.StdEncoding.EncodeToString(bom)}); err != nil {
			return out, err
		}
	}
	r.BOMs++
	return out, nil
}

func appendLine(path, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(f, text); err != nil {
		f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func tableOfMove(w io.Writer, r *dtrackReport) {
	fmt.Fprintf(w, "projects\t%d\n", r.Projects)
	fmt.Fprintf(w, "bills of materials\t%d\n", r.BOMs)
	fmt.Fprintf(w, "done before\t%d\n", r.Done)
	fmt.Fprintf(w, "decisions\t%d, of which %d are statements\n", r.Components, r.Statements)
	for _, n := range slices.Concat(prefixed("not taken over", r.NotTaken), prefixed("failed", r.Failed)) {
		fmt.Fprintln(w, n)
	}
	if r.Adopted+r.Withdrawn > 0 {
		fmt.Fprintf(w, "adopted\t%d statements; %d documents taken back\n", r.Adopted, r.Withdrawn)
	}
	if r.Proposed > 0 {
		fmt.Fprintf(w, "proposed\t%d statements, which another person approves: assay vex proposals\n", r.Proposed)
	}
	if r.VEX != "" {
		fmt.Fprintf(w, "statements\t%s, to read and then to sign\n", line(r.VEX))
	}
}

func prefixed(with string, all []string) (out []string) {
	for _, s := range all {
		out = append(out, with+"\t"+line(s))
	}
	return out
}
