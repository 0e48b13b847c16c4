package sbom_test

import (
	"bytes"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"assay/internal/fault"
	"assay/sbom"

	"github.com/google/go-cmp/cmp"
)

func purls(d *sbom.Document) []string {
	var out []string
	for _, c := range d.Packages() {
		out = append(out, c.PURL.String())
	}
	return out
}

func TestReadList(t *testing.T) {
	for _, c := range []struct {
		kind   sbom.ListKind
		distro string
		in     string
		want   []string
	}{
		{sbom.ListDPKG, "debian-12", "Desired=Unknown/Install/Remove/Purge/Hold\n| Status=Not/Inst\n|/ Err?=(none)/Reinst-required\n||/ Name Version Architecture Description\n+++-====-====\nii  curl  7.88.1-10+deb12u5 amd64 a tool\nrc  gone 1.0 amd64 removed\nii  libc6:i386 2.36-9 i386 libc\n", []string{"pkg:deb/debian/curl@7.88.1-10%2Bdeb12u5?arch=amd64&distro=debian-12", "pkg:deb/debian/libc6@2.36-9?arch=i386&distro=debian-12"}},
		{sbom.ListDPKG, "", "adduser\t3.134\n", []string{"pkg:deb/debian/adduser@3.134"}},
		{sbom.ListRPM, "rhel-9", "bash-5.1.8-6.el9.x86_64\ngpg-pubkey-fd431d51-4ae0493b\nshadow-utils-2:4.9-6.el9.x86_64\n", []string{"pkg:rpm/rhel/bash@5.1.8-6.el9?arch=x86_64&distro=rhel-9", "pkg:rpm/rhel/shadow-utils@4.9-6.el9?arch=x86_64&distro=rhel-9&epoch=2"}},
		{sbom.ListPip, "", "# a comment\nDjango==4.2\nFoo_Bar[extra]==1.0 ; python_version>'3'\nmine @ git+https://example.com/mine@abc\n", []string{"pkg:pypi/django@4.2", "pkg:pypi/foo-bar@1.0", "pkg:pypi/mine"}},
		{sbom.ListNPM, "", `{"name":"app","version":"1.0.0","dependencies":{"@types/react":{"version":"18.0.0","dependencies":{"csstype":{"version":"3.1.0"}}},"gone":{"required":"1","missing":true}}}`, []string{"pkg:npm/%40types/react@18.0.0", "pkg:npm/csstype@3.1.0"}},
		{sbom.ListGo, "", "bin/x: go1.26.1\n\tpath\texample.com/x\n\tmod\texample.com/x\t(devel)\t\n\tdep\tgithub.com/a/b\tv1.2.3\th1:xx=\n\tdep\tgithub.com/old/c\tv1.0.0\n\t=>\tgithub.com/new/c\tv1.0.1\th1:y=\n\tbuild\tGOOS=linux\n", []string{"pkg:golang/stdlib@1.26.1", "pkg:golang/example.com/x", "pkg:golang/github.com/a/b@v1.2.3", "pkg:golang/github.com/new/c@v1.0.1"}},
		{sbom.ListAPK, "alpine-3.20", "musl-1.2.5-r0\nlibcrypto3-3.3.1-r0\n", []string{"pkg:apk/alpine/musl@1.2.5-r0?distro=alpine-3.20", "pkg:apk/alpine/libcrypto3@3.3.1-r0?distro=alpine-3.20"}},
		{sbom.ListCargo, "", "app v0.1.0 (/src)\nserde v1.0.200\nserde v1.0.200 (*)\n", []string{"pkg:cargo/app@0.1.0", "pkg:cargo/serde@1.0.200"}},
	} {
		t.Run(string(c.kind)+"/"+c.distro, func(t *testing.T) {
			d, err := sbom.ReadList(strings.NewReader(c.in), c.kind, sbom.ListOptions{Distro: c.distro, Name: "host"})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, purls(d)); diff != "" {
				t.Error(diff)
			}
			if len(d.Incomplete) == 0 {
				t.Error("a plain list claims to be whole")
			}
			var b bytes.Buffer
			if err := sbom.Write(&b, d, sbom.CycloneDXJSON, ""); err != nil {
				t.Fatal(err)
			}
			if again, err := sbom.Parse(b.Bytes()); err != nil || len(again.Components) != len(d.Components) || len(again.Incomplete) == 0 {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestReadListRefuses(t *testing.T) {
	for _, c := range []struct {
		kind sbom.ListKind
		in   string
	}{
		{sbom.ListDPKG, "hello world"}, {sbom.ListRPM, "x"}, {sbom.ListPip, "<html>"}, {sbom.ListNPM, "[]"}, {sbom.ListGo, "no"},
		{sbom.ListAPK, "nothing here"}, {sbom.ListCargo, "{}"}, {sbom.ListPip, ""}, {"yum", "x"}, {sbom.ListPip, strings.Repeat("a", 70<<10)},
		{sbom.ListNPM, strings.Repeat(`{"dependencies":{"a":`, 20_000)},
	} {
		if d, err := sbom.ReadList(strings.NewReader(c.in), c.kind, sbom.ListOptions{}); err == nil || !errors.Is(err, fault.Invalid) && !errors.Is(err, fault.TooLarge) {
			t.Errorf("%s %.40q: %v, %v", c.kind, c.in, d, err)
		}
	}
}

// TestReadListOfThisMachine reads what the package managers here really print.
func TestReadListOfThisMachine(t *testing.T) {
	for _, c := range []struct {
		kind sbom.ListKind
		argv []string
	}{
		{sbom.ListDPKG, []string{"dpkg", "-l"}},
		{sbom.ListDPKG, []string{"dpkg-query", "-W"}},
	} {
		if _, err := exec.LookPath(c.argv[0]); err != nil {
			continue
		}
		out, err := exec.Command(c.argv[0], c.argv[1:]...).Output()
		if err != nil {
			t.Fatal(err)
		}
		d, err := sbom.ReadList(bytes.NewReader(out), c.kind, sbom.ListOptions{})
		if err != nil || len(d.Packages()) < 5 {
			t.Errorf("%v: %v, %v", c.argv, d, err)
		}
	}
}

func TestDiff(t *testing.T) {
	read := func(s string) *sbom.Document {
		d, err := sbom.ReadList(strings.NewReader(s), sbom.ListPip, sbom.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	a, b := read("kept==1\ngone==1\nmoved==1\n"), read("moved==2\nkept==1\nnew==1\n")
	got := sbom.Diff(a, b)
	want := sbom.Difference{
		Added:   []sbom.Change{{Package: "pkg:pypi/new", After: []string{"1"}}},
		Removed: []sbom.Change{{Package: "pkg:pypi/gone", Before: []string{"1"}}},
		Changed: []sbom.Change{{Package: "pkg:pypi/moved", Before: []string{"1"}, After: []string{"2"}}},
		Same:    1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !sbom.Diff(a, a).Empty() || got.Empty() {
		t.Error("Empty is wrong")
	}
}

func TestJudge(t *testing.T) {
	d, err := sbom.Parse([]byte(`{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"metadata":{"timestamp":"2026-01-01T00:00:00Z","tools":[{"name":"x"}],"component":{"bom-ref":"r","type":"application","name":"app","version":"1"}},
	"components":[{"type":"library","bom-ref":"a","name":"a","version":"1","purl":"pkg:npm/a@1","licenses":[{"license":{"id":"MIT"}}],"supplier":{"name":"s"},"hashes":[{"alg":"SHA-256","content":"aa"}]},{"type":"library","bom-ref":"b","name":"b"}],
	"dependencies":[{"ref":"r","dependsOn":["a","b"]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	q := sbom.Judge(d)
	if q.Score != 62 {
		t.Errorf("score %d, want 62: half of 75 and all of 25\n%+v", q.Score, q.Parts)
	}
	weights := 0
	for _, p := range q.Parts {
		weights += p.Weight
		if (p.Have < p.Of) != (p.Reason != "") {
			t.Errorf("%+v: a reason stands where something is missing, and only there", p)
		}
	}
	if weights != 100 {
		t.Errorf("the weights add up to %d", weights)
	}
	if empty := sbom.Judge(&sbom.Document{}); empty.Score != 0 {
		t.Errorf("an empty document has the score %d", empty.Score)
	}
}
