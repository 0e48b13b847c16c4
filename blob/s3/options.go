package s3

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"assay/blob"
	"assay/internal/clock"
	"assay/internal/durable"
	"assay/internal/fault"
)

// Options say where a [Store] lies and who it is there.
type Options struct {
	// Endpoint is the service's address, http(s)://HOST[:PORT]; http is for
	// loopback only. Requests go to this host and to no other: redirects are
	// not followed, and with PathStyle false the bucket's name goes before it.
	Endpoint string
	// Bucket must exist; it is never made here.
	Bucket string
	// Prefix is put before every key, "" for none: "assay/prod".
	Prefix string
	// Region is signed into every request; "" is us-east-1, which services that
	// know no regions take.
	Region string
	// PathStyle asks for HOST/BUCKET/KEY instead of BUCKET.HOST/KEY.
	PathStyle bool
	// Credentials is "file:PATH" of a file in the form of AWS's own (read again
	// every minute, so that it can be rotated), "env" for AWS_ACCESS_KEY_ID,
	// AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or "imds" for what the cloud
	// machine's metadata service gives. There is no default: nothing is tried.
	Credentials string
	// CAFile is a PEM bundle that is trusted besides the system's.
	CAFile string
	// Compliance makes [Store.Retain] lock in compliance mode, which nobody can
	// undo; false is governance mode, which a privileged account can.
	Compliance bool

	UploadTTL time.Duration // sessions that nobody writes to; 0: blob.DefaultUploadTTL
	PartSize  int64         // bytes of a part, for tests; 0: 5 MiB and more, see partSize
	Retries   int           // tries of one request; 0: 4
	Clock     clock.Clock   // nil: clock.System
	Logger    *slog.Logger  // nil: discard
}

const (
	// requestTimeout bounds one request with its body, of at most one part.
	requestTimeout = 5 * time.Minute
	reread         = time.Minute // how often the credentials file is read
	maxCredentials = 64 << 10
)

// Validate says what is wrong with the options.
func (o Options) Validate() error {
	if _, err := o.endpoint(); err != nil {
		return err
	}
	if o.Bucket == "" || strings.ContainsAny(o.Bucket, "/?#\x00 ") {
		return fault.Newf(fault.Invalid, "S3 bucket %q: want the bucket's plain name", o.Bucket)
	}
	if p := o.Prefix; p != "" && (path.Clean("/"+p) != "/"+p || strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' })) {
		return fault.Newf(fault.Invalid, "S3 prefix %q: want NAME/NAME without a slash at its ends", p)
	}
	switch kind, rest, _ := strings.Cut(o.Credentials, ":"); {
	case kind == "file" && rest != "", o.Credentials == "env", o.Credentials == "imds":
	case o.Credentials == "":
		return fault.Newf(fault.Invalid, "S3 credentials: none given; want file:PATH, env, or imds: no place is tried that is not named")
	default:
		return fault.Newf(fault.Invalid, "S3 credentials: want file:PATH, env or imds (what stands there is not repeated: it may be a secret)")
	}
	return nil
}

func (o Options) endpoint() (*url.URL, error) {
	u, err := url.Parse(o.Endpoint)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Scheme != "http" && u.Scheme != "https" ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fault.Newf(fault.Invalid, "S3 endpoint: want http(s)://HOST[:PORT], for example https://s3.eu-central-1.amazonaws.com")
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fault.Newf(fault.Invalid, "S3 endpoint %s: http is for loopback only: blobs would cross the network in the clear", u.Host)
	}
	return u, nil
}

// client makes the client that every request goes through.
func (o Options) client() (*minio.Core, *http.Transport, error) {
	if err := o.Validate(); err != nil {
		return nil, nil, err
	}
	u, err := o.endpoint()
	if err != nil {
		return nil, nil, err
	}
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, nil, fault.Newf(fault.Invalid, "S3 ca_file: %w", err)
		}
		if tlsConfig.RootCAs, err = x509.SystemCertPool(); err != nil {
			tlsConfig.RootCAs = x509.NewCertPool()
		}
		if !tlsConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, nil, fault.Newf(fault.Invalid, "S3 ca_file %s: it holds no PEM certificate", o.CAFile)
		}
	}
	// A client of its own, so that nothing else's settings reach it.
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       tlsConfig,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 2 * time.Minute, // of completing a large upload
		ExpectContinueTimeout: time.Second,
		IdleConnTimeout:       time.Minute,
		MaxIdleConnsPerHost:   64,
		DisableCompression:    true, // bytes are what they are
		ForceAttemptHTTP2:     true,
	}
	creds, err := o.credentials()
	if err != nil {
		return nil, nil, err
	}
	lookup := minio.BucketLookupDNS
	if o.PathStyle {
		lookup = minio.BucketLookupPath
	}
	region, retries := o.Region, o.Retries
	if region == "" {
		region = "us-east-1" // given always, so that the bucket is not asked for it
	}
	if retries <= 0 {
		retries = 4
	}
	c, err := minio.NewCore(u.Host, &minio.Options{
		Creds: creds, Secure: u.Scheme == "https", Transport: transport, Region: region, BucketLookup: lookup, MaxRetries: retries,
	})
	if err != nil {
		return nil, nil, fault.Newf(fault.Invalid, "S3: %w", err)
	}
	return c, transport, nil
}

