package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"assay/api"
	"assay/client"
	"assay/event"
	"assay/internal/durable"
	"assay/internal/fault"
	"assay/sbom"
	"assay/store"
	"assay/vuln/canary"
	"assay/vuln/exploit"
	"assay/vuln/feed"
	vulnfinding "assay/vuln/finding"

	"github.com/spf13/cobra"
)

// gateFlags are those of assay scan TARGET.
type gateFlags struct {
	scan   scanFlags
	failOn []string
	fixed  bool // --ignore-unfixed
	reach  bool // --reachability
	called bool // --ignore-uncalled
	maxAge time.Duration
	format string

	attestType string
}

// Formats of assay scan besides those of every command.
const (
	formatSARIF  = "sarif"
	formatGitHub = "github"
	// formatOpenVEX is what govulncheck found not to be called, as statements.
	formatOpenVEX = "openvex"
)

func (a *app) scanCommand() *cobra.Command {
	var f gateFlags
	c := &cobra.Command{
		Use:   "scan TARGET",
		Short: "Do advisories affect what TARGET is made of? A gate for pipelines",
		Long: `Look up what TARGET is made of in the advisories in force: an image, an archive,
a folder, a program, a lock file, a bill of materials, or "-" for standard input.

The advisories are the server's, or those of a data folder without a running
server (--data DIR; see assay feed import). Nothing is fetched.

Ends with 0 when nothing of what --fail-on names was found and nothing is left to
know, with 1 when something was, with 2 when nothing was but something is unknown:
a document that is incomplete, a component that no feed knows, a feed that is
missing or older than --max-age. --fail-on unknown makes that 1. Malicious packages
always fail.

With --attest the result is signed about the digest of TARGET, as in-toto's vulns
predicate (v0.2), with what is not known: a scan's statement, whoever reads it.
--attest-type vuln writes cosign's own form of it (cosign verify-attestation --type vuln).`,
		Example: `  assay scan --data ./data --fail-on critical,high ./app
  assay scan registry.example/team/app:v1 --ignore-unfixed
  assay scan --fail-on 'critical,kev,epss>0.5' ./app
  assay scan . -o sarif > assay.sarif
  assay sbom ./app | assay scan --name app.cdx.json -`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return unjudged(a.gate(cmd.Context(), &f, args[0])) },
	}
	fl := c.Flags()
	fl.StringSliceVar(&f.failOn, "fail-on", []string{"low"}, "what fails: the least severity (critical, high, medium, low, none), kev, epss>0.5, and unknown for what is not known")
	fl.BoolVar(&f.fixed, "ignore-unfixed", false, "leave out what no version mends")
	fl.BoolVar(&f.reach, "reachability", false, "have govulncheck say which flaws of Go modules TARGET's code comes to")
	fl.BoolVar(&f.called, "ignore-uncalled", false, "with --reachability: leave out what is known not to be called")
	fl.DurationVar(&f.maxAge, "max-age", 48*time.Hour, "with --data and no server: how old a feed may be")
	fl.StringVarP(&f.format, "output", "o", "", "table, json, yaml, sarif, github, or with --reachability openvex (default table)")
	fl.StringVar(&f.scan.platform, "platform", "", "of an index: OS/ARCHITECTURE[/VARIANT] (default linux and this machine's)")
	fl.StringVar(&f.scan.name, "name", "", "of standard input: what it would be called as a file")
	fl.BoolVar(&f.scan.attest, "attest", false, "sign the result about the digest of TARGET, whatever it is")
	c.Flags().StringVar(&f.attestType, "attest-type", "vulns", "with --attest: vulns (in-toto's predicate) or vuln (cosign's)")
	f.scan.sign.register(c)
	complete(c, "attest-type", "vulns", "vuln")
	complete(c, "output", "table", "json", "yaml", formatSARIF, formatGitHub, formatOpenVEX)
	complete(c, "fail-on", "critical", "high", "medium", "low", "kev", "epss>0.5", "unknown")
	return c
}

// unjudged is an error in place of a judgement: what could not be looked up is no
// finding (1), but unknown (2).
func unjudged(err error) error {
	var judged *exitError
	if err == nil || errors.As(err, &judged) {
		return err
	}
	return undecided(err)
}

var severityRank = map[string]int{"none": 1, "low": 2, "medium": 3, "high": 4, "critical": 5}

// threshold is --fail-on, read.
type threshold struct {
	least   int     // rank of severity that fails; 6: none does
	unknown bool    // what is not known does
	kev     bool    // what is known to be exploited does
	epss    float64 // what is more probable to be does; 2: nothing
}

