package siem_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/siem"
	"assay/store"
	"assay/store/storetest"
)

// shapes is what the released schema of OCSF says of the classes and objects
// that are used (testdata, made of the schema's own files).
type shapes struct {
	Version string
	Classes map[string]shape
	Objects map[string]shape
}

type shape struct {
	Attributes  map[string]attribute
	Constraints map[string][]string
}

type attribute struct {
	Type, Object    string
	Required, Array bool
	Enum            []int
}

func (s *shapes) check(at string, sh shape, v map[string]any) (wrong []string) {
	add := func(format string, args ...any) { wrong = append(wrong, at+": "+fmt.Sprintf(format, args...)) }
	for name, a := range sh.Attributes {
		if _, ok := v[name]; a.Required && !ok {
			add("%s is required", name)
		}
	}
	for kind, names := range sh.Constraints {
		n := 0
		for _, name := range names {
			if _, ok := v[name]; ok {
				n++
			}
		}
		if n == 0 || kind == "just_one" && n != 1 {
			add("%s of %v, found %d", kind, names, n)
		}
	}
	for name, x := range v {
		a, ok := sh.Attributes[name]
		if !ok {
			add("%s is no attribute", name)
			continue
		}
		list := []any{x}
		if l, isList := x.([]any); isList != a.Array {
			add("%s: an array %v, want %v", name, isList, a.Array)
		} else if isList {
			list = l
		}
		for _, x := range list {
			wrong = append(wrong, s.value(at+"."+name, a, x)...)
		}
	}
	return wrong
}

func (s *shapes) value(at string, a attribute, x any) []string {
	switch v := x.(type) {
	case map[string]any:
		if a.Type != "object" {
			return []string{at + ": an object, want " + a.Type}
		}
		if sh, ok := s.Objects[a.Object]; ok {
			return s.check(at, sh, v)
		}
		if a.Object != "object" { // unmapped may be anything
			return []string{at + ": no shape of " + a.Object}
		}
	case float64:
		if a.Type != "integer_t" && a.Type != "long_t" && a.Type != "timestamp_t" {
			return []string{at + ": a number, want " + a.Type}
		}
		if len(a.Enum) > 0 && !slices.Contains(a.Enum, int(v)) {
			return []string{fmt.Sprintf("%s: %v is not of %v", at, v, a.Enum)}
		}
	case bool:
		if a.Type != "boolean_t" {
			return []string{at + ": a boolean, want " + a.Type}
		}
	case string:
		if !strings.HasSuffix(a.Type, "_t") || slices.Contains([]string{"integer_t", "long_t", "timestamp_t", "boolean_t"}, a.Type) {
			return []string{at + ": a text, want " + a.Type}
		}
	}
	return nil
}

// sample is an event of a kind with a member of each name that its kind has.
func sample(k event.KindInfo) event.Event {
	body := map[string]any{}
	for _, f := range k.Fields {
		body[f.Name] = f.Name + " <b>\x07 value"
	}
	body["address"], body["advisories"], body["repository"] = "192.0.2.7", []string{"CVE-2021-44228", "GHSA-jfh8-c2jp-5v3q"}, "team/app"
	raw, _ := json.Marshal(body)
	return event.Event{
		Seq: 7, ID: "evt_1", Time: time.Date(2026, 5, 1, 12, 0, 0, 123456000, time.UTC), Kind: k.Kind, Digest: artifact.SHA256Of([]byte("x")),
		Actor: "https://issuer#ci@example.com", Team: "web", Service: "shop", TraceID: "0af7651916cd43dd8448eb211c80319c", Body: json.RawMessage(raw),
	}
}

