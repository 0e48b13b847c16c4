package reach

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"assay/vuln"

	"github.com/google/go-cmp/cmp"
)

func TestRead(t *testing.T) {
	got, err := Read(strings.NewReader(`{"config": {"protocol_version": "v1.0.0"}}
{"osv": {"id": "GO-1"}}
{"finding": {"osv": "GO-1", "trace": [{"module": "m", "version": "v1"}]}}
{"finding": {"osv": "GO-1", "trace": [{"module": "m", "package": "m/p", "function": "F", "receiver": "*T"}, {"module": "app", "package": "app", "function": "main", "position": {"filename": "main.go", "line": 7}}]}}
{"finding": {"osv": "GO-1", "trace": [{"module": "m", "package": "m/p"}]}}
{"finding": {"osv": "GO-2", "trace": [{"module": "m", "package": "m/p"}]}}
{"finding": {"osv": "GO-3", "trace": [{"module": "m"}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Result{
		"GO-1": {Called, []string{"app.main (main.go:7)", "m/p.(*T).F"}},
		"GO-2": {Level: Imported}, "GO-3": {Level: Required},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := Read(strings.NewReader(`{"finding": `)); err == nil {
		t.Error("what is cut short was read")
	}
}

func FuzzRead(f *testing.F) {
	f.Add(`{"finding": {"osv": "GO-1", "trace": [{"module": "m", "package": "p", "function": "F"}]}}`)
	f.Fuzz(func(t *testing.T, text string) {
		found, err := Read(strings.NewReader(text))
		if err != nil && found != nil {
			t.Fatal(found, err)
		}
	})
}

func TestWriteDatabase(t *testing.T) {
	a, err := vuln.ParseAdvisory([]byte(`{"id": "GO-1", "modified": "0001-01-01T00:00:00Z", "affected": [
		{"package": {"ecosystem": "Go", "name": "example.com/M"}, "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}, {"fixed": "1.2.0"}]}], "ecosystem_specific": {"imports": [{"path": "example.com/M/p", "symbols": ["T.F"], "goos": ["linux"]}]}},
		{"package": {"ecosystem": "npm", "name": "m"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := WriteDatabase(dir, []*vuln.Advisory{a, a}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "ID", "GO-1.json"))
	if err != nil {
		t.Fatal(err)
	}
	back, err := vuln.ParseAdvisory(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a.Affected[:1], back.Affected); diff != "" {
		t.Error(diff)
	}
	if strings.HasPrefix(back.Modified, "0001") {
		t.Error("the year 1 was taken over")
	}
	var modules []struct {
		Path  string
		Vulns []struct{ ID string }
	}
	if b, err = os.ReadFile(filepath.Join(dir, "index", "modules.json")); err == nil {
		err = json.Unmarshal(b, &modules)
	}
	if err != nil || len(modules) != 1 || modules[0].Path != "example.com/M" || len(modules[0].Vulns) != 1 {
		t.Errorf("%+v, %v", modules, err)
	}
	a.ID = "../../x"
	if err := WriteDatabase(dir, []*vuln.Advisory{a}); err == nil {
		t.Error("a name that leaves the folder")
	}
}
