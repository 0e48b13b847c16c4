package otlp

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"assay/internal/fault"
	"assay/internal/netguard"
)

const (
	maxAnswer  = 64 << 10
	firstWait  = 500 * time.Millisecond
	longest    = 5 * time.Second
	maxRefused = 200 // bytes of a collector's words that are told
)

// sender posts requests of one signal.
type sender struct {
	t    target
	http *http.Client
}

func newSender(t target) (*sender, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.ca != "" {
		pem, err := os.ReadFile(t.ca)
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "telemetry CA bundle: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fault.Newf(fault.Invalid, "telemetry CA bundle %s holds no PEM certificate", t.ca)
		}
	}
	if t.cert != "" || t.key != "" {
		pair, err := tls.LoadX509KeyPair(t.cert, t.key)
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "telemetry client certificate: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	d := &net.Dialer{Timeout: 5 * time.Second, Control: netguard.Control(true)}
	tr := &http.Transport{
		DialContext: d.DialContext, TLSClientConfig: conf, TLSHandshakeTimeout: 5 * time.Second, MaxIdleConnsPerHost: 1,
		IdleConnTimeout: 2 * time.Minute, MaxResponseHeaderBytes: 32 << 10, ForceAttemptHTTP2: true, Proxy: http.ProxyFromEnvironment,
	}
	if t.grpc {
		// gRPC is HTTP/2 alone, in the clear too.
		tr.Protocols = &http.Protocols{}
		tr.Protocols.SetHTTP2(true)
		tr.Protocols.SetUnencryptedHTTP2(true)
	}
	return &sender{t: t, http: &http.Client{
		Transport:     tr,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// errLater says that the collector may take the same request later.
type laterError struct {
	err   error
	after time.Duration
}

func (e *laterError) Error() string { return e.err.Error() }
func (e *laterError) Unwrap() error { return e.err }

// send posts one request, again where the collector asks for that, within the
// signal's timeout.
func (s *sender) send(ctx context.Context, m proto.Message) error {
	body, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	if body, err = s.pack(body); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.t.timeout)
	defer cancel()
	for wait := firstWait; ; wait = min(2*wait, longest) {
		err := s.attempt(ctx, body)
		var later *laterError
		if !errors.As(err, &later) {
			return err
		}
		timer := time.NewTimer(max(wait, later.after))
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
	}
}

// pack compresses, and for gRPC frames, a body ("gRPC over HTTP2",
// Length-Prefixed-Message).
func (s *sender) pack(body []byte) ([]byte, error) {
	if s.t.gzip {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		if _, err := z.Write(body); err != nil {
			return nil, err
		}
		if err := z.Close(); err != nil {
			return nil, err
		}
		body = b.Bytes()
	}
	if !s.t.grpc {
		return body, nil
	}
	framed := make([]byte, 5, 5+len(body))
	if s.t.gzip {
		framed[0] = 1
	}
	binary.BigEndian.PutUint32(framed[1:], uint32(len(body)))
	return append(framed, body...), nil
}

func (s *sender) attempt(ctx context.Context, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.t.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	for name, values := range s.t.headers {
		req.Header[name] = values
	}
	req.Header.Set("User-Agent", "assay")
	switch {
	case s.t.grpc:
		req.Header.Set("Content-Type", "application/grpc")
		req.Header.Set("Te", "trailers")
		if s.t.gzip {
			req.Header.Set("Grpc-Encoding", "gzip")
		}
	default:
		req.Header.Set("Content-Type", "application/x-protobuf")
		if s.t.gzip {
			req.Header.Set("Content-Encoding", "gzip")
		}
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return &laterError{err: err}
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if s.t.grpc {
		return grpcOutcome(resp)
	}
	return httpOutcome(resp, answer)
}

func httpOutcome(resp *http.Response, answer []byte) error {
	if resp.StatusCode/100 == 2 {
		return nil
	}
	err := fmt.Errorf("the collector answered %d: %q", resp.StatusCode, answer[:min(len(answer), maxRefused)])
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		return &laterError{err, time.Duration(min(max(seconds, 0), 60)) * time.Second}
	}
	return err
}

// grpcOutcome reads the status from the trailers, or from the headers where the
// answer has no body ("Trailers-Only").
func grpcOutcome(resp *http.Response) error {
	if resp.StatusCode != http.StatusOK {
		return httpOutcome(resp, nil)
	}
	status, message := resp.Trailer.Get("Grpc-Status"), resp.Trailer.Get("Grpc-Message")
	if status == "" {
		status, message = resp.Header.Get("Grpc-Status"), resp.Header.Get("Grpc-Message")
	}
	if status == "0" {
		return nil
	}
	err := fmt.Errorf("the collector answered gRPC status %.8q: %q", status, message[:min(len(message), maxRefused)])
	switch status {
	case "1", "4", "8", "10", "11", "14", "15": // OTLP, "Failures": retryable
		return &laterError{err: err}
	}
	return err
}

func (s *sender) close() { s.http.CloseIdleConnections() }
