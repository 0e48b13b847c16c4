package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"assay/artifact"
	"assay/assess"
	"assay/internal/fault"
	"assay/internal/keyring"
	"assay/internal/kube"
	"assay/internal/oci"
	"assay/inventory/cluster"
	"assay/policy"
	"assay/sbom/scan"
	"assay/store"
	"assay/trust"
	"assay/trust/revocation"
	"assay/verify"
	"assay/vuln/exploit"
	"assay/vuln/feed"

	"github.com/spf13/cobra"
)

// assessFlags are those of assay assess.
type assessFlags struct {
	kube, kubeconfig string
	namespaces       []string
	registry, images string
	html, json       string
	verify           verifyFlags // --policy, --trusted-root, --tuf-…, --revocations
	keys             []string
	issuer, ci       string
	feeds            string
	maxAge           time.Duration
	scan             bool
	limit, parallel  int
	perHost          int
	timeout          time.Duration
}

func (a *app) assessCommand() *cobra.Command {
	var f assessFlags
	c := &cobra.Command{
		Use:   "assess",
		Short: "A first look, without a server: what runs, who signed it, and what a policy would deny",
		Long: `Look at what runs in a cluster, at the tags of a registry, or at a list of images,
and write one HTML file and one JSON file: digests by signature, provenance and bill of
materials; who signed; tags that moved since start; malicious and known exploited
components; and what the profile gate-enforced would deny, by cause, with the fixes that
help most.

It only reads: GET and HEAD of registries, lists of Kubernetes. Signatures are verified
under the roots and keys that are given (--trusted-root, --tuf-root with --tuf-mirror,
--key, or those of a server that is named); all others are claims, and their names no
signers. Advisories are those of --feeds or of a data folder (--data); without them, what
is malicious or exploited is unknown. What could not be read is unknown, too.

With neither --kube, --registry nor --images it is the current context of the kubeconfig.
It ends after --timeout, or when it is interrupted, and writes what is known until then.

Exit codes: 0 all is allowed and known, 1 something would be denied or is malicious or
known to be exploited, 2 nothing is but something is unknown, 64 usage.`,
		Example: `  assay assess
  assay assess --kube prod-eu --trusted-root trusted_root.json --issuer https://token.actions.githubusercontent.com \
    --ci https://github.com/acme/app/.github/workflows/release.yml@refs/heads/main --feeds ./osv
  assay assess --registry https://registry.example
  assay assess --images images.txt --html - --json none`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.assess(cmd, &f) },
	}
	fl := c.Flags()
	fl.StringVar(&f.kube, "kube", "", "context of the kubeconfig whose cluster to look at")
	fl.StringVar(&f.kubeconfig, "kubeconfig", "", "file of a user who may list Pods (default $KUBECONFIG, else ~/.kube/config, else the Pod's own service account)")
	fl.StringArrayVar(&f.namespaces, "namespace", nil, "of the cluster only this namespace; can be repeated")
	fl.StringVar(&f.registry, "registry", "", "registry (URL or HOST[:PORT]) whose repositories and tags to look at")
	fl.StringVar(&f.images, "images", "", `file of image references, one on a line; "-" is standard input`)
	fl.StringVar(&f.html, "html", "assessment.html", `where to write the page; "-" is standard output, "none" is nowhere`)
	fl.StringVar(&f.json, "json", "assessment.json", `where to write the same as JSON; "-" and "none" as above`)
	fl.StringVar(&f.verify.policyFile, "policy", "", "a policy document to ask, in place of the profile's")
	fl.StringArrayVar(&f.verify.roots, "trusted-root", nil, "Sigstore trusted_root.json to verify under; can be repeated")
	fl.StringArrayVar(&f.keys, "key", nil, "public key (PEM) whose signatures count, with the root of their log; can be repeated")
	fl.BoolVar(&f.verify.ignoreTlog, "insecure-ignore-tlog", false, "with --key: count its signatures also without a log entry and timestamp")
	fl.StringVar(&f.verify.lists.file, "revocations", "", "a signed list of revocations (assay revocations export); with --tuf-root")
	f.verify.lists.register(c)
	fl.StringVar(&f.verify.lists.mirror, "tuf-mirror", "", "with --tuf-root: get trusted root and revocations from this TUF repository")
	fl.BoolVar(&f.verify.lists.offline, "offline", false, "with --tuf-mirror: use what was fetched before, within its time")
	fl.StringVar(&f.issuer, "issuer", "", "OIDC issuer of your pipeline's identity; with --ci")
	fl.StringVar(&f.ci, "ci", "", "the subject that your pipeline signs as, whose word the policy takes")
	fl.StringVar(&f.feeds, "feeds", "", "advisories: what assay feed import takes (default those of --data)")
	fl.DurationVar(&f.maxAge, "max-age", 48*time.Hour, "how old advisories may be")
	fl.BoolVar(&f.scan, "scan", false, "with advisories: read the layers of images whose bill of materials did not verify")
	fl.StringVar(&f.verify.environment, "environment", "", "where it runs, for policies that select on it")
	fl.IntVar(&f.limit, "limit", 5000, "at most this many digests")
	fl.IntVar(&f.parallel, "parallel", 16, "so many digests at once")
	fl.IntVar(&f.perHost, "per-host", 8, "of these, so many of one registry")
	fl.DurationVar(&f.timeout, "timeout", 5*time.Minute, "when to end and write what is known")
	fl.StringVar(&f.verify.subject, "subject", "", "with --data of a running server: the local identity to read the registry as")
	return c
}

