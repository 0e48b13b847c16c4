// Command bench measures Assay against its aims and against its peers, all in
// one run on one machine: the log, verification, decisions, ingest, start, and
// the registry beside olareg and distribution. See docs/performance.md.
//
// It starts what it needs on 127.0.0.1 and in a temporary folder, and leaves
// neither behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := command(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// groups are what can be measured, in the order of a run.
var groups = []struct {
	name  string
	share float64 // of the time limit
	run   func(*bench, context.Context) error
}{
	{"up", 0.12, (*bench).up},
	{"log", 0.15, (*bench).log},
	{"evidence", 0.18, (*bench).evidence},
	{"trust", 0.08, (*bench).trustDepth},
	{"revoke", 0.05, (*bench).revokePlan},
	{"replay", 0.10, (*bench).replays},
	{"sbom", 0.05, (*bench).sboms},
	{"feed", 0.05, (*bench).feeds},
	{"vuln", 0.20, (*bench).vulns},
	{"admission", 0.08, (*bench).admissions},
	{"decisions", 0.08, (*bench).decisionMemory},
	{"inventory", 0.08, (*bench).inventories},
	{"policy", 0.15, (*bench).policyChange},
	{"ui", 0.15, (*bench).pages},
	{"registry", 0.80, (*bench).registry},
	{"build", 0.20, (*bench).build},
}

// bench is one run.
type bench struct {
	assay      string // path of the binary
	dir        string // temporary, this run's own
	rounds     int
	slot       time.Duration // of one server's turn
	quick      bool
	profiles   string // folder for pprof files; "" for none
	loads      []operation
	processors int
	progress   io.Writer
	figures    []Figure
	until      time.Time // the running group's end: no new round after it
}

// command is main with its surroundings given. Exit codes: 0 measured, 1 an aim
// missed with -strict, 2 something could not be measured, 64 usage.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(stderr)
	assay := fs.String("assay", "bin/assay", "the binary to measure")
	out := fs.String("out", "", "file for the JSON lines; none: they go to stdout before the table")
	quick := fs.Bool("quick", false, "one short round of everything, for a test of this program: its figures mean little")
	limit := fs.Duration("limit", 9*time.Minute, "how long the run may take, about")
	only := fs.String("only", "", "groups to measure, by commas: up, log, evidence, trust, revoke, replay, sbom, vuln, admission, decisions, inventory, policy, ui, registry, build, or one load such as registry.pull.1mb")
	strict := fs.Bool("strict", false, "exit 1 when an aim is missed")
	profiles := fs.String("profile", "", "folder for CPU profiles of what runs in this process")
	if err := fs.Parse(args); err != nil {
		return 64
	}
	wanted, loads, err := choose(*only)
	if err != nil || fs.NArg() > 0 {
		fmt.Fprintln(stderr, "bench: ", errors.Join(err, unexpected(fs.Args())))
		return 64
	}
	path, err := exec.LookPath(*assay)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		fmt.Fprintf(stderr, "bench: no binary at %s: run make build\n", *assay)
		return 64
	}
	// A short path: the admin socket's has at most 107 bytes (unix(7)).
	dir, err := os.MkdirTemp("", "assay-bench-")
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 2
	}
	defer os.RemoveAll(dir)
	b := &bench{assay: path, dir: dir, rounds: 5, slot: 2 * time.Second, quick: *quick, profiles: *profiles, loads: loads,
		processors: runtime.NumCPU(), progress: stderr}
	if *quick {
		b.rounds, b.slot, *limit = 1, 300*time.Millisecond, min(*limit, time.Minute)
	}
	failed := b.run(ctx, wanted, *limit)
	if err := b.report(*out, stdout); err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 2
	}
	missed := slices.ContainsFunc(b.figures, func(f Figure) bool { return f.Met != nil && !*f.Met })
	switch {
	case failed:
		return 2
	case missed && *strict:
		return 1
	}
	return 0
}

func unexpected(args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("unexpected %q: there are flags only", args)
}

// choose turns the -only flag into groups and the registry's loads; "" is all
// of them.
func choose(only string) (wanted map[string]bool, loads []operation, err error) {
	wanted = map[string]bool{}
	var names []string
	for _, g := range groups {
		names = append(names, g.name)
		wanted[g.name] = only == ""
	}
	if only == "" {
		return wanted, operations, nil
	}
	for name := range strings.SplitSeq(only, ",") {
		if i := slices.IndexFunc(operations, func(o operation) bool { return o.name == name }); i >= 0 {
			loads, wanted["registry"] = append(loads, operations[i]), true
			continue
		}
		if _, ok := wanted[name]; !ok {
			return nil, nil, fmt.Errorf("no group %q: want some of %s", name, strings.Join(names, ", "))
		}
		wanted[name] = true
		if name == "registry" {
			loads = operations
		}
	}
	return wanted, loads, nil
}

// run measures the groups. One that fails is told and does not end the others.
func (b *bench) run(ctx context.Context, wanted map[string]bool, limit time.Duration) (failed bool) {
	var shares float64
	for _, g := range groups {
		if wanted[g.name] {
			shares += g.share
		}
	}
	for _, g := range groups {
		if !wanted[g.name] || ctx.Err() != nil {
			continue
		}
		b.until = time.Now().Add(time.Duration(float64(limit) * g.share / shares))
		if err := g.run(b, ctx); err != nil {
			failed = true
			b.say("%s: %v", g.name, err)
		}
	}
	return failed || ctx.Err() != nil
}

func (b *bench) report(out string, stdout io.Writer) error {
	lines := stdout
	if out != "" {
		if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
			return err
		}
		f, err := os.Create(out)
		if err != nil {
			return err
		}
		defer f.Close()
		lines = f
	}
	if err := writeLines(lines, b.figures); err != nil {
		return err
	}
	return writeTable(stdout, b.figures)
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.progress, "bench: "+format+"\n", args...)
}

func (b *bench) add(f Figure) {
	b.figures = append(b.figures, f)
	b.say("%s %s %s", f.Name, plain(f.Value), f.Unit)
}

// turns yields the rounds, the first always, the others while there is time.
func (b *bench) turns(ctx context.Context, yield func(round int) error) error {
	for i := range b.rounds {
		if err := ctx.Err(); err != nil {
			return err
		}
		if i > 0 && time.Now().After(b.until) {
			b.say("time is up after %d of %d rounds", i, b.rounds)
			return nil
		}
		if err := yield(i); err != nil {
			return err
		}
	}
	return nil
}

// folder is a new path below the run's own folder.
func (b *bench) folder(name string) string { return filepath.Join(b.dir, name) }
