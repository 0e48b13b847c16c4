//go:build windows

package blob

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// NTFS journals names; a folder handle cannot be flushed.
func syncDirFile(*os.File) error { return nil }

func isDiskFull(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL)
}
