//go:build !windows

package blob

import "os"

func syncDirFile(d *os.File) error { return d.Sync() }

func isDiskFull(error) bool { return false } // ENOSPC says it
