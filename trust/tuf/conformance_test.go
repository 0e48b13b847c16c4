package tuf_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/internal/clock"
	"assay/internal/fault"
	"assay/internal/vectors"
	"assay/trust/trusttest"
	"assay/trust/tuf"
)

// The scenarios of github.com/theupdateframework/tuf-conformance at eec841c,
// under their names and with their expected answers. There a client is a
// command and "refresh" is one of its verbs; here a refresh is [tuf.LoadFromTUF]
// and a download [tuf.FetchTarget], so that what is asserted is what Assay's
// callers get: the trusted root, or an error of the right kind and nothing.

// portedScenarios is how many of the 56 are here; the others are in
// testdata/conformance_not_applicable.golden.
const portedScenarios = 53

// conformanceTest is one scenario, or one for each of its cases.
type conformanceTest struct {
	name  string
	cases []string // nil: one, named ""
	run   func(s *scenario, name string)
}

// conformanceTests are all but test_static_repository.
func conformanceTests() []conformanceTest {
	return slices.Concat(refreshScenarios(), expirationScenarios(), downloadScenarios(), keyScenarios(),
		rollbackScenarios(), delegationScenarios(), rotationScenarios())
}

func TestConformance(t *testing.T) {
	world := trusttest.New(t)
	trustedRoot := world.Root(t).Bytes()
	ported := []string{"test_static_repository"}
	t.Run("test_static_repository", testStaticRepositories)
	for _, c := range conformanceTests() {
		ported = append(ported, c.name)
		if c.cases == nil {
			t.Run(c.name, func(t *testing.T) { t.Parallel(); c.run(newScenario(t, trustedRoot), "") })
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			for _, name := range c.cases {
				t.Run(name, func(t *testing.T) { t.Parallel(); c.run(newScenario(t, trustedRoot), name) })
			}
		})
	}
	t.Run("all are accounted for", func(t *testing.T) { testAccounting(t, ported) })
}

// testAccounting compares what is ported and what is not applicable with the
// index of the suite.
func testAccounting(t *testing.T, ported []string) {
	slices.Sort(ported)
	if n := len(slices.Compact(slices.Clone(ported))); n != portedScenarios || n != len(ported) {
		t.Errorf("%d scenarios are ported (%d tests), want %d", n, len(ported), portedScenarios)
	}
	golden, err := os.ReadFile("testdata/conformance_not_applicable.golden")
	if err != nil {
		t.Fatal(err)
	}
	known := slices.Clone(ported)
	for line := range strings.Lines(string(golden)) {
		if name, reason, ok := strings.Cut(line, ": "); ok && !strings.HasPrefix(line, "#") && strings.TrimSpace(reason) != "" {
			known = append(known, name)
		}
	}
	slices.Sort(known)
	t.Logf("%d scenarios of tuf-conformance ported, %d not applicable", len(ported), len(known)-len(ported))

	var index []string
	for _, m := range regexp.MustCompile(`(?m)^\|test_\w+\.py\|(test_\w+)\|`).FindAllSubmatch(vectors.Read(t, "tuf-conformance", "INDEX.md"), -1) {
		index = append(index, string(m[1]))
	}
	slices.Sort(index)
	if diff := cmp.Diff(index, known); diff != "" {
		t.Errorf("the suite's index and what is ported or not applicable (-index +here):\n%s", diff)
	}
}

// scenario is a repository and one client of it.
type scenario struct {
	*simulator
	t     *testing.T
	cache string
	first []byte    // the root that the client begins with
	now   time.Time // of the client; zero: the repository's
	want  []byte    // the trusted root that a refresh must give
}

func newScenario(t *testing.T, trustedRoot []byte) *scenario {
	t.Helper()
	sim := newSimulator(t, trustedRoot)
	return &scenario{simulator: sim, t: t, cache: t.TempDir(), first: sim.last("root"), want: trustedRoot}
}

func (s *scenario) options() tuf.ClientOptions {
	now := s.now
	if now.IsZero() {
		now = s.simulator.now
	}
	return tuf.ClientOptions{URL: s.url + "/metadata", TargetsURL: s.url + "/targets", Root: s.first, CacheDir: s.cache, Now: clock.Fixed(now)}
}

// refresh expects the client to get the trusted root from what is published.
func (s *scenario) refresh() {
	s.t.Helper()
	r, err := tuf.LoadFromTUF(s.t.Context(), s.options())
	if err != nil {
		s.t.Fatalf("refresh: %v, want success", err)
	}
	if !bytes.Equal(r.Bytes(), s.want) {
		s.t.Error("refresh gave another trusted root than was published")
	}
}

// refuse expects a refresh to fail with the kind of error and no trusted root.
func (s *scenario) refuse(kind error) {
	s.t.Helper()
	r, err := tuf.LoadFromTUF(s.t.Context(), s.options())
	if !errors.Is(err, kind) || r != nil {
		s.t.Fatalf("refresh: %v, want %v and no trusted root", err, kind)
	}
}

// download fetches a target.
func (s *scenario) download(name string) ([]byte, error) {
	return tuf.FetchTarget(s.t.Context(), s.options(), name)
}

// downloads expects that the target is given with these bytes.
func (s *scenario) downloads(name string, want []byte) {
	s.t.Helper()
	b, err := s.download(name)
	if err != nil || !bytes.Equal(b, want) {
		s.t.Fatalf("target %s: %q, %v; want %q", name, b, err, want)
	}
}

// withheld expects that the target is refused with the kind of error.
func (s *scenario) withheld(name string, kind error) {
	s.t.Helper()
	if b, err := s.download(name); !errors.Is(err, kind) || b != nil {
		s.t.Fatalf("target %s: %q, %v; want %v and no bytes", name, b, err, kind)
	}
}

