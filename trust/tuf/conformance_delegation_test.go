package tuf_test

import (
	"net/url"
	"os"
	"path/filepath"

	"github.com/google/go-cmp/cmp"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"assay/internal/fault"
)

// edge lets one role delegate paths to another.
type edge struct {
	from, to    string
	paths       []string // nil: "*"
	terminating bool
}

// graph is a set of delegations and the order in which a client that looks for
// a missing target visits the roles.
type graph struct {
	edges   []edge
	visited []string
}

var (
	anyPath = []string(nil)
	python  = []string{"*.py"}
)

var graphs = map[string]graph{
	"basic-delegation":         {[]edge{{"targets", "A", anyPath, false}}, []string{"A"}},
	"single-level-delegations": {[]edge{{"targets", "A", anyPath, false}, {"targets", "B", anyPath, false}}, []string{"A", "B"}},
	"two-level-delegations": {
		[]edge{{"targets", "A", anyPath, false}, {"targets", "B", anyPath, false}, {"B", "C", anyPath, false}},
		[]string{"A", "B", "C"},
	},
	"two-level-test-DFS-order-of-traversal": {
		[]edge{{"targets", "A", anyPath, false}, {"targets", "B", anyPath, false}, {"A", "C", anyPath, false}, {"A", "D", anyPath, false}},
		[]string{"A", "C", "D", "B"},
	},
	"three-level-delegation-test-DFS-order-of-traversal": {
		[]edge{{"targets", "A", anyPath, false}, {"targets", "B", anyPath, false}, {"A", "C", anyPath, false}, {"C", "D", anyPath, false}},
		[]string{"A", "C", "D", "B"},
	},
	"two-level-terminating-ignores-all-but-roles-descendants": {
		[]edge{{"targets", "A", anyPath, false}, {"targets", "B", anyPath, false}, {"A", "C", anyPath, true}, {"A", "D", anyPath, false}},
		[]string{"A", "C"},
	},
	"three-level-terminating-ignores-all-but-roles-descendants": {
		[]edge{{"targets", "A", anyPath, false}, {"targets", "B", anyPath, false}, {"A", "C", anyPath, true}, {"C", "D", anyPath, false}},
		[]string{"A", "C", "D"},
	},
	"two-level-ignores-all-branches-not-matching-paths": {
		[]edge{{"targets", "A", python, false}, {"targets", "B", anyPath, false}, {"A", "C", anyPath, false}},
		[]string{"B"},
	},
	"three-level-ignores-all-branches-not-matching-paths": {
		[]edge{{"targets", "A", anyPath, false}, {"targets", "B", anyPath, false}, {"A", "C", python, false}, {"C", "D", anyPath, false}},
		[]string{"A", "B"},
	},
	"cyclic-graph": {
		[]edge{{"targets", "A", anyPath, false}, {"targets", "B", anyPath, false}, {"B", "C", anyPath, false}, {"C", "D", anyPath, false}, {"D", "B", anyPath, false}},
		[]string{"A", "B", "C", "D"},
	},
	"two-roles-delegating-to-a-third": { // C is reached through A first
		[]edge{{"targets", "A", anyPath, false}, {"targets", "B", anyPath, false}, {"B", "C", anyPath, false}, {"A", "C", anyPath, false}},
		[]string{"A", "C", "B"},
	},
	"two-roles-delegating-to-a-third-different-paths": { // C is reached through B: A delegates no matching path
		[]edge{{"targets", "A", anyPath, false}, {"targets", "B", anyPath, false}, {"B", "C", anyPath, false}, {"A", "C", python, false}},
		[]string{"A", "B", "C"},
	},
}

// The tree in which test_targetfile_search looks:
//
//	                      targets
//	*.doc, *.md, foo-?.tgz  /  \  releases/*/*
//	                       A    B
//	              releases/x/  / \  releases/y/*.zip
//	                          C   D
var (
	searchTree = []edge{
		{"targets", "A", []string{"*.doc", "*.md", "foo-?.tgz"}, false},
		{"targets", "B", []string{"releases/*/*"}, false},
		{"B", "C", []string{"releases/x/*"}, false},
		{"B", "D", []string{"releases/y/*.zip"}, false},
	}
	searchFiles = []struct{ role, content, path string }{
		{"targets", "targetfile content", "targetfile"},
		{"A", "README by A", "README.md"},
		{"A", "nested README by A", "releases/README.md"},
		{"A", "foo 1", "foo-1.tgz"},
		{"A", "foo alpha", "foo-alpha.tgz"},
		{"C", "x release by C", "releases/x/x_v1"},
		{"D", "y release by D", "releases/y/y_v1.zip"},
		{"D", "z release by D", "releases/z/z_v1.zip"},
	}
	searches = map[string]struct {
		path    string
		found   bool
		visited []string
	}{
		"no delegations":                                        {"targetfile", true, nil},
		"targetpath matches wildcard":                           {"README.md", true, []string{"A"}},
		"targetpath with separators x":                          {"releases/x/x_v1", true, []string{"B", "C"}},
		"targetpath with separators y":                          {"releases/y/y_v1.zip", true, []string{"B", "D"}},
		"targetpath is not delegated by all roles in the chain": {"releases/z/z_v1.zip", false, []string{"B"}},
		"wildcard does not match path separator":                {"releases/README.md", false, nil},
		"targetpath matches question mark wildcard":             {"foo-1.tgz", true, []string{"A"}},
		"targetpath does not match question mark wildcard":      {"foo-alpha.tgz", false, nil},
		"targetpath matching is case sensitive":                 {"README.MD", false, nil},
	}
)