func (o Options) credentials() (*credentials.Credentials, error) {
	now := o.Clock
	if now == nil {
		now = clock.System
	}
	var p credentials.Provider
	switch kind, rest, _ := strings.Cut(o.Credentials, ":"); kind {
	case "env":
		p = &credentials.EnvAWS{}
	case "imds":
		p = &credentials.IAM{}
	default:
		p = &fileProvider{path: rest, now: now}
	}
	c := credentials.New(p)
	if o.Credentials == "imds" {
		return c, nil // asked at the first request: the metadata service may be late
	}
	v, err := c.GetWithContext(&credentials.CredContext{})
	if err != nil {
		return nil, err
	}
	if v.AccessKeyID == "" || v.SecretAccessKey == "" {
		return nil, fault.Newf(fault.Invalid, "S3 credentials %s: no access key was found there; requests are never made without one", o.Credentials)
	}
	return c, nil
}

// fileProvider reads credentials from a file, again when they are old.
type fileProvider struct {
	path string
	now  clock.Clock
	read time.Time
}

func (p *fileProvider) IsExpired() bool { return p.now().Sub(p.read) >= reread }

func (p *fileProvider) Retrieve() (credentials.Value, error) {
	return p.RetrieveWithCredContext(nil)
}

func (p *fileProvider) RetrieveWithCredContext(*credentials.CredContext) (credentials.Value, error) {
	if err := durable.CheckPrivate(p.path); err != nil {
		return credentials.Value{}, fault.Newf(fault.Invalid, "S3 credentials: %w", err)
	}
	f, err := os.Open(p.path)
	if err != nil {
		return credentials.Value{}, fault.Newf(fault.Invalid, "S3 credentials: %w", err)
	}
	defer f.Close()
	b := make([]byte, maxCredentials+1)
	n, err := bufio.NewReaderSize(f, len(b)).Read(b)
	if err != nil || n > maxCredentials {
		return credentials.Value{}, fault.Newf(fault.Invalid, "S3 credentials %s: the file is empty or too long", p.path)
	}
	v, err := parseCredentials(b[:n])
	if err != nil {
		return v, fmt.Errorf("S3 credentials %s: %w", p.path, err)
	}
	p.read = p.now()
	return v, nil
}

// parseCredentials reads one profile as AWS's shared credentials file has it:
// an optional [section], then NAME = VALUE. Messages never repeat a value.
func parseCredentials(b []byte) (credentials.Value, error) {
	v := credentials.Value{SignerType: credentials.SignatureV4}
	sections := 0
	fields := map[string]*string{
		"aws_access_key_id": &v.AccessKeyID, "aws_secret_access_key": &v.SecretAccessKey, "aws_session_token": &v.SessionToken,
	}
	for i, text := range bytes.Split(b, []byte("\n")) {
		line := strings.TrimSpace(string(text))
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if line[0] == '[' {
			if sections++; sections > 1 || v.AccessKeyID != "" {
				return v, fault.Newf(fault.Invalid, "line %d: a second profile; want one", i+1)
			}
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		field := fields[strings.ToLower(strings.TrimSpace(name))]
		value = strings.TrimSpace(value)
		if !ok || field == nil || *field != "" || value == "" {
			return v, fault.Newf(fault.Invalid, "line %d: want aws_access_key_id, aws_secret_access_key or aws_session_token, each once, NAME = VALUE", i+1)
		}
		*field = value
	}
	if v.AccessKeyID == "" || v.SecretAccessKey == "" {
		return v, fault.Newf(fault.Invalid, "want aws_access_key_id and aws_secret_access_key")
	}
	return v, nil
}

// Open connects to a bucket and checks that it is there and may be read.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.UploadTTL <= 0 {
		o.UploadTTL = blob.DefaultUploadTTL
	}
	c, transport, err := o.client()
	if err != nil {
		return nil, err
	}
	s := &Store{o: o, c: c, transport: transport, held: map[string]bool{}}
	if err := s.Ready(ctx); err != nil {
		transport.CloseIdleConnections()
		return nil, err
	}
	return s, nil
}
