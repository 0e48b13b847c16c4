package evidence_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/artifact"
	"assay/event"
	"assay/evidence"
	"assay/store"
	"assay/store/storetest"
	"assay/trust/revocation"
	"assay/trust/trusttest"
)

const builderID = "https://builder.example/one"

func provenanceOf(subjects ...string) []byte {
	list := ""
	for i, s := range subjects {
		if i > 0 {
			list += ","
		}
		list += fmt.Sprintf(`{"name":%q,"digest":{"sha256":%q}}`, s, digest(s).Hex())
	}
	return fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[%s],"predicateType":"https://slsa.dev/provenance/v1","predicate":{"buildDefinition":{"buildType":"https://b.example/t","externalParameters":{},"resolvedDependencies":[]},"runDetails":{"builder":{"id":%q}}}}`, list, builderID)
}

// TestImpact asks what each kind of entry takes: by target, by time, and of
// bundles with one subject and with several.
func TestImpact(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		at := s.world.Start.Add(5 * time.Minute)
		other := trusttest.Leaf{Issuer: testIssuer, Subject: "https://ci.example/team/other"}
		one := s.world.Draft(t, trusttest.Request{Statement: provenanceOf("one"), Leaf: leaf(), At: at})
		s.ingest(t, one.JSON(t), "team/app")
		s.ingest(t, s.world.Draft(t, trusttest.Request{Statement: provenanceOf("two", "three"), Leaf: leaf(), At: at.Add(time.Minute)}).JSON(t), "team/app")
		s.ingest(t, s.world.Draft(t, trusttest.Request{Artifact: []byte("one"), Leaf: other, At: at.Add(2 * time.Minute)}).JSON(t), "")
		records, _ := s.ingest(t, s.world.Draft(t, trusttest.Request{Artifact: []byte("four"), Leaf: other, At: at}).JSON(t), "")
		logID, last := records[0].LogID, records[0].LogIndex
		always, later := time.Unix(0, 0), at.Add(90*time.Second)
		zero := int64(0)
		type want struct {
			bundles int
			lost    map[artifact.Digest]int
		}
		all := want{4, map[artifact.Digest]int{digest("one"): 2, digest("two"): 1, digest("three"): 1, digest("four"): 1}}
		mine := want{2, map[artifact.Digest]int{digest("one"): 1, digest("two"): 1, digest("three"): 1}}
		for name, tt := range map[string]struct {
			e     revocation.Entry
			since time.Time
			want  want
		}{
			"identity":            {revocation.Entry{Kind: revocation.Identity, Match: revocation.Exact, Issuer: testIssuer, Subject: testSubject}, always, mine},
			"identity, later":     {revocation.Entry{Kind: revocation.Identity, Match: revocation.Exact, Issuer: testIssuer, Subject: testSubject}, at.Add(30 * time.Second), want{1, map[artifact.Digest]int{digest("two"): 1, digest("three"): 1}}},
			"another issuer":      {revocation.Entry{Kind: revocation.Identity, Match: revocation.Exact, Issuer: "https://x.example", Subject: testSubject}, always, want{0, map[artifact.Digest]int{}}},
			"pattern of all":      {revocation.Entry{Kind: revocation.Identity, Match: revocation.Pattern, Issuer: "**", Subject: "**"}, always, all},
			"pattern":             {revocation.Entry{Kind: revocation.Identity, Match: revocation.Pattern, Issuer: testIssuer, Subject: "https://ci.example/team/**"}, later, want{1, map[artifact.Digest]int{digest("one"): 1}}},
			"builder":             {revocation.Entry{Kind: revocation.Builder, Builder: builderID}, always, mine},
			"another builder":     {revocation.Entry{Kind: revocation.Builder, Builder: builderID + "/"}, always, want{0, map[artifact.Digest]int{}}},
			"certificate":         {revocation.Entry{Kind: revocation.Certificate, Serial: one.Cert.SerialNumber.Text(16), Issuer: one.Cert.Issuer.String()}, always, want{1, map[artifact.Digest]int{digest("one"): 1}}},
			"log":                 {revocation.Entry{Kind: revocation.Log, LogID: logID, From: &zero}, always, all},
			"log, its last":       {revocation.Entry{Kind: revocation.Log, LogID: logID, From: &last, To: &last}, always, want{1, map[artifact.Digest]int{digest("four"): 1}}},
			"log, stamped before": {revocation.Entry{Kind: revocation.Log, LogID: logID, From: &zero}, later, want{1, map[artifact.Digest]int{digest("one"): 1}}},
			"artifact":            {revocation.Entry{Kind: revocation.Artifact, Digest: digest("one")}, later, want{2, map[artifact.Digest]int{digest("one"): 2}}},
			"unknown artifact":    {revocation.Entry{Kind: revocation.Artifact, Digest: digest("none")}, later, want{0, map[artifact.Digest]int{digest("none"): 0}}},
		} {
			tt.e.InvalidSince = revocation.At(tt.since)
			got, err := s.Impact(t.Context(), []revocation.Entry{tt.e})
			if err != nil {
				t.Fatal(err)
			}
			lost := map[artifact.Digest]int{}
			for _, a := range got.Artifacts {
				lost[a.Digest] = a.Attestations
			}
			if d := cmp.Diff(tt.want, want{got.Attestations, lost}, cmp.AllowUnexported(want{})); d != "" {
				t.Errorf("%s (-want +got):\n%s", name, d)
			}
		}
		// What was kept before there were such columns is looked up once.
		s.exec(t, `UPDATE evidence_bundle SET serial = NULL, authority = NULL, builder = NULL, subject = ''`)
		for _, n := range []int{3, 1, 0} {
			if got, err := s.Backfill(t.Context(), 3); err != nil || got != n {
				t.Errorf("backfilled %d, %v, want %d", got, err, n)
			}
		}
		e := revocation.Entry{Kind: revocation.Builder, Builder: builderID, InvalidSince: revocation.At(always)}
		if got, err := s.Impact(t.Context(), []revocation.Entry{e}); err != nil || got.Attestations != 2 || len(got.Artifacts) != 3 {
			t.Errorf("after the backfill: %+v, %v", got, err)
		}
	})
}

// TestFirstSeen: an issuer, an identity and a key are told of once in each
// repository, when they first sign there.
func TestFirstSeen(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		one := s.attest(t, "one", "https://example.com/a")
		s.ingest(t, one, "team/app")
		s.ingest(t, one, "team/app")
		s.ingest(t, s.attest(t, "two", "https://example.com/a"), "team/app")
		s.ingest(t, one, "team/other") // known bytes, another place
		s.ingest(t, s.attest(t, "three", "https://example.com/a"), "")
		var got []string
		for _, b := range s.events(t, event.SignerFirstSeen) {
			got = append(got, fmt.Sprint(b["repository"], " ", b["what"], " ", b["who"]))
		}
		want := []string{"team/app issuer " + testIssuer, "team/app identity " + testSubject, "team/other issuer " + testIssuer, "team/other identity " + testSubject}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	})
}

// One of our identities signed what our log does not hold: an alert. What our
// log holds, and strangers, raise none.
func TestThreat_Identity_SignerUnlogged(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ours := ""
		s := open(t, db, func(o *evidence.Options) {
			o.Own = func(issuer string) bool { return issuer == testIssuer }
			o.OwnLog = func(id string) bool { return id == ours }
		})
		records, _ := s.ingest(t, s.sign(t, "one"), "team/app")
		if got := s.events(t, event.SignerUnlogged); len(got) != 1 || got[0]["identity"] != testSubject || got[0]["id"] != records[0].ID {
			t.Fatalf("an alert: %v", got)
		}
		ours = records[0].LogID
		s.ingest(t, s.sign(t, "two"), "team/app")
		ours = ""
		s.ingest(t, s.world.Draft(t, trusttest.Request{Artifact: []byte("three"), Leaf: trusttest.Leaf{Issuer: "https://other.example", Subject: testSubject}}).JSON(t), "team/app")
		if got := s.events(t, event.SignerUnlogged); len(got) != 1 {
			t.Errorf("more alerts: %v", got)
		}
	})
}
