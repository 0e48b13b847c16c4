package siem

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"assay/internal/fault"
	"assay/internal/netguard"
)

// line is one record on its way.
type line struct {
	json     []byte
	time     time.Time
	kind     string
	severity Severity
}

// sink takes lines, all of them or, with an error, perhaps some.
type sink interface {
	write(ctx context.Context, lines []line) error
	close() error
}

func newSink(s *Spec, secret func(string) ([]byte, error), hostname string) (sink, error) {
	conf, err := tlsConfig(s)
	if err != nil {
		return nil, err
	}
	switch {
	case s.Syslog != "":
		return &syslogSink{addr: s.Syslog, tls: conf, hostname: header(hostname, 255)}, nil
	case s.URL != "":
		return newHTTPSink(s, conf, secret)
	}
	f := &fileSink{path: s.File, max: s.MaxBytes, keep: s.Files}
	if f.max == 0 {
		f.max = 64 << 20
	}
	if f.keep == 0 {
		f.keep = 8
	}
	return f, nil
}

func tlsConfig(s *Spec) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CABundle != "" {
		pem, err := os.ReadFile(s.CABundle)
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "sink %s: ca_bundle: %w", s.Name, err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fault.Newf(fault.Invalid, "sink %s: ca_bundle %s holds no PEM certificate", s.Name, s.CABundle)
		}
	}
	if s.Certificate != "" {
		pair, err := tls.LoadX509KeyPair(s.Certificate, s.Key)
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "sink %s: certificate: %w", s.Name, err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

// syslogSink writes RFC 5424 messages in octet-counted frames over TLS (RFC
// 5425). The receiver does not answer; a connection that it closed, or lost,
// shows within settle of a batch, which is then sent again on another.
type syslogSink struct {
	addr     string
	tls      *tls.Config
	hostname string
	conn     *tls.Conn
}

func (s *syslogSink) dial(ctx context.Context) error {
	if s.conn != nil {
		return nil
	}
	d := &tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second, Control: netguard.Control(true)}, Config: s.tls}
	c, err := d.DialContext(ctx, "tcp", s.addr)
	if err != nil {
		return err
	}
	s.conn = c.(*tls.Conn) //nolint:forcetypeassert // a tls.Dialer gives no other
	return nil
}

func (s *syslogSink) write(ctx context.Context, lines []line) (err error) {
	defer func() {
		if err != nil {
			_ = s.close()
		}
	}()
	if err := s.dial(ctx); err != nil {
		return err
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(15 * time.Second)
	}
	if err := s.conn.SetWriteDeadline(deadline); err != nil {
		return err
	}
	var b bytes.Buffer
	for i := range lines {
		m := s.message(&lines[i])
		b.WriteString(strconv.Itoa(len(m)))
		b.WriteByte(' ')
		b.WriteString(m)
	}
	if _, err := s.conn.Write(b.Bytes()); err != nil {
		return err
	}
	return s.alive()
}

// alive says whether the receiver still has the connection. It has nothing to
// say on it.
func (s *syslogSink) alive() error {
	if err := s.conn.SetReadDeadline(time.Now().Add(settle)); err != nil {
		return err
	}
	var one [1]byte
	_, err := s.conn.Read(one[:])
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		// A read that ran into its deadline leaves a TLS connection usable: nothing of a
		// record was taken.
		return s.conn.SetReadDeadline(time.Time{})
	}
	if err == nil {
		return fmt.Errorf("the syslog receiver speaks, where RFC 5425 has it listen")
	}
	return fmt.Errorf("the syslog receiver closed the connection: %w", err)
}

func (s *syslogSink) close() error {
	if s.conn == nil {
		return nil
	}
	c := s.conn
	s.conn = nil
	return c.Close()
}

// facility is "log audit" (RFC 5424, table 1).
const facility = 13

// message is RFC 5424's: header, no structured data, JSON as text.
func (s *syslogSink) message(l *line) string {
	level := map[Severity]int{Informational: 6, Low: 5, Medium: 4, High: 3, Critical: 2}[l.severity]
	return fmt.Sprintf("<%d>1 %s %s assay %d %s - %s", facility*8+level, l.time.UTC().Format("2006-01-02T15:04:05.000000Z"), s.hostname, os.Getpid(), header(l.kind, 32), l.json)
}

