//go:build windows

package durable

import (
	"os"

	"golang.org/x/sys/windows"
)

var errLocked = windows.ERROR_LOCK_VIOLATION

// Windows has access lists instead of modes; a folder under the user's profile
// is private by inheritance.
const modesMatter = false

func flock(f *os.File) error {
	return windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, new(windows.Overlapped))
}

// NTFS journals names; a folder handle cannot be flushed.
func syncDir(*os.File) error { return nil }
