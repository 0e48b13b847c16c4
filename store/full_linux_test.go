package store_test

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"assay/internal/fault"
)

// childFull runs in a mount namespace of its own, where it makes a small disk.
func childFull(args []string) error {
	dir := args[0]
	mount := func(flags uintptr, size string) error {
		return syscall.Mount("none", dir, "tmpfs", flags, "mode=0700,size="+size)
	}
	if err := mount(0, "4m"); err != nil {
		return fmt.Errorf("cannot mount: %w", err)
	}
	return fill("sqlite:"+filepath.Join(dir, "assay.db"), fault.NoSpace, func() error {
		return mount(syscall.MS_REMOUNT, "64m")
	})
}

// TestThreat_Store_DiskFull fills a real, small file system: updates answer
// "no space", nothing acknowledged is lost, and once there is room the same
// process writes on.
func TestThreat_Store_DiskFull(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := child(t, "full", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	err := cmd.Run()
	var exit interface{ ExitCode() int }
	switch {
	case err == nil:
	case !errors.As(err, &exit), strings.Contains(stderr.String(), "cannot mount"):
		t.Skipf("skipped: this machine allows no user and mount namespace: %v %s", err, stderr.String())
	default:
		t.Errorf("%v: %s", err, stderr.String())
	}
}

// childLimits has the kernel fail every write past a size with EFBIG, which
// SQLite reports as an I/O error.
func childLimits(args []string) error {
	signal.Ignore(syscall.SIGXFSZ)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	full := limit.Cur
	limit.Cur = 3 << 20
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	return fill(args[0], fault.Unavailable, func() error {
		limit.Cur = full
		return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit)
	})
}

// TestThreat_Store_WriteError is the same with write(2) failing.
func TestThreat_Store_WriteError(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "db")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := child(t, "limits", "sqlite:"+filepath.Join(dir, "assay.db")).Output(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
