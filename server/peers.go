package server

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"assay/api"
	"assay/authority/rotation"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/store"
	"assay/telemetry"
	"assay/tlog"
	"assay/tlog/rekor"

	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

// peerKeys are what the processes of a site know each other by, made of
// server.peers.secret.
type peerKeys struct {
	rows  []byte // of the MACs in site_part
	token string // of requests to one another
}

func newPeerKeys(secret []byte, host string) (*peerKeys, error) {
	rows, err := hkdf.Key(sha256.New, secret, nil, "assay site parts v1 "+host, 32)
	if err != nil {
		return nil, err
	}
	token, err := hkdf.Key(sha256.New, secret, nil, "assay peer requests v1 "+host, 32)
	return &peerKeys{rows: rows, token: hex.EncodeToString(token)}, err
}

// Below /internal/v1/ one process of a split site asks another.
const (
	pathPreCert = "/internal/v1/ct/add-pre-cert"
	pathEntries = "/internal/v1/entries"
	pathLog     = "/internal/v1/log/"
)

// entryRequest asks the log to take a signature of this site's own.
type entryRequest struct {
	Digest    []byte `json:"digest"`
	Signature []byte `json:"signature"`
	PublicKey []byte `json:"public_key"` // SubjectPublicKeyInfo, DER
}

// preCert asks the certificate log for its promise.
type preCert struct {
	TBS           []byte `json:"tbs"`             // TBSCertificate in DER, without SCTs
	IssuerKeyHash []byte `json:"issuer_key_hash"` // SHA-256 of the issuer's SubjectPublicKeyInfo
}

type preCertAnswer struct {
	SCT []byte `json:"sct"`
}

const maxPreCert = 128 << 10

// peerHandler serves what other processes of the site ask the log.
func (s *Server) peerHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+pathPreCert, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPreCert))
		if err != nil {
			api.WriteError(w, r, s.log, fault.Newf(fault.TooLarge, "certificate to log: %w", err))
			return
		}
		var q preCert
		if err := strictjson.Unmarshal(b, &q, strictjson.RejectUnknown()); err != nil || len(q.IssuerKeyHash) != 32 {
			api.WriteError(w, r, s.log, fault.Newf(fault.Invalid, "certificate to log: want tbs and an issuer_key_hash of 32 bytes: %v", err))
			return
		}
		sct, err := s.ct.AddPreCert(r.Context(), q.TBS, [32]byte(q.IssuerKeyHash))
		if err != nil {
			api.WriteError(w, r, s.log, err)
			return
		}
		api.WriteJSON(w, http.StatusOK, preCertAnswer{sct})
	})
	mux.HandleFunc("POST "+pathEntries, s.addEntry)
	open := func(*http.Request) error { return nil } // who has the secret is the site
	mux.Handle("GET "+pathLog, http.StripPrefix(strings.TrimSuffix(pathLog, "/"), s.tlog.TileHandler(open)))
	return s.peersOnly(s.leaderOnly(mux))
}

