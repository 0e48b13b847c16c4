package builder

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"assay/internal/secret"
)

// Tool is a program that the build runs, or may run, by what was named.
type Tool struct {
	File           // Name is the program's, without a folder
	Version string // one line, as it tells of itself; "" when it does not, in time
}

// toolchains are the programs that are looked for: what they are asked for their
// version. Without arguments they are not asked, since it would take long.
var toolchains = map[string][]string{
	"go": nil, "gofmt": nil, "npm": nil, "npx": nil, "pnpm": nil, "yarn": nil, "mvn": nil, "gradle": nil, "pip": nil, "pip3": nil, "bazel": nil,
	"gcc": {"--version"}, "g++": {"--version"}, "cc": {"--version"}, "c++": {"--version"}, "clang": {"--version"}, "clang++": {"--version"},
	"ld": {"--version"}, "as": {"--version"}, "make": {"--version"}, "cmake": {"--version"}, "ninja": {"--version"}, "meson": {"--version"},
	"python": {"--version"}, "python3": {"--version"}, "node": {"--version"}, "deno": {"--version"}, "bun": {"--version"},
	"cargo": {"--version"}, "rustc": {"--version"}, "java": {"-version"}, "javac": {"-version"}, "ruby": {"--version"}, "perl": nil,
	"php": {"--version"}, "dotnet": {"--version"}, "swift": {"--version"}, "zig": {"version"}, "ko": nil, "docker": nil, "buildah": nil,
	"git": {"--version"}, "protoc": {"--version"}, "tsc": nil,
}

// projects tell by a file of the build's folder which programs it needs.
var projects = map[string][]string{
	"go.mod": {"go"}, "package.json": {"node", "npm"}, "Cargo.toml": {"cargo", "rustc"}, "pyproject.toml": {"python3"}, "setup.py": {"python3"},
	"requirements.txt": {"python3"}, "pom.xml": {"mvn", "java"}, "build.gradle": {"gradle", "java"}, "build.gradle.kts": {"gradle", "java"},
	"CMakeLists.txt": {"cmake", "cc"}, "Gemfile": {"ruby"}, "composer.json": {"php"},
}

// maxTools bounds what is recorded.
const maxTools = 64

// toolsOf records the programs that the command line, the build's folder and
// more name, as far as they are there.
func toolsOf(ctx context.Context, dir, program string, argv, more []string) []Tool {
	wanted := slices.Clone(more)
	for _, arg := range argv {
		// Also in a line of shell.
		for _, word := range strings.FieldsFunc(arg, func(r rune) bool { return strings.ContainsRune(" \t\n;|&()<>\"'`$={}", r) }) {
			if base := filepath.Base(word); toolchainKnown(base) {
				wanted = append(wanted, base)
			}
		}
	}
	for file, tools := range projects {
		if _, err := os.Stat(filepath.Join(dir, file)); err == nil {
			wanted = append(wanted, tools...)
		}
	}
	slices.Sort(wanted)
	var out []Tool
	for _, name := range slices.Compact(wanted) {
		path, err := lookProgram(dir, name)
		if err != nil || len(out) >= maxTools {
			continue
		}
		real := toolPath(path)
		f, err := HashFile(filepath.Dir(real), filepath.Base(real))
		if err != nil {
			continue
		}
		f.Name = filepath.Base(name)
		t := Tool{File: f, Version: versionOf(ctx, f.Name, real)}
		if real != toolPath(program) || t.Version != "" {
			out = append(out, t)
		}
		if f.Name == "go" {
			out = append(out, goTools(filepath.Dir(filepath.Dir(real)), t.Version)...)
		}
	}
	return out
}

func toolchainKnown(name string) bool { _, ok := toolchains[name]; return ok }

// goTools are the compiler and linker, which the go command runs.
func goTools(root, version string) []Tool {
	var out []Tool
	for _, name := range []string{"asm", "cgo", "compile", "link"} {
		matches, err := filepath.Glob(filepath.Join(root, "pkg", "tool", "*", name))
		if err != nil || len(matches) != 1 {
			continue
		}
		if f, err := HashFile(filepath.Dir(matches[0]), name); err == nil {
			f.Name = "go tool " + name
			out = append(out, Tool{File: f, Version: version})
		}
	}
	return out
}

// versionOf asks a program for its version. A Go program's is read from it.
func versionOf(ctx context.Context, name, path string) string {
	if name == "go" || name == "gofmt" {
		if info, err := buildinfo.ReadFile(path); err == nil {
			return info.GoVersion
		}
		return ""
	}
	args := toolchains[name]
	if len(args) == 0 {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Args[0] = name
	cmd.WaitDelay = time.Second
	var out cappedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env, _ = buildEnv(os.Environ())
	if cmd.Run() != nil {
		return ""
	}
	line, _, _ := strings.Cut(strings.TrimSpace(out.b.String()), "\n")
	line = strings.ToValidUTF8(strings.Join(strings.Fields(line), " "), "?")
	if len(line) > 200 || secret.Looking(line) || strings.ContainsFunc(line, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return ""
	}
	return line
}

// cappedBuffer keeps the beginning of what is written to it.
type cappedBuffer struct{ b bytes.Buffer }

func (c *cappedBuffer) Write(p []byte) (int, error) {
	if room := 4096 - c.b.Len(); room > 0 {
		c.b.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}
