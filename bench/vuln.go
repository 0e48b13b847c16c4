package main

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"assay/event"
	"assay/sbom"
	"assay/store"
	"assay/vuln"
	"assay/vuln/exploit"
	"assay/vuln/feed"
	"assay/vuln/finding"
)

// vulns measures matching: real advisories against 10,000 and 100,000 bills of
// materials of 100 components, and the command line with the real feeds.
func (b *bench) vulns(ctx context.Context) error {
	dir, err := filepath.Abs(filepath.Join("..", "shared", "osv"))
	if err == nil {
		_, err = os.Stat(dir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		b.say("vuln: no advisories in %s, nothing to match", dir)
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(b.vulnStored(ctx, dir), b.vulnScan(ctx, dir))
}

// readAdvisories reads all records below dir/ECOSYSTEM/all.zip.
func readAdvisories(dir string) (all []*vuln.Advisory, err error) {
	archives, err := filepath.Glob(filepath.Join(dir, "*", "all.zip"))
	if err != nil {
		return nil, err
	}
	for _, path := range archives {
		a, err := feed.OpenZip(path)
		if err != nil {
			return nil, err
		}
		err = a.Each(feed.DefaultLimits(), func(name string, record []byte) error {
			one, err := vuln.ParseAdvisory(record)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			all = append(all, one)
			return nil
		})
		if err = errors.Join(err, a.Close()); err != nil {
			return nil, err
		}
	}
	if len(all) == 0 {
		err = fmt.Errorf("no advisories in %s", dir)
	}
	return all, err
}

// vulnStored measures the index over what a database holds.
func (b *bench) vulnStored(ctx context.Context, dir string) error {
	all, err := readAdvisories(dir)
	if err != nil {
		return err
	}
	documents, large := 10_000, 100_000
	if b.quick {
		documents, large = 300, 1_000
	}
	rows := fmt.Sprintf("%d SBOMs of %d components, %d advisories", documents, partsOfSBOM, len(all))
	db, err := store.Open(ctx, "sqlite:"+filepath.Join(b.dir, "vuln.db"))
	if err != nil {
		return err
	}
	defer db.Close()
	if err := db.Migrate(ctx, event.Migrations, sbom.Migrations, feed.Migrations, exploit.Migrations, finding.Migrations); err != nil {
		return err
	}
	parts := makeParts(all)
	b.say("vuln: writing %d rows of %d components", documents*partsOfSBOM, len(parts))
	if err := fillSBOMs(ctx, db, parts, documents); err != nil {
		return err
	}
	feeds, err := feed.NewStore(db, feed.DefaultLimits(), nil)
	if err != nil {
		return err
	}

	var start, memory, one, worst, many, alone, replayed samples
	meter := startMeter(nil)
	if err := b.turns(ctx, func(int) error {
		before := heap()
		m := finding.New(db, feeds, exploit.NewStore(db))
		cpu := ownCPU()
		if err := m.Load(ctx); err != nil {
			return err
		}
		start = append(start, (ownCPU() - cpu).Seconds())
		memory = append(memory, (heap()-before)/1e6)
		if _, _, n := m.Index().Size(); n < documents*partsOfSBOM {
			return fmt.Errorf("the index holds %d occurrences, want %d", n, documents*partsOfSBOM)
		}
		// The first time, each package's versions are put in order.
		took, hits := match(m.Index(), all, nil)
		replayed = append(replayed, took.Seconds())
		if hits == 0 {
			return errors.New("no advisory affects anything")
		}
		each := make(samples, 0, len(all))
		match(m.Index(), all, &each)
		one, worst = append(one, each.quantile(0.99)), append(worst, each.quantile(1))
		took, _ = match(m.Index(), every(all, 1000), nil)
		many = append(many, float64(took.Microseconds())/1000)

		cpu = ownCPU()
		found := 0
		lists, err := m.Stored(ctx, true, every(all, 1000)...)
		if err != nil {
			return err
		}
		alone = append(alone, float64((ownCPU()-cpu).Microseconds())/1000)
		for _, hits := range lists {
			for _, h := range hits {
				found += 1 + len(h.Documents)
			}
		}
		want := 0
		for _, a := range every(all, 1000) {
			for _, h := range m.Index().Affected(a, true) {
				want += 1 + len(h.Documents)
			}
		}
		if found != want {
			return fmt.Errorf("the database finds %d components and documents, the index %d", found, want)
		}
		runtime.KeepAlive(m)
		return nil
	}); err != nil {
		return err
	}
	others := meter.stop(b.processors).others
	add := func(name, unit string, s samples, aim float64, note string) {
		f := figure(name, unit, s, &Aim{"<=", aim})
		f.Others, f.Note = others, note
		b.add(f)
	}
	add("vuln.start", "CPU s", start, 3, "the index read from SQLite: "+rows)
	add("vuln.index.memory", "MB", memory, 150, "heap that the index lives in")
	add("vuln.advisory", "ms", one, 1, "one advisory, with the documents that it affects: of all of them 99 in 100 take no longer")
	f := figure("vuln.advisory.worst", "ms", worst, nil)
	f.Others, f.Note = others, "the slowest of all: an advisory about hundreds of packages"
	b.add(f)
	add("vuln.advisories.1000", "ms", many, 50, "1,000 advisories from memory, with their documents")
	add("vuln.advisories.1000.sqlite", "ms", alone, 300, "the same from SQLite, without the index")
	add("vuln.replay", "CPU s", replayed, 1, "all advisories once, the first time: each package is put in order")
	return b.vulnLarge(ctx, all, parts, large)
}

// match asks about each advisory in turn; each takes the milliseconds of one.
// Time is the processor's: the wall's says how busy the machine is.
func match(x *vuln.Index, all []*vuln.Advisory, each *samples) (took time.Duration, hits int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := ownCPU()
	at := threadCPU()
	for _, a := range all {
		hits += len(x.Affected(a, true))
		if each != nil {
			now := threadCPU()
			*each = append(*each, float64((now-at).Nanoseconds())/1e6)
			at = now
		}
	}
	return ownCPU() - began, hits
}

// every takes n advisories, evenly.
func every(all []*vuln.Advisory, n int) (some []*vuln.Advisory) {
	step := max(1, len(all)/n)
	for i := 0; i < len(all) && len(some) < n; i += step {
		some = append(some, all[i])
	}
	return some
}

// heap is what lives on it, in bytes.
func heap() float64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return float64(s.HeapAlloc)
}

// vulnLarge measures ten times as much, of which one artifact in twenty runs.
// Rows come as they would from the database, which is not measured again.
func (b *bench) vulnLarge(ctx context.Context, all []*vuln.Advisory, parts []part, documents int) error {
	before := heap()
	x := vuln.NewIndex()
	loadLarge(x, parts, documents)
	running := x.Set()
	for d := range documents {
		if d%20 == 0 {
			running.Add(int64(d + 1))
		}
	}
	match(x, every(all, 2000), nil)
	memory := samples{(heap() - before) / 1e6}
	var slow samples
	found := 0
	meter := startMeter(nil)
	if err := b.turns(ctx, func(int) error {
		each := samples{}
		runtime.LockOSThread()
		at := threadCPU()
		for _, a := range every(all, 5000) {
			found += len(x.AffectedOf(a, running))
			now := threadCPU()
			each = append(each, float64((now-at).Nanoseconds())/1e6)
			at = now
		}
		runtime.UnlockOSThread()
		slow = append(slow, each.quantile(1))
		return ctx.Err()
	}); err != nil {
		return err
	}
	if found == 0 {
		return errors.New("no advisory affects anything that runs")
	}
	others := meter.stop(b.processors).others
	note := fmt.Sprintf("%d SBOMs of %d components, one artifact in twenty runs", documents, partsOfSBOM)
	f := figure("vuln.running", "ms", slow, &Aim{"<=", 10})
	f.Others, f.Note = others, "one advisory to the running artifacts that it affects, the slowest of 5,000: "+note
	b.add(f)
	f = figure("vuln.running.memory", "MB", memory, &Aim{"<=", 1200})
	f.Others, f.Note = others, "heap that the index lives in: "+note
	b.add(f)
	runtime.KeepAlive(x)
	return nil
}

// vulnScan measures the command line: the feeds brought in, and a gate in a
// pipeline, alone and against a server.
func (b *bench) vulnScan(ctx context.Context, dir string) error {
	data := b.folder("vuln-data")
	run := func(want []int, args ...string) (float64, error) {
		cmd := exec.CommandContext(ctx, b.assay, args...)
		cmd.Env = quietEnv()
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		if cmd.ProcessState == nil || !slices.Contains(want, cmd.ProcessState.ExitCode()) {
			return 0, fmt.Errorf("assay %s: %w\n%.2000s", strings.Join(args, " "), err, out.String())
		}
		return (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(), nil
	}
	what := dir
	if b.quick {
		what = filepath.Join(dir, "npm", "all.zip")
	}
	first, err := run([]int{0}, "feed", "import", "--data", data, what)
	if err != nil {
		return err
	}
	again, err := run([]int{0}, "feed", "import", "--data", data, what)
	if err != nil {
		return err
	}
	f := figure("vuln.feed.import", "CPU s", samples{first}, &Aim{"<=", 10})
	f.Note = "all feeds of the test data, into an empty folder"
	b.add(f)
	f = figure("vuln.feed.unchanged", "CPU s", samples{again}, &Aim{"<=", 1})
	f.Note = "the same once more"
	b.add(f)

	bom, err := pypiSBOM(filepath.Join(dir, "PyPI", "all.zip"), b.dir)
	if err != nil {
		return err
	}
	s, err := up(ctx, b.assay, b.folder("vuln-site"))
	if err != nil {
		return err
	}
	defer s.stop()
	// The server imports what the command line hands in.
	if _, err := run([]int{0}, "feed", "import", "--data", s.data, filepath.Join(dir, map[bool]string{true: "npm", false: "PyPI"}[b.quick], "all.zip")); err != nil {
		return err
	}
	var cold, served, inServer samples
	if err := b.turns(ctx, func(int) error {
		cpu, err := run([]int{0, 1, 2}, "scan", "--data", data, bom)
		if err != nil {
			return err
		}
		cold = append(cold, cpu)
		before := processCPU(s.process.pid())
		if cpu, err = run([]int{0, 1, 2}, "scan", "--data", s.data, bom); err != nil {
			return err
		}
		inServer = append(inServer, (processCPU(s.process.pid()) - before).Seconds())
		served = append(served, cpu+inServer[len(inServer)-1])
		return nil
	}); err != nil {
		return err
	}
	f = figure("vuln.scan.cold", "CPU s", cold, &Aim{"<=", 2})
	f.Note = "assay scan of 1,000 PyPI components with the feeds of a folder, whole process"
	b.add(f)
	f = figure("vuln.scan.server", "CPU s", served, &Aim{"<=", 0.5})
	f.Note = "the same against a server: both processes together"
	b.add(f)
	return nil
}

// eachRecord reads the records of an archive one after the other.
func eachRecord(path string, fn func([]byte) error) error {
	z, err := zip.OpenReader(path)
	if err != nil {
		return err
	}
	defer z.Close()
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			return err
		}
		raw, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil {
			return err
		}
		if err := fn(raw); err != nil {
			return err
		}
	}
	return nil
}
