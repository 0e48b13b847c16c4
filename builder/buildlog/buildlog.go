// Package buildlog keeps what builds and their machines print: lines, by build
// and artifact, in the content store, bounded, without the secrets that are
// known by value or form, and searchable. A log is what its uploader says; it is
// signed by nobody, and proves nothing. Who uploaded it is known, and whether
// that is who signed the build's provenance.
package buildlog

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"sync"
	"time"
	"unicode"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"

	"assay/artifact"
	"assay/blob"
	"assay/internal/clock"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/store"
)

// Bounds.
const (
	MaxLine     = 16 << 10 // bytes of a line; more is cut
	MaxAppend   = 16 << 20 // bytes of one upload
	maxChunk    = 512 << 10
	smallChunk  = 128 << 10 // what is less is written together with what comes after
	maxDigests  = 64
	maxName     = 300
	DefaultMax  = 64 << 20
	DefaultKeep = 90 * 24 * time.Hour
)

// Line is one line of a log.
type Line struct {
	Time   time.Time // as its writer says; zero: it does not
	Stream string    // stdout, stderr, or a severity: few words
	Text   string
}

// Log is what one uploader says of one build.
type Log struct {
	ID         string // "log_" and a hash of build, repository and uploader
	Build      string // provenance's invocationId
	Repository string // who may read it; "": who may read all
	Issuer     string // of the uploader
	Subject    string
	Actor      string
	Source     string // upload or otlp
	Digests    []artifact.Digest
	Created    time.Time
	Changed    time.Time
	Lines      int64
	Bytes      int64
	Dropped    int64 // lines beyond the bound
	Redacted   int64 // secrets that were taken out
	Chunks     int64
}

// Target says what lines are of.
type Target struct {
	Build      string
	Repository string
	Issuer     string
	Subject    string
	Actor      string
	Source     string
	Digests    []artifact.Digest
}

// ID is the id of the target's log.
func (t *Target) ID() string {
	h := sha256.New()
	for _, part := range [...]string{t.Build, t.Repository, t.Actor} {
		var n [8]byte
		for i := range n {
			n[i] = byte(len(part) >> (8 * i))
		}
		h.Write(n[:])
		h.Write([]byte(part))
	}
	return "log_" + hex.EncodeToString(h.Sum(nil)[:20])
}

func (t *Target) validate() error {
	if err := ValidBuild(t.Build); err != nil {
		return err
	}
	if len(t.Repository) > maxName || len(t.Actor) > 1024 || t.Actor == "" {
		return fault.Newf(fault.Invalid, "build log: want an uploader, and a repository of at most %d bytes", maxName)
	}
	if len(t.Digests) > maxDigests {
		return fault.Newf(fault.TooLarge, "build log: %d artifacts, want at most %d", len(t.Digests), maxDigests)
	}
	for _, d := range t.Digests {
		if err := d.Validate(); err != nil {
			return err
		}
	}
	return nil
}

// ValidBuild says whether text can be a build's ID.
func ValidBuild(text string) error {
	if text == "" || len(text) > maxName {
		return fault.Newf(fault.Invalid, "build ID %.60q: want from 1 to %d bytes, as the provenance's invocationId (cicd.pipeline.run.id in telemetry)", text, maxName)
	}
	for _, r := range text {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return fault.Newf(fault.Invalid, "build ID %.60q: want printable UTF-8", text)
		}
	}
	return nil
}

// Options of a [Store]. DB and Blobs are required.
type Options struct {
	DB         *store.DB
	Blobs      blob.Store
	Max        int64         // bytes of one log; 0: DefaultMax
	Keep       time.Duration // after the last line; 0: DefaultKeep
	Clock      clock.Clock
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// Held says whether a log must be kept, of a repository and about these
	// artifacts; nil: none must.
	Held func(ctx context.Context, tx *store.Tx, repository string, digests []artifact.Digest) (bool, error)
}

// Store keeps logs. It is safe for concurrent use.
type Store struct {
	o     Options
	enc   *zstd.Encoder
	dec   *zstd.Decoder
	turns [64]sync.Mutex // by log: uploads to one log go one after the other
	lines *prometheus.CounterVec
}

// New makes a store over a database with [Migrations].
func New(o Options) (*Store, error) {
	if o.Max <= 0 {
		o.Max = DefaultMax
	}
	if o.Keep <= 0 {
		o.Keep = DefaultKeep
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{o: o}
	var err error
	if s.enc, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithLowerEncoderMem(true)); err != nil {
		return nil, err
	}
	if s.dec, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(8*maxChunk)); err != nil {
		return nil, err
	}
	s.lines = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "assay_buildlog_lines_total", Help: "Lines of build logs, by outcome.",
	}, []string{"outcome"})
	for _, outcome := range []string{"stored", "dropped"} {
		s.lines.WithLabelValues(outcome)
	}
	if o.Registerer != nil {
		if err := o.Registerer.Register(s.lines); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func clip(s string, most int) string { return excerpt.Text(s, most) }
