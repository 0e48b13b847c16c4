// Package client is the typed client of Assay's own API and of the signing
// services beside it. The command line is built on it, and nothing else may
// know a URL.
package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"assay/internal/fault"
	"assay/telemetry"
)

// UserAgent names this client to servers.
const UserAgent = "assay"

// maxBody caps an API answer, in bytes.
const maxBody = 64 << 20

// Client calls one server.
type Client struct {
	Base  string                                // "https://assay.example"
	HTTP  *http.Client                          // nil: one with a timeout of 60 s
	Token func(context.Context) (string, error) // audience "assay-api"; nil: anonymous
}

// Socket is a client of the admin socket in a data folder. The server knows the
// caller by the socket's peer credentials.
func Socket(path string) *Client {
	return &Client{Base: adminBase, HTTP: &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}},
	}}
}

// Problem is an error answer, RFC 9457 "Problem Details for HTTP APIs".
type Problem struct {
	Type   string `json:"type"`             // about:blank
	Title  string `json:"title"`            // the kind of failure, see internal/fault
	Status int    `json:"status"`           // HTTP status
	Detail string `json:"detail"`           // what was expected, what was found, what to do
	Trace  string `json:"trace,omitempty"`  // trace ID, for the server's log
	Code   string `json:"code,omitempty"`   // stable machine code, where there is one
	Entity string `json:"entity,omitempty"` // digest or ID concerned
}

// answerError is an answer other than success, in words.
func answerError(who string, resp *http.Response, body []byte) error {
	status := resp.StatusCode
	if status/100 == 3 {
		// Credentials and questions go to the host that was named, and nowhere else.
		return fault.Newf(fault.Unavailable, "%s answers %d and points to %s, which is not followed; name that address if it is right", who, status, printable(fmt.Sprintf("%.200q", resp.Header.Get("Location"))))
	}
	var p Problem
	detail := ""
	if json.Unmarshal(body, &p) == nil && p.Detail != "" {
		detail = p.Detail
	} else {
		var g struct { // grpc-gateway's form, as Fulcio and Rekor answer
			Message string `json:"message"`
		}
		if json.Unmarshal(body, &g) == nil {
			detail = g.Message
		}
	}
	if detail == "" {
		detail = strconv.QuoteToASCII(string(body[:min(len(body), 300)]))
	}
	return fault.Newf(kindOf(status), "%s answers %d: %s", who, status, printable(detail))
}

// maxDetail is how much of a server's words is repeated, in bytes.
const maxDetail = 4 << 10

