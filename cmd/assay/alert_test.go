package main

import (
	"io"
	"strings"
	"testing"

	"assay/alert"
)

// TestAlertCommands: what an alert says to type is there to be typed.
func TestAlertCommands(t *testing.T) {
	root := newRoot(&app{stdout: io.Discard, stderr: io.Discard})
	for _, r := range alert.Rules() {
		args := strings.Fields(r.Command)[1:]
		if cmd, _, err := root.Find(args); err != nil || cmd == root || !cmd.Runnable() {
			t.Errorf("rule %s: %q is no command: %v", r.ID, r.Command, err)
		}
	}
}
