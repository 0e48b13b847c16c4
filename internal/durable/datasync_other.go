//go:build !linux

package durable

import "os"

// Datasync makes the bytes of f durable.
func Datasync(f *os.File) error { return f.Sync() }
