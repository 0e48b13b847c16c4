package main

import (
	"archive/zip"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/client"
	"assay/identity"
	"assay/policy"
	"assay/store"
)

// visits are those of each page in a round: the first ones after a start are among
// them, and are few, as they are of a server that runs for weeks.
const visits = 10

// settle waits until the server is done with what the report of 10,000 workloads
// set off: that it is quick while it verifies all of them again is another figure.
func (b *bench) settle(ctx context.Context, s *site) error {
	const look, most = 2 * time.Second, 4 * time.Minute
	last := processCPU(s.process.pid())
	for began := time.Now(); ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(look):
		}
		now := processCPU(s.process.pid())
		if now-last < look/20 {
			b.say("ui: the server had settled after %s", time.Since(began).Round(time.Second))
			return nil
		}
		if time.Since(began) > most {
			b.say("ui: the server had not settled after %s", most)
			return nil
		}
		last = now
	}
}

// estate is how much a site holds whose pages are measured.
type estate struct{ artifacts, components, workloads, repositories, flawed int }

// pages measures how long the pages of a large site take: 100,000 artifacts with
// evidence, bills of materials of a million components, decisions, 10,000 workloads
// and findings in 2,000 artifacts. Rows are written straight into the database, as
// the server's own code writes them.
func (b *bench) pages(ctx context.Context) error {
	e := estate{100_000, 1_000_000, 10_000, 500, 2000}
	if b.quick {
		e = estate{1000, 10_000, 100, 20, 100}
	}
	dir := b.folder("ui-site")
	s, err := up(ctx, b.assay, dir)
	if err != nil {
		return err
	}
	issuer := s.Services.OIDC
	s.stop()
	if err := e.fill(ctx, filepath.Join(dir, "assay.db"), issuer); err != nil {
		return err
	}
	if s, err = up(ctx, b.assay, dir); err != nil {
		return err
	}
	defer s.stop()
	if err := e.bring(ctx, s); err != nil {
		return err
	}
	if err := b.settle(ctx, s); err != nil {
		return err
	}
	c, err := browser(ctx, s)
	if err != nil {
		return err
	}
	subject := string(e.subject(7))
	paths := []string{
		"", "oncall", "artifacts", "artifacts?repository=team-7/app-7", "artifacts/" + subject, "registry", "registry/team-7/app-7", "components?name=part-7", "search?q=part-7+%3C+2.0",
		"vulnerabilities", "vulnerabilities/BENCH-1", "workloads", "workloads?cluster=cluster-3", "services", "builds", "policies", "trust", "audit", "inventory", "feeds", "log",
	}
	var all samples
	slowest := map[string]float64{}
	m := startMeter(s.process)
	if err := b.turns(ctx, func(int) error {
		for i := range visits * len(paths) {
			path := paths[i%len(paths)]
			began := time.Now()
			if err := see(ctx, c, s.PublicURL+"/ui/"+path); err != nil {
				return err
			}
			took := float64(time.Since(began).Microseconds()) / 1000
			all, slowest[path] = append(all, took), max(slowest[path], took)
		}
		return nil
	}); err != nil {
		return err
	}
	stopped := m.stop(b.processors)
	names := slices.SortedFunc(func(yield func(string) bool) {
		for name := range slowest {
			if !yield(name) {
				return
			}
		}
	}, func(x, y string) int { return int(slowest[y] - slowest[x]) })
	var worst []string
	for _, name := range names[:min(4, len(names))] {
		worst = append(worst, fmt.Sprintf("/ui/%s %.0f ms", name, slowest[name]))
	}
	f := figure("ui.pages", "ms", all, &Aim{"<=", 100})
	f.Value = round(all.quantile(0.99))
	met := f.Aim.met(f.Value)
	f.Met, f.Others = &met, stopped.others
	f.Note = fmt.Sprintf("the 99th percentile over %d kinds of page, over HTTP: %d artifacts, %d components, %d workloads, findings in %d; the slowest: %s", len(paths), e.artifacts, e.components, e.workloads, e.flawed, strings.Join(worst, ", "))
	b.add(f)
	return nil
}

func (e estate) subject(i int) artifact.Digest {
	return artifact.SHA256Of(fmt.Appendf(nil, "artifact %d", i))
}

// rows are those of one table that wait to be written together.
type rows struct {
	into string // table and columns
	one  string // placeholders
	args []any
	n    int
}

func (r *rows) add(args ...any) {
	r.args, r.n = append(r.args, args...), r.n+1
}

func (r *rows) write(ctx context.Context, tx *store.Tx) error {
	if r.n == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, "INSERT INTO "+r.into+" VALUES "+strings.TrimSuffix(strings.Repeat(r.one+", ", r.n), ", ")+" ON CONFLICT DO NOTHING", r.args...)
	r.args, r.n = r.args[:0], 0
	return err
}

