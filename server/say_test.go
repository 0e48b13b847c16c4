package server

import (
	"archive/zip"
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"testing"

	"assay/artifact"
	"assay/client"
	"assay/identity"
	"assay/store"
	"assay/vuln/vex"
)

// Who may sign in a repository of his own has no say over the images of others by
// having a copy of them there, or an index that names them; who had them first has,
// also where they were copied to.
func TestThreat_Malware_CopiedToHaveASay(t *testing.T) {
	s := newSite(t, false, nil)
	s.apply(s.grantDoc("pusher", "me@example.com", "publisher", "**"), false)
	manifest, digest := s.image("team/app", "v1", "a layer")
	s.image("evil/copy", "v1", "a layer")
	index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":%d}]}`, digest, len(manifest))
	s.put("/v2/evil/copy/manifests/all", "application/vnd.oci.image.index.v1+json", index)
	_, own := s.image("evil/copy", "own", "another layer")
	ask := func(id string, d artifact.Digest) (is bool) {
		t.Helper()
		if err := s.db.View(t.Context(), func(tx *store.Tx) (err error) {
			is, err = hasSay(t.Context(), tx, id, d)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return is
	}
	brought := func(content, repository string) string {
		t.Helper()
		ev, err := s.admin.Ingest(t.Context(), s.sign("me@example.com", content), repository)
		if err != nil || len(ev) != 1 {
			t.Fatal(err)
		}
		return ev[0].ID
	}
	evil, team, site := brought(manifest, "evil/copy"), brought(manifest, "team/app"), brought(manifest, "")
	for _, tt := range []struct {
		name, by string
		of       artifact.Digest
		want     bool
	}{
		{"a copy", evil, digest, false},
		{"an index of it", evil, artifact.SHA256Of([]byte(index)), false},
		{"his own", evil, own, true},
		{"who had it first", team, digest, true},
		{"who may sign for the site", site, digest, true},
		{"of another repository", team, own, false},
	} {
		if got := ask(tt.by, tt.of); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// Whoever may read the evidence of one repository reads of no artifact of others by
// naming it.
func TestThreat_Tenancy_FindingsByAnothersGrants(t *testing.T) {
	s := newSite(t, false, nil)
	s.apply(s.grantDoc("pusher", "me@example.com", "publisher", "**")+s.grantDoc("reader", "eve@example.com", "viewer", "evil/**")+s.grantDoc("all", "all@example.com", "viewer", "**"), false)
	_, victim := s.image("team/app", "v1", "a layer")
	_, own := s.image("evil/app", "v1", "another layer")
	if _, err := s.admin.Ingest(t.Context(), s.sign("me@example.com", "a file of the team"), "team/app"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.admin.Ingest(t.Context(), s.sign("me@example.com", "a file of eve"), "evil/app"); err != nil {
		t.Fatal(err)
	}
	ask := func(who, path, repository string, d artifact.Digest) int {
		t.Helper()
		q := url.Values{"digest": {string(d)}}
		if repository != "" {
			q.Set("repository", repository)
		}
		code, _, _ := s.do(http.MethodGet, path+"?"+q.Encode(), map[string]string{"Authorization": "Bearer " + s.token(who, identity.AudienceAPI)}, nil)
		return code
	}
	const eve = "eve@example.com"
	for _, path := range []string{"/api/v1/findings", "/api/v1/sboms", "/api/v1/components/added", "/api/v1/risk/artifact"} {
		for _, tt := range []struct {
			name, who, repository string
			of                    artifact.Digest
			want                  int
		}{
			{"another's by her own name", eve, "evil/app", victim, http.StatusNotFound},
			{"another's by its name", eve, "team/app", victim, http.StatusForbidden},
			{"another's by no name", eve, "", victim, http.StatusForbidden},
			{"another's file", eve, "evil/app", artifact.SHA256Of([]byte("a file of the team")), http.StatusNotFound},
			{"her own", eve, "evil/app", own, http.StatusOK},
			{"her own file", eve, "evil/app", artifact.SHA256Of([]byte("a file of eve")), http.StatusOK},
			{"who may read all", "all@example.com", "evil/app", victim, http.StatusOK},
		} {
			if path == "/api/v1/risk/artifact" && tt.want == http.StatusOK {
				continue // nothing is known of any of them
			}
			if got := ask(tt.who, path, tt.repository, tt.of); got != tt.want {
				t.Errorf("%s: %s: %d, want %d", path, tt.name, got, tt.want)
			}
		}
		if got, _, _ := s.do(http.MethodGet, path+"?digest="+string(victim)+"&repository=evil/app", nil, nil); got != http.StatusUnauthorized {
			t.Errorf("%s: without a token: %d", path, got)
		}
	}
}

// What is stated about one flaw takes no other away that the same advisory mends.
func TestThreat_VEX_OneFlawOfAnAdvisory(t *testing.T) {
	s := newSite(t, false, nil)
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, text := range map[string]string{
		"DSA-1":             `{"id": "DSA-1", "modified": "2024-01-01T00:00:00Z", "upstream": ["CVE-2024-1001", "CVE-2024-1002"]}`,
		"UBUNTU-CVE-2024-1": `{"id": "UBUNTU-CVE-2024-1", "modified": "2024-01-01T00:00:00Z", "upstream": ["CVE-2024-1001"]}`,
		"GHSA-1":            `{"id": "GHSA-1", "modified": "2024-01-01T00:00:00Z", "aliases": ["CVE-2024-1001"]}`,
	} {
		w, err := z.Create(name + ".json")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.admin.ImportFeed(t.Context(), "osv", "", "", &b); err != nil {
		t.Fatal(err)
	}
	var e vex.Entry
	if err := s.admin.Triage(t.Context(), client.TriageRequest{Vulnerability: "CVE-2024-1001", Products: []string{"**"}, Status: "not_affected", Justification: "vulnerable_code_not_present", Reason: "a test"}, &e); err != nil {
		t.Fatal(err)
	}
	got := slices.Sorted(slices.Values(e.Statements[0].Vulnerabilities))
	if want := []string{"CVE-2024-1001", "GHSA-1", "UBUNTU-CVE-2024-1"}; !slices.Equal(got, want) {
		t.Errorf("stated about %q, want %q", got, want)
	}
}