func (s *Server) addEntry(w http.ResponseWriter, r *http.Request) {
	var q entryRequest
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPreCert))
	if err == nil {
		err = strictjson.Unmarshal(b, &q, strictjson.RejectUnknown())
	}
	if err != nil {
		api.WriteError(w, r, s.log, fault.Newf(fault.Invalid, "entry to log: %w", err))
		return
	}
	entry, err := s.rekor.Add(r.Context(), rekor.Request{Digest: q.Digest, Signature: q.Signature, PublicKey: q.PublicKey})
	if err == nil {
		b, err = protojson.Marshal(entry)
	}
	if err != nil {
		api.WriteError(w, r, s.log, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}

// logSignature logs a signature of this site's own, here or in the process with
// role log.
func (s *Server) logSignature(ctx context.Context, q rekor.Request) (*rekorpb.TransparencyLogEntry, error) {
	if s.rekor != nil {
		return s.rekor.Add(ctx, q)
	}
	b, err := json.Marshal(entryRequest{Digest: q.Digest, Signature: q.Signature, PublicKey: q.PublicKey})
	if err != nil {
		return nil, err
	}
	out, err := peerPost(ctx, s.peerClient(), s.cfg.Server.Peers.Log+pathEntries, "application/json", b)
	if err != nil {
		return nil, fmt.Errorf("the process with role log: %w", err)
	}
	entry := &rekorpb.TransparencyLogEntry{}
	if err := protojson.Unmarshal(out, entry); err != nil {
		return nil, fault.Newf(fault.Unavailable, "the process with role log: %w", err)
	}
	return entry, nil
}

// stamp gives the timestamp authority's answer, here or of the process with
// role signer.
func (s *Server) stamp(ctx context.Context, req []byte) ([]byte, error) {
	if s.tsa != nil {
		return s.tsa.Timestamp(ctx, req)
	}
	out, err := peerPost(ctx, s.peerClient(), s.cfg.Server.Peers.Signer+"/tsa/api/v1/timestamp", "application/timestamp-query", req)
	if err != nil {
		return nil, fmt.Errorf("the process with role signer: %w", err)
	}
	return out, nil
}

// peersOnly lets other processes of this site in.
func (s *Server) peersOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Assay-Peer ")
		if !ok || s.peers == nil || subtle.ConstantTimeCompare([]byte(got), []byte(s.peers.token)) != 1 {
			api.WriteError(w, r, s.log, fault.Newf(fault.Unauthenticated, "this is for the other processes of this site (server.peers.secret)"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// peerClient asks another process of the site.
func (s *Server) peerClient() *http.Client {
	return &http.Client{
		Timeout:       30 * time.Second,
		Transport:     peerTransport{token: s.peers.token, next: telemetry.TransportAll(http.DefaultTransport)},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

type peerTransport struct {
	token string
	next  http.RoundTripper
}

func (t peerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Assay-Peer "+t.token)
	return t.next.RoundTrip(r)
}

// remoteCT is the certificate log in another process. It implements
// authority.PrecertLog.
type remoteCT struct {
	base string
	http *http.Client
}

// AddPreCert asks for a promise. The log's errors keep their kind.
func (c remoteCT) AddPreCert(ctx context.Context, tbs []byte, issuerKeyHash [32]byte) ([]byte, error) {
	b, err := json.Marshal(preCert{TBS: tbs, IssuerKeyHash: issuerKeyHash[:]})
	if err != nil {
		return nil, err
	}
	var a preCertAnswer
	if err := peerCall(ctx, c.http, c.base+pathPreCert, b, &a); err != nil {
		return nil, fmt.Errorf("the process with role log: %w", err)
	}
	if len(a.SCT) == 0 {
		return nil, fault.Newf(fault.Unavailable, "the process with role log answered without an SCT")
	}
	return a.SCT, nil
}

func peerCall(ctx context.Context, c *http.Client, url string, body []byte, out any) error {
	b, err := peerPost(ctx, c, url, "application/json", body)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, out)
}

func peerPost(ctx context.Context, c *http.Client, url, mediaType string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := c.Do(req)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, err)
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusCreated:
		return b, nil
	case http.StatusTooManyRequests:
		return nil, fault.Newf(fault.TooMany, "%s", resp.Status)
	case http.StatusInsufficientStorage:
		return nil, fault.Newf(fault.NoSpace, "%s", resp.Status)
	case http.StatusUnauthorized:
		return nil, fault.Newf(fault.Unavailable, "%s: do both processes have the same server.peers.secret?", resp.Status)
	}
	return nil, fault.Newf(fault.Unavailable, "%s", resp.Status)
}

// logSnapshot gives a head of the log and its tree: this process's own, or that
// of the process with role log, read by its tiles and checked against the key
// that it published.
func (s *Server) logSnapshot(ctx context.Context) (tlog.Checkpoint, *tlog.Tree, error) {
	if s.tlog != nil {
		cp, tree := s.tlog.Snapshot()
		return cp, tree, nil
	}
	src := tlog.HTTP{URL: s.cfg.Server.Peers.Log + strings.TrimSuffix(pathLog, "/"), Client: s.peerClient()}
	b, err := src.Checkpoint(ctx)
	if err != nil {
		return tlog.Checkpoint{}, nil, err
	}
	in := rotation.Of(s.trust().keys, rotation.Log)
	active := rotation.ActiveOf(in, rotation.Log)
	if active == nil {
		return tlog.Checkpoint{}, nil, fault.Newf(fault.Unavailable, "the log's key is not known yet")
	}
	pub, err := active.PublicKey()
	if err != nil {
		return tlog.Checkpoint{}, nil, err
	}
	v, err := tlog.NewVerifier(s.data.site.Host, pub)
	if err != nil {
		return tlog.Checkpoint{}, nil, err
	}
	cp, err := tlog.ParseCheckpoint(b, v)
	if err != nil {
		return tlog.Checkpoint{}, nil, err
	}
	tree, err := tlog.LoadTree(ctx, src, tlog.Plain{}, cp)
	return cp, tree, err
}

// logSize is how many entries the log has, by the database's record of its last
// checkpoint: what another process has is not asked for a number.
func (s *Server) logSize(ctx context.Context) uint64 {
	if s.tlog != nil {
		return s.tlog.Head().Size
	}
	var n int64
	if err := s.db.View(ctx, func(tx *store.Tx) (err error) {
		n, err = tlog.RecordedSize(ctx, tx, s.data.site.Host)
		return err
	}); err != nil {
		s.log.Warn("the log's size could not be read", "error", err)
	}
	return uint64(n)
}
