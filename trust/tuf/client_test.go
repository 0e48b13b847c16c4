package tuf_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"assay/internal/fault"
	"assay/trust/trusttest"
	"assay/trust/tuf"
)

// These go beyond tuf-conformance: what go-tuf's updater does with them is
// noted at the type update.

// each runs a table of scenarios.
func each(t *testing.T, tests map[string]func(s *scenario)) {
	t.Helper()
	trustedRoot := trusttest.New(t).Root(t).Bytes()
	for name, run := range tests {
		t.Run(name, func(t *testing.T) { t.Parallel(); run(newScenario(t, trustedRoot)) })
	}
}

// TestThreat_TUF_MirrorWithoutKeys serves what needs no signature to be harmful.
func TestThreat_TUF_MirrorWithoutKeys(t *testing.T) {
	serve := func(role, text string) func(s *scenario) {
		return func(s *scenario) {
			s.pop(role)
			s.append(role, []byte(text))
			s.refuse(fault.Unverified)
			s.version(role, 0)
		}
	}
	each(t, map[string]func(s *scenario){
		"a target that is null":    serve("targets", `{"signed":{"_type":"targets","targets":{"x":null}},"signatures":[]}`),
		"a snapshot of null roles": serve("snapshot", `{"signed":{"_type":"snapshot","meta":{"targets.json":null}},"signatures":[]}`),
		"no snapshot":              serve("timestamp", `{"signed":{"_type":"timestamp","meta":{}},"signatures":[]}`),
		"a member twice": func(s *scenario) {
			b := s.pop("timestamp")
			s.append("timestamp", append([]byte(`{"signed":{},`), b[1:]...))
			s.refuse(fault.Unverified)
			s.version("timestamp", 0)
		},
		"more than it may be": serve("timestamp", strings.Repeat(" ", 20_000)+"{}"),
	})
}

// TestThreat_TUF_OnlineKeys has the timestamp, snapshot or targets key sign what
// no repository publishes.
func TestThreat_TUF_OnlineKeys(t *testing.T) {
	each(t, map[string]func(s *scenario){
		"timestamp names no snapshot": func(s *scenario) {
			s.refresh()
			delete(s.timestamp.Signed.Meta, "snapshot.json")
			s.publish("timestamp")
			s.refuse(fault.Unverified)
			s.version("timestamp", 1)
		},
		"first timestamp names no snapshot": func(s *scenario) {
			delete(s.timestamp.Signed.Meta, "snapshot.json")
			s.publish("timestamp")
			s.refuse(fault.Unverified)
		},
		"snapshot lists null": func(s *scenario) {
			s.refresh()
			s.snapshot.Signed.Meta["targets.json"] = nil
			s.publish("snapshot", "timestamp")
			s.refuse(fault.Unverified)
		},
		"snapshot of another version than named": func(s *scenario) {
			s.refresh()
			s.snapshot.Signed.Version++ // 3, served as 2
			s.publish("snapshot")
			s.timestamp.Signed.Meta["snapshot.json"].Version = 2
			s.publish("timestamp")
			s.refuse(fault.Unverified)
			s.version("snapshot", 1)
		},
		"targets of another version than named": func(s *scenario) {
			s.refresh()
			s.targets["targets"].Signed.Version++
			s.publish("targets")
			s.snapshot.Signed.Meta["targets.json"].Version = 2
			s.publish("snapshot", "timestamp")
			s.refuse(fault.Unverified)
			s.version("targets", 1)
		},
		"snapshot beyond the limit": func(s *scenario) {
			// Right in all but its length, which the timestamp vouches for.
			b := append(s.pop("snapshot"), []byte(strings.Repeat(" ", 3<<20))...)
			s.append("snapshot", b)
			s.timestamp.Signed.Meta["snapshot.json"].Length = int64(len(b))
			s.publish("timestamp")
			s.refuse(fault.Unverified)
		},
		"target beyond the limit": func(s *scenario) {
			s.addArtifact("targets", []byte("x"), "large")
			s.targets["targets"].Signed.Targets["large"].Length = 1 << 40
			s.publish(published...)
			s.withheld("large", fault.TooLarge)
		},
	})
}

