// Package agent watches what is executed in the containers of a host, and compares
// it with what their images hold.
//
// Programs are hashed through the file that was opened for execution, so that what
// is put at its path afterwards changes nothing. What could not be compared is
// reported as unknown, and counts as nothing seen.
package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"assay/artifact"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/inventory/threat"

	"github.com/prometheus/client_golang/prometheus"
)

// Server is what the agent asks and tells. Errors of kind fault.Unavailable and
// those without a kind are tried again.
type Server interface {
	// Files gives an image's files: of its digest, or of a container that the
	// inventory knows.
	Files(ctx context.Context, c *Container) (artifact.Digest, threat.Files, error)
	// Tell hands in what was seen.
	Tell(ctx context.Context, f *Finding) error
}

// Container is one on this host.
type Container struct {
	ID        string          `json:"id"`
	Namespace string          `json:"namespace,omitempty"`
	Pod       string          `json:"pod,omitempty"`
	Name      string          `json:"name,omitempty"`
	Image     string          `json:"image,omitempty"`
	Digest    artifact.Digest `json:"digest,omitempty"`
}

// Execution is a file that was executed in a container.
type Execution struct {
	Container Container       `json:"container"`
	Path      string          `json:"path"` // in the container
	File      artifact.Digest `json:"file,omitempty"`
	Process   string          `json:"process,omitempty"`
	Note      string          `json:"note,omitempty"` // deleted, or why it could not be read
	Time      time.Time       `json:"time"`
}

// Finding is an execution that is told of.
type Finding struct {
	Execution
	Rule    string
	Message string
}

// Options are what an agent needs.
type Options struct {
	Server   Server
	Dir      string // of the queue; mode 0700
	Proc     string // default /proc
	Run      string // default /run
	Interval time.Duration
	// Sweep alone: no fanotify.
	Sweep bool
	// Containers names digests by IDs, or the beginnings of IDs.
	Containers map[string]artifact.Digest
	Logger     *slog.Logger
	Clock      clock.Clock
	Registerer prometheus.Registerer // nil: no metrics
}

// Agent watches a host.
type Agent struct {
	o     Options
	queue *queue
	idIn  func(pid string) string // of a process's container; tests have their own
	met   *metrics

	mu     sync.Mutex
	done   map[string]bool // executions that were compared or queued
	hashes map[fileKey]artifact.Digest
	known  map[string]*image // files by container
	lost   int               // executions that nothing can be said of
	why    string
}

type image struct {
	digest artifact.Digest
	files  threat.Files
	all    map[artifact.Digest]bool
	err    error // why they are not known
	until  time.Time
}

type fileKey struct {
	dev, ino            uint64
	size, mtime, change int64
}

// Bounds of what is in memory.
const (
	maxDone   = 50_000
	maxHashes = 20_000
	maxKnown  = 200
	maxFile   = 1 << 30
	askAgain  = time.Minute // for files of an image that are not known
)

// New makes an agent.
func New(o Options) (*Agent, error) {
	if o.Proc == "" {
		o.Proc = "/proc"
	}
	if o.Run == "" {
		o.Run = "/run"
	}
	if o.Interval <= 0 {
		o.Interval = 2 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	q, err := openQueue(o.Dir)
	if err != nil {
		return nil, err
	}
	met, err := newMetrics(o.Registerer, q)
	if err != nil {
		return nil, err
	}
	a := &Agent{o: o, queue: q, met: met, done: map[string]bool{}, hashes: map[fileKey]artifact.Digest{}, known: map[string]*image{}}
	a.idIn = a.idOf
	return a, nil
}

// Run watches and tells until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { a.tell(ctx) })
	return a.watch(ctx)
}

// Seen counts what was compared with images.
type Seen struct {
	Image   int // the image holds it
	Foreign int // it does not, or not with this content
	Unknown int // it cannot be told
}

// Once looks through /proc one time, and returns when the server has what was seen,
// with what waited from before. An error is that it does not take it: that goes on
// waiting.
func (a *Agent) Once(ctx context.Context) (s Seen, err error) {
	if err := a.Sweep(ctx); err != nil {
		return s, err
	}
	for {
		more, err := a.tellOne(ctx)
		if err != nil || !more {
			s = Seen{int(a.met.image.Load()), int(a.met.foreign.Load()), int(a.met.unknown.Load())}
			return s, err
		}
	}
}

// saw takes an execution in: f is open on the file that was executed.
func (a *Agent) saw(ctx context.Context, id string, f *os.File, path, process string) {
	note := ""
	if p, gone := strings.CutSuffix(path, " (deleted)"); gone {
		path, note = p, "the file was deleted"
	}
	if strings.HasPrefix(path, "/memfd:") {
		note = "a program in memory, of no file"
	}
	sum, err := a.hash(f)
	if err != nil {
		note = "it could not be read: " + err.Error()
	}
	key := id + "\x00" + path + "\x00" + string(sum)
	a.mu.Lock()
	seen := a.done[key]
	if len(a.done) >= maxDone {
		clear(a.done)
	}
	a.done[key] = true
	a.mu.Unlock()
	if seen {
		return
	}
	x := Execution{Container: a.container(id), Path: path, File: sum, Process: process, Note: note, Time: a.o.Clock().UTC()}
	if img := a.have(x.Container.ID); img != nil && img.err == nil && img.verdict(&x) == "" {
		a.met.compared("")
		return
	}
	if err := a.queue.put(&x); err != nil {
		a.o.Logger.Error("an execution could not be kept", "path", path, "container", id, "error", err)
		a.mu.Lock()
		delete(a.done, key)
		a.mu.Unlock()
		a.miss(1, "executions could not be kept: "+err.Error())
	}
}

