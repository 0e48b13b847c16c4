// Command assay is the whole of Assay: the server and its command line.
//
// Exit codes: 0 allowed or ok, 1 denied or findings, 2 could not decide, 64
// usage, 70 panic.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"assay/builder/trace"
	"assay/internal/fault"
	"assay/telemetry"
)

const (
	exitUsage = 64
	exitPanic = 70
)

func main() {
	trace.Launch() // of assay run --trace, before anything else
	os.Exit(Main(helperArgs(os.Args), os.Stdin, os.Stdout, os.Stderr))
}

// Main runs one command line and gives its exit code. A panic is 70 and never
// success (CVE-2026-44310).
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) (code int) {
	defer func() {
		if p := recover(); p != nil {
			fmt.Fprintf(stderr, "assay: this is a bug, please report it: %v\n%s", p, debug.Stack())
			code = exitPanic
		}
	}()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal asks for an orderly end, the second one ends.
	context.AfterFunc(ctx, stop)
	ctx = telemetry.FromEnvironment(ctx, os.Getenv) // a pipeline's trace goes on at the server
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := newRoot(a)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var silent *exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &silent):
		return silent.code
	case errors.Is(err, errUsage), strings.HasPrefix(err.Error(), "unknown command "):
		fmt.Fprintf(stderr, "assay: %s\n", clean(err.Error()))
		return exitUsage
	}
	fmt.Fprintf(stderr, "assay: %s\n", clean(err.Error()))
	if a.hint != "" && errors.Is(err, fault.Unauthenticated) {
		fmt.Fprintf(stderr, "assay: %s\n", a.hint)
	}
	return fault.ExitCode(err)
}

// exitError ends with a code and no further words: the command has said why.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

var errUsage = errors.New("usage")

// usagef is a mistake in how the command was called.
func usagef(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errUsage}, args...)...)
}