func (f *gateFlags) threshold() (t threshold, err error) {
	t = threshold{least: 6, epss: 2}
	for _, w := range f.failOn {
		over, isEPSS := strings.CutPrefix(w, "epss>")
		switch {
		case w == "unknown":
			t.unknown = true
		case w == "kev":
			t.kev = true
		case isEPSS:
			p, err := strconv.ParseFloat(over, 64)
			if err != nil || !(p >= 0 && p < 1) {
				return t, usagef("--fail-on %q: want a probability from 0 to 1, such as epss>0.5", clean(w))
			}
			t.epss = p
		case w == "epss":
			return t, usagef("--fail-on epss: want a probability, quoted for the shell: --fail-on 'epss>0.5'")
		case severityRank[w] > 0:
			t.least = min(t.least, severityRank[w])
		default:
			return t, usagef("--fail-on %q: want critical, high, medium, low, none, kev, epss>NUMBER or unknown", clean(w))
		}
	}
	return t, nil
}

// fails says whether a finding is one to fail on. A flaw that nobody rates may be
// of any severity, unless only exploitation was asked about.
func (t threshold) fails(i client.Finding) bool {
	if i.Malicious {
		return true
	}
	if i.Settled() {
		return false // by a statement of the site
	}
	if i.Status == "unknown" {
		return t.unknown
	}
	rank, rated := severityRank[i.Severity]
	return rank >= t.least || !rated && t.least < 6 || t.kev && i.KEV != "" || i.EPSS > t.epss
}

func (a *app) gate(ctx context.Context, f *gateFlags, text string) error {
	limit, err := f.threshold()
	if err != nil {
		return err
	}
	switch f.format {
	case "", "table", "json", "yaml":
		if a.output = f.format; a.output == "" {
			a.output = "table"
		}
	case formatSARIF, formatGitHub:
	case formatOpenVEX:
		if !f.reach {
			return usagef("--output openvex states what is not called: it goes with --reachability")
		}
	default:
		return usagef("--output %q: want table, json, yaml, sarif, github or openvex", clean(f.format))
	}
	if _, err := f.attestURI(); err != nil {
		return err
	}
	if f.scan.attest && a.noServer() {
		return errNoSigner()
	}
	f.scan.quiet = true
	started := time.Now()
	s, err := a.scanSession(ctx, &f.scan, text)
	if err != nil {
		return err
	}
	d, t, err := s.scan(ctx, &f.scan, text)
	if err != nil {
		return err
	}
	got, err := a.judged(ctx, f, d)
	if err != nil {
		return err
	}
	enterPaths(d, got)
	if f.called && !f.reach {
		return usagef("--ignore-uncalled goes with --reachability: without it nobody knows what is called")
	}
	if f.reach {
		if err := a.reachability(ctx, f, text, got); err != nil {
			return err
		}
	}
	if f.scan.attest { // all that was found, before anything is left out
		if err := s.attestScan(ctx, f, d, t, got, started); err != nil {
			return err
		}
	}
	if f.called {
		got.Items = slices.DeleteFunc(got.Items, unreached)
	}
	if f.fixed {
		got.Items = slices.DeleteFunc(got.Items, func(i client.Finding) bool { return i.Fixed == "" && !i.Malicious && (!limit.kev || i.KEV == "") })
	}
	switch f.format {
	case formatSARIF:
		err = writeSARIF(a.stdout, text, got)
	case formatGitHub:
		writeAnnotations(a.stdout, text, got)
	case formatOpenVEX:
		err = writeReach(a.stdout, d, got, started)
	default:
		err = a.print(got, func(w io.Writer) { tableOfFindings(w, got, limit.fails) })
	}
	if err != nil {
		return err
	}
	if slices.ContainsFunc(got.Items, limit.fails) {
		return &exitError{1}
	}
	doubt := !got.Coverage.Complete() || slices.ContainsFunc(got.Items, func(i client.Finding) bool { return i.Status == "unknown" })
	// A list that is asked about and is not there says nothing.
	doubt = doubt || limit.kev && !got.Coverage.KEV || limit.epss < 2 && !got.Coverage.EPSS
	switch {
	case doubt && limit.unknown:
		return &exitError{1}
	case doubt:
		return &exitError{2}
	}
	return nil
}

