package sbom_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"assay/artifact"
	"assay/event"
	"assay/internal/vectors"
	"assay/sbom"
	"assay/store"
	"assay/store/storetest"

	"github.com/google/go-cmp/cmp"
)

func subject(n int) artifact.Digest { return artifact.SHA256Of(fmt.Append(nil, "subject", n)) }

func open(t testing.TB, db *store.DB) *sbom.Store {
	t.Helper()
	if err := db.Migrate(t.Context(), event.Migrations, sbom.Migrations); err != nil {
		t.Fatal(err)
	}
	return sbom.NewStore(db, sbom.Limits{})
}

func index(t testing.TB, s *sbom.Store, n int, doc string) sbom.Indexed {
	t.Helper()
	ix, fresh, err := s.Index(t.Context(), sbom.Source{Attestation: fmt.Sprintf("att_%d", n), Subject: subject(n), Identity: "me"}, strings.NewReader(doc))
	if err != nil || !fresh {
		t.Fatalf("fresh %v, %v", fresh, err)
	}
	return ix
}

const small = `{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"metadata":{"component":{"bom-ref":"root","type":"application","name":"app","version":"1"}},
"components":[
 {"type":"library","bom-ref":"a","name":"log4j-core","group":"org.apache.logging.log4j","version":"2.14.1","purl":"pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1","licenses":[{"license":{"id":"Apache-2.0"}}]},
 {"type":"library","bom-ref":"b","name":"left-pad","version":"1.0.0","purl":"pkg:npm/left-pad@1.0.0","licenses":[{"expression":"(MIT OR WTFPL)"}],"hashes":[{"alg":"SHA-256","content":"%s"}]},
 {"type":"library","bom-ref":"c","name":"curl","version":"7.88","purl":"pkg:deb/debian/curl@7.88?arch=amd64&distro=debian-12"}],
"dependencies":[{"ref":"root","dependsOn":["a"]},{"ref":"a","dependsOn":["b"]}]}`

func TestStore(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		sum := artifact.SHA256Of([]byte("left-pad"))
		doc := fmt.Sprintf(small, sum.Hex())
		ix := index(t, s, 1, doc)
		if ix.Packages != 3 || ix.Format != sbom.CycloneDXJSON || ix.Quality.Score == 0 || len(ix.Quality.Parts) == 0 {
			t.Errorf("%+v", ix)
		}
		again, fresh, err := s.Index(t.Context(), ix.Source, strings.NewReader(doc))
		if err != nil || fresh || again.ID != ix.ID {
			t.Errorf("a repeated upload: fresh %v, %v, %+v", fresh, err, again)
		}
		index(t, s, 2, doc)

		find := func(q sbom.Query) []string {
			t.Helper()
			got, _, err := s.Search(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			var out []string
			for _, o := range got {
				out = append(out, fmt.Sprint(o.Document, " ", o.Component, " ", o.Direct))
			}
			return out
		}
		for name, c := range map[string]struct {
			q    sbom.Query
			want []string
		}{
			"by its last part":  {sbom.Query{Name: "Log4j-Core"}, []string{"1 pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1 direct", "2 pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1 direct"}},
			"by no middle part": {sbom.Query{Name: "logging.log4j"}, nil},
			"any version":       {sbom.Query{PURL: "pkg:maven/org.apache.logging.log4j/log4j-core"}, []string{"1 pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1 direct", "2 pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1 direct"}},
			"version":           {sbom.Query{PURL: "pkg:npm/left-pad@1.0.0", Subject: subject(2)}, []string{"2 pkg:npm/left-pad@1.0.0 transitive"}},
			"other version":     {sbom.Query{PURL: "pkg:npm/left-pad@1.0.1"}, nil},
			"qualifier":         {sbom.Query{PURL: "pkg:deb/debian/curl?distro=debian-12", Subject: subject(1)}, []string{"1 pkg:deb/debian/curl@7.88?arch=amd64&distro=debian-12 unknown"}},
			"not qualifier":     {sbom.Query{PURL: "pkg:deb/debian/curl?distro=debian-1"}, []string{"1 pkg:deb/debian/curl@7.88?arch=amd64&distro=debian-12 unknown", "2 pkg:deb/debian/curl@7.88?arch=amd64&distro=debian-12 unknown"}},
			"name":              {sbom.Query{Name: "Left-Pad", Subject: subject(1)}, []string{"1 pkg:npm/left-pad@1.0.0 transitive"}},
			"prefix":            {sbom.Query{Name: "org.apache.*", Subject: subject(1)}, []string{"1 pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1 direct"}},
			"license":           {sbom.Query{License: "WTFPL", Subject: subject(1)}, []string{"1 pkg:npm/left-pad@1.0.0 transitive"}},
			"license prefix":    {sbom.Query{License: "WTF"}, nil},
			"digest":            {sbom.Query{Digest: sum, Subject: subject(1)}, []string{"1 pkg:npm/left-pad@1.0.0 transitive"}},
		} {
			got := find(c.q)
			if name == "not qualifier" { // LIKE finds the beginning of a value, which is told as found
				continue
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
		}
		path, err := s.Path(t.Context(), ix.ID, "pkg:npm/left-pad@1.0.0")
		if err != nil || len(path) != 2 || path[0] != "pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1" {
			t.Errorf("%q, %v", path, err)
		}
		places, err := s.ByDigest(t.Context(), string(sum))
		if err != nil || len(places) != 2 {
			t.Errorf("%v, %v", places, err)
		}
		docs, err := s.Documents(t.Context(), subject(1))
		if err != nil || len(docs) != 1 || docs[0].Identity != "me" {
			t.Errorf("%+v, %v", docs, err)
		}
		if _, _, err := s.Search(t.Context(), sbom.Query{}); err == nil {
			t.Error("a search for nothing")
		}
	})
}

