package main

import (
	"os"
	"testing"

	"crypto/sha256"
	"encoding/hex"
)

// TestDigest: a program knows its own digest.
func TestDigest(t *testing.T) {
	got, err := digest()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(b); got != hex.EncodeToString(sum[:]) {
		t.Errorf("digest %s of a program of %x", got, sum)
	}
}
