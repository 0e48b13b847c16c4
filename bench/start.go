package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

// up measures the start: on a fresh folder, where keys, logs and TUF metadata
// are made, and on the same folder again; and what it holds when idle.
func (b *bench) up(ctx context.Context) error {
	var fresh, again, rss, cpu samples
	var others float64
	idle := 2 * time.Second
	if b.quick {
		idle = 500 * time.Millisecond
	}
	begin := func(data string, times *samples) error {
		m := startMeter(nil)
		s, err := up(ctx, b.assay, data)
		if err != nil {
			return err
		}
		defer s.stop()
		m.pid = s.pid() // all that it has used is part of the start
		others = max(others, m.stop(b.processors).others)
		*times = append(*times, s.after.Seconds()*1000)
		if times == &again {
			cpu = append(cpu, float64(processCPU(s.pid()).Microseconds()))
			return nil
		}
		select {
		case <-time.After(idle):
		case <-ctx.Done():
			return ctx.Err()
		}
		if r := residentBytes(s.pid()); r > 0 {
			rss = append(rss, float64(r)/1e6)
		}
		return nil
	}
	// The first start of all reads the binary from disk.
	if err := begin(b.folder("up-warm"), new(samples)); err != nil {
		return err
	}
	rss, others = nil, 0
	if err := b.turns(ctx, func(i int) error {
		data := b.folder(fmt.Sprintf("up-%d", i))
		defer os.RemoveAll(data)
		if err := begin(data, &fresh); err != nil {
			return err
		}
		return begin(data, &again)
	}); err != nil {
		return err
	}
	second := &Aim{"<=", 1000}
	f := figure("up.fresh", "ms", fresh, second)
	f.Others, f.Note = others, "from the start of the process to its ready line, all keys and logs made new"
	b.add(f)
	f = figure("up.existing", "ms", again, second)
	f.Others, f.CPU, f.Note = others, cpu.median(), "the same folder again"
	b.add(f)
	if len(rss) > 0 {
		f = figure("up.memory", "MB", rss, &Aim{"<=", 100})
		f.Others, f.Note = others, fmt.Sprintf("resident set, %s after it was ready, idle", idle)
		b.add(f)
	}
	return nil
}
