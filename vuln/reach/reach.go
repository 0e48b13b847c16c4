// Package reach asks govulncheck whether a Go program, or Go source, comes to the
// symbols that advisories name.
//
// govulncheck is run as the program that it is, as git is, and not linked: on
// source it runs the go command and type-checks what it finds, which takes
// gigabytes on a large module, and a process of its own can be bounded and ended.
// It is given the advisories that were found and no network.
package reach

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"assay/internal/fault"
	"assay/vuln"
)

// Level is how far a program comes to a flaw.
type Level string

// The levels, from far to near. Of what is not called nothing is said about plug-ins,
// reflection and code that is built for other systems.
const (
	Required Level = "required" // the module is needed, none of the affected packages is
	Imported Level = "imported" // an affected package is, none of its affected symbols is called
	Called   Level = "called"   // an affected symbol is called; of a program: is in it
)

var rank = map[Level]int{Required: 1, Imported: 2, Called: 3}

// Result is what is known of one advisory.
type Result struct {
	Level Level
	Trace []string // from the program's own code to the symbol, of Called
}

// Program is the executable's name that is looked for on PATH.
const Program = "govulncheck"

// Run asks about target, a folder with Go source or a program, and gives what is
// known of each advisory by its name. One that is not in the answer does not
// concern target's versions, or its platform. fault.NotFound: govulncheck is not
// there. fault.Invalid: it cannot read target.
func Run(ctx context.Context, target string, all []*vuln.Advisory) (map[string]Result, error) {
	program, err := exec.LookPath(Program)
	if err != nil {
		return nil, fault.Newf(fault.NotFound, "%s is not on PATH: go install golang.org/x/vuln/cmd/govulncheck@v1.9.0", Program)
	}
	st, err := os.Stat(target)
	if err != nil {
		return nil, fault.Wrap(fault.NotFound, err)
	}
	if target, err = filepath.Abs(target); err != nil {
		return nil, err
	}
	db, err := os.MkdirTemp("", "assay-reach-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(db)
	if err := WriteDatabase(db, all); err != nil {
		return nil, err
	}
	args := []string{"-format", "json", "-db", "file://" + filepath.ToSlash(db)}
	if st.IsDir() {
		args = append(args, "-C", target, "./...")
	} else {
		args = append(args, "-mode", "binary", target)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = append(os.Environ(), "GOTELEMETRY=off")
	var problem tail
	cmd.Stderr = &problem
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	found, err := Read(out)
	if err != nil {
		_ = cmd.Process.Kill() // it may still be writing
	}
	if waited := cmd.Wait(); err == nil && waited != nil {
		err = fault.Newf(fault.Invalid, "%s on %s: %w: %s", Program, filepath.Base(target), waited, strings.TrimSpace(problem.String()))
	}
	return found, err
}

// tail keeps the first part of what a program complains about.
type tail struct{ bytes.Buffer }

func (t *tail) Write(b []byte) (int, error) {
	if room := 4096 - t.Len(); room > 0 {
		t.Buffer.Write(b[:min(len(b), room)])
	}
	return len(b), nil
}

// WriteDatabase writes advisories of Go in the layout of https://go.dev/doc/security/vuln/database,
// as govulncheck reads it from a folder.
func WriteDatabase(dir string, all []*vuln.Advisory) error {
	type entry struct {
		ID       string    `json:"id"`
		Modified time.Time `json:"modified"`
	}
	type module struct {
		Path  string  `json:"path"`
		Vulns []entry `json:"vulns"`
	}
	// What a record claims is not trusted, and its days must be such: one does.
	now := time.Now().UTC().Truncate(time.Second)
	modules := map[string]*module{}
	var order []string
	write := func(name string, v any) error {
		b, err := json.Marshal(v)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o600)
		}
		return err
	}
	for _, a := range all {
		if !plain(a.ID) {
			return fault.Newf(fault.Invalid, "an advisory's name %.100q is none that can be a file's", a.ID)
		}
		one := *a
		one.Modified, one.Published, one.Withdrawn = now.Format(time.RFC3339), "", ""
		one.Affected = slices.DeleteFunc(slices.Clone(a.Affected), func(f vuln.Affected) bool { return f.Package.Ecosystem != "Go" })
		if len(one.Affected) == 0 || a.IsWithdrawn() {
			continue
		}
		if err := write(filepath.Join("ID", a.ID+".json"), one); err != nil {
			return err
		}
		for _, f := range one.Affected {
			m := modules[f.Package.Name]
			if m == nil {
				m = &module{Path: f.Package.Name}
				modules[m.Path], order = m, append(order, m.Path)
			}
			if !slices.ContainsFunc(m.Vulns, func(e entry) bool { return e.ID == a.ID }) {
				m.Vulns = append(m.Vulns, entry{a.ID, now})
			}
		}
	}
	slices.Sort(order)
	list := make([]*module, 0, len(order))
	for _, path := range order {
		list = append(list, modules[path])
	}
	return errors.Join(write(filepath.Join("index", "db.json"), map[string]any{"modified": now}), write(filepath.Join("index", "modules.json"), list))
}

func plain(id string) bool {
	return id != "" && len(id) < 200 && !strings.HasPrefix(id, ".") && !strings.ContainsFunc(id, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.", r)
	})
}

// frame is a step of a trace; the first is the flaw.
type frame struct {
	Module   string `json:"module"`
	Package  string `json:"package"`
	Function string `json:"function"`
	Receiver string `json:"receiver"`
	Position *struct {
		Filename string `json:"filename"`
		Line     int    `json:"line"`
	} `json:"position"`
}

func (f frame) String() string {
	name := f.Function
	if f.Receiver != "" {
		name = "(" + f.Receiver + ")." + name
	}
	if f.Package != "" {
		name = f.Package + "." + name
	}
	if f.Position != nil && f.Position.Filename != "" {
		name += fmt.Sprintf(" (%s:%d)", f.Position.Filename, f.Position.Line)
	}
	return name
}

// The bounds of what is read of govulncheck.
const (
	maxOutput = 256 << 20
	maxTrace  = 50
)

// Read reads govulncheck's stream of JSON.
func Read(r io.Reader) (map[string]Result, error) {
	found := map[string]Result{}
	in := json.NewDecoder(bufio.NewReader(io.LimitReader(r, maxOutput)))
	for {
		var m struct {
			Finding *struct {
				OSV   string  `json:"osv"`
				Trace []frame `json:"trace"`
			} `json:"finding"`
		}
		err := in.Decode(&m)
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "what %s says cannot be read: %w", Program, err)
		}
		if m.Finding == nil || len(m.Finding.Trace) == 0 {
			continue
		}
		got := Result{Level: Required}
		switch first := m.Finding.Trace[0]; {
		case first.Function != "":
			got.Level = Called
			for _, f := range slices.Backward(m.Finding.Trace[:min(len(m.Finding.Trace), maxTrace)]) {
				got.Trace = append(got.Trace, f.String())
			}
		case first.Package != "":
			got.Level = Imported
		}
		if old, is := found[m.Finding.OSV]; !is || rank[got.Level] > rank[old.Level] {
			found[m.Finding.OSV] = got
		}
	}
}
