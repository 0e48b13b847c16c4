package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"assay/internal/clock"
	"assay/internal/glob"
	"assay/sbom"
	"assay/vuln/dtrack"
	"assay/vuln/vex"
)

// adoption has the site state what people decided in a Dependency-Track.
type adoption struct {
	s      *session
	author string // of the documents: the server that they come from
	reason string
	until  time.Time
	stands map[string][]vex.Entry // what of that author is in force, by the project's digest
}

// newAdoption reads what is in force of the same author.
func (s *session) newAdoption(ctx context.Context, host string, f *dtrackFlags) (*adoption, error) {
	until, err := untilOf(f.until)
	if err != nil {
		return nil, err
	}
	if until.IsZero() {
		return nil, usagef("--until: want when what is adopted ends, such as 180d")
	}
	a := &adoption{s: s, author: dtrackAuthor(host), reason: f.reason, until: until, stands: map[string][]vex.Entry{}}
	if a.reason == "" {
		a.reason = "decided in " + a.author + ", and taken over from there"
	}
	err = s.eachStatement(ctx, false, func(e vex.Entry) {
		if e.Source != vex.Import || e.Author != a.author || len(e.Statements) == 0 {
			return
		}
		for _, p := range e.Statements[0].Products {
			if strings.HasPrefix(p, "sha256:") {
				a.stands[p] = append(a.stands[p], e)
			}
		}
	})
	return a, err
}

func dtrackAuthor(host string) string { return "Dependency-Track " + host }

// project states a project's decisions, unless they stand already, and takes those
// back that stood in their place.
func (a *adoption) project(ctx context.Context, host string, p dtrack.Project, statements []*dtrack.Statement, r *dtrackReport) error {
	before := a.stands[string(sbom.ProjectSubject(p.Name, p.Version))]
	if len(statements) > 0 {
		text, err := vexOf(host, statements)
		if err != nil {
			return err
		}
		d, err := vex.Read(text)
		if err != nil {
			return fmt.Errorf("its decisions make no statement: %w", err)
		}
		for i := range before {
			if same(&before[i], d.Statements) {
				before = slices.Delete(slices.Clone(before), i, i+1)
				return a.withdraw(ctx, before, r)
			}
		}
		var e vex.Entry
		if err := a.s.api().ImportVEX(ctx, text, a.reason, a.until, &e); err != nil {
			return fmt.Errorf("state its decisions: %w", err)
		}
		if e.Proposed { // what stands, stands until another person approves
			r.Proposed += len(statements)
			return nil
		}
		r.Adopted += len(statements)
	}
	return a.withdraw(ctx, before, r)
}

func (a *adoption) withdraw(ctx context.Context, old []vex.Entry, r *dtrackReport) error {
	for _, e := range old {
		var out vex.Entry
		if err := a.s.api().WithdrawVEX(ctx, e.ID, "decided otherwise in "+a.author, &out); err != nil {
			return fmt.Errorf("take back %s: %w", e.ID, err)
		}
		r.Withdrawn++
	}
	return nil
}

// same says whether an entry states the statements. Its own end, which the import
// gave it, is none of theirs.
func same(e *vex.Entry, statements []vex.Statement) bool {
	plain := func(all []vex.Statement) []byte {
		all = slices.Clone(all)
		for i := range all {
			if u := &all[i].Until; !e.Until.IsZero() && !u.Before(e.Until) {
				*u = time.Time{}
			}
		}
		b, _ := json.Marshal(all) // it was read from JSON
		return b
	}
	return bytes.Equal(plain(e.Statements), plain(statements))
}

// repositoriesOf reads PROJECT=PATTERN.
func repositoriesOf(in []string) (map[string][]string, error) {
	out := map[string][]string{}
	for _, one := range in {
		project, pattern, is := strings.Cut(one, "=")
		if _, err := glob.Parse(pattern); err != nil || !is || project == "" || pattern == "" {
			return nil, usagef("--repository %q: want PROJECT=PATTERN, such as shop=team/shop", line(one))
		}
		out[project] = append(out[project], pattern)
	}
	return out, nil
}

// vexOf is the document of decisions.
func vexOf(host string, statements []*dtrack.Statement) ([]byte, error) {
	b, err := json.MarshalIndent(map[string]any{
		"@context": vex.PredicateOpenVEX, "@id": "https://" + host + "/assay-import", "author": dtrackAuthor(host),
		"timestamp": clock.System().UTC().Format(time.RFC3339), "version": 1, "statements": statements,
	}, "", "  ")
	return append(b, '\n'), err
}

func writeVEX(path, host string, statements []*dtrack.Statement) error {
	b, err := vexOf(host, statements)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}
