package main

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

// operation is one kind of load: what the connections do with the i-th image.
type operation struct {
	name        string
	unit        string
	connections int // clients at once
	size        int // of a layer, bytes
	seed        int // images that are there to be pulled
	large       int // more of them, of ten times the size
	pushes      int // most pushes a second that bodies are made for; 0: none
	do          func(ctx context.Context, c *ociClient, i int, stored, fresh []image) error
	aims        map[string]*Aim // by peer, for Assay without a gate and with one
	memory      bool            // what counts is the servers' memory, not their rate
	what        string
}

func push(ctx context.Context, c *ociClient, i int, _, fresh []image) error {
	return c.push(ctx, fresh[i])
}

func pull(ctx context.Context, c *ociClient, i int, stored, _ []image) error {
	return c.pull(ctx, stored[i%len(stored)], false)
}

func pushChunked(ctx context.Context, c *ociClient, i int, _, fresh []image) error {
	return c.pushChunked(ctx, fresh[i])
}

// mixed is three pulls to one push.
func mixed(ctx context.Context, c *ociClient, i int, stored, fresh []image) error {
	if i%4 == 3 {
		return push(ctx, c, i, nil, fresh)
	}
	return pull(ctx, c, i, stored, nil)
}

// everything is mixed with pushes of both kinds.
func everything(ctx context.Context, c *ociClient, i int, stored, fresh []image) error {
	if i%8 == 7 {
		return pushChunked(ctx, c, i, nil, fresh)
	}
	return mixed(ctx, c, i, stored, fresh)
}

// The aims against peers: pulls, and what has pushes in it.
var (
	pullAims = map[string]*Aim{"olareg": {">=", 1}, "distribution": {">", 1}}
	pushAims = map[string]*Aim{"olareg": {">=", round(1 / 1.2)}, "distribution": {">", 1}}
)

var operations = []operation{
	{name: "registry.pull.1mb", unit: "1/s", connections: 10, size: mb, seed: 32, do: pull, aims: pullAims,
		what: "manifest by tag, then its layer of 1 MB"},
	{name: "registry.push.1mb", unit: "1/s", connections: 10, size: mb, pushes: 300, do: push, aims: pushAims,
		what: "layer of 1 MB (POST, PUT), then the manifest by tag"},
	{name: "registry.push.chunked", unit: "1/s", connections: 10, size: mb, pushes: 300, do: pushChunked, aims: pushAims,
		what: "layer of 1 MB in four PATCHes, then the manifest by tag"},
	{name: "registry.pull.10mb", unit: "1/s", connections: 10, size: 10 * mb, seed: 8, do: pull, aims: pullAims,
		what: "manifest by tag, then its layer of 10 MB"},
	{name: "registry.mixed", unit: "1/s", connections: 10, size: mb, seed: 32, pushes: 300, do: mixed, aims: pushAims,
		what: "three pulls to one push, layers of 1 MB"},
	{name: "registry.memory", unit: "MB", connections: 50, size: mb, seed: 32, large: 16, pushes: 300, do: everything, memory: true,
		what: "largest resident set under pulls of 1 and 10 MB and pushes, whole and chunked"},
}

// registry loads Assay, without a gate and with one, and its peers in turns,
// each with the same clients.
func (b *bench) registry(ctx context.Context) error {
	names, missing := installed()
	if missing != nil {
		b.say("%v", missing)
	}
	last := b.until
	for i, op := range b.loads {
		b.until = time.Now().Add(time.Until(last) / time.Duration(len(b.loads)-i))
		if err := b.operation(ctx, op, names); err != nil {
			return fmt.Errorf("%s: %w", op.name, err)
		}
	}
	return nil
}

