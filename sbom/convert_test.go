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

	"assay/internal/fault"
	"assay/internal/vectors"
	"assay/sbom"

	"github.com/google/go-cmp/cmp"
)

// TestConvertIsReadAndWrite: what is converted as it is read is, byte for byte,
// what a document in memory is written as; for the corpus and for all that is
// written of it.
func TestConvertIsReadAndWrite(t *testing.T) {
	docs := map[string][]byte{
		"apart":    cdx(`{"bom-ref":"a","name":"a","type":"library"}`, `{"bom-ref":"b","name":"b","type":"library"}`),
		"inside":   cdx(`{"bom-ref":"a","name":"a","type":"library","evidence":{"occurrences":[{"location":"/a"}]},"components":[{"bom-ref":"b","name":"b","type":"file","components":[{"bom-ref":"c","name":"c","type":"file"}]},{"bom-ref":"d","name":"d","type":"file"}]}`, `{"bom-ref":"e","name":"e","type":"library"}`),
		"twice":    cdx(`{"bom-ref":"a","name":"a","type":"library"}`, `{"bom-ref":"a","name":"b","type":"library"}`, `{"purl":"pkg:npm/x@1","name":"x","type":"library"}`, `{"purl":"pkg:npm/x@1","name":"x","type":"library"}`),
		"apart3":   spdxOf("b", "a", "", "a", "c", "", "d", "a"), // a's are not together
		"circle":   spdxOf("a", "b", "b", "a", "c", "a"),
		"itself":   spdxOf("a", "a", "b", "a"),
		"no names": cdx(`{"bom-ref":"a","type":"library"}`, `{"bom-ref":"b","name":"b","type":"library"}`),
	}
	for name, d := range schemaDocuments(t) {
		for _, w := range written {
			docs[fmt.Sprintf("%s as %s@%s", name, w.format, w.version)] = text(t, d, w.format, w.version)
		}
	}
	files, err := filepath.Glob(filepath.Join(vectors.Shared(t, "sboms"), "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		docs[filepath.Base(file)] = b
	}
	converted := 0
	for name, b := range docs {
		d, readErr := sbom.Parse(b)
		for _, w := range written {
			var want, got bytes.Buffer
			head, err := sbom.Convert(&got, bytes.NewReader(b), sbom.Limits{}, w.format, w.version)
			if readErr != nil {
				if fault.KindOf(err) != fault.KindOf(readErr) || got.Len() > 0 {
					t.Errorf("%s: %v and %d bytes, want %v", name, err, got.Len(), readErr)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s as %s: %v", name, w.format, err)
				continue
			}
			if err := sbom.Write(&want, d, w.format, w.version); err != nil {
				t.Fatal(err)
			}
			converted++
			if !bytes.Equal(want.Bytes(), got.Bytes()) {
				t.Errorf("%s as %s@%s (-read and written +converted):\n%.2000s", name, w.format, w.version, cmp.Diff(want.String(), got.String()))
			}
			if diff := cmp.Diff(d.Header, head); diff != "" {
				t.Errorf("%s: header:\n%s", name, diff)
			}
		}
	}
	if converted < 500 {
		t.Errorf("only %d were converted", converted)
	}
}

func cdx(components ...string) []byte {
	return []byte(`{"bomFormat":"CycloneDX","specVersion":"1.6","components":[` + strings.Join(components, ",") + `],"dependencies":[{"ref":"b","dependsOn":["a","nowhere"]},{"ref":"a","dependsOn":["b"]},{"ref":"b","dependsOn":["a"]}]}`)
}

// spdxOf is an SPDX document of packages that say what they are in: a name and
// its parent's, by turns.
func spdxOf(pairs ...string) []byte {
	var all []string
	for i := 0; i+1 < len(pairs); i += 2 {
		name := pairs[i]
		if name == "" {
			name = "top" + fmt.Sprint(i)
		}
		all = append(all, fmt.Sprintf(`{"SPDXID":"SPDXRef-%s","name":%q,"downloadLocation":"NOASSERTION","comment":"assay:parent: SPDXRef-%s"}`, name, name, pairs[i+1]))
	}
	return []byte(`{"SPDXID":"SPDXRef-DOCUMENT","spdxVersion":"SPDX-2.3","name":"x","packages":[` + strings.Join(all, ",") + `]}`)
}

// TestConvertKeepsAll: components that are inside each other in a circle, or
// inside themselves, are not lost.
func TestConvertKeepsAll(t *testing.T) {
	for name, doc := range map[string][]byte{"circle": spdxOf("a", "b", "b", "a", "c", "a"), "itself": spdxOf("a", "a", "b", "a", "c", "c")} {
		var out bytes.Buffer
		if _, err := sbom.Convert(&out, bytes.NewReader(doc), sbom.Limits{}, sbom.CycloneDXJSON, ""); err != nil {
			t.Fatal(err)
		}
		d, err := sbom.Parse(out.Bytes())
		if err != nil || len(d.Components) != 3 {
			t.Errorf("%s: %v, %d components of 3:\n%s", name, err, len(d.Components), out.String())
		}
	}
}

// changing is a document that is another one from its second reading on.
type changing struct {
	*bytes.Reader
	seeks int
	then  []byte
}

func (c *changing) Seek(at int64, whence int) (int64, error) {
	if c.seeks++; c.seeks > 1 {
		c.Reader = bytes.NewReader(c.then)
	}
	return c.Reader.Seek(at, whence)
}

func TestConvertOfAChangingFile(t *testing.T) {
	one, two := `{"bom-ref":"a","name":"a","type":"library"}`, `{"bom-ref":"b","name":"b","type":"library"}`
	for _, then := range [][]byte{cdx(one), cdx(two, one), cdx(one, two, `{"bom-ref":"c","name":"c","type":"library"}`)} {
		_, err := sbom.Convert(io.Discard, &changing{Reader: bytes.NewReader(cdx(one, two)), then: then}, sbom.Limits{}, sbom.SPDXJSON, "")
		if !errors.Is(err, fault.Conflict) {
			t.Errorf("%v, want that it changed", err)
		}
	}
}

// TestFilesAreComparedAndJudgedAsDocuments: the difference of two files, and what
// one is worth, are those of the documents in memory.
func TestFilesAreComparedAndJudgedAsDocuments(t *testing.T) {
	var names []string
	docs := map[string]*sbom.Document{}
	for name, d := range schemaDocuments(t) {
		if len(names) < 14 || len(d.Components) < 30 {
			docs[name], names = d, append(names, name)
		}
	}
	// One package of two licences in one, and of each in the other; versions that
	// came and went.
	docs["both"] = &sbom.Document{Components: []sbom.Component{{Ref: "1", Name: "a", Version: "1", Licenses: []string{"MIT", "Zlib"}}, {Ref: "2", Name: "b", Version: "1"}}}
	docs["each"] = &sbom.Document{Components: []sbom.Component{{Ref: "1", Name: "a", Version: "1", Licenses: []string{"MIT"}}, {Ref: "2", Name: "a", Version: "1", Licenses: []string{"Zlib"}}, {Ref: "3", Name: "b", Version: "2"}, {Ref: "4", Name: "b", Version: "1"}}}
	names = append(names, "both", "each")
	for i, one := range names {
		for _, w := range written {
			b := text(t, docs[one], w.format, w.version)
			d, err := sbom.Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			head, q, err := sbom.Examine(bytes.NewReader(b), sbom.Limits{})
			if diff := cmp.Diff(sbom.Judge(d), q); err != nil || diff != "" || q.Packages() != len(d.Packages()) {
				t.Errorf("%s as %s: %v, %d packages of %d (-in memory +file):\n%s", one, w.format, err, q.Packages(), len(d.Packages()), diff)
			}
			if diff := cmp.Diff(d.Header, head); diff != "" {
				t.Errorf("%s: header:\n%s", one, diff)
			}
			for _, other := range []string{one, names[(i+1)%len(names)], "both", "each"} {
				o := text(t, docs[other], sbom.SPDXJSON, "")
				od, err := sbom.Parse(o)
				if err != nil {
					t.Fatal(err)
				}
				got, err := sbom.DiffFiles(bytes.NewReader(b), bytes.NewReader(o), sbom.Limits{})
				if diff := cmp.Diff(sbom.Diff(d, od), got); err != nil || diff != "" {
					t.Errorf("%s as %s and %s: %v (-in memory +files):\n%.1500s", one, w.format, other, err, diff)
				}
			}
		}
	}
}

// TestConvertMemory: components are not held; 20,000 of them, a document of 13
// MB, cost some hundred bytes each, where one in memory is over a thousand.
func TestConvertMemory(t *testing.T) {
	var b bytes.Buffer
	b.WriteString(`{"bomFormat":"CycloneDX","specVersion":"1.6","components":[`)
	const n = 20_000
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"bom-ref":"pkg:npm/package-%d@1","name":"package-%d","version":"1","type":"library","purl":"pkg:npm/package-%d@1","licenses":[{"license":{"id":"MIT"}}],"properties":[{"name":"syft:location:0:path","value":%q}]}`, i, i, i, strings.Repeat("x", 400))
	}
	b.WriteString(`]}`)
	for _, w := range written {
		peak := &peaks{}
		runtime.GC()
		var before runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := sbom.Convert(peak, bytes.NewReader(b.Bytes()), sbom.Limits{}, w.format, w.version); err != nil {
			t.Fatal(err)
		}
		if live := int64(peak.most) - int64(before.HeapAlloc); live > 8<<20 {
			t.Errorf("%s@%s: %d KiB in use for %d components", w.format, w.version, live>>10, n)
		}
	}
}

// peaks looks at what is in use as a document is written.
type peaks struct {
	most uint64
	n    int
}

func (p *peaks) Write(b []byte) (int, error) {
	if p.n++; p.n%80 == 0 {
		runtime.GC()
		var now runtime.MemStats
		runtime.ReadMemStats(&now)
		p.most = max(p.most, now.HeapAlloc)
	}
	return len(b), nil
}
