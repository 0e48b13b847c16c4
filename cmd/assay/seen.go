package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"assay/internal/durable"
	"assay/internal/fault"
)

// newest holds what a publisher gave against the highest version of it that this
// user has seen, and remembers it: who brings an older file brings back what was
// changed since. what is "foreign-roots" or "delegations", of whom its publisher.
// Without a home folder there is nothing to remember by, and that is said.
func (a *app) newest(what, of string, version int64, older func(seen int64) error) error {
	dir, err := os.UserConfigDir()
	if err != nil {
		a.notef("assay: no home folder: an older file of %s would not be noticed (%v)\n", what, err)
		return nil
	}
	dir = filepath.Join(dir, "assay", "seen")
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		a.notef("assay: %s cannot be written: an older file of %s would not be noticed\n", line(dir), what)
		return nil //nolint:nilerr // a verifier with a read-only home still verifies, and says so
	}
	sum := sha256.Sum256([]byte(what + "\x00" + of))
	path := filepath.Join(dir, what+"-"+hex.EncodeToString(sum[:16]))
	b, err := os.ReadFile(path)
	seen := int64(0)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return fault.Wrap(fault.Undecided, err)
	default:
		if seen, err = strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err != nil || seen < 1 {
			return fault.Newf(fault.Tampered, "%s, which remembers the newest version of %s, is damaged; if you know that nobody altered it, delete it", path, what)
		}
	}
	if err := older(seen); err != nil {
		return fmt.Errorf("%w (remembered in %s; delete it if the publisher began anew)", err, path)
	}
	if version == seen {
		return nil
	}
	return durable.WriteFile(path, []byte(strconv.FormatInt(version, 10)+"\n"), 0o600)
}
