//go:build !linux

package blob

import "os"

// open opens a file below the folder for reading.
func (d *Dir) open(name string) (*os.File, error) { return d.root.Open(name) }