// operation measures one kind of load on fresh folders, which are gone after.
func (b *bench) operation(ctx context.Context, op operation, names []string) error {
	perSlot := int(float64(op.pushes)*b.slot.Seconds()) + op.connections
	if need := int64(b.rounds*len(names)*perSlot*op.size) * min(1, int64(op.pushes)); freeBytes(b.dir) < need {
		return fmt.Errorf("%d MB free in %s: want %d", freeBytes(b.dir)/mb, b.dir, need/mb)
	}
	var targets []*target
	defer func() {
		for _, t := range targets {
			t.stop()
			_ = os.RemoveAll(b.folder("registry-" + t.name))
		}
		flushDisk()
	}()
	stored, err := op.stored()
	if err != nil {
		return err
	}
	for _, name := range names {
		t, err := b.startTarget(ctx, name)
		if err != nil {
			return err
		}
		targets = append(targets, t)
		if err := t.seed(ctx, stored); err != nil {
			return fmt.Errorf("seed %s: %w", name, err)
		}
	}
	var others float64
	err = b.turns(ctx, func(round int) error {
		var fresh []image
		if op.pushes > 0 {
			if fresh, err = images(perSlot, op.size, fmt.Sprintf("r%d", round)); err != nil {
				return err
			}
		}
		for turn := range targets {
			t := targets[(round+turn)%len(targets)] // another one begins each round
			flushDisk()
			share, err := b.load(ctx, t, op, stored, fresh)
			if err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			others = max(others, share)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if op.memory {
		b.compareMemory(op, targets, others)
	} else {
		b.compare(op, targets, others)
	}
	return nil
}

// stored are the images that are there before the clock runs.
func (op operation) stored() ([]image, error) {
	list, err := images(max(1, op.seed), op.size, "stored")
	if err != nil || op.large == 0 {
		return list, err
	}
	large, err := images(op.large, 10*op.size, "large")
	return append(list, large...), err
}

// seed pushes what will be pulled and pulls each once, checked.
func (t *target) seed(ctx context.Context, stored []image) error {
	bearer, err := t.login(ctx)
	if err != nil {
		return err
	}
	c, err := newOCIClient(t.base, bearer)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.putConfig(ctx); err != nil {
		return err
	}
	for _, m := range stored {
		if err := c.push(ctx, m); err != nil {
			return err
		}
		if err := c.pull(ctx, m, true); err != nil {
			return err
		}
	}
	return nil
}

func (t *target) login(ctx context.Context) (string, error) {
	if t.bearer == nil {
		return "", nil
	}
	return t.bearer(ctx)
}

// load is one slot of one registry: as much as its connections can.
func (b *bench) load(ctx context.Context, t *target, op operation, stored, fresh []image) (others float64, err error) {
	bearer, err := t.login(ctx)
	if err != nil {
		return 0, err
	}
	var clients []*ociClient
	for range op.connections {
		c, err := newOCIClient(t.base, bearer)
		if err != nil {
			return 0, err
		}
		defer c.close()
		clients = append(clients, c)
	}
	var next, done atomic.Int64
	forgetPeak(t.pid())
	m := startMeter(t.process)
	end := m.began.Add(b.slot)
	err = inParallel(op.connections, op.connections, func(n int) error {
		for time.Now().Before(end) && ctx.Err() == nil {
			i := int(next.Add(1)) - 1
			if fresh != nil && i >= len(fresh) {
				break
			}
			if err := op.do(ctx, clients[n], i, stored, fresh); err != nil {
				return err
			}
			done.Add(1)
		}
		return ctx.Err()
	})
	got := m.stop(b.processors)
	if err != nil {
		return 0, err
	}
	n := float64(done.Load())
	t.rates = append(t.rates, n/got.wall.Seconds())
	t.peaks = append(t.peaks, float64(peakBytes(t.pid()))/1e6)
	t.cpu = append(t.cpu, float64(got.server.Microseconds())/n)
	return got.others, nil
}

// compare makes a figure for Assay without a gate against each peer, and for
// Assay with one against itself without and against each peer.
func (b *bench) compare(op operation, targets []*target, others float64) {
	for _, own := range targets {
		if own.peer {
			continue
		}
		f := figure(own.figure(op.name), op.unit, own.rates, nil)
		f.CPU, f.Others = round(own.cpu.median()), others
		f.Note = fmt.Sprintf("%s; %d connections", op.what, op.connections)
		compared := false
		for _, t := range targets {
			aim := op.aims[t.name]
			switch {
			case t == own, !t.peer && t.gate != "":
				continue
			case t.name == openName:
				aim = gateAim
			case own.gate == "strict":
				continue // what a strict gate costs shows against an open door
			}
			g := f.against(t.name, own.rates, t.rates, aim)
			g.PeerCPU = round(t.cpu.median())
			g.Durable, g.PeerDurable = durability[openName], durability[t.name]
			b.add(g)
			compared = true
		}
		if !compared {
			b.add(f)
		}
	}
}

// compareMemory makes a figure of the memory of Assay with a gate, which has an
// aim, and one against each peer, which has none.
func (b *bench) compareMemory(op operation, targets []*target, others float64) {
	for _, own := range targets {
		if own.peer || own.gate == "strict" {
			continue
		}
		f := figure(own.figure(op.name), op.unit, own.peaks, memoryAim)
		f.Others, f.Note = others, fmt.Sprintf("%s; %d connections", op.what, op.connections)
		b.add(f)
		for _, t := range targets {
			if t.peer {
				b.add(f.against(t.name, own.peaks, t.peaks, nil))
			}
		}
	}
}