// TestThreat_TUF_DelegatedRole has a delegated role reach beyond what it was
// given.
func TestThreat_TUF_DelegatedRole(t *testing.T) {
	all := metadata.DelegatedRole{Paths: []string{"*"}}
	named := func(role string) func(s *scenario) {
		return func(s *scenario) {
			s.refresh()
			before := s.last("timestamp")
			d := all
			d.Name = role
			s.delegate("targets", d)
			s.addArtifact("targets", []byte("x"), "dir/x")
			s.targets[role].Signed.Version = 1
			s.publish("targets")
			if role != "timestamp" {
				s.publish(role)
			}
			s.publish("snapshot", "timestamp")
			s.withheld("missing", fault.Unverified)
			s.downloads("dir/x", []byte("x")) // what needs no delegation goes on
			s.version("timestamp", versionIn(s, s.last("timestamp")))
			if string(before) == string(s.last("timestamp")) {
				s.t.Error("nothing was published")
			}
		}
	}
	each(t, map[string]func(s *scenario){
		"a role named timestamp": named("timestamp"),
		"a role named Timestamp": named("Timestamp"), // one file where case does not count
		"a role of a long name":  named(strings.Repeat("r", 201)),
		"a role delegated to twice": func(s *scenario) {
			// Its keys must not be those of the one entry and its paths those of the other.
			s.delegate("targets", metadata.DelegatedRole{Name: "role", Paths: []string{"a"}})
			s.delegate("targets", metadata.DelegatedRole{Name: "role", Paths: []string{"b"}})
			s.addArtifact("role", []byte("x"), "b")
			s.popSigner("role")
			s.publish("role", "targets", "snapshot", "timestamp")
			s.withheld("b", fault.Unverified)
		},
		"an Ed25519 key of three bytes": func(s *scenario) {
			s.plant([]edge{{"targets", "A", nil, false}, {"A", "B", nil, false}})
			for _, k := range s.targets["A"].Signed.Delegations.Keys {
				k.Type, k.Scheme, k.Value.PublicKey = "ed25519", "ed25519", "aabbcc"
			}
			s.publish("B", "A", "targets", "snapshot", "timestamp")
			s.withheld("missing", fault.Unverified)
			s.version("B", 0)
		},
		"more roles than are searched": func(s *scenario) {
			from := "targets"
			for range 40 {
				to := from + "x"
				s.plant([]edge{{from, to, nil, false}})
				from = to
			}
			s.addArtifact(from, []byte("x"), "x")
			s.publish(names(s.targets)...)
			s.publish("snapshot", "timestamp")
			s.withheld("x", fault.Unverified)
		},
	})
}

func versionIn(s *scenario, b []byte) int64 {
	m, err := new(metadata.Metadata[metadata.TimestampType]).FromBytes(b)
	s.check(err)
	return m.Signed.Version
}

// TestHashPrefixes: PATH_HASH_PREFIXES are of the hexadecimal SHA-256 of the
// target's path (TUF specification, section 4.5).
func TestHashPrefixes(t *testing.T) {
	sum := sha256.Sum256([]byte("file"))
	prefix := hex.EncodeToString(sum[:2])
	for name, c := range map[string]struct {
		role  metadata.DelegatedRole
		found bool
	}{
		"covers":  {metadata.DelegatedRole{PathHashPrefixes: []string{"0000", prefix}}, true},
		"another": {metadata.DelegatedRole{PathHashPrefixes: []string{"0000"}}, false},
		"empty":   {metadata.DelegatedRole{PathHashPrefixes: []string{""}}, false},
		// As go-tuf reads it, this would cover the path.
		"base64": {metadata.DelegatedRole{PathHashPrefixes: []string{"O5"}}, false},
	} {
		each(t, map[string]func(s *scenario){name: func(s *scenario) {
			c.role.Name = "bin"
			s.delegate("targets", c.role)
			s.addArtifact("bin", []byte("content"), "file")
			s.publish("bin", "targets", "snapshot", "timestamp")
			if c.found {
				s.downloads("file", []byte("content"))
			} else {
				s.withheld("file", fault.NotFound)
			}
		}})
	}
}

// TestPathPatterns: a wildcard stays within its segment (section 4.5).
func TestPathPatterns(t *testing.T) {
	for name, c := range map[string]struct {
		pattern, target string
		found           bool
	}{
		"itself":             {"dir/file", "dir/file", true},
		"wildcards":          {"d?r/*", "dir/file", true},
		"fewer segments":     {"*", "dir/file", false},
		"a folder alone":     {"dir", "dir/file", false},
		"more segments":      {"dir/*/*", "dir/file", false},
		"no pattern at all":  {"[a-", "[a-", false},
		"not the whole name": {"fil", "file", false},
	} {
		each(t, map[string]func(s *scenario){name: func(s *scenario) {
			s.plant([]edge{{"targets", "A", []string{c.pattern}, false}})
			s.addArtifact("A", []byte("content"), c.target)
			s.publish("A", "targets", "snapshot", "timestamp")
			if c.found {
				s.downloads(c.target, []byte("content"))
			} else {
				s.withheld(c.target, fault.NotFound)
			}
		}})
	}
}