// TestShapes: every kind of event becomes a record that OCSF's schema takes, full
// and empty.
func TestShapes(t *testing.T) {
	b, err := os.ReadFile("testdata/ocsf-" + siem.SchemaVersion + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var s shapes
	if err := json.Unmarshal(b, &s); err != nil || s.Version != siem.SchemaVersion {
		t.Fatal(s.Version, err)
	}
	used := map[int]bool{}
	for _, k := range event.Kinds() {
		full := sample(k)
		empty := event.Event{Seq: 1, ID: "evt_2", Time: full.Time, Kind: k.Kind, Body: json.RawMessage(`{}`)}
		for name, e := range map[string]event.Event{"full": full, "empty": empty} {
			r := siem.NewRecord(&e, siem.Product{Version: "v1", Site: "https://assay.example"})
			used[r.Class] = true
			line, err := r.JSON()
			if err != nil || bytes.ContainsAny(line, "\n\x07") {
				t.Fatalf("%s: %q %v", k.Kind, line, err)
			}
			var v map[string]any
			if err := json.Unmarshal(line, &v); err != nil {
				t.Fatal(err)
			}
			sh, ok := s.Classes[strconv.Itoa(r.Class)]
			if !ok {
				t.Fatalf("%s: class %d has no shape", k.Kind, r.Class)
			}
			for _, wrong := range s.check(name+" "+string(k.Kind), sh, v) {
				t.Error(wrong)
			}
			if v["type_uid"] != v["class_uid"].(float64)*100+v["activity_id"].(float64) || v["category_uid"] != float64(r.Class/1000) {
				t.Errorf("%s: type_uid %v", k.Kind, v["type_uid"])
			}
		}
	}
	if len(used) != 7 {
		t.Errorf("classes used: %v", used)
	}
}

// TestDocument: docs/siem.md has each kind with its class.
func TestDocument(t *testing.T) {
	b, err := os.ReadFile("../docs/siem.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []int{siem.VulnerabilityFinding, siem.ComplianceFinding, siem.DetectionFinding, siem.Authentication, siem.EntityManagement, siem.ApplicationLifecycle} {
		row := regexp.MustCompile(`(?m)^\| ` + strconv.Itoa(c) + ` .*$`).FindString(string(b))
		for _, k := range event.Kinds() {
			if class, _ := siem.Mapped(k.Kind); class == c && c != siem.DetectionFinding && !strings.Contains(row, "`"+string(k.Kind)+"`") {
				t.Errorf("docs/siem.md: the row of class %d does not name %s", c, k.Kind)
			}
		}
	}
}

// site is a log of events that is sealed.
type site struct {
	db  *store.DB
	log *event.Log
}

func newSite(t *testing.T, db *store.DB) *site {
	t.Helper()
	if err := db.Migrate(t.Context(), event.Migrations); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { _ = event.NewSealer(db, event.SealerOptions{}).Run(ctx) })
	t.Cleanup(func() { stop(); done.Wait() })
	return &site{db, event.NewLog(db, event.LogOptions{})}
}

