package main

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

// connections is how many clients a registry serves at once.
const connections = 10

// operation is one kind of load: what the connections do with the i-th image.
type operation struct {
	name   string
	unit   string
	size   int // of a layer, bytes
	seed   int // images that are there to be pulled
	pushes int // most pushes a second that bodies are made for; 0: none
	do     func(ctx context.Context, c *ociClient, i int, stored, fresh []image) error
	aims   map[string]*Aim // by peer
	what   string
}

func push(ctx context.Context, c *ociClient, i int, _, fresh []image) error {
	return c.push(ctx, fresh[i])
}

func pull(ctx context.Context, c *ociClient, i int, stored, _ []image) error {
	return c.pull(ctx, stored[i%len(stored)], false)
}

var (
	noSlower = &Aim{">=", 1}
	faster   = &Aim{">", 1}
)

var operations = []operation{
	{name: "registry.pull.1mb", unit: "1/s", size: mb, seed: 32, do: pull,
		aims: map[string]*Aim{"olareg": noSlower, "distribution": faster},
		what: "manifest by tag, then its layer of 1 MB"},
	{name: "registry.push.1mb", unit: "1/s", size: mb, pushes: 600, do: push,
		aims: map[string]*Aim{"olareg": noSlower},
		what: "layer of 1 MB (POST, PUT), then the manifest by tag"},
	{name: "registry.push.chunked", unit: "1/s", size: mb, pushes: 600,
		do: func(ctx context.Context, c *ociClient, i int, _, fresh []image) error {
			return c.pushChunked(ctx, fresh[i])
		},
		what: "layer of 1 MB in four PATCHes, then the manifest by tag"},
	{name: "registry.pull.10mb", unit: "1/s", size: 10 * mb, seed: 8, do: pull,
		what: "manifest by tag, then its layer of 10 MB"},
	{name: "registry.mixed", unit: "1/s", size: mb, seed: 32, pushes: 600,
		do: func(ctx context.Context, c *ociClient, i int, stored, fresh []image) error {
			if i%4 == 3 {
				return c.push(ctx, fresh[i])
			}
			return c.pull(ctx, stored[i%len(stored)], false)
		},
		what: "three pulls to one push, layers of 1 MB"},
}

// registry loads Assay and its peers in turns, each with the same clients.
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
	perSlot := int(float64(op.pushes)*b.slot.Seconds()) + connections
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
	stored, err := images(max(1, op.seed), op.size, "stored")
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
	b.compare(op, targets, others)
	return nil
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

// load is one slot of one registry: ten connections, as much as they can.
func (b *bench) load(ctx context.Context, t *target, op operation, stored, fresh []image) (others float64, err error) {
	bearer, err := t.login(ctx)
	if err != nil {
		return 0, err
	}
	var clients []*ociClient
	for range connections {
		c, err := newOCIClient(t.base, bearer)
		if err != nil {
			return 0, err
		}
		defer c.close()
		clients = append(clients, c)
	}
	var next, done atomic.Int64
	m := startMeter(t.process)
	end := m.began.Add(b.slot)
	err = inParallel(connections, connections, func(n int) error {
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
	t.cpu = append(t.cpu, float64(got.server.Microseconds())/n)
	return got.others, nil
}

// compare makes one figure for each peer, or one without any.
func (b *bench) compare(op operation, targets []*target, others float64) {
	own := targets[0]
	f := figure(op.name, op.unit, own.rates, nil)
	f.CPU, f.Others = round(own.cpu.median()), others
	f.Note = fmt.Sprintf("%s; %d connections", op.what, connections)
	if len(targets) == 1 {
		b.add(f)
	}
	for _, t := range targets[1:] {
		g := f.against(t.name, own.rates, t.rates, op.aims[t.name])
		g.PeerCPU = round(t.cpu.median())
		g.Durable, g.PeerDurable = durability["assay"], durability[t.name]
		b.add(g)
	}
}
