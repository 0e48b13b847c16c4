package sbom_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	"assay/internal/vectors"
	"assay/sbom"

	"github.com/google/go-cmp/cmp"
)

var written = []struct {
	format  sbom.Format
	version string
}{
	{sbom.CycloneDXJSON, "1.6"}, {sbom.CycloneDXJSON, "1.7"}, {sbom.SPDXJSON, "2.3"}, {sbom.SPDX3JSON, "3.0.1"},
}

// TestWrittenIsReadAgain: every document of the corpus, in every format that is
// written, reads back equal, and twice written is the same bytes.
func TestWrittenIsReadAgain(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(filepath.Dir(vectors.Dir(t, "purl")), "..", "sboms", "*"))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		d, err := sbom.Parse(b)
		if err != nil {
			continue
		}
		seen++
		for _, w := range written {
			t.Run(fmt.Sprintf("%s/%s@%s", filepath.Base(file), w.format, w.version), func(t *testing.T) {
				var once, twice bytes.Buffer
				if err := sbom.Write(&once, d, w.format, w.version); err != nil {
					t.Fatal(err)
				}
				again, err := sbom.Parse(once.Bytes())
				if err != nil {
					t.Fatalf("%v\n%.2000s", err, once.String())
				}
				if again.Format != w.format || !strings.HasPrefix(again.SpecVersion, w.version) || len(again.Problems) > 0 {
					t.Errorf("format %s version %s problems %q", again.Format, again.SpecVersion, again.Problems)
				}
				if diff := cmp.Diff(normal(d, w.format), normal(again, w.format)); diff != "" {
					t.Errorf("read again (-first +again):\n%.3000s", diff)
				}
				if err := sbom.Write(&twice, d, w.format, w.version); err != nil || !bytes.Equal(once.Bytes(), twice.Bytes()) {
					t.Errorf("written twice, the bytes differ: %v", err)
				}
			})
		}
	}
	if seen < 30 {
		t.Fatalf("only %d documents were written", seen)
	}
}

// normal takes out what a format cannot hold, and names the components in an
// order that does not depend on it.
func normal(in *sbom.Document, f sbom.Format) *sbom.Document {
	d := *in
	d.Format, d.SpecVersion, d.Problems, d.Vulnerabilities, d.Name, d.ID, d.Version = "", "", nil, 0, "", "", 0
	if f != sbom.CycloneDXJSON {
		d.Supplier, d.Incomplete, d.Complete = "", nil, false
	} else {
		for i := range d.Incomplete {
			d.Incomplete[i] = "incomplete"
		}
		if len(d.Roots) > 1 {
			d.Roots = d.Roots[:1]
		}
	}
	d.Components = append([]sbom.Component{}, in.Components...)
	key := func(c *sbom.Component) string {
		return fmt.Sprint(c.Name, "|", c.Version, "|", c.PURL, "|", c.Type, "|", c.Digests, "|", c.Locations, "|", c.Group)
	}
	sort.SliceStable(d.Components, func(i, j int) bool { return key(&d.Components[i]) < key(&d.Components[j]) })
	names := map[string]string{}
	for i := range d.Components {
		names[d.Components[i].Ref] = fmt.Sprintf("c%05d", i)
	}
	for i := range d.Components {
		c := &d.Components[i]
		c.Ref, c.Parent = names[c.Ref], names[c.Parent]
		if f == sbom.CycloneDXJSON && len(in.Roots) > 0 && c.Parent == names[in.Roots[0]] {
			c.Parent = ""
		}
		c.Digests = known(c.Digests)
		c.Licenses, c.Concluded = slices.Sorted(slices.Values(c.Licenses)), slices.Sorted(slices.Values(c.Concluded))
		if c.Type == "file" && f == sbom.SPDXJSON && c.PURL.Type == "" {
			c.Version, c.Licenses, c.Locations, c.CPEs = "", nil, nil, nil
		}
	}
	roots := []string{}
	for _, r := range d.Roots {
		if names[r] != "" {
			roots = append(roots, names[r])
		}
	}
	d.Roots = roots
	d.Dependencies = nil
	for _, dep := range in.Dependencies {
		n := sbom.Dependency{Ref: names[dep.Ref]}
		for _, on := range dep.On {
			if names[on] != "" {
				n.On = append(n.On, names[on])
			}
		}
		sort.Strings(n.On)
		if n.Ref != "" && len(n.On) > 0 {
			d.Dependencies = append(d.Dependencies, n)
		}
	}
	sort.Slice(d.Dependencies, func(i, j int) bool { return d.Dependencies[i].Ref < d.Dependencies[j].Ref })
	return &d
}

// known are the digests that every written format has a name for.
func known(in map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range in {
		switch k {
		case "md5", "sha1", "sha256", "sha384", "sha512", "sha3_256", "sha3_384", "sha3_512", "blake2b_256", "blake2b_384", "blake2b_512", "blake3":
			out[k] = v
		}
	}
	return out
}