// printable keeps a server from writing to the terminal: control characters
// and direction overrides become visible marks.
func printable(s string) string {
	if len(s) > maxDetail {
		s = s[:maxDetail] + "…"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' || unicode.Is(unicode.Bidi_Control, r) {
			return '\uFFFD'
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

func kindOf(status int) *fault.Kind {
	switch status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusMethodNotAllowed, http.StatusUnsupportedMediaType:
		return fault.Invalid
	case http.StatusUnauthorized:
		return fault.Unauthenticated
	case http.StatusForbidden:
		return fault.Denied
	case http.StatusNotFound:
		return fault.NotFound
	case http.StatusConflict:
		return fault.Conflict
	case http.StatusRequestEntityTooLarge:
		return fault.TooLarge
	case http.StatusTooManyRequests:
		return fault.TooMany
	case http.StatusInsufficientStorage:
		return fault.NoSpace
	}
	return fault.Unavailable
}

// noRedirect is h without following redirects: a service that is asked to sign
// or to decide answers itself.
func noRedirect(h *http.Client) *http.Client {
	if h == nil {
		h = &http.Client{Timeout: 60 * time.Second}
	}
	c := *h
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &c
}

// Document is a body that is sent as it is.
type Document struct {
	MediaType string
	Bytes     []byte
}

// call sends one request; in and out are JSON, nil for none, [Document] and
// *[]byte for bytes as they are.
func (c *Client) call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	u := strings.TrimSuffix(c.Base, "/") + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	var body []byte
	contentType := "application/json"
	switch v := in.(type) {
	case nil:
	case Document:
		body, contentType = v.Bytes, v.MediaType
	default:
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		body = b
	}
	req, err := http.NewRequestWithContext(ctx, method, u, bytes.NewReader(body))
	if err != nil {
		return fault.Wrap(fault.Invalid, err)
	}
	req.Header.Set("User-Agent", UserAgent)
	telemetry.Inject(ctx, req.Header, true)
	if in != nil {
		req.Header.Set("Content-Type", contentType)
	}
	if c.Token != nil {
		token, err := c.Token(ctx)
		if err != nil {
			return fmt.Errorf("identity token: %w", err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
	}
	resp, err := noRedirect(c.HTTP).Do(req)
	if err != nil {
		return unreachable(c.name(), err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return fault.Newf(fault.Unavailable, "%s %s: %w", method, u, err)
	}
	if len(b) > maxBody {
		return fault.Newf(fault.TooLarge, "%s %s: the answer is larger than %d bytes", method, u, maxBody)
	}
	if resp.StatusCode/100 != 2 {
		return answerError(c.name(), resp, b)
	}
	switch v := out.(type) {
	case nil:
		return nil
	case *[]byte:
		*v = b
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fault.Newf(fault.Unavailable, "%s %s: the answer is not what this version expects: %w", method, u, err)
	}
	return nil
}

// adminBase stands for the admin socket, which has no address.
const adminBase = "http://admin"

func (c *Client) name() string {
	if c.Base == adminBase {
		return "the local server"
	}
	return "server " + c.Base
}

// unreachable says why a server did not answer, and what to do.
func unreachable(who string, err error) error {
	var inner *url.Error
	if errors.As(err, &inner) {
		err = inner.Err // without the method and the address once more
	}
	hint := "is it up?"
	var authority x509.UnknownAuthorityError
	switch {
	case errors.As(err, &authority):
		hint = "its certificate is of an authority that this machine does not know; name it with --ca-file (ASSAY_CA_FILE)"
	case strings.Contains(err.Error(), "HTTP response to HTTPS client"):
		hint = "it speaks plain HTTP: use http://"
	}
	return fault.Newf(fault.Unavailable, "%s does not answer: %w; %s", who, err, hint)
}

// Status asks what the server is.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	var s Status
	return &s, c.call(ctx, http.MethodGet, "/api/v1/status", nil, nil, &s)
}

// Mint asks the admin socket for a token of the local issuer.
func (c *Client) Mint(ctx context.Context, r TokenRequest) (*TokenAnswer, error) {
	var a TokenAnswer
	return &a, c.call(ctx, http.MethodPost, "/v1/token", nil, r, &a)
}

// Verify asks for a decision about a target; out takes the report
// (verify.Report, as the API describes it).
func (c *Client) Verify(ctx context.Context, r VerifyRequest, out any) error {
	return c.call(ctx, http.MethodPost, "/api/v1/verify", nil, r, out)
}

// Decision fetches one decision by ID.
func (c *Client) Decision(ctx context.Context, id string, out any) error {
	return c.call(ctx, http.MethodGet, "/api/v1/decisions/"+url.PathEscape(id), nil, nil, out)
}

// Ingest hands a bundle to the evidence store, which verifies it first.
func (c *Client) Ingest(ctx context.Context, bundle []byte, repository string) ([]Evidence, error) {
	var l List[Evidence]
	q := url.Values{}
	if repository != "" {
		q.Set("repository", repository)
	}
	err := c.call(ctx, http.MethodPost, "/api/v1/evidence", q, Document{mediaTypeBundle, bundle}, &l)
	return l.Items, err
}

// Evidence lists verified evidence.
func (c *Client) Evidence(ctx context.Context, f EvidenceFilter) (*List[Evidence], error) {
	q := url.Values{}
	for k, v := range map[string]string{"digest": string(f.Digest), "predicate_type": f.PredicateType, "issuer": f.Issuer, "identity": f.Identity, "repository": f.Repository, "after": f.After} {
		if v != "" {
			q.Set(k, v)
		}
	}
	if f.Limit > 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	var l List[Evidence]
	return &l, c.call(ctx, http.MethodGet, "/api/v1/evidence", q, nil, &l)
}

// Bundle fetches the bundle of one piece of evidence, as it was stored. The ID
// names its content, which is held against it: other bytes are
// [fault.Tampered].
func (c *Client) Bundle(ctx context.Context, id string) ([]byte, error) {
	var b []byte
	if err := c.call(ctx, http.MethodGet, "/api/v1/evidence/"+url.PathEscape(id), nil, nil, &b); err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(b); id != "att_"+hex.EncodeToString(sum[:]) {
		return nil, fault.Newf(fault.Tampered, "evidence %.80s: the server gave bytes of another hash, att_%x", printable(id), sum)
	}
	return b, nil
}

// Apply brings the server to what the documents say.
// What the server has beyond them is deleted with prune.
func (c *Client) Apply(ctx context.Context, documents []byte, dryRun, prune bool) (*ApplyAnswer, error) {
	q := url.Values{}
	if prune {
		q.Set("prune", "true")
	}
	if dryRun {
		q.Set("dry_run", "true")
	}
	var a ApplyAnswer
	return &a, c.call(ctx, http.MethodPost, "/api/v1/apply", q, Document{"application/yaml", documents}, &a)
}

// LogEntry shows one entry of the transparency log.
func (c *Client) LogEntry(ctx context.Context, index uint64) (*LogEntry, error) {
	var e LogEntry
	return &e, c.call(ctx, http.MethodGet, "/api/v1/log/entries/"+strconv.FormatUint(index, 10), nil, nil, &e)
}

// TrustExport fetches what an offline verifier needs, one file.
func (c *Client) TrustExport(ctx context.Context) ([]byte, error) {
	var b []byte
	return b, c.call(ctx, http.MethodGet, "/api/v1/trust/export", nil, nil, &b)
}

// TUFRoot fetches the TUF repository's first root.json, the start of trust for
// TUF clients.
func (c *Client) TUFRoot(ctx context.Context) ([]byte, error) {
	var b []byte
	return b, c.call(ctx, http.MethodGet, "/api/v1/trust/tuf-root", nil, nil, &b)
}
