//go:build !linux

package resident

import (
	"context"
	"runtime/debug"
)

func allocate(size int) []byte { return make([]byte, size) }

// Trim lets go of the heap's free pages.
func Trim() error {
	debug.FreeOSMemory()
	return nil
}

// Keep does nothing here.
func Keep(context.Context) error { return nil }