func (f *assessFlags) check() error {
	switch {
	case f.limit < 1 || f.limit > 100_000:
		return usagef("--limit %d: want 1 to 100000", f.limit)
	case f.parallel < 1 || f.parallel > 256 || f.perHost < 1 || f.perHost > 256:
		return usagef("--parallel and --per-host: want 1 to 256")
	case f.timeout <= 0:
		return usagef("--timeout %s: want a time", f.timeout)
	case (f.issuer == "") != (f.ci == ""):
		return usagef("--issuer and --ci go together: an identity is a subject by its issuer")
	case f.verify.policyFile != "" && f.ci != "":
		return usagef("give --policy, which names whose word counts, or --issuer and --ci")
	case f.html == "-" && f.json == "-":
		return usagef("only one of --html and --json can be standard output")
	case f.images == "" && f.registry != "" && f.kube+f.kubeconfig == "" && len(f.namespaces) > 0:
		return usagef("--namespace is of a cluster: give --kube, too")
	}
	return f.verify.lists.check()
}

func (a *app) assess(cmd *cobra.Command, f *assessFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
	defer cancel()
	o, done, err := a.assessWith(ctx, f)
	if err != nil {
		return err
	}
	defer done()
	if terminal(a.stderr) {
		o.Progress = func(n, of int) { a.notef("\r\x1b[K%d of %d looked at", n, of) }
	}
	run, err := assess.New(*o)
	if err != nil {
		return err
	}
	if err := a.assessSources(ctx, f, run); err != nil {
		return err
	}
	r := run.Look(ctx)
	if terminal(a.stderr) {
		a.notef("\r\x1b[K")
	}
	return a.assessed(f, r)
}

// assessWith is what the look is made with.
func (a *app) assessWith(ctx context.Context, f *assessFlags) (o *assess.Options, done func(), err error) {
	s, err := a.assessSession(ctx, f)
	if err != nil {
		return nil, nil, err
	}
	o = &assess.Options{
		Client: oci.New(oci.Options{Keychain: keychain{s}, Transport: assess.ReadOnly(s.http.Transport), UserAgent: "assay/" + version()}),
		Scope:  policy.Scope{ID: "assessment", Environment: f.verify.environment}, MaxAge: f.maxAge,
		Limit: f.limit, Parallel: f.parallel, PerHost: f.perHost,
	}
	fingerprints, err := a.assessTrust(ctx, f, s, o)
	if err != nil {
		return nil, nil, err
	}
	if f.verify.policyFile != "" {
		p, _, err := f.verify.policy(a)
		if err != nil {
			return nil, nil, err
		}
		o.Policy, o.Judged = p, assess.Judged{Name: p.Name(), Hash: p.Hash(), Signers: []string{"those whom policy " + p.Name() + " names"}}
	} else {
		var who []policy.IdentityMatch
		if f.ci != "" {
			who = append(who, policy.IdentityMatch{Issuer: f.issuer, Subject: f.ci})
		}
		if o.Policy, o.Judged, err = assess.ProfilePolicy(who, fingerprints); err != nil {
			return nil, nil, usagef("--issuer, --ci: %w", err)
		}
	}
	done, err = a.assessFeeds(ctx, f, o)
	if err != nil {
		return nil, nil, err
	}
	if f.scan {
		o.Scan = func(ctx context.Context, ref artifact.Reference) ([]assess.Component, []string, error) {
			d, err := scan.Image(ctx, o.Client, ref, scan.Options{Platform: "linux/" + runtime.GOARCH, Tool: "assay " + version(), Now: time.Now(), TempDir: os.TempDir()})
			if err != nil {
				return nil, nil, err
			}
			return assess.Components(d), d.Missing(), nil
		}
	}
	return o, done, nil
}

