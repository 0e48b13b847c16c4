package rekor

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"assay/internal/fault"
	"assay/tlog"

	"github.com/prometheus/client_golang/prometheus"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"golang.org/x/sync/semaphore"
	"google.golang.org/protobuf/encoding/protojson"
)

// Options of a [Server].
type Options struct {
	// ReadEntries lets a request read entries, which hold identities; nil
	// refuses all. Checkpoint and tiles of hashes are public.
	ReadEntries func(*http.Request) error
	// Write lets a request add an entry; nil lets all, as cosign sends no
	// credentials. A signature is checked all the same.
	Write func(*http.Request) error

	MaxBodies  int64                 // bytes of requests that are read at once, 0: 64 MiB
	Wait       time.Duration         // for a place among them and for the body, 0: 15 s
	Logger     *slog.Logger          // nil: silent
	Registerer prometheus.Registerer // nil: no metrics
}

// Server answers the Rekor v2 API over a log. The log should be open with
// Deduplicate.
type Server struct {
	log    *tlog.Log
	opts   Options
	bodies *semaphore.Weighted // of large requests
	small  *semaphore.Weighted // of the others
	mux    *http.ServeMux
	count  *prometheus.CounterVec
}

// New makes the API of a log.
func New(log *tlog.Log, o Options) (*Server, error) {
	if o.MaxBodies < MaxBody {
		o.MaxBodies = 64 << 20
	}
	if o.Wait <= 0 {
		o.Wait = 15 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		log: log, opts: o, bodies: semaphore.NewWeighted(o.MaxBodies), small: semaphore.NewWeighted(o.MaxBodies), mux: http.NewServeMux(),
		count: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_rekor_requests_total", Help: "Requests for log entries by answer: created, duplicate, or the kind of failure.",
		}, []string{"answer"}),
	}
	if o.Registerer != nil {
		if err := o.Registerer.Register(s.count); err != nil {
			return nil, err
		}
	}
	s.mux.HandleFunc("POST /api/v2/log/entries", s.create)
	s.mux.HandleFunc("/api/v2/log/entries", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Allow", http.MethodPost)
		reply(w, http.StatusMethodNotAllowed, 12, "want POST") // 12: unimplemented
	})
	tiles := http.StripPrefix("/api/v2", log.TileHandler(o.ReadEntries))
	s.mux.Handle("/api/v2/checkpoint", tiles)
	s.mux.Handle("/api/v2/tile/", tiles)
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, fault.Newf(fault.NotFound, "no such part of the Rekor v2 API: %.100q", r.URL.Path))
	})
	return s, nil
}

// ServeHTTP serves the paths of the package comment; a prefix before /api/ is
// the caller's to strip.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Add verifies a request and logs it; the answer is that of the API. A request
// that does not verify is [fault.Invalid]; see [tlog.Log.Add] for the rest.
func (s *Server) Add(ctx context.Context, req Request) (*rekorpb.TransparencyLogEntry, error) {
	body, err := req.Body()
	if err != nil {
		s.count.WithLabelValues(answer(err)).Inc()
		return nil, err
	}
	return s.addBody(ctx, body)
}

func (s *Server) addBody(ctx context.Context, body []byte) (*rekorpb.TransparencyLogEntry, error) {
	e, err := s.log.Add(ctx, body)
	switch {
	case err != nil:
		s.count.WithLabelValues(answer(err)).Inc()
		return nil, err
	case e.Duplicate:
		s.count.WithLabelValues("duplicate").Inc()
	default:
		s.count.WithLabelValues("created").Inc()
	}
	return s.entry(e, body), nil
}

// answer is a label: one of a fixed set.
func answer(err error) string { return fault.KindOf(err).Name() }

