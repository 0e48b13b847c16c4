package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// feeds measures what a full import of the advisories beside the project costs
// the whole process, and the same again when nothing has changed.
func (b *bench) feeds(ctx context.Context) error {
	dir := os.Getenv("ASSAY_SHARED")
	if dir == "" {
		dir = filepath.Join("..", "shared")
	}
	osv, err := filepath.Abs(filepath.Join(dir, "osv"))
	if err != nil {
		return err
	}
	if _, err := os.Stat(osv); errors.Is(err, fs.ErrNotExist) {
		b.say("feed.import: %s is not there: nothing to import", osv)
		return nil
	}
	var first, again samples
	if err := b.turns(ctx, func(n int) error {
		data := b.folder(fmt.Sprintf("feed-%d", n))
		defer os.RemoveAll(data)
		for _, into := range []*samples{&first, &again} {
			cmd := exec.CommandContext(ctx, b.assay, "feed", "import", "--data", data, osv)
			cmd.Env = quietEnv()
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("assay feed import %s: %w\n%s", osv, err, out)
			}
			*into = append(*into, (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds())
		}
		return nil
	}); err != nil {
		return err
	}
	f := figure("feed.import.cpu", "CPU s", first, &Aim{"<=", 10})
	f.Note = "all archives of OSV records into an empty store, canaries judged"
	b.add(f)
	f = figure("feed.unchanged.cpu", "CPU s", again, &Aim{"<=", 1})
	f.Note = "the same archives again"
	b.add(f)
	return nil
}
