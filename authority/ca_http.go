package authority

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"mime"
	"net/http"
	"sort"
	"strings"

	"assay/identity"
	"assay/internal/fault"

	"github.com/go-json-experiment/json"
)

// maxCARequest is Fulcio's own limit.
const maxCARequest = 64 << 10

// Handler serves Fulcio's HTTP API (fulcio.proto): POST /api/v2/signingCert,
// GET /api/v2/trustBundle, GET /api/v2/configuration. Strip a prefix such as
// /fulcio before it.
func (ca *CA) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v2/signingCert", ca.serveSigningCert)
	mux.HandleFunc("GET /api/v2/trustBundle", ca.serveTrustBundle)
	mux.HandleFunc("GET /api/v2/configuration", ca.serveConfiguration)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		_, pattern := mux.Handler(&http.Request{Method: http.MethodPost, URL: r.URL})
		_, get := mux.Handler(&http.Request{Method: http.MethodGet, URL: r.URL})
		if pattern != "/" || get != "/" {
			writeStatus(w, http.StatusMethodNotAllowed, codeUnimplemented, "Method Not Allowed")
			return
		}
		writeStatus(w, http.StatusNotFound, codeNotFound, "Not Found")
	})
	return mux
}

// signingRequest is CreateSigningCertificateRequest in protobuf's JSON, whose
// readers take both lowerCamelCase and the original names and pass over
// members they do not know.
type signingRequest struct {
	Credentials struct {
		Token      string `json:"oidcIdentityToken"`
		TokenSnake string `json:"oidc_identity_token"`
	} `json:"credentials"`
	PublicKey      *keyRequest `json:"publicKeyRequest"`
	PublicKeySnake *keyRequest `json:"public_key_request"`
	CSR            string      `json:"certificateSigningRequest"`
	CSRSnake       string      `json:"certificate_signing_request"`
}

type keyRequest struct {
	PublicKey      publicKey `json:"publicKey"`
	PublicKeySnake publicKey `json:"public_key"`
	Proof          string    `json:"proofOfPossession"`
	ProofSnake     string    `json:"proof_of_possession"`
}

// publicKey leaves out the algorithm, which clients name in ways of their own
// and which the key itself tells.
type publicKey struct {
	Content string `json:"content"`
}

type certificateChain struct {
	Certificates []string `json:"certificates"`
}

type signingResponse struct {
	Embedded struct {
		Chain certificateChain `json:"chain"`
	} `json:"signedCertificateEmbeddedSct"`
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// parseSigningRequest reads the JSON of a request, at most maxCARequest bytes.
func parseSigningRequest(body []byte) (*signingRequest, error) {
	var q signingRequest
	if err := json.Unmarshal(body, &q); err != nil {
		return nil, fault.Newf(fault.Invalid, "the request is not the JSON of a signing request: %w", err)
	}
	q.Credentials.Token = first(q.Credentials.Token, q.Credentials.TokenSnake)
	q.CSR = first(q.CSR, q.CSRSnake)
	if q.PublicKey == nil {
		q.PublicKey = q.PublicKeySnake
	}
	if (q.PublicKey == nil) == (q.CSR == "") {
		return nil, fault.Newf(fault.Invalid, "want either publicKeyRequest or certificateSigningRequest")
	}
	if k := q.PublicKey; k != nil {
		k.PublicKey.Content = first(k.PublicKey.Content, k.PublicKeySnake.Content)
		k.Proof = first(k.Proof, k.ProofSnake)
	}
	return &q, nil
}

// bytesOf decodes protobuf's bytes: base64, standard or URL-safe, padded or not.
func bytesOf(what, s string) ([]byte, error) {
	s = strings.TrimRight(s, "=")
	s = strings.NewReplacer("-", "+", "_", "/").Replace(s)
	b, err := base64.RawStdEncoding.DecodeString(s)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "%s is not base64: %w", what, err)
	}
	return b, nil
}

// key gives the public key of a request, its possession proved against the
// challenge.
func (q *signingRequest) key(challenge string) (crypto.PublicKey, error) {
	if q.CSR != "" {
		csr, err := bytesOf("certificateSigningRequest", q.CSR)
		if err != nil {
			return nil, err
		}
		return parseCSR(csr)
	}
	pub, err := parsePublicKey(q.PublicKey.PublicKey.Content)
	if err != nil {
		return nil, err
	}
	proof, err := bytesOf("proofOfPossession", q.PublicKey.Proof)
	if err != nil {
		return nil, err
	}
	return pub, checkProof(pub, challenge, proof)
}

func (ca *CA) serveSigningCert(w http.ResponseWriter, r *http.Request) {
	chain, p, err := ca.signingCert(w, r)
	if err != nil {
		ca.refused(w, r, p, err)
		return
	}
	ca.issued.WithLabelValues("issued").Inc()
	var resp signingResponse
	resp.Embedded.Chain = encodeCertificates(chain)
	writeJSON(w, http.StatusOK, resp)
}