// TestDamagedCache: a file that lost its contents does not stop the client, and
// what is left of its memory still counts.
func TestDamagedCache(t *testing.T) {
	tests := map[string]func(s *scenario){}
	for _, role := range []string{"root", "timestamp", "snapshot", "targets", "targets/" + tuf.TargetTrustedRoot} {
		for damage, b := range map[string][]byte{"empty": {}, "cut": []byte(`{"signed":{`), "null": []byte("null"), "other": []byte(`{"signed":{"_type":"targets","targets":{"x":null}}}`)} {
			tests[role+" "+damage] = func(s *scenario) {
				s.publish("root", "targets", "snapshot", "timestamp")
				s.refresh()
				file := filepath.Join(s.folder(), strings.TrimSuffix(role, ".json")+".json")
				if _, err := os.Stat(file); err != nil {
					s.t.Fatal(err)
				}
				s.check(os.WriteFile(file, b, 0o600))
				s.refresh()
				s.trusts(map[string]int64{"root": 2, "timestamp": 2, "snapshot": 2, "targets": 2})
			}
		}
	}
	tests["rollback after damage"] = func(s *scenario) {
		s.publish("snapshot", "timestamp")
		s.refresh()
		s.check(os.WriteFile(filepath.Join(s.folder(), "snapshot.json"), nil, 0o600))
		s.forget("snapshot")
		s.snapshot.Signed.Version = 1
		s.publish("snapshot", "timestamp")
		s.refuse(fault.Unverified)
	}
	each(t, tests)
}

// TestOfflineAsksNobody, also not for a role that an earlier run had no need of.
func TestOfflineAsksNobody(t *testing.T) {
	s := newScenario(t, trusttest.New(t).Root(t).Bytes())
	s.plant([]edge{{"targets", "A", nil, false}})
	s.addArtifact("A", []byte("by A"), "a")
	s.addArtifact("A", []byte("by A too"), "b")
	s.publish("A", "targets", "snapshot", "timestamp")
	offline := s.options()
	offline.Offline = true
	want := func(name, content string, kind error) {
		t.Helper()
		b, err := tuf.FetchTarget(t.Context(), offline, name)
		if string(b) != content || !errors.Is(err, kind) {
			t.Errorf("offline %s: %q, %v; want %q, %v", name, b, err, content, kind)
		}
	}
	want("a", "", fault.Unavailable)
	s.refresh()
	s.resetAsked()
	want("a", "", fault.Unavailable)
	s.downloads("a", []byte("by A"))
	s.resetAsked()
	fetched := len(s.fetched)
	want("a", "by A", nil)
	want("b", "", fault.Unavailable)
	want(tuf.TargetTrustedRoot, string(s.want), nil)
	s.requested()
	if len(s.fetched) != fetched {
		t.Errorf("offline fetched targets %q", s.fetched[fetched:])
	}
}

// TestClientURLs: targets lie below the metadata unless said otherwise, and a
// name's odd characters reach the server as they are.
func TestClientURLs(t *testing.T) {
	s := newScenario(t, trusttest.New(t).Root(t).Bytes())
	s.addArtifact("targets", []byte("x"), "a dir/what? #1%2F")
	s.publish(published...)
	for _, bad := range []string{"", "ftp://127.0.0.1/x", "metadata", "http://"} {
		o := s.options()
		o.URL = bad
		if _, err := tuf.FetchTarget(t.Context(), o, "x"); !errors.Is(err, fault.Invalid) {
			t.Errorf("URL %q: %v, want invalid", bad, err)
		}
		if o = s.options(); bad != "" {
			o.TargetsURL = bad
			if _, err := tuf.FetchTarget(t.Context(), o, "x"); !errors.Is(err, fault.Invalid) {
				t.Errorf("targets URL %q: %v, want invalid", bad, err)
			}
		}
	}
	var asked string
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { asked = req.RequestURI }))
	t.Cleanup(srv.Close)
	s.withheld("missing", fault.NotFound)
	o := s.options()
	o.TargetsURL = srv.URL + "/t"
	sum := sha256.Sum256([]byte("x"))
	want := "/t/a%20dir/" + hex.EncodeToString(sum[:]) + ".what%3F%20%231%252F"
	if _, err := tuf.FetchTarget(t.Context(), o, "a dir/what? #1%2F"); !errors.Is(err, fault.Unverified) || asked != want {
		t.Errorf("asked for %s, %v; want %s and unverified", asked, err, want)
	}
}