// assessSession speaks to a server only where one is named, and runs.
func (a *app) assessSession(ctx context.Context, f *assessFlags) (*session, error) {
	if a.server == "" && (a.data == "" || a.noServer()) {
		s := &session{app: a}
		var err error
		s.http, err = a.httpClient()
		return s, err
	}
	return a.connect(ctx, f.verify.subject, "", false)
}

// assessTrust makes the verifier of what was given. With nothing there is none.
func (a *app) assessTrust(ctx context.Context, f *assessFlags, s *session, o *assess.Options) (fingerprints []string, err error) {
	v := verify.VerifierOptions{Lists: map[string]*revocation.Signed{}}
	for _, path := range f.keys {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, usagef("--key: %w", err)
		}
		pub, err := keyring.ParsePublic(b)
		if err != nil {
			return nil, usagef("--key %s: %w", line(path), err)
		}
		fp, err := trust.KeyFingerprint(pub)
		if err != nil {
			return nil, err
		}
		v.Keys, fingerprints = append(v.Keys, trust.Key{Public: pub}), append(fingerprints, fp)
	}
	if len(f.keys) > 0 && len(f.verify.roots) == 0 && f.verify.lists.mirror == "" && s.status == nil && !f.verify.ignoreTlog {
		return nil, usagef("--key alone verifies no signature: give --trusted-root, the root of the log that holds them, or --insecure-ignore-tlog where they are in none")
	}
	if len(f.verify.roots) > 0 || f.verify.lists.mirror != "" || s.status != nil || f.verify.ignoreTlog {
		if err := s.trustHere(ctx, &f.verify, &v, &verify.Target{}); err != nil {
			return nil, err
		}
	} else if f.verify.lists.file != "" {
		return nil, usagef("--revocations goes with --trusted-root or --tuf-mirror")
	}
	if len(v.Keys)+len(v.Roots)+len(v.Foreign) == 0 {
		return nil, nil
	}
	o.Verifier, err = verify.NewVerifier(v)
	o.Keys, o.NoLog = fingerprints, f.verify.ignoreTlog
	return fingerprints, err
}

// assessFeeds opens the advisories: an archive in a database that is gone after, or
// those of a data folder. With neither there are none.
func (a *app) assessFeeds(ctx context.Context, f *assessFlags, o *assess.Options) (done func(), err error) {
	done = func() {}
	switch {
	case f.feeds != "":
		o.From = f.feeds
		if o.Feeds, o.Exploits, done, err = importFeeds(ctx, f.feeds, f.maxAge); err != nil {
			return nil, fmt.Errorf("--feeds: %w", err)
		}
	case a.data != "":
		if _, err := os.Stat(filepath.Join(a.data, "assay.db")); err != nil {
			return done, nil //nolint:nilerr // a folder without advisories: they are not known
		}
		o.From = a.data
		feeds, exploits, shut, err := a.localFeeds(ctx, false)
		if err != nil {
			return nil, err
		}
		if o.Exploits, err = exploits.Book(ctx); err != nil {
			shut()
			return nil, err
		}
		o.Feeds, done = feeds, shut
	}
	if f.scan && o.Feeds == nil {
		done()
		return nil, usagef("--scan looks up what images are made of: give --feeds PATH, or --data DIR with advisories")
	}
	return done, nil
}

