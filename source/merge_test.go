package source

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestThreat_Git_EvilMerge: what a merge commit holds beside its parents' changes
// is found, whatever the repository's configuration and attributes say.
func TestThreat_Git_EvilMerge(t *testing.T) {
	r := newRepo(t)
	r.file("a", strings.Repeat("line\n", 20))
	r.file("b", "b\n")
	r.run("git", "add", ".")
	r.run("git", "commit", "-q", "-m", "base")
	r.run("git", "checkout", "-q", "-b", "topic")
	r.file("a", "topic\n"+strings.Repeat("line\n", 20))
	r.file("b", "topic\n")
	r.run("git", "commit", "-q", "-a", "-m", "topic")
	r.run("git", "branch", "other", "main")
	r.run("git", "checkout", "-q", "main")
	r.file("a", strings.Repeat("line\n", 20)+"main\n")
	r.run("git", "commit", "-q", "-a", "-m", "main")
	r.run("git", "branch", "conflicting")
	// A driver that the judged repository configures is not run.
	mark := filepath.Join(t.TempDir(), "ran")
	r.run("git", "config", "merge.evil.driver", "touch "+mark)

	merge := func(from, topic string, change func()) string {
		t.Helper()
		r.run("git", "checkout", "-q", "-B", "now", from)
		if change == nil {
			r.run("git", "merge", "-q", "--no-ff", "-m", "merge", topic)
		} else {
			r.run("sh", "-c", "git merge -q --no-ff --no-commit "+topic+" >/dev/null || true")
			change()
			r.run("git", "add", "-A")
			r.run("git", "commit", "-q", "-m", "merge")
		}
		return r.run("git", "rev-parse", "HEAD")
	}
	clean := merge("main", "topic", nil)
	evil := merge("main", "topic", func() { r.file("c", "backdoor\n") })
	dropped := merge("main", "topic", func() { r.run("git", "checkout", "-q", "main", "--", "b") }) // topic's fix is gone
	r.run("git", "checkout", "-q", "conflicting")
	r.file("b", "another\n")
	r.file(".gitattributes", "* merge=evil\n")
	r.run("git", "add", "-A")
	r.run("git", "commit", "-q", "-m", "conflicting")
	resolved := merge("conflicting", "topic", func() { r.file("b", "both\n"); r.file("a", "topic\n"+strings.Repeat("line\n", 20)+"main\n") })
	hidden := merge("conflicting", "topic", func() {
		r.file("b", "both\n")
		r.file("a", "topic\n"+strings.Repeat("line\n", 20)+"main\nbackdoor\n")
	})
	_ = os.Remove(mark) // git's own merges above have run it

	g, err := OpenRepository(t.Context(), r.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	m, err := g.remaker(t.Context(), 40)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	for _, c := range []struct {
		id    string
		state string
		files []string
	}{
		{clean, MergeClean, nil}, {evil, MergeChanged, []string{"c"}}, {dropped, MergeChanged, []string{"b"}},
		{resolved, MergeResolved, []string{"b"}}, {hidden, MergeChanged, []string{"a", "b"}},
	} {
		o, err := g.Object(t.Context(), c.id, MaxObject)
		if err != nil {
			t.Fatal(err)
		}
		commit, err := ParseCommit(o.Raw)
		if err != nil {
			t.Fatal(err)
		}
		v, err := m.remake(t.Context(), c.id, commit.Tree, commit.Parents)
		if err != nil || v.State != c.state || cmp.Diff(c.files, v.Files) != "" {
			t.Errorf("%s: %+v %v, want %s %q", c.id, v, err, c.state, c.files)
		}
	}
	if v, err := m.remake(t.Context(), clean, clean, []string{clean, clean, clean}); err != nil || v.State != MergeUnknown {
		t.Errorf("three parents: %+v %v", v, err)
	}
	if v, err := m.remake(t.Context(), clean, clean, []string{clean, strings.Repeat("0", 40)}); err != nil || v.State != MergeUnknown || v.Reason == "" {
		t.Errorf("a parent that is not here: %+v %v", v, err)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("a merge driver of the judged repository was run")
	}
	if left, _ := filepath.Glob(filepath.Join(r.dir, ".git", "objects", "tmp_*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestJudgeMerge(t *testing.T) {
	for _, c := range []struct {
		want, state string
		bad, open   bool
	}{
		{"", MergeChanged, false, false}, {"", MergeUnknown, false, false},
		{MergesResolved, MergeClean, false, false}, {MergesResolved, MergeResolved, false, false}, {MergesResolved, MergeChanged, true, false}, {MergesResolved, MergeUnknown, false, true},
		{MergesClean, MergeClean, false, false}, {MergesClean, MergeResolved, true, false}, {MergesClean, MergeChanged, true, false}, {MergesClean, MergeUnknown, false, true},
	} {
		w := &walk{check: Checker{Policy: &Policy{Spec: PolicySpec{Merges: c.want}}}, out: &Report{Commits: []CommitVerdict{{Signature: Signature{Status: Good}}}, Wanted: 1}}
		w.judgeMerge(&MergeVerdict{Commit: "x", State: c.state, Files: []string{"f"}})
		w.conclude()
		want := Passed
		switch {
		case c.bad:
			want = Failed
		case c.open:
			want = NotDecided
		}
		if w.out.Verdict != want || (want != Passed) != (len(w.out.Findings) == 1) || slices.Contains(w.out.Next.Missing, "every commit signed by an identity of the policy") {
			t.Errorf("%q %s: %s %q, want %s", c.want, c.state, w.out.Verdict, w.out.Findings, want)
		}
	}
}
