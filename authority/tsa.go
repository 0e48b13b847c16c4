package authority

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"assay/internal/clock"
	"assay/internal/fault"

	"github.com/digitorus/timestamp"
	"github.com/prometheus/client_golang/prometheus"
)

// PolicyOID is the policy under which timestamps are made. It is the one that
// sigstore's timestamp authority states, since verifiers know it.
var PolicyOID = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2}

// maxTimestampQuery bounds a request: a SHA-512 imprint, a nonce and a policy
// take some 150 bytes.
const maxTimestampQuery = 4 << 10

const maxNonceBits = 512

// TSAOptions is what a time stamp authority needs.
type TSAOptions struct {
	Chain      []*x509.Certificate   // leaf first, root last
	Signer     crypto.Signer         // key of Chain[0]
	Clock      clock.Clock           // nil: the system's
	Logger     *slog.Logger          // nil: none
	Registerer prometheus.Registerer // nil: no metrics
}

// TSA is an RFC 3161 time stamp authority. It is safe for many goroutines and
// keeps no state: a timestamp is proof by itself.
type TSA struct {
	opts     TSAOptions
	current  atomic.Pointer[stamping]
	answered *prometheus.CounterVec
}

// stamping is what timestamps are made with; a request keeps to one.
type stamping struct {
	chain  []*x509.Certificate
	signer crypto.Signer
}

// NewTSA makes a time stamp authority. Errors are [fault.Invalid] when
// certificates and key do not fit or the leaf may not sign timestamps.
func NewTSA(o TSAOptions) (*TSA, error) {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	t := &TSA{opts: o}
	if err := t.SetChain(o.Chain, o.Signer); err != nil {
		return nil, err
	}
	t.answered = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "assay_authority_timestamps_total", Help: "Requests for a timestamp by outcome.",
	}, []string{"outcome"})
	if o.Registerer != nil {
		if err := o.Registerer.Register(t.answered); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func timeStamper(c *x509.Certificate) bool {
	if len(c.ExtKeyUsage) != 1 || c.ExtKeyUsage[0] != x509.ExtKeyUsageTimeStamping || len(c.UnknownExtKeyUsage) != 0 {
		return false
	}
	for _, e := range c.Extensions {
		if e.Id.Equal(oidExtKeyUsage) {
			return e.Critical
		}
	}
	return false
}

// SetChain makes the authority sign under another chain, leaf first, from the
// next request on. What does not fit is [fault.Invalid] or [fault.Tampered], and
// nothing changes.
func (t *TSA) SetChain(chain []*x509.Certificate, signer crypto.Signer) error {
	if len(chain) < 2 || signer == nil {
		return fault.Newf(fault.Invalid, "time stamp authority: want a chain and its key")
	}
	if err := checkChain("of the time stamp authority", chain, signer); err != nil {
		return err
	}
	if !timeStamper(chain[0]) {
		return fault.Newf(fault.Invalid, "time stamp authority: its certificate wants timeStamping as its one extended key usage, marked critical (RFC 3161, section 2.3)")
	}
	t.current.Store(&stamping{slices.Clone(chain), signer})
	return nil
}

// Chain gives the authority's certificates, leaf first, root last.
func (t *TSA) Chain() []*x509.Certificate { return slices.Clone(t.current.Load().chain) }

// Rejection is a request that was understood and is not granted. Response is
// the TimeStampResp that says so (RFC 3161, section 2.4.2). As an error it is
// [fault.Invalid], or [fault.Unavailable] when the time is not to be had.
type Rejection struct {
	Reason   timestamp.FailureInfo
	Response []byte
	err      error
}

func (r *Rejection) Error() string { return r.err.Error() }
func (r *Rejection) Unwrap() error { return r.err }

func reject(reason timestamp.FailureInfo, kind *fault.Kind, format string, args ...any) error {
	resp, err := timestamp.CreateErrorResponse(timestamp.Rejection, reason)
	if err != nil {
		return err
	}
	return &Rejection{Reason: reason, Response: resp, err: fault.Newf(kind, "timestamp refused: "+format, args...)}
}

// Timestamp answers a TimeStampReq in DER with a TimeStampResp in DER that
// holds a timestamp. A request that does not parse is [fault.Invalid]; one
// that is understood and refused is a *[Rejection].
func (t *TSA) Timestamp(_ context.Context, query []byte) ([]byte, error) {
	req, err := parseQuery(query)
	if err != nil {
		return nil, err
	}
	now := t.opts.Clock().UTC()
	by := t.current.Load()
	leaf := by.chain[0]
	// A clock that was reset says some time long ago, or long to come. Either
	// would be signed as truth.
	if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return nil, reject(timestamp.TimeNotAvailable, fault.Unavailable, "the clock says %s, the certificate is valid from %s to %s: set the clock, or rotate the authority",
			now.Format(time.RFC3339), leaf.NotBefore.Format(time.RFC3339), leaf.NotAfter.Format(time.RFC3339))
	}
	ts := timestamp.Timestamp{
		HashAlgorithm:     req.HashAlgorithm,
		HashedMessage:     req.HashedMessage,
		Time:              now,
		Accuracy:          time.Second, // GeneralizedTime is written in whole seconds
		Nonce:             req.Nonce,
		Policy:            PolicyOID,
		AddTSACertificate: req.Certificates,
	}
	resp, err := ts.CreateResponseWithOpts(leaf, by.signer, crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign timestamp: %w", err)
	}
	return resp, nil
}

