package sbom_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"assay/artifact"
	"assay/internal/vectors"
	"assay/sbom"

	cyclonedx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	spdxjson "github.com/spdx/tools-golang/json"
)

// cycloneDXSchema is the schema of ECMA-424 that CycloneDX's own Go module
// carries, with formats asserted.
func cycloneDXSchema(t *testing.T, version string) *jsonschema.Schema {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go").Output()
	dir := strings.TrimSpace(string(out))
	if err != nil || dir == "" {
		t.Fatalf("where is the module with CycloneDX's schemas? %v", err)
	}
	const base = "http://cyclonedx.org/schema/"
	return compile(t, base+"bom-"+version+".schema.json", map[string]string{
		base + "bom-" + version + ".schema.json": filepath.Join(dir, "schema", "bom-"+version+".schema.json"),
		base + "spdx.schema.json":                filepath.Join(dir, "schema", "spdx.schema.json"),
		base + "jsf-0.82.schema.json":            filepath.Join(dir, "schema", "jsf-0.82.schemax.json"),
		// 1.7 refers to definitions for cryptography, which nothing here has.
		base + "cryptography-defs.schema.json": "",
	})
}

func compile(t *testing.T, root string, files map[string]string) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7)
	c.AssertFormat()
	c.UseRegexpEngine(pattern)
	for url, file := range files {
		text := []byte(`{"definitions": {"algorithmFamiliesEnum": {}, "ellipticCurvesEnum": {}}}`)
		if file != "" {
			var err error
			if text, err = os.ReadFile(file); err != nil {
				t.Fatal(err)
			}
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if err := c.AddResource(url, doc); err != nil {
			t.Fatal(err)
		}
	}
	s, err := c.Compile(root)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// notBlank is SPDX 3's pattern of IRIs, which Go's expressions cannot state: it
// looks ahead.
const notBlank = `^(?!_:).+:.+`

type iri struct{ *regexp.Regexp }

func (r iri) MatchString(s string) bool {
	return !strings.HasPrefix(s, "_:") && r.Regexp.MatchString(s)
}
func (r iri) String() string { return notBlank }

func pattern(s string) (jsonschema.Regexp, error) {
	if s == notBlank {
		return iri{regexp.MustCompile(`^.+:.+`)}, nil
	}
	return regexp.Compile(s)
}

func valid(t *testing.T, s *jsonschema.Schema, doc []byte) {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
	if err == nil {
		err = s.Validate(v)
	}
	if err != nil {
		t.Errorf("%.3000v\nof\n%.1500s", err, doc)
	}
}

// full has a value in everything that a document can say.
func full() *sbom.Document {
	purl := func(s string) artifact.PURL {
		p, err := artifact.ParsePURL(s)
		if err != nil {
			panic(err)
		}
		return p
	}
	sums := artifact.DigestSet{}
	for alg, size := range map[string]int{
		"md5": 16, "sha1": 20, "sha224": 28, "sha256": 32, "sha384": 48, "sha512": 64, "sha3_256": 32, "sha3_384": 48, "sha3_512": 64,
		"blake2b_256": 32, "blake2b_384": 48, "blake2b_512": 64, "blake3": 32, "streebog_256": 32, "adler32": 4, "md2": 16, "md4": 16, "md6": 32,
	} {
		sums[alg] = strings.Repeat("0f", size)
	}
	d := &sbom.Document{Header: sbom.Header{
		ID: "urn:uuid:3e671687-395b-41f5-a30f-a58921a69b79", Version: 3, Name: "app", Tools: []string{"assay 1"}, Authors: []string{"Example"},
		Supplier: "Example", Roots: []string{"app"}, Incomplete: []string{"a binary hides its modules"},
	}}
	for i, typ := range []string{
		"application", "framework", "library", "container", "platform", "operating-system", "device", "device-driver", "firmware", "file",
		"machine-learning-model", "data", "cryptographic-asset",
	} {
		d.Components = append(d.Components, sbom.Component{Ref: fmt.Sprintf("c%d é/@", i), Type: typ, Name: typ, Parent: map[bool]string{true: "c2 é/@"}[i > 9]})
	}
	d.Components[0] = sbom.Component{
		Ref: "app", Type: "application", Group: "team", Name: "app", Version: "1", PURL: purl("pkg:oci/app@sha256:" + strings.Repeat("0a", 32)), Digests: sums,
		Licenses: []string{"MIT", "Apache-2.0 OR GPL-2.0-only WITH Classpath-exception-2.0", "A licence of our own"}, Concluded: []string{"MIT", "BSD-3-Clause"},
		Supplier: "Example", Scope: "required", Locations: []string{"/bin/app", "/a b/c"},
		CPEs: []string{"cpe:2.3:a:example:app:1:*:*:*:*:*:*:*", "cpe:/a:example:app:1"},
	}
	d.Components[2].PURL, d.Components[2].Scope = purl("pkg:deb/debian/openssl@3.0.11-1?arch=amd64"), "optional"
	d.Components[2].SourceName, d.Components[2].SourceVersion = "openssl", "3.0.11-1"
	d.Components[2].Concluded = []string{"(MIT OR Apache-2.0) AND Zlib"}
	d.Components[1].Scope, d.Components[1].Licenses = "excluded", []string{"LicenseRef-mine", "MIT+", "GPL-2.0+"}
	d.Components[9].Digests = artifact.DigestSet{"sha1": strings.Repeat("0f", 20)}
	d.Dependencies = []sbom.Dependency{{Ref: "app", On: []string{"c1 é/@", "c2 é/@"}}, {Ref: "c1 é/@", On: []string{"c2 é/@"}}}
	return d
}

// schemaDocuments are what the schemas judge: every document of the corpus, and
// those in which each member has a value or none has.
func schemaDocuments(t *testing.T) map[string]*sbom.Document {
	t.Helper()
	lean := &sbom.Document{Components: []sbom.Component{{Name: "x"}}}
	complete := full()
	complete.Incomplete, complete.Complete = nil, true
	out := map[string]*sbom.Document{"everything": full(), "complete": complete, "nothing": {}, "little": lean}
	files, err := filepath.Glob(filepath.Join(vectors.Shared(t, "sboms"), "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if d, err := sbom.Parse(b); err == nil {
			out[filepath.Base(file)] = d
		}
	}
	return out
}

// TestWrittenIsOfSchema holds what is written against schemas: CycloneDX's own,
// and for SPDX the part of its specification that is written, closed. SPDX's own
// schemas are in no module that can be had; where ASSAY_SPDX_SCHEMAS names a
// folder with them (spdx-2.3.schema.json and spdx-3.0.1.schema.json, of
// https://github.com/spdx/spdx-spec), they judge as well.
func TestWrittenIsOfSchema(t *testing.T) {
	docs := schemaDocuments(t)
	for _, w := range written {
		t.Run(string(w.format)+"@"+w.version, func(t *testing.T) {
			var all []*jsonschema.Schema
			if w.format == sbom.CycloneDXJSON {
				all = append(all, cycloneDXSchema(t, w.version))
			} else {
				files := []string{filepath.Join("testdata", "spdx-"+w.version+".json")}
				if dir := os.Getenv("ASSAY_SPDX_SCHEMAS"); dir != "" {
					files = append(files, filepath.Join(dir, "spdx-"+w.version+".schema.json"))
				}
				for _, file := range files {
					all = append(all, compile(t, "file:///spdx.json", map[string]string{"file:///spdx.json": file}))
				}
			}
			for name, d := range docs {
				t.Run(name, func(t *testing.T) {
					doc := text(t, d, w.format, w.version)
					for _, s := range all {
						valid(t, s, doc)
					}
				})
			}
		})
	}
}

// TestSchemasRefuse: the schemas that judge what is written refuse what is not of
// them; one that lets everything pass would judge nothing.
func TestSchemasRefuse(t *testing.T) {
	spdx := func(version string) *jsonschema.Schema {
		return compile(t, "file:///spdx.json", map[string]string{"file:///spdx.json": filepath.Join("testdata", "spdx-"+version+".json")})
	}
	for _, tc := range []struct {
		schema     *jsonschema.Schema
		format     sbom.Format
		version    string
		old, wrong string
	}{
		{cycloneDXSchema(t, "1.6"), sbom.CycloneDXJSON, "1.6", `"type": "library"`, `"type": "book"`},
		{cycloneDXSchema(t, "1.6"), sbom.CycloneDXJSON, "1.6", `"bom-ref"`, `"ref"`},
		{cycloneDXSchema(t, "1.7"), sbom.CycloneDXJSON, "1.7", `"SHA-256"`, `"sha256"`},
		{cycloneDXSchema(t, "1.7"), sbom.CycloneDXJSON, "1.7", "urn:uuid:3e", "urn:uuid:3"},
		{spdx("2.3"), sbom.SPDXJSON, "2.3", "OPERATING_SYSTEM", "OPERATING-SYSTEM"},
		{spdx("2.3"), sbom.SPDXJSON, "2.3", `"SHA1"`, `"SHA-1"`},
		{spdx("3.0.1"), sbom.SPDX3JSON, "3.0.1", `"blake2b256"`, `"blake2b_256"`},
		{spdx("3.0.1"), sbom.SPDX3JSON, "3.0.1", `"createdBy"`, `"created_by"`},
	} {
		doc := text(t, full(), tc.format, tc.version)
		bad := bytes.Replace(doc, []byte(tc.old), []byte(tc.wrong), 1)
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(bad))
		if err != nil || bytes.Equal(doc, bad) {
			t.Fatalf("%s is not there: %v", tc.old, err)
		}
		if tc.schema.Validate(v) == nil {
			t.Errorf("%s %s takes %s for %s", tc.format, tc.version, tc.wrong, tc.old)
		}
	}
}