// fill writes the site's rows.
func (e estate) fill(ctx context.Context, path, issuer string) error {
	db, err := store.Open(ctx, "sqlite:"+path)
	if err != nil {
		return err
	}
	defer db.Close()
	tables := []*rows{
		{into: "registry_repository (name, created_at)", one: "(?, ?)"},
		{into: "registry_manifest (repository, digest, pushed_by, pushed_at, media_type, artifact_type, size, subject, annotations, evidence)", one: "(?, ?, ?, ?, 'application/vnd.oci.image.manifest.v1+json', '', 500, '', '{}', 0)"},
		{into: "registry_tag (repository, tag, digest, moved_at, version, moved_by)", one: "(?, ?, ?, ?, 1, 'ci')"},
		{into: "gate_state (repository, digest, state, decision, changed, media_type, basis, reason, carrier, subject, owner, expires, due, judged)", one: "(?, ?, ?, ?, ?, 'application/vnd.oci.image.manifest.v1+json', 'decision', '', 0, '', '', 0, 0, 0)"},
		{into: "decision_facts (id, body, created)", one: "(?, ?, ?)"},
		{into: "decision (id, digest, scope_id, verdict, decided, mode, policy, policy_hash, facts_id, trust_epoch, checks, vsa)", one: `(?, ?, ?, ?, ?, 'enforce', 'release', 'hash', ?, 1, '[{"name":"signatures/release","status":"pass","expected":"1 signature","found":"1 of 1"}]', ?)`},
		{into: "current_decision (digest, scope_id, decision_id, valid_until, checked, trust_epoch)", one: "(?, ?, ?, ?, ?, 1000000)"},
		{into: "evidence_bundle (id, issuer, trusted_time, log_index, ingested_at, repository, serial, subject, scheme, predicate_type, identity, key, root, time_source, log_id, legacy, size, trust_epoch, source, payload, content, authority, builder)",
			one: "(?, ?, ?, ?, ?, ?, ?, ?, 'dsse', 'https://slsa.dev/provenance/v1', 'ci@example.com', '', 'elsewhere', 'tsa', 'abab', 0, 2, 1, 'bench', NULL, ?, 'CN=bench', '')"},
		{into: "evidence_subject (subject, ingested_at, id)", one: "(?, ?, ?)"},
		{into: "sbom_document (id, attestation, subject, ingested, packages, issuer, state, problem, format, spec_version, document, name, created, quality, parts, incomplete, identity)", one: "(?, ?, ?, ?, ?, ?, 1, '', 'cyclonedx-json', '1.6', '', 'app', 0, 80, '', '', 'ci@example.com')"},
		{into: "finding_scan (document, subject, scanned, components)", one: "(?, ?, ?, ?)"},
		{into: "sbom_component (id, key, package, name, version, type, source_name, source_version)", one: "(?, ?, ?, ?, ?, 'library', '', '')"},
		{into: "finding_component (component, ecosystem, package, version, state)", one: "(?, 'npm', ?, ?, 0)"},
		{into: "sbom_occurrence (document, component, direct, via, license)", one: "(?, ?, 1, 0, 'MIT')"},
	}
	const chunk, together = 5000, 40
	for from := 0; from < e.artifacts; from += chunk {
		if err := db.Update(ctx, func(tx *store.Tx) error {
			for i := from; i < min(from+chunk, e.artifacts); i++ {
				if err := e.artifact(tables, i, issuer, store.Micros(tx.Now())); err != nil {
					return err
				}
				if i%together != together-1 {
					continue
				}
				for _, t := range tables {
					if err := t.write(ctx, tx); err != nil {
						return err
					}
				}
			}
			return ctx.Err()
		}); err != nil {
			return err
		}
	}
	return nil
}