// importFeeds brings advisories into a database of their own.
func importFeeds(ctx context.Context, path string, maxAge time.Duration) (*feed.Store, *exploit.Book, func(), error) {
	found, err := feed.Find(path)
	if err != nil {
		return nil, nil, nil, err
	}
	dir, err := os.MkdirTemp("", "assay-assess-")
	if err != nil {
		return nil, nil, nil, err
	}
	db, err := store.Open(ctx, "sqlite:"+filepath.Join(dir, "assay.db"))
	done := func() {
		if db != nil {
			db.Close()
		}
		_ = os.RemoveAll(dir)
	}
	fail := func(err error) (*feed.Store, *exploit.Book, func(), error) { done(); return nil, nil, nil, err }
	if err != nil {
		return fail(err)
	}
	if err := (&app{}).bringUp(ctx, db, true); err != nil {
		return fail(err)
	}
	feeds, err := feed.NewStore(db, feed.DefaultLimits(), nil)
	if err != nil {
		return fail(err)
	}
	exploits := exploit.NewStore(db)
	for _, one := range found {
		if err := importOne(ctx, one, feeds, exploits, maxAge); err != nil {
			return fail(fmt.Errorf("%s: %w", line(one.Path), err))
		}
	}
	book, err := exploits.Book(ctx)
	if err != nil {
		return fail(err)
	}
	return feeds, book, done, nil
}

// importOne brings in one archive or list. One whose file is older than advisories may
// be is refused: when it was fetched, nobody says better.
func importOne(ctx context.Context, one feed.Found, feeds *feed.Store, exploits *exploit.Store, maxAge time.Duration) error {
	st, err := os.Stat(one.Path)
	if err != nil {
		return err
	}
	if age := time.Since(st.ModTime()); age > maxAge {
		return fault.Newf(fault.Invalid, "it is of %s, and advisories may be %s old: bring newer ones, or say --max-age", st.ModTime().UTC().Format(time.DateOnly), maxAge)
	}
	if one.List {
		in, err := os.Open(one.Path)
		if err != nil {
			return err
		}
		defer in.Close()
		_, err = exploits.Import(ctx, in, "system:admin", "")
		return err
	}
	archive, err := one.Open()
	if err != nil {
		return err
	}
	defer archive.Close()
	_, err = feeds.Import(ctx, archive, feed.Options{Name: "feeds", Ecosystem: one.Ecosystem, Actor: "system:admin"})
	return err
}

// assessSources names what is to be looked at.
func (a *app) assessSources(ctx context.Context, f *assessFlags, run *assess.Run) error {
	if f.images != "" {
		refs, err := a.imageList(f.images)
		if err != nil {
			return err
		}
		run.Images(ctx, "list", f.images, refs)
	}
	if f.registry != "" {
		host, err := assessedHost(f.registry)
		if err != nil {
			return err
		}
		run.Registry(ctx, host)
	}
	if f.kube+f.kubeconfig == "" && len(f.namespaces) == 0 && f.images+f.registry != "" {
		return nil
	}
	k, name, err := f.cluster()
	if err != nil {
		return usagef("%w; or give --registry URL, or --images FILE", err)
	}
	all, unread, err := cluster.List(ctx, k.ReadOnly(), f.namespaces...)
	run.Cluster(name, all, unread, err)
	return nil
}

// cluster is whose Pods are listed.
func (f *assessFlags) cluster() (*kube.Client, string, error) {
	path := f.kubeconfig
	if path == "" {
		path, _, _ = strings.Cut(os.Getenv("KUBECONFIG"), string(os.PathListSeparator))
	}
	if path == "" {
		if home, err := os.UserHomeDir(); err == nil {
			if p := filepath.Join(home, ".kube", "config"); exists(p) {
				path = p
			}
		}
	}
	name := f.kube
	var k *kube.Client
	var err error
	if path == "" && f.kube == "" {
		k, err = kube.InCluster()
	} else {
		k, err = kube.FromFile(path, f.kube)
	}
	if err == nil && name == "" {
		name = strings.TrimPrefix(k.Server(), "https://")
	}
	return k, name, err
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

// maxImageList bounds a list of images, in bytes.
const maxImageList = 16 << 20

// imageList reads references, one on a line; what follows a # is for people.
func (a *app) imageList(path string) (refs []string, err error) {
	b, err := a.readInput(path, maxImageList)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		text, _, _ := strings.Cut(s.Text(), "#")
		if text = strings.TrimSpace(text); text != "" && !seen[text] {
			seen[text] = true
			refs = append(refs, text)
		}
	}
	if len(refs) == 0 {
		return nil, usagef("--images %s names no image: want one reference on a line", line(path))
	}
	return refs, nil
}