// miss notes executions of which nothing can be said.
func (a *Agent) miss(n int, why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lost += n
	a.met.missed.Add(float64(n))
	a.why = why
}

func (a *Agent) have(id string) *image {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.known[id]
}

// hash gives the SHA-256 of an open file. One that did not change since, by its
// inode, size and times, is not read again: the time of change cannot be set.
func (a *Agent) hash(f *os.File) (artifact.Digest, error) {
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !st.Mode().IsRegular() {
		return "", fault.Newf(fault.Invalid, "no regular file")
	}
	if st.Size() > maxFile {
		return "", fault.Newf(fault.TooLarge, "%d bytes: at most %d are hashed", st.Size(), int64(maxFile))
	}
	key, keyed := keyOf(st)
	a.mu.Lock()
	sum, have := a.hashes[key]
	a.mu.Unlock()
	if keyed && have {
		return sum, nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, maxFile)); err != nil {
		return "", err
	}
	sum = artifact.NewDigest("sha256", h.Sum(nil))
	if again, err := f.Stat(); keyed && err == nil {
		if k, _ := keyOf(again); k == key {
			a.mu.Lock()
			if len(a.hashes) >= maxHashes {
				clear(a.hashes)
			}
			a.hashes[key] = sum
			a.mu.Unlock()
		}
	}
	return sum, nil
}

// verdict is the rule that an execution is told by; "": it is of the image.
func (i *image) verdict(x *Execution) string {
	switch {
	case x.File == "":
		return threat.RuleUnknown
	case i.all[x.File]:
		return "" // at its path, or copied to another
	case i.files[strings.TrimPrefix(x.Path, "/")] != "":
		return threat.RuleChanged
	}
	return threat.RuleForeign
}

// tell compares what is in the queue, oldest first, and hands findings in.
func (a *Agent) tell(ctx context.Context) {
	for pause := time.Duration(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		switch sent, err := a.tellOne(ctx); {
		case err != nil:
			pause = min(max(2*pause, time.Second), time.Minute)
			if ctx.Err() == nil {
				a.o.Logger.Warn("the server does not take what was seen, and is asked again", "waiting", a.queue.length(), "in", pause.String(), "error", err)
			}
		case sent:
			pause = 0
		default:
			pause = 200 * time.Millisecond
		}
	}
}

func (a *Agent) tellOne(ctx context.Context) (bool, error) {
	a.mu.Lock()
	lost, why := a.lost, a.why
	a.mu.Unlock()
	if lost > 0 {
		f := &Finding{Execution: Execution{Time: a.o.Clock().UTC()}, Rule: threat.RuleUnwatched, Message: fmt.Sprintf("%d times: %s", lost, why)}
		if err := a.o.Server.Tell(ctx, f); again(err) {
			return false, err
		}
		a.mu.Lock()
		a.lost -= lost
		a.mu.Unlock()
	}
	name, x, err := a.queue.oldest()
	if err != nil || x == nil {
		return false, err
	}
	img, err := a.filesOf(ctx, &x.Container)
	if err != nil {
		return false, err
	}
	f := &Finding{Execution: *x, Message: x.Note}
	if img.err != nil {
		f.Rule, f.Message = threat.RuleUnknown, img.err.Error()
		f.Path, f.File, f.Process = "", "", "" // once for the container, not for each of its programs
	} else {
		f.Rule = img.verdict(x)
		f.Container.Digest = img.digest
	}
	if f.Rule != "" {
		err := a.o.Server.Tell(ctx, f)
		a.met.told(err)
		if again(err) {
			return false, err
		}
		if err != nil {
			a.o.Logger.Error("the server refuses what was seen; it is dropped", "path", x.Path, "container", x.Container.ID, "error", err)
			a.miss(1, "the server refused a report: "+err.Error())
		} else if f.Rule != threat.RuleUnknown {
			a.o.Logger.Warn("executed, and not of the image", "rule", f.Rule, "path", x.Path, "container", x.Container.ID, "pod", x.Container.Namespace+"/"+x.Container.Pod, "file", string(x.File))
		}
	}
	a.met.compared(f.Rule)
	return true, a.queue.drop(name)
}

// again says whether an error may pass.
func again(err error) bool {
	return err != nil && !errors.Is(err, fault.Invalid) && !errors.Is(err, fault.NotFound) && !errors.Is(err, fault.TooLarge) && !errors.Is(err, fault.Tampered)
}

// filesOf asks for the files of a container's image, and keeps the answer.
func (a *Agent) filesOf(ctx context.Context, c *Container) (*image, error) {
	now := a.o.Clock()
	if img := a.have(c.ID); img != nil && (img.err == nil || now.Before(img.until)) {
		return img, nil
	}
	img := &image{until: now.Add(askAgain)}
	if c.Digest == "" && c.Pod == "" {
		img.err = fault.Newf(fault.NotFound, "container %.12s: neither its Pod nor its image's digest is known here", c.ID)
	} else {
		d, files, err := a.o.Server.Files(ctx, c)
		if again(err) {
			return nil, err
		}
		img.err, img.digest, img.files = err, d, files
		img.all = make(map[artifact.Digest]bool, len(files))
		for _, f := range files {
			img.all[f] = true
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.known) >= maxKnown {
		clear(a.known)
	}
	a.known[c.ID] = img
	return img, nil
}
