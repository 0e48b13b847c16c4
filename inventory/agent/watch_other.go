//go:build !linux

package agent

import (
	"context"
	"io/fs"

	"assay/internal/fault"
)

func (a *Agent) watch(context.Context) error {
	return fault.Newf(fault.Invalid, "an agent runs on Linux")
}

// Sweep looks once at what runs.
func (a *Agent) Sweep(context.Context) error {
	return fault.Newf(fault.Invalid, "an agent runs on Linux")
}

func keyOf(fs.FileInfo) (fileKey, bool) { return fileKey{}, false }