// parseQuery reads a TimeStampReq (RFC 3161, section 2.4.1).
func parseQuery(query []byte) (*timestamp.Request, error) {
	if len(query) > maxTimestampQuery {
		return nil, fault.Newf(fault.TooLarge, "timestamp request of %d bytes: at most %d", len(query), maxTimestampQuery)
	}
	var version struct {
		Version int
		Imprint struct {
			Algorithm struct {
				OID        asn1.ObjectIdentifier
				Parameters asn1.RawValue `asn1:"optional"`
			}
			Message []byte
		}
		Policy     asn1.ObjectIdentifier `asn1:"optional"`
		Nonce      asn1.RawValue         `asn1:"optional"`
		CertReq    asn1.RawValue         `asn1:"optional"`
		Extensions asn1.RawValue         `asn1:"optional"`
	}
	if rest, err := asn1.Unmarshal(query, &version); err != nil || len(rest) != 0 {
		return nil, fault.Newf(fault.Invalid, "timestamp request does not parse as a TimeStampReq in DER (%d bytes left, %v)", len(rest), err)
	}
	if version.Version != 1 {
		return nil, reject(timestamp.BadRequest, fault.Invalid, "version %d, want 1", version.Version)
	}
	req, err := timestamp.ParseRequest(query)
	if err != nil {
		var pe timestamp.ParseError
		if errors.As(err, &pe) && len(version.Imprint.Message) > 0 {
			return nil, reject(timestamp.BadAlgorithm, fault.Invalid, "imprint by algorithm %s: want SHA-256, SHA-384 or SHA-512", version.Imprint.Algorithm.OID)
		}
		return nil, fault.Newf(fault.Invalid, "timestamp request does not parse: %w", err)
	}
	switch req.HashAlgorithm {
	case crypto.SHA256, crypto.SHA384, crypto.SHA512:
	default:
		return nil, reject(timestamp.BadAlgorithm, fault.Invalid, "imprint by %s: want SHA-256, SHA-384 or SHA-512", req.HashAlgorithm)
	}
	if len(req.HashedMessage) != req.HashAlgorithm.Size() {
		return nil, reject(timestamp.BadDataFormat, fault.Invalid, "imprint of %d bytes, %s has %d", len(req.HashedMessage), req.HashAlgorithm, req.HashAlgorithm.Size())
	}
	if req.Nonce != nil && req.Nonce.BitLen() > maxNonceBits {
		return nil, reject(timestamp.BadRequest, fault.Invalid, "nonce of %d bits: at most %d", req.Nonce.BitLen(), maxNonceBits)
	}
	if req.TSAPolicyOID != nil && !req.TSAPolicyOID.Equal(PolicyOID) {
		return nil, reject(timestamp.UnacceptedPolicy, fault.Invalid, "policy %s: want %s or none", req.TSAPolicyOID, PolicyOID)
	}
	if len(req.Extensions) > 0 {
		// Section 2.4.1: an extension that is not recognised is refused,
		// critical or not.
		return nil, reject(timestamp.UnacceptedExtension, fault.Invalid, "extension %s is not known", req.Extensions[0].Id)
	}
	return req, nil
}

// Handler serves timestamps at "/" and "/api/v1/timestamp", and the
// certificates, leaf first, as PEM at "/api/v1/timestamp/certchain". Strip a
// prefix such as /tsa before it.
func (t *TSA) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /{$}", t.serveTimestamp)
	mux.HandleFunc("POST /api/v1/timestamp", t.serveTimestamp)
	mux.HandleFunc("GET /api/v1/timestamp/certchain", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write(encodeChain(t.current.Load().chain)) // the client may be gone
	})
	// http.StripPrefix("/tsa", h) leaves an empty path for "/tsa" itself.
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "" {
			r = r.Clone(r.Context())
			r.URL.Path = "/"
		}
		mux.ServeHTTP(w, r)
	})
}

// serveTimestamp is RFC 3161, section 3.4. A request that is understood and
// refused has a TimeStampResp as its answer, with 200; what is no request at
// all has an HTTP error.
func (t *TSA) serveTimestamp(w http.ResponseWriter, r *http.Request) {
	resp, err := t.timestamp(w, r)
	var rejection *Rejection
	switch {
	case errors.As(err, &rejection):
		t.answered.WithLabelValues("rejected").Inc()
		if errors.Is(err, fault.Unavailable) {
			t.opts.Logger.ErrorContext(r.Context(), "no timestamps", "error", err)
		}
		resp = rejection.Response
	case err != nil:
		t.answered.WithLabelValues("failed").Inc()
		if fault.HTTPStatus(err) >= http.StatusInternalServerError {
			t.opts.Logger.ErrorContext(r.Context(), "timestamp failed", "error", err)
			err = errors.New("the timestamp could not be made; try again")
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		http.Error(w, err.Error(), fault.HTTPStatus(err))
		return
	default:
		t.answered.WithLabelValues("granted").Inc()
	}
	w.Header().Set("Content-Type", "application/timestamp-reply")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(resp) // the client may be gone
}

func (t *TSA) timestamp(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if mt, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mt != "application/timestamp-query" {
		return nil, fault.Newf(fault.Invalid, "content type %.80q: want application/timestamp-query", r.Header.Get("Content-Type"))
	}
	query, err := readBody(w, r, maxTimestampQuery)
	if err != nil {
		return nil, err
	}
	return t.Timestamp(r.Context(), query)
}
