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
// changed since. what is "foreign-roots" or "delegations", of are the publisher's
// keys and logs: each is remembered by itself, so that the publisher stays the
// same when one follows another, and two sites of one name stay two. Without a
// home folder there is nothing to remember by, and that is said.
func (a *app) newest(what string, of []string, version int64, older func(seen int64) error) error {
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
	var behind []string // files that do not say version yet
	for _, one := range of {
		sum := sha256.Sum256([]byte(what + "\x00" + one))
		path := filepath.Join(dir, what+"-"+hex.EncodeToString(sum[:16]))
		seen, err := seenIn(path, what)
		if err != nil {
			return err
		}
		if err := older(seen); err != nil {
			return fmt.Errorf("%w (remembered in %s; delete it if the publisher began anew)", err, path)
		}
		if version != seen {
			behind = append(behind, path)
		}
	}
	for _, path := range behind {
		if err := durable.WriteFile(path, []byte(strconv.FormatInt(version, 10)+"\n"), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// seenIn is the version that a file remembers; 0: there is none.
func seenIn(path, what string) (int64, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fault.Wrap(fault.Undecided, err)
	}
	seen, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil || seen < 1 {
		return 0, fault.Newf(fault.Tampered, "%s, which remembers the newest version of %s, is damaged; if you know that nobody altered it, delete it", path, what)
	}
	return seen, nil
}
