package main

import (
	"errors"
	"io"
	"testing"
)

// TestThreat_CLI_OlderAfterRotation: what was seen of a publisher holds when its
// key is followed by another, and says nothing about another publisher.
func TestThreat_CLI_OlderAfterRotation(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	a := &app{stderr: io.Discard}
	for i, c := range []struct {
		of      []string
		version int64
		refused bool
	}{
		{[]string{"k1"}, 3, false},
		{[]string{"k1", "k2"}, 7, false},
		{[]string{"k1"}, 3, true}, // from before the rotation
		{[]string{"k2"}, 6, true},
		{[]string{"k1", "k2"}, 7, false},
		{[]string{"k9"}, 1, false},
	} {
		err := a.newest("delegations", c.of, c.version, func(seen int64) error {
			if c.version < seen {
				return errors.New("older")
			}
			return nil
		})
		if (err != nil) != c.refused {
			t.Errorf("%d: %v", i, err)
		}
	}
}
