package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDrills: the tests that the index of drills names are there, and so are the
// facts and the words.
func TestDrills(t *testing.T) {
	page, err := os.ReadFile("drills.md")
	if err != nil {
		t.Fatal(err)
	}
	schema, err := os.ReadFile("../policy/facts.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{}
	def := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	if err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path) //nolint:gosec // of this tree
		for _, m := range def.FindAllSubmatch(text, -1) {
			tests[string(m[1])] = true
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || strings.HasPrefix(line, "|---") || strings.HasPrefix(line, "| drill ") {
			continue
		}
		rows++
		for _, m := range regexp.MustCompile("`\\w+\\[\\]\\.(\\w+)`").FindAllStringSubmatch(cells[2], -1) {
			if !strings.Contains(string(schema), `"`+m[1]+`"`) {
				t.Errorf("no fact %s", m[1])
			}
		}
		named := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[4], -1)
		if len(named) == 0 {
			t.Errorf("no test in %q", line)
		}
		for _, m := range named {
			_, err := os.Stat(filepath.Join("..", m[1]))
			if !tests[m[1]] && (err != nil || !strings.HasSuffix(m[1], ".txtar")) {
				t.Errorf("no test %s", m[1])
			}
		}
	}
	if rows != 8 {
		t.Errorf("%d drills, want 8", rows)
	}
}
