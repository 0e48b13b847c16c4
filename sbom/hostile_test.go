package sbom_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"assay/internal/fault"
	"assay/internal/vectors"
	"assay/sbom"
)

// TestThreat_XML_Doctype: entities are never expanded and no file is read.
func TestThreat_XML_Doctype(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(vectors.Dir(t, "hostile"), "xml", "*"))
	if err != nil || len(files) == 0 {
		t.Fatal("no inputs", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if d, err := sbom.Parse(b); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "DOCTYPE") {
			t.Errorf("%s: %v, %v", file, d, err)
		}
	}
}

func TestThreat_SBOM_Hostile(t *testing.T) {
	nested := strings.Repeat(`{"name":"a","type":"library","components":[`, 5_000)
	for name, in := range map[string]string{
		"empty":              "",
		"blank":              " \n\t",
		"null":               "null",
		"array":              "[]",
		"truncated":          `{"bomFormat":"CycloneDX","specVersion":"1.6","components":[{"name":"a"`,
		"trailing":           `{"bomFormat":"CycloneDX","specVersion":"1.6"}{}`,
		"duplicate member":   `{"bomFormat":"CycloneDX","specVersion":"1.6","components":[],"components":[]}`,
		"duplicate inside":   `{"bomFormat":"CycloneDX","specVersion":"1.6","components":[{"name":"a","name":"b"}]}`,
		"two formats":        `{"bomFormat":"CycloneDX","specVersion":"1.6","spdxVersion":"SPDX-2.3","SPDXID":"SPDXRef-DOCUMENT"}`,
		"format folded":      `{"BomFormat":"CycloneDX","specVersion":"1.6"}`,
		"version unknown":    `{"bomFormat":"CycloneDX","specVersion":"9.9"}`,
		"components as text": `{"bomFormat":"CycloneDX","specVersion":"1.6","components":"all"}`,
		"nested":             `{"bomFormat":"CycloneDX","specVersion":"1.6","components":[` + nested,
		"invalid UTF-8":      "{\"bomFormat\":\"CycloneDX\",\"specVersion\":\"1.6\",\"components\":[{\"name\":\"\xff\"}]}",
		"long name":          `{"bomFormat":"CycloneDX","specVersion":"1.6","components":[{"name":"` + strings.Repeat("a", 1<<20) + `"}]}`,
		"xml of another":     `<html xmlns="http://www.w3.org/1999/xhtml"></html>`,
		"tag-value endless":  "SPDXVersion: SPDX-2.3\nDocumentComment: <text>" + strings.Repeat("x\n", 1000),
		"spdx3 without id":   `{"@context":"x","@graph":[{"type":"software_Package","name":"a"}]}`,
	} {
		if d, err := sbom.Parse([]byte(in)); err == nil || !errors.Is(err, fault.Invalid) && !errors.Is(err, fault.TooLarge) {
			t.Errorf("%s: %v, %v", name, d, err)
		}
	}
}