// assessedHost is the host of a registry's URL.
func assessedHost(s string) (string, error) {
	host, scheme := s, "https"
	if strings.Contains(s, "://") {
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" && strings.Trim(u.Path, "/") != "v2" || u.RawQuery+u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http" {
			return "", usagef("--registry %q: want https://HOST[:PORT]", line(s))
		}
		host, scheme = u.Host, u.Scheme
	}
	ref, err := artifact.ParseReference(host + "/x")
	if err != nil {
		return "", usagef("--registry %q: want https://HOST[:PORT]", line(s))
	}
	if scheme == "http" && !ref.Loopback() {
		return "", usagef("--registry %q: want https; http is for loopback only", line(s))
	}
	return host, nil
}

// assessed writes what was found, and gives the exit code.
func (a *app) assessed(f *assessFlags, r *assess.Report) error {
	page, err := r.HTML()
	if err != nil {
		return err
	}
	doc, err := plainJSON(r, "  ")
	if err != nil {
		return err
	}
	for _, w := range []struct {
		path string
		text []byte
	}{{f.html, page}, {f.json, doc}} {
		switch w.path {
		case "none":
		case "-":
			_, err = a.stdout.Write(w.text)
		default:
			err = writeWhole(w.path, w.text)
		}
		if err != nil {
			return err
		}
	}
	if f.html != "-" && f.json != "-" {
		if err := a.print(r, func(w io.Writer) { assessTable(w, r, f) }); err != nil {
			return err
		}
	}
	s := &r.Summary
	switch {
	case s.Denied > 0 || s.Malicious.Yes+s.Malicious.Claimed+s.Exploited.Yes+s.Exploited.Claimed > 0:
		return &exitError{1}
	case r.Incomplete != "" || s.Undecided > 0 || s.Malicious.Unknown+s.Exploited.Unknown+s.TagsUnknown > 0 || s.Digests == 0:
		return &exitError{2}
	}
	return nil
}

// writeWhole writes a file whole, or not at all. What runs where is not for everybody.
func writeWhole(path string, b []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".assessment-")
	if err != nil {
		return fault.Newf(fault.Invalid, "write %s: %w", line(path), err)
	}
	_, err = tmp.Write(b)
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return fault.Newf(fault.Unavailable, "write %s: %w", line(path), err)
	}
	return nil
}

func assessTable(w io.Writer, r *assess.Report, f *assessFlags) {
	s := &r.Summary
	fmt.Fprintln(w, "\tYES\tCLAIMED\tNO\tUNKNOWN")
	for _, row := range s.Rows() {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\n", row.Name, row.T.Yes, row.T.Claimed, row.T.No, row.T.Unknown)
	}
	where := ""
	if s.Containers > 0 {
		where = fmt.Sprintf(" in %d containers", s.Containers)
	}
	fmt.Fprintf(w, "\n%d digests%s; %s would allow %d, deny %d, and leave %d open; %d could not be read\n", s.Digests, where, line(r.Policy.Name), s.Allowed, s.Denied, s.Undecided, s.Unreachable+s.Unidentified)
	if s.Tags > 0 {
		fmt.Fprintf(w, "%d tags: %d moved, %d gone, %d unknown\n", s.Tags, s.TagsMoved, s.TagsGone, s.TagsUnknown)
	}
	if len(r.Trust.Roots)+len(r.Trust.Keys) == 0 {
		fmt.Fprintln(w, "not given: roots of trust and keys (--trusted-root, --key): every signature is claimed, none verified")
	}
	if !r.Advisories.Given {
		fmt.Fprintln(w, "not given: advisories (--feeds): what is malicious or exploited is unknown")
	}
	for _, c := range r.Causes {
		fmt.Fprintf(w, "cause: %s: %d digests, %d for nothing else\n", line(c.Cause), c.Digests, c.Alone)
	}
	for i, x := range r.Fixes[:min(5, len(r.Fixes))] {
		most := ""
		if x.AtMost {
			most = "at most "
		}
		fmt.Fprintf(w, "fix %d: %s: turns %s%d, %d of %d until then\n", i+1, line(x.Fix), most, x.Turns, x.Sum, s.Denied)
	}
	for _, d := range r.Dangers[:min(10, len(r.Dangers))] {
		what := "known to be exploited"
		if d.Malicious {
			what = "malicious"
		}
		fmt.Fprintf(w, "%s: %s (%s) in %d digests\n", what, line(d.Component), line(d.Flaw), d.Digests)
	}
	if r.Incomplete != "" {
		fmt.Fprintf(w, "not all was looked at: %s\n", line(r.Incomplete))
	}
	for _, path := range []string{f.html, f.json} {
		if path != "none" {
			fmt.Fprintf(w, "written: %s\n", line(path))
		}
	}
}