func (s *Server) entry(e tlog.Entry, body []byte) *rekorpb.TransparencyLogEntry {
	return &rekorpb.TransparencyLogEntry{
		LogIndex:    int64(e.Index),
		LogId:       &commonpb.LogId{KeyId: e.KeyID[:]},
		KindVersion: &rekorpb.KindVersion{Kind: Kind, Version: Version},
		InclusionProof: &rekorpb.InclusionProof{
			LogIndex:   int64(e.Index),
			RootHash:   e.Root[:],
			TreeSize:   int64(e.TreeSize),
			Hashes:     e.Proof,
			Checkpoint: &rekorpb.Checkpoint{Envelope: string(e.Checkpoint)},
		},
		CanonicalizedBody: body,
	}
}

func (s *Server) create(w http.ResponseWriter, r *http.Request) {
	if s.opts.Write != nil {
		if err := s.opts.Write(r); err != nil {
			fail(w, err)
			return
		}
	}
	body, err := s.readEntry(w, r)
	if err != nil {
		s.count.WithLabelValues(answer(err)).Inc()
		s.opts.Logger.InfoContext(r.Context(), "log entry refused", "error", err)
		fail(w, err)
		return
	}
	tle, err := s.addBody(r.Context(), body)
	if err != nil {
		s.opts.Logger.WarnContext(r.Context(), "log entry failed", "error", err)
		fail(w, err)
		return
	}
	out, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(tle)
	if err != nil {
		fail(w, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(out)))
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write(out)
}

// smallBody is what a hashedrekord request of any client stays below, in bytes.
const smallBody = 64 << 10

// readEntry reads, parses and verifies a request. The memory of all requests
// that are being read is bounded; what is left afterwards is an entry's 64 KiB.
func (s *Server) readEntry(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	size := r.ContentLength
	switch {
	case size > MaxBody:
		return nil, fault.Newf(fault.TooLarge, "a request of %d bytes: at most %d", size, MaxBody)
	case size < 0:
		size = MaxBody
	}
	if t := r.Header.Get("Content-Type"); t != "" && !strings.HasPrefix(t, "application/json") {
		return nil, fault.Newf(fault.Invalid, "content type %.60q: want application/json", t)
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.opts.Wait)
	defer cancel()
	// An ordinary request does not wait behind those that say to be large and
	// then say nothing more.
	lane := s.bodies
	if size <= smallBody {
		lane = s.small
	}
	if err := lane.Acquire(ctx, size); err != nil {
		return nil, fault.Newf(fault.TooMany, "too many requests are being read: try again later")
	}
	defer lane.Release(size)
	// A client that sends slowly gives its place back in time. Not every
	// ResponseWriter can do this; the server's own timeouts remain.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.opts.Wait))
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, fault.Newf(fault.TooLarge, "a request of more than %d bytes", MaxBody)
		}
		return nil, fault.Newf(fault.Invalid, "read the request: %w", err)
	}
	req, err := ParseRequest(b)
	if err != nil {
		return nil, err
	}
	return req.Body()
}

// codes of gRPC by kind, as its JSON gateway shows them; others are 2, unknown.
var codes = map[*fault.Kind]int{
	fault.Invalid: 3, fault.NotFound: 5, fault.Denied: 7, fault.TooLarge: 8, fault.TooMany: 8,
	fault.Internal: 13, fault.Tampered: 15, fault.Unavailable: 14, fault.NoSpace: 14, fault.Unauthenticated: 16,
}

// fail answers as grpc-gateway does: code, message, details. What failed on
// this side is for the log file: it names paths and databases.
func fail(w http.ResponseWriter, err error) {
	code, ok := codes[fault.KindOf(err)]
	if !ok {
		code = 2
	}
	message := err.Error()
	if fault.HTTPStatus(err) >= http.StatusInternalServerError {
		message = "the log cannot take or read entries now (" + fault.KindOf(err).Name() + "): try again later, its operator finds the reason in its log file"
	}
	reply(w, fault.HTTPStatus(err), code, message)
}

func reply(w http.ResponseWriter, status, code int, message string) {
	b, _ := json.Marshal(struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
		Details []any  `json:"details"`
	}{code, message, []any{}})
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(b)
}