func (s *site) happen(t *testing.T, kind event.Kind, from, n int) {
	t.Helper()
	for i := range n {
		if err := s.db.Update(t.Context(), func(tx *store.Tx) error {
			return event.Append(t.Context(), tx, event.Event{Kind: kind, Actor: "https://issuer#ci", Body: map[string]any{"repository": "team/app", "tag": fmt.Sprint(from + i)}})
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// run runs streams until the test, or the function that it gives, ends.
func (s *site) run(t *testing.T, specs ...siem.Spec) (stop func()) {
	t.Helper()
	for i := range specs {
		if err := specs[i].Validate(); err != nil {
			t.Fatal(err)
		}
	}
	st, err := siem.New(siem.Options{
		DB: s.db, Events: s.log, Sinks: specs, Holder: rand.Text(), Hostname: "host name", Product: siem.Product{Version: "v1", Site: "https://assay.example"},
		Secret: func(place string) ([]byte, error) { return []byte("secret of " + place), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { _ = st.Run(ctx) })
	stop = sync.OnceFunc(func() { cancel(); done.Wait() })
	t.Cleanup(stop)
	return stop
}

// passed waits until a cursor is past n events.
func (s *site) passed(t *testing.T, name string, n int64) {
	t.Helper()
	for range 1000 {
		cursors, err := s.log.Cursors(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if cursors[name] >= n {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("cursor %s stands still", name)
}

// took is what a receiver got: tags of the events, in order.
type took struct {
	mu   sync.Mutex
	tags []string
	raw  []string
}

func (k *took) add(t *testing.T, line []byte) {
	t.Helper()
	var v struct {
		Unmapped struct{ Tag string }
		Metadata struct{ Version string }
	}
	if err := json.Unmarshal(line, &v); err != nil || v.Metadata.Version != siem.SchemaVersion {
		t.Errorf("record %q: %v", line, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tags, k.raw = append(k.tags, v.Unmapped.Tag), append(k.raw, string(line))
}

// wait waits for n different events.
func (k *took) wait(t *testing.T, n int) []string {
	t.Helper()
	for range 1000 {
		k.mu.Lock()
		tags := slices.Clone(k.tags)
		k.mu.Unlock()
		all := slices.Clone(tags)
		slices.Sort(all)
		if len(slices.Compact(all)) >= n {
			return tags
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%d of %d events arrived: %q", len(k.tags), n, k.tags)
	return nil
}

// authority makes a CA, a server's certificate and a client's, as files.
func authority(t *testing.T) (ca, clientCert, clientKey string, server *tls.Config) {
	t.Helper()
	dir := t.TempDir()
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, b []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	leaf := func(name string) (cert, keyFile string) {
		k, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		c := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
		b, err := x509.CreateCertificate(rand.Reader, c, root, k.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		kb, _ := x509.MarshalPKCS8PrivateKey(k)
		return write(name+".pem", "CERTIFICATE", b), write(name+".key", "PRIVATE KEY", kb)
	}
	ca = write("ca.pem", "CERTIFICATE", der)
	sc, sk := leaf("server")
	clientCert, clientKey = leaf("client")
	pair, err := tls.LoadX509KeyPair(sc, sk)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	parsed, _ := x509.ParseCertificate(der)
	pool.AddCert(parsed)
	return ca, clientCert, clientKey, &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
}

// header is RFC 5424's, section 6.
var header = regexp.MustCompile(`^<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) ([!-~]{1,255}) (assay) (\d+) ([!-~]{1,32}) - (.*)$`)

// serve takes connections of RFC 5425: octet-counted frames. It closes each after
// the number of messages that most gives, without reading on.
func (k *took) serve(t *testing.T, on net.Listener, most func() int) {
	for {
		c, err := on.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			r := bufio.NewReader(c)
			for n := most(); n != 0; n-- {
				size, err := r.ReadString(' ')
				if err != nil {
					return
				}
				length, err := strconv.Atoi(strings.TrimSuffix(size, " "))
				if err != nil || length <= 0 || length > 1<<20 {
					t.Errorf("frame of %q", size)
					return
				}
				msg := make([]byte, length)
				if _, err := io.ReadFull(r, msg); err != nil {
					return
				}
				m := header.FindSubmatch(msg)
				if m == nil {
					t.Errorf("message %q", msg)
					return
				}
				if pri, _ := strconv.Atoi(string(m[1])); pri/8 != 13 || string(m[3]) != "host_name" {
					t.Errorf("header %q", msg[:60])
				}
				k.add(t, m[7])
			}
		}()
	}
}

func tags(from, n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprint(from+i))
	}
	return out
}

// TestSyslogTLS: over mutual TLS; a receiver that breaks off in the middle is sent
// what it did not take, and a new process goes on where the old one was.
func TestSyslogTLS(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newSite(t, db)
		ca, cert, key, conf := authority(t)
		on, err := tls.Listen("tcp", "127.0.0.1:0", conf)
		if err != nil {
			t.Fatal(err)
		}
		defer on.Close()
		var got took
		var mu sync.Mutex
		first := true
		go got.serve(t, on, func() int {
			mu.Lock()
			defer mu.Unlock()
			if first {
				first = false
				return 3 // and breaks off
			}
			return -1
		})
		spec := siem.Spec{Name: "soc", Syslog: on.Addr().String(), CABundle: ca, Certificate: cert, Key: key}
		s.happen(t, event.ArtifactPushed, 0, 10)
		stop := s.run(t, spec)
		got.wait(t, 10)
		s.passed(t, "siem/soc", 10)
		stop()
		before := len(got.tags)
		s.happen(t, event.ArtifactPushed, 10, 5)
		s.run(t, spec)
		all := got.wait(t, 15)
		if after := all[before:]; !slices.Equal(after, tags(10, 5)) {
			t.Errorf("after a new start: %q, want the five new ones", after)
		}
		// In order, with what came twice only after a break.
		if !slices.Equal(all[:3], tags(0, 3)) || !slices.Equal(all[before-10:before], tags(0, 10)) && !slices.Equal(all[before-7:before], tags(3, 7)) {
			t.Errorf("order %q", all)
		}
	})
}

// TestSyslogStranger: a receiver of another authority is told nothing.
func TestSyslogStranger(t *testing.T) {
	s := newSite(t, storetest.Open(t, store.SQLite))
	_, _, _, conf := authority(t)
	ca, cert, key, _ := authority(t)
	on, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		t.Fatal(err)
	}
	defer on.Close()
	asked := make(chan struct{}, 100)
	go func() {
		for {
			c, err := on.Accept()
			if err != nil {
				return
			}
			if b, _ := io.ReadAll(c); len(b) > 0 {
				t.Errorf("a stranger was told %q", b)
			}
			_ = c.Close()
			asked <- struct{}{}
		}
	}()
	s.happen(t, event.ArtifactPushed, 0, 1)
	s.run(t, siem.Spec{Name: "soc", Syslog: on.Addr().String(), CABundle: ca, Certificate: cert, Key: key})
	<-asked
	<-asked // it tries again
}

// TestHTTP: refused batches come again; headers are read from their places; a
// filter leaves out what was not asked for.
func TestHTTP(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newSite(t, db)
		var got took
		var mu sync.Mutex
		refuse := 2
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			refuse--
			refused := refuse >= 0
			mu.Unlock()
			if refused {
				http.Error(w, "later", http.StatusServiceUnavailable)
				return
			}
			if r.Header.Get("Authorization") != "secret of file:/token" || r.Header.Get("Content-Type") != "application/x-ndjson" {
				t.Errorf("headers %v", r.Header)
			}
			sc := bufio.NewScanner(r.Body)
			for sc.Scan() {
				got.add(t, sc.Bytes())
			}
		}))
		defer srv.Close()
		s.happen(t, event.TagMoved, 0, 3)       // no such kind was asked for
		s.happen(t, event.ArtifactDenied, 3, 4) // medium
		s.happen(t, event.ArtifactPushed, 7, 3) // informational
		s.run(t, siem.Spec{Name: "hec", URL: srv.URL, Events: []string{"artifact.*"}, MinSeverity: "medium", Headers: map[string]string{"Authorization": "file:/token"}})
		if all := got.wait(t, 4); !slices.Equal(all, tags(3, 4)) {
			t.Errorf("%q, want the four that were denied, once", all)
		}
		s.passed(t, "siem/hec", 10) // what is left out moves the cursor too
	})
}

// TestFile: files are rotated, and lines stay whole over a crash.
func TestFile(t *testing.T) {
	s := newSite(t, storetest.Open(t, store.SQLite))
	path := filepath.Join(t.TempDir(), "siem.jsonl")
	if err := os.WriteFile(path, []byte(`{"torn": `), 0o600); err != nil {
		t.Fatal(err)
	}
	lines := func() (out []string, files int) {
		for _, p := range []string{path + ".3", path + ".2", path + ".1", path} {
			b, err := os.ReadFile(p)
			if err != nil {
				continue
			}
			files++
			for l := range strings.Lines(string(b)) {
				var v struct{ Unmapped struct{ Tag string } }
				if json.Unmarshal([]byte(l), &v) == nil {
					out = append(out, v.Unmapped.Tag)
				}
			}
		}
		return out, files
	}
	s.run(t, siem.Spec{Name: "file", File: path, MaxBytes: 4096, Files: 3})
	for i := range 8 {
		s.happen(t, event.ArtifactPushed, i, 1)
		for range 500 {
			if l, _ := lines(); slices.Contains(l, fmt.Sprint(i)) {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	got, files := lines()
	if !slices.Equal(got, tags(0, 8)) || files < 2 {
		t.Errorf("%q in %d files", got, files)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

func TestValidate(t *testing.T) {
	for name, s := range map[string]siem.Spec{
		"no place":   {Name: "a"},
		"two places": {Name: "a", File: "/x", Syslog: "h:6514"},
		"name":       {Name: "A b", File: "/x"},
		"relative":   {Name: "a", File: "x"},
		"no port":    {Name: "a", Syslog: "host"},
		"http":       {Name: "a", URL: "http://siem.example/x"},
		"password":   {Name: "a", URL: "https://u:p@siem.example/x"},
		"kind":       {Name: "a", File: "/x", Events: []string{"nothing.*"}},
		"class":      {Name: "a", File: "/x", Classes: []int{1}},
		"severity":   {Name: "a", File: "/x", MinSeverity: "loud"},
		"half a key": {Name: "a", Syslog: "h:1", Key: "/k"},
	} {
		err := s.Validate()
		if fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "u:p") {
			t.Errorf("%s repeats a password", name)
		}
	}
}