// artifact adds one with its tag, state, decision, evidence and bill of materials
// to the rows of the tables, in their order.
func (e estate) artifact(t []*rows, i int, issuer string, now int64) error {
	repository, subject := fmt.Sprintf("team-%d/app-%d", i%e.repositories, i%e.repositories), string(e.subject(i))
	at := now - int64(e.artifacts-i)*1_000_000
	decision, attestation := "dec_"+artifact.SHA256Of(fmt.Appendf(nil, "decision %d", i)).Hex(), "att_"+artifact.SHA256Of(fmt.Appendf(nil, "bundle %d", i)).Hex()
	state, verdict, per := "active", "allow", e.components/e.artifacts
	if i%50 == 0 {
		state, verdict = "rejected", "deny"
	}
	t[0].add(repository, at)
	t[1].add(repository, subject, "user "+issuer+" ci@example.com", at)
	t[2].add(repository, fmt.Sprintf("v%d", i), subject, at)
	t[3].add(repository, subject, state, decision, at)
	facts := policy.Facts{Schema: policy.FactsSchema, Subject: policy.Subject{Digest: e.subject(i), Kind: policy.Image, MediaType: "application/vnd.oci.image.manifest.v1+json", Repository: repository}, Scope: policy.Scope{ID: "default@" + repository}}
	body, err := facts.Canonical()
	if err != nil {
		return err
	}
	t[4].add(policy.FactsID(body), body, at)
	t[5].add(decision, subject, "default@"+repository, verdict, at, policy.FactsID(body), []byte("{}"))
	t[6].add(subject, "default@"+repository, decision, at+1e14, at)
	t[7].add(attestation, issuer, at, i, at, repository, fmt.Sprintf("%x", i+1), subject, []byte("{}"))
	t[8].add(subject, at, attestation)
	t[9].add(i+1, attestation, subject, at, per, issuer)
	t[10].add(i+1, subject, at, per)
	for k := range per {
		id := int64(i*per + k + 1)
		name, version := fmt.Sprintf("part-%d", id%20_000), fmt.Sprintf("1.%d.%d", id/20_000, k)
		if i%(e.artifacts/e.flawed) == 0 && k == 0 {
			name = "flawed"
		}
		pkg := "pkg:npm/" + name
		t[11].add(id, pkg+"@"+version, pkg, name, version)
		t[12].add(id, name, version)
		t[13].add(i+1, id)
	}
	return nil
}

// bring hands in what comes by the doors: roles, what runs, an advisory.
func (e estate) bring(ctx context.Context, s *site) error {
	grant := `apiVersion: assay/v1
kind: Grant
metadata: {name: bench}
spec: {issuer: "` + s.Services.OIDC + `", subject: ` + benchSubject + `, role: admin, scope: "**"}
`
	if _, err := s.admin.Apply(ctx, []byte(grant), false, false); err != nil {
		return err
	}
	const clusters = 10
	for k := range clusters {
		r := client.WorkloadReport{Cluster: fmt.Sprintf("cluster-%d", k), Complete: true}
		for i := range e.workloads / clusters {
			n := (k*e.workloads/clusters + i) % e.artifacts
			repository := fmt.Sprintf("team-%d/app-%d", n%e.repositories, n%e.repositories)
			r.Workloads = append(r.Workloads, client.ReportedWorkload{Namespace: fmt.Sprintf("ns-%d", i%20), Kind: "Deployment", Name: fmt.Sprintf("app-%d", i), Container: "app", Image: s.Services.Registry + "/" + repository + "@" + string(e.subject(n)), Digest: e.subject(n)})
		}
		if _, err := s.admin.ReportWorkloads(ctx, r); err != nil {
			return err
		}
	}
	var feed bytes.Buffer
	z := zip.NewWriter(&feed)
	w, err := z.Create("BENCH-1.json")
	if err == nil {
		_, err = io.WriteString(w, `{"id": "BENCH-1", "modified": "2024-01-01T00:00:00Z", "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
			"affected": [{"package": {"ecosystem": "npm", "name": "flawed"}, "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}, {"fixed": "9.0.0"}]}]}]}`)
	}
	if err == nil {
		err = z.Close()
	}
	if err == nil {
		_, err = s.admin.ImportFeed(ctx, "bench", "npm", "", &feed)
	}
	if err != nil {
		return err
	}
	// The findings come after the feed.
	for end := time.Now().Add(time.Minute); ; {
		list, err := s.admin.Risk(ctx, "", 1)
		if err == nil && list.Count > 0 {
			return nil
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return fmt.Errorf("no finding came of the feed: %w", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

var csrfField = regexp.MustCompile(`name="csrf" value="([^"]+)"`)

// browser is a client that is logged in to the pages.
func browser(ctx context.Context, s *site) (*http.Client, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	c := &http.Client{Jar: jar, Timeout: time.Minute}
	resp, err := c.Get(s.PublicURL + "/ui/login")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	m := csrfField.FindSubmatch(page)
	if m == nil {
		return nil, fmt.Errorf("the login page has no form")
	}
	token, err := s.token(ctx, string(identity.AudienceAPI))
	if err != nil {
		return nil, err
	}
	in, err := c.PostForm(s.PublicURL+"/ui/login", url.Values{"csrf": {string(m[1])}, "token": {token}, "next": {"/ui/runbooks"}})
	if err != nil {
		return nil, err
	}
	defer in.Body.Close()
	if in.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("login: %s", in.Status)
	}
	return c, nil
}

// see loads a page whole.
func see(ctx context.Context, c *http.Client, address string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s\n%.500s", address, resp.Status, b)
	}
	return err
}
