package artifact_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"assay/artifact"
	"assay/internal/vectors"
)

type purlParts struct {
	Type       string
	Namespace  string
	Name       string
	Version    string
	Qualifiers map[string]string
	Subpath    string
}

// contradicted are inputs that one row of the vectors wants refused, since a
// qualifier's key has a capital letter, while a row about the same text wants it
// lower-cased. The specification says that keys are lower-cased.
var contradicted = map[string]bool{
	"pkg:gem/jruby-launcher@1.1.2?Platform=java":                   true,
	"pkg:Rpm/fedora/curl@7.50.3-1.fc25?Arch=i386&Distro=fedora-25": true,
}

func TestPURLVectors(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(vectors.Dir(t, "purl"), "*", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var doc struct {
			Tests []struct {
				Description string
				TestType    string `json:"test_type"`
				Input       json.RawMessage
				Want        json.RawMessage `json:"expected_output"`
				Fails       bool            `json:"expected_failure"`
			}
		}
		if err := json.Unmarshal(b, &doc); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, c := range doc.Tests {
			seen++
			var text string
			var got artifact.PURL
			if c.TestType == "build" {
				var in purlParts
				if err := json.Unmarshal(c.Input, &in); err != nil {
					t.Fatal(err)
				}
				got, err = artifact.NewPURL(in.Type, in.Namespace, in.Name, in.Version, in.Qualifiers, in.Subpath)
			} else {
				if err := json.Unmarshal(c.Input, &text); err != nil {
					t.Fatal(err)
				}
				got, err = artifact.ParsePURL(text)
			}
			if c.Fails {
				if err == nil && !contradicted[text] {
					t.Errorf("%s: %s: %s became %s, want a refusal", filepath.Base(file), c.Description, c.Input, got)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s: %s: %s: %v", filepath.Base(file), c.Description, c.Input, err)
				continue
			}
			if c.TestType == "parse" {
				var want purlParts
				if err := json.Unmarshal(c.Want, &want); err != nil {
					t.Fatal(err)
				}
				have := purlParts{got.Type, got.Namespace, got.Name, got.Version, nil, got.Subpath}
				for _, q := range got.Qualifiers {
					if have.Qualifiers == nil {
						have.Qualifiers = map[string]string{}
					}
					have.Qualifiers[q.Key] = q.Value
				}
				a, _ := json.Marshal(have)
				if want.Qualifiers != nil && len(want.Qualifiers) == 0 {
					want.Qualifiers = nil
				}
				if w, _ := json.Marshal(want); string(a) != string(w) {
					t.Errorf("%s: %s: %s: got %s, want %s", filepath.Base(file), c.Description, c.Input, a, w)
				}
				continue
			}
			var want string
			if err := json.Unmarshal(c.Want, &want); err != nil {
				t.Fatal(err)
			}
			if got.String() != want {
				t.Errorf("%s: %s: %s: got %s, want %s", filepath.Base(file), c.Description, c.Input, got, want)
			}
			if again, err := artifact.ParsePURL(got.String()); err != nil || again.String() != got.String() {
				t.Errorf("%s is not read back: %s, %v", got, again, err)
			}
		}
	}
	if seen < 500 {
		t.Fatalf("only %d vectors were seen", seen)
	}
}

// TestThreat_SBOM_PURLPairs: two spellings of one package are one, and two
// packages are never one.
func TestThreat_SBOM_PURLPairs(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t, "hostile"), "sbom", "purl-pairs.json"))
	if err != nil {
		t.Fatal(err)
	}
	var pairs [][3]string
	if err := json.Unmarshal(b, &pairs); err != nil {
		t.Fatal(err)
	}
	for _, p := range pairs {
		x, errX := artifact.ParsePURL(p[0])
		y, errY := artifact.ParsePURL(p[1])
		if errX != nil || errY != nil {
			t.Errorf("%q: %v %v", p, errX, errY)
			continue
		}
		same := x.String() == y.String()
		component := x.Component().String() == y.Component().String()
		pkg := x.Package().String() == y.Package().String()
		var ok bool
		switch p[2] {
		case "equal":
			ok = same && component && pkg
		case "different":
			ok = !same && !component && !pkg
		case "same package, different build":
			ok = !same && !component && pkg
		default:
			ok = !same && component && pkg
		}
		if !ok {
			t.Errorf("%s and %s: text %v, component %v, package %v; want %s", x, y, same, component, pkg, p[2])
		}
	}
	if len(pairs) == 0 {
		t.Fatal("no pairs")
	}
}

func FuzzParsePURL(f *testing.F) {
	for _, s := range []string{"pkg:npm/%40types/react@1", "pkg:git/a/b/c@d", "pkg:deb/debian/curl@7.1?arch=amd64#x/y", "pkg://maven/a/b@c?d=e"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := artifact.ParsePURL(s)
		if err != nil {
			return
		}
		again, err := artifact.ParsePURL(p.String())
		if err != nil || again.String() != p.String() {
			t.Fatalf("%q: %q is read as %q, %v", s, p, again, err)
		}
	})
}