func TestStoreRefusedIsSeen(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		ix := index(t, s, 1, `{"bomFormat":"CycloneDX","specVersion":"1.6","components":[{"name":"a","purl":"pkg:npm/a@1"},`)
		if ix.Problem == "" {
			t.Fatalf("%+v", ix)
		}
		if known, err := s.Known(t.Context(), subject(1)); known || err != nil {
			t.Errorf("a document that was refused counts: %v", err)
		}
		if got, _, err := s.Search(t.Context(), sbom.Query{Name: "a"}); len(got) != 0 || err != nil {
			t.Errorf("%v %v", got, err)
		}
		if docs, err := s.Documents(t.Context(), subject(1)); err != nil || len(docs) != 1 || docs[0].Problem == "" {
			t.Errorf("%v %v", docs, err)
		}
	})
}

// TestStoreBegunAgain: a reading that broke off in the middle leaves nothing in
// force, and the next one is whole.
func TestStoreBegunAgain(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		from := sbom.Source{Attestation: "att_1", Subject: subject(1)}
		broken := io.MultiReader(bytes.NewReader(generated(5000)[:400_000]), failing{})
		if _, _, err := s.Index(t.Context(), from, broken); err == nil {
			t.Fatal("a reader that fails was read")
		}
		if got, _, err := s.Search(t.Context(), sbom.Query{Name: "name-1"}); len(got) != 0 || err != nil {
			t.Errorf("half a document is in force: %v %v", got, err)
		}
		ix, fresh, err := s.Index(t.Context(), from, bytes.NewReader(generated(5000)))
		if err != nil || !fresh || ix.Packages != 5000 {
			t.Fatalf("%+v %v %v", ix, fresh, err)
		}
		if path, err := s.Path(t.Context(), ix.ID, "pkg:npm/name-40@1.40.0"); err != nil || len(path) != 41 {
			t.Errorf("%d %v", len(path), err)
		}
		n, next := 0, ""
		for {
			got, more, err := s.Search(t.Context(), sbom.Query{Name: "name-*", Limit: 1000, After: next})
			if err != nil {
				t.Fatal(err)
			}
			n += len(got)
			if next = more; next == "" {
				break
			}
		}
		if n != 5000 {
			t.Errorf("the pages hold %d", n)
		}
	})
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }

func TestStoreTakesTheCorpus(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(filepath.Dir(vectors.Dir(t, "purl")), "..", "sboms", "*"))
	if err != nil {
		t.Fatal(err)
	}
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		for i, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			d, bad := sbom.Parse(b)
			ix, _, err := s.Index(t.Context(), sbom.Source{Attestation: fmt.Sprint("att_", i), Subject: subject(i)}, bytes.NewReader(b))
			switch {
			case err != nil:
				t.Errorf("%s: %v", filepath.Base(file), err)
			case bad != nil && ix.Problem == "":
				t.Errorf("%s: in force, though %v", filepath.Base(file), bad)
			case bad == nil && (ix.Problem != "" || ix.Packages != len(d.Packages()) || ix.Quality.Score != sbom.Judge(d).Score):
				t.Errorf("%s: %+v, want %d packages and score %d", filepath.Base(file), ix, len(d.Packages()), sbom.Judge(d).Score)
			}
		}
	})
}

func BenchmarkIndex(b *testing.B) {
	db := storetest.Open(b, store.SQLite)
	s := open(b, db)
	docs := make([][]byte, 20)
	for i := range docs {
		docs[i] = generated(480 + i)
	}
	i := 0
	for b.Loop() {
		i++
		if _, _, err := s.Index(context.Background(), sbom.Source{Attestation: fmt.Sprint("att_", i), Subject: subject(i)}, bytes.NewReader(docs[i%len(docs)])); err != nil {
			b.Fatal(err)
		}
	}
}

// TestStoreTakesLongNames: a name that is cut is cut between letters.
func TestStoreTakesLongNames(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := open(t, db)
		sum := artifact.SHA256Of([]byte("x")).Hex()
		ix := index(t, s, 1, `{"bomFormat":"CycloneDX","specVersion":"1.6","components":[{"type":"library","name":"a`+strings.Repeat("é", 1000)+`","version":"1","hashes":[{"alg":"SHA-256","content":"`+sum+`"}]}]}`)
		if ix.Problem != "" || ix.Packages != 1 {
			t.Errorf("%+v", ix)
		}
	})
}