// header is a text as a header field has it: printable ASCII without spaces, "-"
// for none.
func header(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '_'
		}
		return r
	}, text)
	if text == "" {
		return "-"
	}
	return text[:min(len(text), most)]
}

// httpSink posts JSON lines.
type httpSink struct {
	url     string
	headers map[string]string
	secret  func(string) ([]byte, error)
	http    *http.Client
}

func newHTTPSink(s *Spec, conf *tls.Config, secret func(string) ([]byte, error)) (*httpSink, error) {
	d := &net.Dialer{Timeout: 5 * time.Second, Control: netguard.Control(true)}
	return &httpSink{url: s.URL, headers: s.Headers, secret: secret, http: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: d.DialContext, TLSClientConfig: conf, TLSHandshakeTimeout: 5 * time.Second, MaxIdleConnsPerHost: 1,
			IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 32 << 10, ForceAttemptHTTP2: true, Proxy: http.ProxyFromEnvironment,
		},
	}}, nil
}

func (s *httpSink) write(ctx context.Context, lines []line) error {
	var b bytes.Buffer
	for i := range lines {
		b.Write(lines[i].json)
		b.WriteByte('\n')
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, &b)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	req.Header.Set("User-Agent", "assay")
	for name, place := range s.headers {
		v, err := s.secret(place)
		if err != nil {
			return fmt.Errorf("header %s: %w", name, err)
		}
		req.Header.Set(name, string(v))
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("the receiver answered %d", resp.StatusCode)
	}
	return nil
}

func (s *httpSink) close() error {
	s.http.CloseIdleConnections()
	return nil
}

// fileSink appends to a file, synced before the cursor moves, and rotates it:
// path.1 is the newest of those before.
type fileSink struct {
	path string
	max  int64
	keep int
	file *os.File
	size int64
}

func (s *fileSink) open() error {
	if s.file != nil {
		if st, err := os.Stat(s.path); err == nil {
			if own, err := s.file.Stat(); err == nil && os.SameFile(st, own) {
				return nil
			}
		}
		_ = s.close() // somebody else rotated it
	}
	f, err := os.OpenFile(s.path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return err
	}
	s.file, s.size = f, st.Size()
	return s.whole()
}

// whole ends a line that a crash cut short: what comes after must be lines of
// their own. The record itself is sent again.
func (s *fileSink) whole() error {
	if s.size == 0 {
		return nil
	}
	var last [1]byte
	if _, err := s.file.ReadAt(last[:], s.size-1); err != nil {
		return err
	}
	if last[0] == '\n' {
		return nil
	}
	n, err := s.file.Write([]byte("\n"))
	s.size += int64(n)
	return err
}

func (s *fileSink) write(_ context.Context, lines []line) error {
	var b bytes.Buffer
	for i := range lines {
		b.Write(lines[i].json)
		b.WriteByte('\n')
	}
	if err := s.open(); err != nil {
		return err
	}
	if s.size > 0 && s.size+int64(b.Len()) > s.max {
		if err := s.rotate(); err != nil {
			return err
		}
	}
	n, err := s.file.Write(b.Bytes())
	s.size += int64(n)
	if err == nil {
		err = s.file.Sync()
	}
	if err != nil {
		_ = s.close()
	}
	return err
}

func (s *fileSink) rotate() error {
	if err := s.close(); err != nil {
		return err
	}
	name := func(n int) string { return s.path + "." + strconv.Itoa(n) }
	if err := os.Remove(name(s.keep)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for n := s.keep - 1; n >= 1; n-- {
		if err := os.Rename(name(n), name(n+1)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := os.Rename(s.path, name(1)); err != nil {
		return err
	}
	if d, err := os.Open(filepath.Dir(s.path)); err == nil {
		_ = d.Sync()
		_ = d.Close()
	}
	return s.open()
}

func (s *fileSink) close() error {
	if s.file == nil {
		return nil
	}
	f := s.file
	s.file = nil
	return f.Close()
}
