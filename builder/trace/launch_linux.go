//go:build amd64 || arm64

package trace

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// The launcher's own descriptors.
const (
	launchGo     = 3 // to read: one byte, once it is traced
	launchStatus = 4 // to write: its thread's number, then an error or, by its end, success
)

// Launch is the first thing that main calls. In the launcher (argument zero is
// [LauncherName]) it never returns: it lays the filter and becomes the command,
// LauncherName PATH ARGV0 [ARG …].
func Launch() {
	if len(os.Args) == 0 || os.Args[0] != LauncherName {
		return
	}
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "assay: the trace launcher is for assay run --trace")
		os.Exit(64)
	}
	// The thread that is traced is the one that lays the filter and executes.
	runtime.LockOSThread()
	unix.CloseOnExec(launchGo)
	unix.CloseOnExec(launchStatus)
	if _, err := unix.Write(launchStatus, []byte(strconv.Itoa(unix.Gettid())+"\n")); err != nil {
		os.Exit(64) // nobody traces
	}
	var b [1]byte
	if n, err := unix.Read(launchGo, b[:]); n != 1 || err != nil {
		os.Exit(64)
	}
	if err := confine(); err != nil {
		launchFailed("confine", err)
	}
	// syscall.Exec gives the command the limit of open files that we were started
	// with, which Go's runtime had raised.
	launchFailed("exec", syscall.Exec(os.Args[1], os.Args[2:], os.Environ()))
}

func launchFailed(what string, err error) {
	_, _ = unix.Write(launchStatus, []byte(what+": "+err.Error()+"\n"))
	os.Exit(127)
}
