package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"sync"
	"time"

	"assay/client"
)

// maxCaptured bounds what of a build's output is kept for its log, in bytes.
const maxCaptured = 64 << 20

// captured keeps what a build prints, while it goes where it went before. Lines
// of the two streams stay whole.
type captured struct {
	mu   sync.Mutex
	file *os.File // nil: nothing is kept
	left int64
	tail [2][]byte // of each stream: a line that has no end yet
}

// capture begins, where a log was asked for.
func (w *wrapped) capture() error {
	if !w.f.log {
		return nil
	}
	if w.base == "" {
		return usagef("--log sends the build's output to a server: give --server URL or --data DIR")
	}
	f, err := os.CreateTemp("", "assay-log-*")
	if err != nil {
		return err
	}
	_ = os.Remove(f.Name()) // it goes with the process
	w.log = &captured{file: f, left: maxCaptured}
	b := &w.f.build
	b.Stdout, b.Stderr = io.MultiWriter(b.Stdout, stream{w.log, 0}), io.MultiWriter(b.Stderr, stream{w.log, 1})
	return nil
}

type stream struct {
	to *captured
	n  int
}

// Write never fails: what a build prints must not depend on its log.
func (s stream) Write(b []byte) (int, error) {
	c := s.to
	c.mu.Lock()
	defer c.mu.Unlock()
	i := bytes.LastIndexByte(b, '\n')
	if i < 0 {
		if len(c.tail[s.n])+len(b) <= 1<<20 {
			c.tail[s.n] = append(c.tail[s.n], b...)
		}
		return len(b), nil
	}
	c.put(c.tail[s.n])
	c.put(b[:i+1])
	c.tail[s.n] = append(c.tail[s.n][:0], b[i+1:]...)
	return len(b), nil
}

func (c *captured) put(b []byte) {
	if int64(len(b)) > c.left {
		c.left = 0
		return
	}
	n, err := c.file.Write(b)
	if c.left -= int64(n); err != nil {
		c.left = 0
	}
}

// uploadOutput sends the build's output. A build does not fail by its log.
func (w *wrapped) uploadOutput(ctx context.Context) {
	if w.log == nil || w.run == nil {
		return
	}
	defer w.log.file.Close()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	w.log.mu.Lock()
	for i := range w.log.tail {
		if len(w.log.tail[i]) > 0 {
			w.log.put(append(w.log.tail[i], '\n'))
		}
	}
	w.log.mu.Unlock()
	if at, err := w.log.file.Seek(0, io.SeekEnd); err == nil && at == 0 {
		return // it printed nothing
	}
	u := client.BuildLogUpload{Build: w.run.ID}
	for _, t := range w.images {
		u.Artifacts, u.Repository = append(u.Artifacts, t.digest), repositoryOf(t)
	}
	for _, p := range w.run.Products {
		if len(u.Artifacts) < 32 {
			u.Artifacts = append(u.Artifacts, p.Digest)
		}
	}
	// What the build could read under a secret's name is known here alone.
	var known []string
	for _, name := range w.run.Secrets {
		known = append(known, os.Getenv(name))
	}
	_, err := w.log.file.Seek(0, io.SeekStart)
	if err == nil {
		_, err = w.uploadLog(ctx, u, w.log.file, known)
	}
	if err != nil {
		w.app.notef("assay: the build's log was not uploaded: %s\n", clean(err.Error()))
	}
}