// TestWrittenIsReadByOthers: CycloneDX's and SPDX's own Go libraries find every
// package in what is written, under its version and package URL.
func TestWrittenIsReadByOthers(t *testing.T) {
	for name, d := range schemaDocuments(t) {
		t.Run(name, func(t *testing.T) {
			want := map[string]int{}
			for _, c := range d.Components {
				if c.PURL.Type != "" {
					want[c.Name+"|"+c.Version+"|"+c.PURL.String()]++
				}
			}
			for _, version := range []string{"1.6", "1.7"} {
				got := map[string]int{}
				var bom cyclonedx.BOM
				if err := cyclonedx.NewBOMDecoder(bytes.NewReader(text(t, d, sbom.CycloneDXJSON, version)), cyclonedx.BOMFileFormatJSON).Decode(&bom); err != nil {
					t.Fatal(err)
				}
				if bom.Metadata != nil && bom.Metadata.Component != nil {
					foreignComponents(got, &[]cyclonedx.Component{*bom.Metadata.Component})
				}
				foreignComponents(got, bom.Components)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("CycloneDX %s (-ours +theirs):\n%.1000s", version, diff)
				}
			}
			doc, err := spdxjson.Read(bytes.NewReader(text(t, d, sbom.SPDXJSON, "2.3")))
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]int{}
			for _, p := range doc.Packages {
				for _, ref := range p.PackageExternalReferences {
					if ref.RefType == "purl" {
						got[p.PackageName+"|"+p.PackageVersion+"|"+ref.Locator]++
					}
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("SPDX 2.3 (-ours +theirs):\n%.1000s", diff)
			}
		})
	}
}

func foreignComponents(into map[string]int, all *[]cyclonedx.Component) {
	if all == nil {
		return
	}
	for _, c := range *all {
		if c.PackageURL != "" {
			into[c.Name+"|"+c.Version+"|"+c.PackageURL]++
		}
		foreignComponents(into, c.Components)
	}
}

func text(t *testing.T, d *sbom.Document, f sbom.Format, version string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := sbom.Write(&b, d, f, version); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