func TestLimits(t *testing.T) {
	in := generated(1000)
	for name, lim := range map[string]sbom.Limits{"bytes": {Bytes: 10_000}, "components": {Components: 999}, "edges": {Edges: 998}} {
		if _, err := sbom.Read(bytes.NewReader(in), lim); !errors.Is(err, fault.TooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	d, err := sbom.Read(bytes.NewReader(in), sbom.Limits{})
	if err != nil || len(d.Components) != 1001 || len(d.Direct()) != 1 || len(d.Path("c999")) != 1001 {
		t.Errorf("%v", err)
	}
}

// generated is a CycloneDX document of n components in a chain.
func generated(n int) []byte {
	var b bytes.Buffer
	_, _ = io.Copy(&b, endless(n))
	return b.Bytes()
}

// endless writes such a document as it is read, so that none is held.
func endless(n int) io.Reader {
	r, w := io.Pipe()
	go func() {
		fmt.Fprint(w, `{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"metadata":{"component":{"bom-ref":"root","type":"application","name":"app"}},"components":[`)
		for i := range n {
			if i > 0 {
				fmt.Fprint(w, ",")
			}
			fmt.Fprintf(w, `{"type":"library","bom-ref":"c%d","name":"name-%d","version":"1.%d.0","purl":"pkg:npm/name-%d@1.%d.0","licenses":[{"license":{"id":"MIT"}}],"hashes":[{"alg":"SHA-256","content":"%064x"}]}`, i, i, i, i, i, i)
		}
		fmt.Fprint(w, `],"dependencies":[{"ref":"root","dependsOn":["c0"]}`)
		for i := range n - 1 {
			fmt.Fprintf(w, `,{"ref":"c%d","dependsOn":["c%d"]}`, i, i+1)
		}
		fmt.Fprint(w, `]}`)
		w.Close()
	}()
	return r
}

// TestLargeDocumentsStream: 300,000 components pass through without being held.
func TestLargeDocumentsStream(t *testing.T) {
	n, most := 300_000, uint64(0)
	if testing.Short() {
		n = 30_000
	}
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	seen, edges := 0, 0
	_, err := sbom.Stream(endless(n), sbom.Limits{}, sbom.Visitor{
		Component: func(sbom.Component) error {
			if seen++; seen%50_000 == 0 {
				var m runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc-min(m.HeapAlloc, before.HeapAlloc))
			}
			return nil
		},
		Dependency: func(sbom.Dependency) error { edges++; return nil },
	})
	if err != nil || seen != n+1 || edges != n {
		t.Fatalf("%d components, %d edges, %v", seen, edges, err)
	}
	// What stays is a name for each component, to notice that one stands twice.
	if most > 64<<20 {
		t.Errorf("%d MiB were held", most>>20)
	}
}

func TestVisitorEndsReading(t *testing.T) {
	want := errors.New("enough")
	_, err := sbom.Stream(bytes.NewReader(generated(10)), sbom.Limits{}, sbom.Visitor{Component: func(sbom.Component) error { return want }})
	if !errors.Is(err, want) || errors.Is(err, fault.Invalid) {
		t.Errorf("%v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"bomFormat":"CycloneDX","specVersion":"1.6","components":[{"name":"a","purl":"pkg:npm/a@1"}]}`))
	f.Add([]byte(`{"spdxVersion":"SPDX-2.3","SPDXID":"SPDXRef-DOCUMENT","packages":[{"SPDXID":"SPDXRef-a","name":"a"}]}`))
	f.Add([]byte(`{"@context":"x","@graph":[{"type":"CreationInfo","specVersion":"3.0.1"},{"type":"software_Package","spdxId":"a","name":"b"}]}`))
	f.Add([]byte("SPDXVersion: SPDX-2.3\nPackageName: a\nSPDXID: SPDXRef-a\n"))
	f.Add([]byte(`<bom xmlns="http://cyclonedx.org/schema/bom/1.6"><components><component type="library"><name>a</name></component></components></bom>`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := sbom.Parse(b)
		if err != nil {
			return
		}
		sbom.Judge(d)
		for _, w := range written {
			var out bytes.Buffer
			if err := sbom.Write(&out, d, w.format, w.version); err != nil {
				t.Fatalf("%s: %v", w.format, err)
			}
			again, err := sbom.Parse(out.Bytes())
			if err != nil {
				t.Fatalf("%s: %v\n%s", w.format, err, out.String())
			}
			if len(again.Components) != len(d.Components) {
				t.Fatalf("%s: %d components became %d\n%s", w.format, len(d.Components), len(again.Components), out.String())
			}
		}
	})
}

func BenchmarkRead(b *testing.B) {
	in := generated(500)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := sbom.Parse(in); err != nil {
			b.Fatal(err)
		}
	}
}

// What is done with a licence grows with its length, and stops at what one can have.
func TestThreat_SBOM_LicenseOfParentheses(t *testing.T) {
	const n = 300_000
	for name, text := range map[string]string{
		"parentheses": strings.Repeat("(", n) + "MIT" + strings.Repeat(")", n),
		"nested":      strings.Repeat("(MIT AND ", n/4) + "MIT" + strings.Repeat(")", n/4),
		"a list":      "MIT" + strings.Repeat(" AND MIT", n),
		"short":       strings.Repeat("(", 2000) + "MIT" + strings.Repeat(")", 2000),
	} {
		began := time.Now()
		var list []string
		for range 200 {
			list = append(list, text)
		}
		c := sbom.Component{Licenses: list, Concluded: list}
		c.Settle()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: %s", name, took)
		}
		if ids := sbom.LicenseIDs(text); ids != nil {
			t.Errorf("%s: it is an expression of %d", name, len(ids))
		}
	}
}
