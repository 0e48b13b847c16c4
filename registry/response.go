package registry

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"assay/internal/fault"
	"assay/internal/resident"
)

// response is the ResponseWriter of one request. It notes status and bytes,
// sends files cheaply, and moves the connection's write deadline along
// as long as the client takes the bytes.
type response struct {
	http.ResponseWriter
	ctl    *http.ResponseController
	idle   time.Duration
	bufs   *resident.Pool
	status int
	began  bool
	out    int64 // body bytes sent
	in     int64 // body bytes received, set by those who read it
}

func newResponse(w http.ResponseWriter, idle time.Duration, bufs *resident.Pool) *response {
	return &response{ResponseWriter: w, ctl: http.NewResponseController(w), idle: idle, bufs: bufs}
}

// Unwrap lets http.ResponseController find the connection.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) WriteHeader(status int) {
	if !w.began {
		w.began, w.status = true, status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(b []byte) (int, error) {
	if !w.began {
		w.WriteHeader(http.StatusOK)
	}
	n, err := w.ResponseWriter.Write(b)
	w.out += int64(n)
	return n, err
}

// newSendBuffers are what blobs are copied through. sendfile(2) takes a file to a
// socket in steps of 64 KiB, and wakes the reader at each: to copy half a
// megabyte and hand it over at once costs little more than half the processor
// time of that, a whole one a little less again (make bench shows it as CPU of
// registry.pull.1mb). There are few, so that slow clients hold little memory; who
// finds none left sends by sendfile.
func newSendBuffers() *resident.Pool { return &resident.Pool{Size: 512 << 10, Max: 12} }

// sendPiece is how much goes out under one write deadline: at the default idle
// time of a minute a client slower than 140 kB/s is cut off.
const sendPiece = 8 << 20

// ReadFrom sends a file in pieces: through a large buffer while one is free,
// else each by a single sendfile(2) where the connection allows it:
// net.TCPConn.ReadFrom recognises an *os.File, also within one
// io.LimitedReader, and nothing else.
func (w *response) ReadFrom(src io.Reader) (total int64, err error) {
	if !w.began {
		w.WriteHeader(http.StatusOK)
	}
	// Cleared at the end: net/http sets none of its own by default, and the
	// next request on this connection must not inherit one.
	defer func() { _ = w.ctl.SetWriteDeadline(time.Time{}) }()
	left := int64(1<<63 - 1)
	limited, isLimited := src.(*io.LimitedReader)
	inner := src
	if isLimited {
		left, inner = limited.N, limited.R
	}
	to, fast := w.ResponseWriter.(io.ReaderFrom)
	_, isFile := inner.(*os.File)
	for left > 0 {
		piece := &io.LimitedReader{R: inner, N: min(left, sendPiece)}
		want := piece.N
		w.extendWrite()
		var n int64
		if buf := w.bufs.Get(); buf != nil {
			// Bare, so that neither side's own way of copying is taken.
			n, err = io.CopyBuffer(struct{ io.Writer }{w.ResponseWriter}, struct{ io.Reader }{piece}, buf[:min(piece.N, int64(len(buf)))])
			w.bufs.Put(buf)
		} else if fast && isFile {
			n, err = to.ReadFrom(piece)
		} else {
			n, err = io.Copy(struct{ io.Writer }{w.ResponseWriter}, piece)
		}
		total, left, w.out = total+n, left-n, w.out+n
		if isLimited {
			limited.N -= n
		}
		if err != nil || n < want {
			return total, err
		}
	}
	return total, nil
}

// extendWrite and extendRead fail only on connections that have no deadlines.
func (w *response) extendWrite() { _ = w.ctl.SetWriteDeadline(time.Now().Add(w.idle)) }
func (w *response) extendRead()  { _ = w.ctl.SetReadDeadline(time.Now().Add(w.idle)) }

// patientBody reads a request's body and lets go of a client that pauses for
// longer than the idle time, or that drips: what arrives must keep up with the
// rate for all the time over grace that was spent waiting for it. Time that the
// server takes for the bytes is not held against the client.
type patientBody struct {
	r      io.Reader
	w      *response
	rate   int // bytes/s
	grace  time.Duration
	last   time.Time
	waited time.Duration
	n      int64
}

func (r *Registry) patient(q *request) *patientBody {
	return &patientBody{r: q.Body, w: q.w, rate: r.limits.BodyRate, grace: r.limits.BodyGrace}
}

func (b *patientBody) Read(p []byte) (int, error) {
	// Setting a deadline takes a lock in the poller: once a second is enough.
	start := time.Now()
	if start.Sub(b.last) > time.Second {
		b.last = start
		b.w.extendRead()
	}
	n, err := b.r.Read(p)
	b.waited += time.Since(start)
	b.n += int64(n)
	b.w.in += int64(n)
	if err == nil && float64(b.n) < (b.waited-b.grace).Seconds()*float64(b.rate) {
		err = &failure{
			code: codeUploadInvalid, status: http.StatusRequestTimeout,
			err: fault.Newf(fault.Invalid, "the body brought %d bytes in %s: want at least %d a second; go on with what is missing over a faster line", b.n, b.waited.Round(time.Second), b.rate),
		}
	}
	switch {
	case errors.Is(err, io.EOF):
		// A deadline that passed while the handler still works would look to
		// net/http like a client gone, and cancel the request's context.
		_ = b.w.ctl.SetReadDeadline(time.Time{})
	case err != nil:
		// net/http would first read on for the rest of the body, at the pace of
		// this client, before it sends the answer and lets go of the connection.
		b.w.Header().Set("Connection", "close")
		_ = b.w.ctl.SetReadDeadline(time.Now())
	}
	return n, err
}