func (ca *CA) signingCert(w http.ResponseWriter, r *http.Request) ([]*x509.Certificate, identity.Principal, error) {
	var nobody identity.Principal
	if ct := r.Header.Get("Content-Type"); ct != "" {
		if mt, _, err := mime.ParseMediaType(ct); err != nil || mt != "application/json" {
			return nil, nobody, fault.Newf(fault.Invalid, "content type %.80q: want application/json", ct)
		}
	}
	body, err := readBody(w, r, maxCARequest)
	if err != nil {
		return nil, nobody, err
	}
	q, err := parseSigningRequest(body)
	if err != nil {
		return nil, nobody, err
	}
	raw := q.Credentials.Token
	if raw == "" {
		// sigstore-go and sigstore-python send it here.
		raw = bearer(r)
	}
	p, t, err := ca.opts.Verifier.Verify(r.Context(), raw, identity.AudienceSigstore)
	if err != nil {
		return nil, nobody, err
	}
	pub, err := q.key(t.Challenge)
	if err != nil {
		return nil, p, err
	}
	chain, err := ca.issue(r.Context(), p, t, pub)
	return chain, p, err
}

func bearer(r *http.Request) string {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// refused answers as grpc-gateway does for Fulcio. What went wrong inside is
// logged and not told.
func (ca *CA) refused(w http.ResponseWriter, r *http.Request, p identity.Principal, err error) {
	status, code, message := grpcStatus(err)
	ca.issued.WithLabelValues("refused").Inc()
	if status >= http.StatusInternalServerError {
		ca.opts.Logger.ErrorContext(r.Context(), "certificate not issued", "actor", p.Actor(), "error", err)
	} else {
		ca.opts.Logger.WarnContext(r.Context(), "certificate refused", "actor", p.Actor(), "error", err)
	}
	writeStatus(w, status, code, message)
}

func (ca *CA) serveTrustBundle(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, struct {
		Chains []certificateChain `json:"chains"`
	}{[]certificateChain{encodeCertificates(ca.current.Load().chain)}})
}

// oidcIssuer is OIDCIssuer of fulcio.proto.
type oidcIssuer struct {
	IssuerURL         string `json:"issuerUrl"`
	Audience          string `json:"audience"`
	ChallengeClaim    string `json:"challengeClaim"`
	SPIFFETrustDomain string `json:"spiffeTrustDomain,omitempty"`
	IssuerType        string `json:"issuerType"`
	SubjectDomain     string `json:"subjectDomain,omitempty"`
}

func (ca *CA) serveConfiguration(w http.ResponseWriter, _ *http.Request) {
	issuers := []oidcIssuer{}
	for _, c := range ca.opts.Verifier.Issuers() {
		aud, ok := ca.opts.Verifier.AudienceClaim(c.URL, identity.AudienceSigstore)
		if !ok {
			continue // its tokens get no certificates
		}
		claim := "sub"
		if c.Type == identity.TypeEmail || c.Type == identity.TypeLocal {
			claim = "email"
		}
		issuers = append(issuers, oidcIssuer{c.URL, aud, claim, c.TrustDomain, string(c.Type), c.SubjectDomain})
	}
	sort.Slice(issuers, func(i, j int) bool { return issuers[i].IssuerURL < issuers[j].IssuerURL })
	writeJSON(w, http.StatusOK, struct {
		Issuers []oidcIssuer `json:"issuers"`
	}{issuers})
}

func encodeCertificates(chain []*x509.Certificate) certificateChain {
	out := certificateChain{Certificates: make([]string, len(chain))}
	for i, c := range chain {
		out.Certificates[i] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return out
}

// The gRPC status codes that are answered (google.rpc.Code).
const (
	codeInvalidArgument   = 3
	codeNotFound          = 5
	codePermissionDenied  = 7
	codeResourceExhausted = 8
	codeUnimplemented     = 12
	codeInternal          = 13
	codeUnavailable       = 14
)

// grpcStatus is the one table from a failure to grpc-gateway's answer. As with
// Fulcio, a token that does not hold is an invalid argument.
func grpcStatus(err error) (status, code int, message string) {
	switch fault.KindOf(err) {
	case fault.Unauthenticated:
		return http.StatusBadRequest, codeInvalidArgument, "There was an error processing the identity token: " + err.Error()
	case fault.Invalid:
		return http.StatusBadRequest, codeInvalidArgument, err.Error()
	case fault.Denied:
		return http.StatusForbidden, codePermissionDenied, err.Error()
	case fault.TooLarge:
		return http.StatusRequestEntityTooLarge, codeResourceExhausted, err.Error()
	case fault.TooMany:
		return http.StatusTooManyRequests, codeResourceExhausted, err.Error()
	case fault.Unavailable, fault.Undecided:
		return http.StatusServiceUnavailable, codeUnavailable, "unavailable for now; try again"
	case fault.NoSpace:
		return http.StatusInsufficientStorage, codeUnavailable, "no space left to record the certificate"
	}
	return http.StatusInternalServerError, codeInternal, "error communicating with CA backend"
}

func writeStatus(w http.ResponseWriter, status, code int, message string) {
	writeJSON(w, status, struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
		Details []any  `json:"details"`
	}{code, message, []any{}})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	var b bytes.Buffer
	if err := json.MarshalWrite(&b, v); err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the client may be gone
}

// readBody reads a request's body, [fault.TooLarge] above limit bytes.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, fault.Newf(fault.TooLarge, "the request is longer than %d bytes", limit)
	case errors.Is(err, context.Canceled):
		return nil, fault.Wrap(fault.Unavailable, err)
	case err != nil:
		return nil, fault.Newf(fault.Invalid, "the request could not be read: %w", err)
	}
	return b, nil
}
