package pipeline

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"assay/internal/fault"

	"go.yaml.in/yaml/v3"
)

func options(s System) Options {
	return Options{
		System: s, Server: "https://assay.example", Image: "assay.example/org/app", Command: []string{"make", "app"},
		Materials: []string{"."}, Products: []string{"app"}, Branch: "main", Platform: "linux-amd64", SHA256: strings.Repeat("0e", 32), Source: "org/app",
	}
}

// TestWrite: whatever stands in a command arrives in the shell as it was.
func TestWrite(t *testing.T) {
	for _, system := range Systems() {
		t.Run(system, func(t *testing.T) {
			o := options(System(system))
			o.Command = []string{`printf '%s\n' "it's $HOME \ done"`}
			p, err := Write(o)
			if err != nil {
				t.Fatal(err)
			}
			script := string(p.Body)
			if strings.HasSuffix(p.Path, ".yml") || strings.HasSuffix(p.Path, ".yaml") {
				var doc any
				if err := yaml.Unmarshal(p.Body, &doc); err != nil {
					t.Fatalf("no YAML: %v\n%s", err, p.Body)
				}
				script = strings.Join(texts(doc), "\n")
			}
			if System(system) == Jenkins {
				script = strings.NewReplacer(`\\`, `\`, `\'`, `'`).Replace(script)
			}
			// The line of the script that runs the command, run by a shell.
			_, line, ok := strings.Cut(script, "-- \\\n")
			line, _, _ = strings.Cut(strings.TrimSpace(line), "\n")
			if !ok || !strings.HasPrefix(line, "sh -c ") {
				t.Fatalf("no command in\n%s", script)
			}
			cmd := exec.CommandContext(t.Context(), "sh", "-c", line)
			cmd.Env = []string{"HOME=/home/x", "PATH=/usr/bin:/bin"}
			out, err := cmd.Output()
			if err != nil || string(out) != "it's /home/x \\ done\n" {
				t.Errorf("%s says %q, %v", line, out, err)
			}
			for _, want := range []string{o.SHA256, "assay.example/org/app", "--products app"} {
				if !strings.Contains(string(p.Body), want) {
					t.Errorf("no %q in\n%s", want, p.Body)
				}
			}
			for _, doc := range strings.Split(string(p.Site), "\n---\n") {
				var v struct{ Kind string }
				if err := yaml.Unmarshal([]byte(doc), &v); err != nil || v.Kind == "" {
					t.Errorf("site: %v in\n%s", err, doc)
				}
			}
		})
	}
}

func texts(v any) (all []string) {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		for _, e := range v {
			all = append(all, texts(e)...)
		}
	case map[string]any:
		for _, e := range v {
			all = append(all, texts(e)...)
		}
	}
	return all
}

// TestPinned: a workflow names every action by commit, and asks for no more
// than it uses.
func TestPinned(t *testing.T) {
	p, err := Write(options(GitHub))
	if err != nil {
		t.Fatal(err)
	}
	var w struct {
		Permissions map[string]string
		Jobs        map[string]struct {
			Permissions map[string]string
			Steps       []struct{ Uses string }
		}
	}
	if err := yaml.Unmarshal(p.Body, &w); err != nil {
		t.Fatal(err)
	}
	if len(w.Permissions) != 0 || w.Permissions == nil {
		t.Errorf("permissions of the workflow: %v", w.Permissions)
	}
	used := 0
	for _, s := range w.Jobs["build"].Steps {
		if s.Uses == "" {
			continue
		}
		used++
		if _, commit, _ := strings.Cut(s.Uses, "@"); len(commit) != 40 {
			t.Errorf("%s is not pinned by commit", s.Uses)
		}
	}
	if used == 0 || len(w.Jobs["build"].Permissions) != 2 || w.Jobs["build"].Permissions["id-token"] != "write" || w.Jobs["build"].Permissions["contents"] != "read" {
		t.Errorf("%d actions, permissions %v", used, w.Jobs["build"].Permissions)
	}
}

// TestThreat_CLI_TemplateInjection: what a CI system would expand, or what
// could leave its place in the file, is refused.
func TestThreat_CLI_TemplateInjection(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"expression":         func(o *Options) { o.Command = []string{"echo ${{ github.event.head_commit.message }}"} },
		"tekton's parameter": func(o *Options) { o.System, o.Command = Tekton, []string{"echo $(params.x)"} },
		"gitlab's input":     func(o *Options) { o.System, o.Command = GitLab, []string{"echo $[[ inputs.x ]]"} },
		"line end":           func(o *Options) { o.Command = []string{"true\n      - run: evil"} },
		"line end in a path": func(o *Options) { o.Products = []string{"app\nevil"} },
		"comma":              func(o *Options) { o.Products = []string{"a,b"} },
		"branch":             func(o *Options) { o.Branch = "main'\"" },
		"source":             func(o *Options) { o.Source = "org/*" },
		"server":             func(o *Options) { o.Server = "https://assay.example/'; evil" },
		"server's user":      func(o *Options) { o.Server = "https://u:p@assay.example" },
		"image":              func(o *Options) { o.Image = "assay.example/Org App" },
		"image with a tag":   func(o *Options) { o.Image += ":v1" },
		"digest":             func(o *Options) { o.SHA256 = "$(evil)" },
		"product outside":    func(o *Options) { o.Products = []string{"../app"} },
		"no product":         func(o *Options) { o.Products = nil },
		"no command":         func(o *Options) { o.Command = nil },
		"system":             func(o *Options) { o.System = "travis" },
	} {
		o := options(GitHub)
		change(&o)
		if p, err := Write(o); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v\n%s", name, err, p.Body)
		}
	}
}