// folder is the client's memory of its anchor.
func (s *scenario) folder() string {
	s.t.Helper()
	m, err := filepath.Glob(filepath.Join(s.cache, "*"))
	if err != nil || len(m) != 1 {
		s.t.Fatalf("cache holds %q, %v; want one folder", m, err)
	}
	return m[0]
}

// cached expects that the folder of targets holds these contents and no other,
// the trusted root aside.
func (s *scenario) cached(want ...string) {
	s.t.Helper()
	got := []string{}
	files, err := filepath.Glob(filepath.Join(s.folder(), "targets", "*"))
	s.check(err)
	for _, f := range files {
		b, err := os.ReadFile(f)
		s.check(err)
		if filepath.Base(f) != tuf.TargetTrustedRoot {
			got = append(got, string(b))
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(append([]string{}, want...), got); diff != "" {
		s.t.Errorf("cached targets (-want +got):\n%s", diff)
	}
}

// trusted gives the versions of the roles that the client trusts, by role.
func (s *scenario) trusted() map[string]int64 {
	s.t.Helper()
	out := map[string]int64{}
	files, err := filepath.Glob(filepath.Join(s.folder(), "*.json"))
	s.check(err)
	for _, f := range files {
		b, err := os.ReadFile(f)
		s.check(err)
		role, err := url.QueryUnescape(strings.TrimSuffix(filepath.Base(f), ".json"))
		s.check(err)
		var doc struct{ Signed struct{ Version int64 } }
		s.check(json.Unmarshal(b, &doc))
		out[role] = doc.Signed.Version
	}
	return out
}

// trusts expects these roles at these versions and no other role.
func (s *scenario) trusts(want map[string]int64) {
	s.t.Helper()
	if diff := cmp.Diff(want, s.trusted()); diff != "" {
		s.t.Errorf("trusted versions (-want +got):\n%s", diff)
	}
}

// version expects the version of one trusted role; 0: none.
func (s *scenario) version(role string, want int64) {
	s.t.Helper()
	if got := s.trusted()[role]; got != want {
		s.t.Errorf("trusted %s is version %d, want %d", role, got, want)
	}
}

// holds expects that the client keeps these very bytes of a role.
func (s *scenario) holds(role string, want []byte) {
	s.t.Helper()
	got, err := os.ReadFile(filepath.Join(s.folder(), role+".json"))
	if err != nil || !bytes.Equal(got, want) {
		s.t.Errorf("trusted %s: %.200s, %v; want the bytes that were published", role, got, err)
	}
}

// requested expects these requests for metadata since the last reset, in order.
func (s *scenario) requested(want ...string) {
	s.t.Helper()
	if diff := cmp.Diff(want, s.resetAsked()); diff != "" {
		s.t.Errorf("requests for metadata (-want +got):\n%s", diff)
	}
}

// requestedLast expects the last request for metadata.
func (s *scenario) requestedLast(want string) {
	s.t.Helper()
	if asked := s.resetAsked(); len(asked) == 0 || asked[len(asked)-1] != want {
		s.t.Errorf("requests for metadata %q, want %s last", asked, want)
	}
}

// testStaticRepositories reads the repositories of other implementations, as a
// plain file server publishes them.
func testStaticRepositories(t *testing.T) {
	dir := vectors.Dir(t, "tuf-conformance/static_data")
	srv := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(srv.Close)
	for name, roles := range map[string]map[string]int64{
		"sigstore-root-signing": {"root": 12, "timestamp": 0, "snapshot": 159, "targets": 11},
		"tuf-on-ci-0.11":        {"root": 1, "timestamp": 0, "snapshot": 2, "targets": 1, "delegatedrole": 2},
	} {
		t.Run(name, func(t *testing.T) {
			read := func(file string) []byte {
				t.Helper()
				return bytes.TrimSpace(vectors.Read(t, "tuf-conformance", "static_data", name, file))
			}
			at, err := time.Parse("2006-01-02 15:04:05-07:00", string(read("faketime")))
			if err != nil {
				t.Fatal(err)
			}
			base := srv.URL + "/" + name
			s := &scenario{simulator: &simulator{t: t}, t: t, cache: t.TempDir()}
			o := tuf.ClientOptions{
				URL: base + "/metadata/", TargetsURL: base + "/targets/", CacheDir: s.cache, Now: clock.Fixed(at),
				Root: vectors.Read(t, "tuf-conformance", "static_data", name, "initial_root.json"),
			}
			target := string(read("targetpath"))
			got, err := tuf.FetchTarget(t.Context(), o, target)
			if err != nil {
				t.Fatal(err)
			}
			parent, base := filepath.Split(target)
			files, err := filepath.Glob(filepath.Join(dir, name, "targets", parent, "*."+base))
			if err != nil || len(files) != 1 {
				t.Fatal(files, err)
			}
			if want, err := os.ReadFile(files[0]); err != nil || !bytes.Equal(got, want) {
				t.Errorf("target %s: %d bytes, %v; want %d", target, len(got), err, len(want))
			}
			have := s.trusted()
			roles["timestamp"] = have["timestamp"] // rises every few days
			if diff := cmp.Diff(roles, have); diff != "" {
				t.Errorf("trusted versions (-want +got):\n%s", diff)
			}
			// The longest of them lasts until 2044.
			o.Now = clock.Fixed(at.AddDate(30, 0, 0))
			if _, err := tuf.FetchTarget(t.Context(), o, target); !errors.Is(err, fault.Unverified) {
				t.Errorf("thirty years later: %v, want unverified", err)
			}
		})
	}
}

// names gives the keys of a table, sorted.
func names[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