// unusualRoles are by the name of their test case, which a slash would split.
var unusualRoles = map[string]string{"question mark": "?", "hash": "#", "absolute": "/delegatedrole", "parent folder": "../delegatedrole"}

// plant publishes delegations, each role under keys of its own.
func (s *scenario) plant(edges []edge) (roles []string) {
	for _, e := range edges {
		if e.paths == nil {
			e.paths = []string{"*"}
		}
		s.delegate(e.from, metadata.DelegatedRole{Name: e.to, Paths: e.paths, Terminating: e.terminating})
	}
	return names(s.targets)
}

// visited expects these roles to be asked for, version 1 each, after the
// top-level ones.
func (s *scenario) visited(want []string) {
	s.t.Helper()
	var got []string
	for _, name := range s.resetAsked()[4:] {
		got = append(got, name[len("1."):])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		s.t.Errorf("visited roles (-want +got):\n%s", diff)
	}
}

// delegationScenarios are those of test_updater_delegation_graphs.py and
// test_quoting_issues.py.
func delegationScenarios() []conformanceTest {
	return []conformanceTest{
		{name: "test_graph_traversal", cases: names(graphs), run: func(s *scenario, name string) {
			s.publish(s.plant(graphs[name].edges)...)
			s.publish("snapshot", "timestamp")
			s.withheld("missingpath", fault.NotFound)
			s.visited(graphs[name].visited)
		}},
		{name: "test_targetfile_search", cases: names(searches), run: func(s *scenario, name string) {
			c, roles := searches[name], s.plant(searchTree)
			for _, f := range searchFiles {
				s.addArtifact(f.role, []byte(f.content), f.path)
			}
			s.publish(roles...)
			s.publish("snapshot", "timestamp")
			if c.found {
				s.downloads(c.path, s.artifacts[c.path].data)
			} else {
				s.withheld(c.path, fault.NotFound)
			}
			s.visited(c.visited)
		}},
		{name: "test_cached_role_is_verified_against_current_delegator", run: diamond},
		{name: "test_delegation_not_in_snapshot", run: func(s *scenario, _ string) {
			s.delegate("targets", metadata.DelegatedRole{Name: "delegated", Paths: []string{"delegatedpath/*"}})
			s.publish("delegated", "targets")
			delete(s.snapshot.Signed.Meta, "delegated.json")
			s.publish("snapshot", "timestamp")
			s.refresh()
			s.resetAsked()
			s.withheld("delegatedpath/foo", fault.Unverified)
			s.version("delegated", 0)
			s.requested("2.root", "timestamp")
		}},
		{name: "test_unusual_role_name", cases: names(unusualRoles), run: func(s *scenario, name string) {
			role := unusualRoles[name]
			s.delegate("targets", metadata.DelegatedRole{Name: role, Paths: []string{"*"}})
			s.publish(role, "targets", "snapshot", "timestamp")
			// A file that the name would reach as a path is none of the client's.
			s.check(os.WriteFile(filepath.Join(s.cache, "delegatedrole.json"), []byte("{"), 0o600))
			s.withheld("nonexistent target", fault.NotFound)
			s.requestedLast("1." + url.PathEscape(role))
			s.check(os.Remove(filepath.Join(s.cache, "delegatedrole.json")))
			s.trusts(map[string]int64{"root": 1, "timestamp": 2, "snapshot": 2, "targets": 2, role: 1})
			// What was stored under a quoted name is found again under it.
			s.withheld("nonexistent target", fault.NotFound)
			s.requested("2.root", "timestamp")
		}},
	}
}

// diamond: parents A and B delegate disjoint paths to one role under different
// keys, and the role is signed with A's key only. What it says of B's paths
// must not pass, also not when it was verified and kept for A's.
func diamond(s *scenario, _ string) {
	s.plant([]edge{
		{"targets", "parent-a", []string{"team-a/*"}, false},
		{"targets", "parent-b", []string{"team-b/*"}, false},
		{"parent-a", "release", []string{"team-a/*"}, false},
		{"parent-b", "release", []string{"team-b/*"}, false},
	})
	s.popSigner("release") // parent B's
	s.addArtifact("release", []byte("trusted A"), "team-a/trusted_root.json")
	s.addArtifact("release", []byte("malicious B"), "team-b/trusted_root.json")
	s.publish("release", "parent-a", "parent-b", "targets", "snapshot", "timestamp")
	s.downloads("team-a/trusted_root.json", []byte("trusted A"))
	s.withheld("team-b/trusted_root.json", fault.Unverified)
	s.cached("trusted A")
}