// judged asks the server, or the data folder where no server runs.
func (a *app) judged(ctx context.Context, f *gateFlags, d *sbom.Document) (*client.Findings, error) {
	direct := d.Direct()
	q := client.ScanRequest{Incomplete: d.Missing()}
	for _, c := range d.Packages() {
		one := client.ScanComponent{PURL: c.Keyed().String(), Name: c.FullName(), Version: c.Version, SourceName: c.SourceName, SourceVersion: c.SourceVersion, Direct: "unknown"}
		if direct != nil {
			one.Direct = "transitive"
			if direct[c.Ref] || slices.Contains(d.Roots, c.Ref) {
				one.Direct = "direct"
			}
		}
		q.Components = append(q.Components, one)
	}
	if a.noServer() {
		feeds, exploits, done, err := a.localFeeds(ctx, false)
		if err != nil {
			return nil, err
		}
		defer done()
		list := make([]vulnfinding.Component, len(q.Components))
		for i, c := range q.Components {
			list[i] = vulnfinding.Component(c)
		}
		book, err := exploits.Book(ctx)
		if err != nil {
			return nil, err
		}
		all, st, err := vulnfinding.Judge(ctx, feeds, book, list, q.Incomplete, time.Now(), f.maxAge)
		if err != nil {
			return nil, err
		}
		out := api.WireFindings("", all, st)
		return &out, nil
	}
	s, err := a.connect(ctx, f.scan.sign.subject, "", true)
	if err != nil {
		return nil, err
	}
	return s.api().Scan(ctx, q)
}

// noServer says that --data names a folder on which no server runs: its admin
// socket is not there, or nobody answers.
func (a *app) noServer() bool {
	if a.data == "" {
		return false
	}
	lock, err := durable.Lock(filepath.Join(a.data, "lock"))
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	lock.Close()
	return true
}

// localFeeds opens the advisories of a data folder without a server. To write, the
// folder is made where it is not there, and locked.
func (a *app) localFeeds(ctx context.Context, write bool) (feeds *feed.Store, exploits *exploit.Store, done func(), err error) {
	path := filepath.Join(a.data, "assay.db")
	var lock io.Closer
	if write {
		if err := os.MkdirAll(a.data, 0o700); err != nil {
			return nil, nil, nil, err
		}
		if lock, err = durable.Lock(filepath.Join(a.data, "lock")); err != nil {
			return nil, nil, nil, err
		}
	} else if _, err := os.Stat(path); err != nil {
		return nil, nil, nil, fault.Newf(fault.NotFound, "no advisories in %s: bring some with assay feed import --data %s PATH", a.data, a.data)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, nil, nil, err
	}
	db, err := store.Open(ctx, "sqlite:"+abs)
	if err == nil {
		err = a.bringUp(ctx, db, write)
	}
	if err == nil {
		feeds, err = feed.NewStore(db, feed.DefaultLimits(), nil)
	}
	if err == nil && write {
		feeds.Before = canary.New(db, feeds, nil).Guard
	}
	done = func() {
		if db != nil {
			db.Close()
		}
		if lock != nil {
			lock.Close()
		}
	}
	if err != nil {
		done()
		return nil, nil, nil, err
	}
	return feeds, exploit.NewStore(db), done, nil
}

// bringUp brings the tables of advisories to what this binary reads. Who only
// reads does so where nobody else is on the folder.
func (a *app) bringUp(ctx context.Context, db *store.DB, write bool) error {
	sets := []store.Migrations{event.Migrations, feed.Migrations, exploit.Migrations, canary.Migrations}
	if !write {
		behind, err := db.Behind(ctx, sets...)
		if err != nil || !behind {
			return err
		}
		lock, err := durable.Lock(filepath.Join(a.data, "lock"))
		if err != nil {
			return fault.Newf(fault.Unavailable, "the advisories in %s are of an older version of assay, and something runs on the folder; start that anew with this version: %w", a.data, err)
		}
		defer lock.Close()
	}
	return db.Migrate(ctx, sets...)
}

func writeAnnotations(w io.Writer, target string, got *client.Findings) {
	escape := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace
	for _, i := range got.Items {
		kind := "warning"
		if i.Malicious || severityRank[i.Severity] >= severityRank["high"] {
			kind = "error"
		}
		mend := "no version mends it"
		if i.Fixed != "" {
			mend = "mended by " + i.Fixed
		}
		fmt.Fprintf(w, "::%s title=%s::%s\n", kind, strings.NewReplacer(":", "%3A", ",", "%2C").Replace(escape(line(i.Name))), escape(line(fmt.Sprintf("%s: %s %s (%s), %s. %s", target, i.Component, i.Status, i.Severity, mend, i.Summary))))
	}
}
