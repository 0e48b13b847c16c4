package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// largeComponents are those of a large bill of materials.
const largeComponents = 300_000

// sbomLarge measures what the command line needs for a document that no machine
// should have to hold: some 190 MB of CycloneDX, and half as much again in the
// formats that it is written in.
func (b *bench) sbomLarge(ctx context.Context) error {
	n := largeComponents
	if b.quick {
		n = 1000
	}
	dir := b.folder("sbom-large")
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for file, odd := range map[string]string{"one.json": "1.2.3", "two.json": "9.9.9"} {
		if err := writeLarge(path(file), n, odd); err != nil {
			return err
		}
	}
	defer os.RemoveAll(dir)
	for _, what := range []struct {
		name string
		args []string
		out  string
		ends int
	}{
		{"convert.cyclonedx", []string{"convert", "--to", "cyclonedx-json", path("one.json")}, "", 0},
		{"convert.spdx", []string{"convert", "--to", "spdx-json", path("one.json")}, path("one.spdx.json"), 0},
		{"convert.spdx3", []string{"convert", "--to", "spdx3-json", path("one.spdx.json")}, path("one.spdx3.json"), 0},
		{"convert.back", []string{"convert", "--to", "cyclonedx-json", path("one.spdx3.json")}, "", 0},
		{"diff", []string{"diff", path("one.json"), path("two.json")}, "", 1},
		{"show", []string{"show", path("one.json")}, "", 0},
	} {
		var cpu, peak samples
		if err := b.turns(ctx, func(int) error {
			state, err := b.quietSBOM(ctx, what.out, what.ends, what.args...)
			if err != nil {
				return err
			}
			cpu, peak = append(cpu, (state.UserTime()+state.SystemTime()).Seconds()), append(peak, maxResident(state)/1e6)
			return nil
		}); err != nil {
			return err
		}
		f := figure("sbom.large."+what.name+".cpu", "CPU s", cpu, nil)
		f.Note = fmt.Sprintf("%d components", n)
		b.add(f)
		if peak.median() > 0 {
			f = figure("sbom.large."+what.name+".memory", "MB", peak, &Aim{"<=", 150})
			f.Note = "peak resident set of the process"
			b.add(f)
		}
	}
	return nil
}

func (b *bench) quietSBOM(ctx context.Context, out string, ends int, args ...string) (*os.ProcessState, error) {
	cmd := exec.CommandContext(ctx, b.assay, append([]string{"sbom"}, args...)...)
	cmd.Env = quietEnv()
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.Discard, &stderr
	if out != "" {
		f, err := os.Create(out)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		cmd.Stdout = f
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == ends {
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("assay sbom %s: %w\n%s", args[0], err, &stderr)
	}
	return cmd.ProcessState, nil
}

// writeLarge writes a document of n packages, of which one in a thousand has the
// version odd, each depending on two.
func writeLarge(path string, n int, odd string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	ref := func(i int) string { return fmt.Sprintf("npm-%d", i%n) }
	fmt.Fprint(w, `{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"metadata":{"timestamp":"2026-01-01T00:00:00Z","component":{"type":"application","bom-ref":"root","name":"large"}},"components":[`)
	for i := range n {
		version := fmt.Sprintf("1.%d.%d", i%50, i%7)
		if i%1000 == 0 {
			version = odd
		}
		fmt.Fprintf(w, `%s{"type":"library","bom-ref":"%s","group":"@scope%d","name":"package-name-%d","version":"%s","hashes":[{"alg":"SHA-256","content":"%064x"}],"licenses":[{"license":{"id":"MIT"}}],"purl":"pkg:npm/%%40scope%d/package-name-%d@%s","properties":[{"name":"syft:location:0:path","value":"/app/node_modules/@scope%d/package-name-%d/package.json"}]}`,
			comma(i), ref(i), i%500, i, version, i*7919, i%500, i, version, i%500, i)
	}
	fmt.Fprint(w, `],"dependencies":[`)
	for i := range n {
		fmt.Fprintf(w, `%s{"ref":"%s","dependsOn":["%s","%s"]}`, comma(i), ref(i), ref(i*3+1), ref(i*5+2))
	}
	fmt.Fprint(w, `]}`)
	return errors.Join(w.Flush(), f.Close())
}

func comma(i int) string {
	if i == 0 {
		return ""
	}
	return ","
}
