package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// buildPackage is what is built, with -a: a program of this project with every
// package that it needs, so that the compiler works and not the cache.
const buildPackage = "./examples/demo"

// build measures what wrapping a build costs, and tracing it: the same command
// bare, under assay run, and under assay run --trace, in turns. Everything counts
// that a user waits for: hashing, signing keyless, uploading.
func (b *bench) build(ctx context.Context) error {
	s, err := up(ctx, b.assay, b.folder("build-site"))
	if err != nil {
		return err
	}
	defer s.stop()
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	out := filepath.Join(b.dir, "build-out")
	build := []string{"go", "build", "-a", "-o", out, buildPackage}
	if b.quick {
		build = []string{"go", "build", "-o", out, buildPackage}
	}
	rel, err := filepath.Rel(root, out)
	if err != nil {
		return err
	}
	wrap := []string{b.assay, "run", "--data", s.data, "--subject", benchSubject, "--materials", "go.mod", "--materials", "go.sum", "--products", rel}
	kinds := []struct {
		name string
		argv []string
	}{
		{"bare", build},
		{"wrapped", append(append([]string{}, wrap...), append([]string{"--"}, build...)...)},
		{"traced", append(append([]string{}, wrap...), append([]string{"--trace", "--"}, build...)...)},
	}
	wall, cpu := map[string]samples{}, map[string]samples{}
	once := func(name string, argv []string) (time.Duration, time.Duration, error) {
		_ = os.Remove(out)
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Dir = root
		began := time.Now()
		text, err := cmd.CombinedOutput()
		if err != nil {
			return 0, 0, fmt.Errorf("%s build: %w\n%s", name, err, text)
		}
		if name == "traced" && strings.Contains(string(text), "was not traced") {
			return 0, 0, fmt.Errorf("the build was not traced here:\n%s", text)
		}
		return time.Since(began), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
	}
	// The first reads the tools and sources from disk.
	if _, _, err := once("bare", build); err != nil {
		return err
	}
	m := startMeter(nil)
	if err := b.turns(ctx, func(round int) error {
		for i := range kinds {
			k := kinds[(i+round)%len(kinds)] // nobody is always the first
			w, c, err := once(k.name, k.argv)
			if err != nil {
				return err
			}
			wall[k.name], cpu[k.name] = append(wall[k.name], w.Seconds()), append(cpu[k.name], c.Seconds())
		}
		return nil
	}); err != nil {
		return err
	}
	others := m.stop(b.processors).others
	for _, k := range []struct {
		name string
		aim  float64
	}{{"wrapped", 1.03}, {"traced", 1.25}} {
		f := figure("build."+k.name, "s", wall[k.name], nil).against("bare", wall[k.name], wall["bare"], &Aim{"<=", k.aim})
		f.CPU, f.PeerCPU, f.Others = cpu[k.name].median()*1e6, cpu["bare"].median()*1e6, others
		f.Note = strings.Join(build[:len(build)-3], " ") + " " + buildPackage + " of this project, signing and upload included"
		b.add(f)
		var extra samples
		for i := range wall[k.name] {
			extra = append(extra, (wall[k.name][i]-wall["bare"][i])*1000)
		}
		aim := &Aim{"<=", 300}
		if k.name == "traced" {
			aim = nil
		}
		g := figure("build."+k.name+".extra", "ms", extra, aim)
		g.Others, g.Note = others, "wall time beyond the bare build of the same round"
		b.add(g)
		h := figure("build."+k.name+".cpu", "s", cpu[k.name], nil).against("bare", cpu[k.name], cpu["bare"], &Aim{"<=", k.aim})
		h.Others, h.Note = others, "processor time of the command and all that it starts; without the server's"
		b.add(h)
	}
	return nil
}

// moduleRoot is the folder of this project, which is what is built.
func moduleRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	path := strings.TrimSpace(string(out))
	if err != nil || !strings.HasSuffix(path, "go.mod") {
		return "", fmt.Errorf("run it in the project's folder: go env GOMOD gives %q, %w", path, err)
	}
	return filepath.Dir(path), nil
}
