package vuln

import "testing"

func TestPlatforms(t *testing.T) {
	a := affected("Go", nil, []Event{{Introduced: "0"}, {Fixed: "1.2.0"}})
	a.Specific.Imports = []Import{{Path: "x", GOOS: []string{"windows"}}, {Path: "x/y", GOOS: []string{"darwin"}, GOARCH: []string{"arm64"}}}
	x := NewIndex()
	for i, platform := range []string{"", "linux/amd64", "windows/amd64", "darwin/amd64", "darwin/arm64", "darwin/", "/arm64"} {
		x.Add(Component{int64(i + 1), Candidate{a.Key(), "1.0.0", platform}})
		want := platform != "linux/amd64" && platform != "darwin/amd64"
		if got := a.For(platform); got != want {
			t.Errorf("%q: %v", platform, got)
		}
	}
	if hits := x.Affected(&Advisory{ID: "X", Affected: []Affected{*a}}, false); len(hits) != 5 {
		t.Errorf("%v", hits)
	}
	a.Specific.Imports = append(a.Specific.Imports, Import{Path: "x/everywhere"})
	if !a.For("linux/amd64") {
		t.Error("a package of all systems")
	}
}
