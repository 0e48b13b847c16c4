package upstream

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/event"
	"assay/internal/fault"
	"assay/store"
	"assay/vuln/exploit"
	"assay/vuln/feed"
)

// export is an upstream as OSV's is, whose faults are set.
type export struct {
	mu       sync.Mutex
	records  map[string]string // by id: its fixed version
	times    map[string]string
	breakAt  int  // bytes after which a connection ends, once for each value
	weak     bool // no ETag
	noRange  bool
	asked    []string // METHOD path status
	extra    map[string][]byte
	replaced bool // another archive is there when the rest is asked for
}

func (e *export) zip() []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	ids := make([]string, 0, len(e.records))
	for id := range e.records {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		w, _ := z.CreateHeader(&zip.FileHeader{Name: id + ".json", Method: zip.Store})
		_, _ = w.Write([]byte(e.record(id)))
	}
	_ = z.Close()
	return b.Bytes()
}

func (e *export) record(id string) string {
	return fmt.Sprintf(`{"id": %q, "modified": %q, "affected": [{"package": {"ecosystem": "npm", "name": %q}, "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}, {"fixed": %q}]}]}]}`, id, e.times[id], "p"+id, e.records[id])
}

func (e *export) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var body []byte
	switch path := r.URL.Path; {
	case e.extra[path] != nil:
		body = e.extra[path]
	case path == "/osv/npm/all.zip":
		body = e.zip()
	case path == "/osv/npm/modified_id.csv" && e.times != nil:
		for id := range e.records {
			body = fmt.Appendf(body, "%s,%s\n", e.times[id], id)
		}
	case strings.HasPrefix(path, "/osv/npm/") && strings.HasSuffix(path, ".json"):
		id := strings.TrimSuffix(strings.TrimPrefix(path, "/osv/npm/"), ".json")
		if e.records[id] == "" {
			http.NotFound(w, r)
			return
		}
		body = []byte(e.record(id))
	default:
		e.asked = append(e.asked, path+" 404")
		http.NotFound(w, r)
		return
	}
	sum := sha256.Sum256(body)
	tag := `"` + hex.EncodeToString(sum[:8]) + `"`
	if !e.weak {
		w.Header().Set("ETag", tag)
	}
	if e.noRange {
		r.Header.Del("Range")
	}
	rec := &recording{ResponseWriter: w, status: 200}
	if e.breakAt > 0 && strings.HasSuffix(r.URL.Path, ".zip") {
		at := e.breakAt
		e.breakAt = 0
		if e.replaced {
			e.records["X-00"] = "7.0.0"
		}
		e.asked = append(e.asked, r.URL.Path+" broken")
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		_, _ = w.Write(body[:at])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	http.ServeContent(rec, r, "", time.Time{}, bytes.NewReader(body))
	e.asked = append(e.asked, fmt.Sprintf("%s %d", r.URL.Path, rec.status))
}

type recording struct {
	http.ResponseWriter
	status int
}

func (r *recording) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (e *export) took() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := strings.Join(e.asked, ", ")
	e.asked = nil
	return strings.ReplaceAll(s, "/osv/npm/", "")
}

type site struct {
	t     *testing.T
	now   time.Time
	db    *store.DB
	feeds *feed.Store
	*Upstreams
	from *export
	url  string
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, now: time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)}
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	clock := func() time.Time { return s.now }
	db, err := store.Open(t.Context(), "sqlite:"+filepath.Join(dir, "assay.db"), store.WithClock(clock))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if err := db.Migrate(t.Context(), event.Migrations, feed.Migrations, exploit.Migrations, Migrations); err != nil {
		t.Fatal(err)
	}
	if s.feeds, err = feed.NewStore(db, feed.DefaultLimits(), nil); err != nil {
		t.Fatal(err)
	}
	s.db = db
	s.Upstreams, err = New(Options{DB: db, Feeds: s.feeds, Lists: exploit.NewStore(db), Dir: filepath.Join(dir, "feeds"), MaxAge: 48 * time.Hour, Clock: clock,
		Verify: func(_ context.Context, _ string, bundle []byte, _ Signature) error {
			if string(bundle) != "good" {
				return fault.Newf(fault.Unverified, "a bad signature")
			}
			return nil
		},
		sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() }})
	if err != nil {
		t.Fatal(err)
	}
	s.from = &export{records: map[string]string{}, times: map[string]string{}, extra: map[string][]byte{}}
	for i := range 30 {
		id := fmt.Sprintf("X-%02d", i)
		s.from.records[id], s.from.times[id] = "1.0.0", "2026-04-01T00:00:00Z"
	}
	web := httptest.NewServer(s.from)
	t.Cleanup(web.Close)
	s.url = web.URL + "/osv"
	return s
}

func (s *site) add(change func(*Spec)) {
	s.t.Helper()
	one := Spec{Name: "osv", URL: s.url, Ecosystems: []string{"npm"}, AllowPrivate: true, Proxy: "none"}
	if change != nil {
		change(&one)
	}
	if err := s.Add(s.t.Context(), one, "alice"); err != nil {
		s.t.Fatal(err)
	}
}

// turn does what is due an hour and a half later, and gives what came of it.
func (s *site) turn() Status {
	s.t.Helper()
	s.now = s.now.Add(90 * time.Minute)
	if err := s.Turn(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	all, err := s.Status(s.t.Context())
	if err != nil || len(all) == 0 {
		s.t.Fatalf("%+v, %v", all, err)
	}
	return all[0]
}

func (s *site) fixed(id string) string {
	s.t.Helper()
	a, err := s.feeds.InForce(s.t.Context(), "osv", "npm", id)
	if err != nil {
		s.t.Fatal(err)
	}
	if a == nil {
		return ""
	}
	return a.Affected[0].Ranges[0].Events[1].Fixed
}

// TestIncremental is a day of an upstream: the archive first, then nothing, a few
// changes, many, and the archive again when the day is over.
func TestIncremental(t *testing.T) {
	s := newSite(t)
	s.add(nil)
	want := func(what string, st Status, outcome, asked string) {
		t.Helper()
		if !strings.HasPrefix(st.Outcome, outcome) || st.Problem != "" {
			t.Errorf("%s: %q, problem %q, want %s", what, st.Outcome, st.Problem, outcome)
		}
		if got := s.from.took(); got != asked {
			t.Errorf("%s: asked for %s, want %s", what, got, asked)
		}
	}
	want("first", s.turn(), "imported: operation 1: 30 added", "modified_id.csv 200, all.zip 200")
	want("nothing new", s.turn(), "unchanged", "modified_id.csv 200")
	s.from.records["X-03"], s.from.times["X-03"] = "2.0.0", "2026-05-01T02:00:00Z"
	s.from.records["N-01"], s.from.times["N-01"] = "3.0.0", "2026-05-01T02:01:00Z"
	want("two changed", s.turn(), "changes: operation 2: 1 added, 1 changed, 0 removed", "modified_id.csv 200, N-01.json 200, X-03.json 200")
	if s.fixed("X-03") != "2.0.0" || s.fixed("N-01") != "3.0.0" || s.fixed("X-04") != "1.0.0" {
		t.Errorf("%s %s %s", s.fixed("X-03"), s.fixed("N-01"), s.fixed("X-04"))
	}
	delete(s.from.records, "X-29")
	delete(s.from.times, "X-29")
	want("one is gone", s.turn(), "imported: operation 3: 0 added, 0 changed, 1 removed", "modified_id.csv 200, modified_id.csv 200, all.zip 200")
	for i := range few + 1 {
		id := fmt.Sprintf("M-%03d", i)
		s.from.records[id], s.from.times[id] = "1.0.0", "2026-05-01T03:00:00Z"
	}
	want("many came", s.turn(), "imported: operation 4: 201 added", "modified_id.csv 200, modified_id.csv 200, all.zip 200")
	s.now = s.now.Add(25 * time.Hour)
	want("a day later", s.turn(), "unchanged", "modified_id.csv 200, modified_id.csv 200, all.zip 304")
	if src, err := s.feeds.Source(t.Context(), "osv", "npm"); err != nil || !src.Checked.Equal(s.now) || src.Records != 231 {
		t.Errorf("%+v, %v", src, err)
	}
}

// TestLaggingArchive: an export that is behind its own index does not take back
// what single records brought.
func TestLaggingArchive(t *testing.T) {
	s := newSite(t)
	s.add(nil)
	s.turn()
	for i := range 5 {
		id := fmt.Sprintf("X-%02d", i)
		s.from.records[id], s.from.times[id] = "2.0.0", "2026-05-01T02:00:00Z"
	}
	s.turn()
	old := &export{records: map[string]string{}, times: map[string]string{}}
	for id := range s.from.records {
		old.records[id], old.times[id] = "1.0.0", "2026-04-01T00:00:00Z"
	}
	old.records["Z-1"], old.times["Z-1"] = "1.0.0", "2026-04-01T00:00:00Z" // so that the bytes are others
	s.from.extra["/osv/npm/all.zip"] = old.zip()
	s.now = s.now.Add(25 * time.Hour)
	if st := s.turn(); st.Problem != "" || s.fixed("X-02") != "2.0.0" {
		t.Errorf("%+v, %s", st, s.fixed("X-02"))
	}
}

// TestResume: what came before a connection broke is not fetched again, as long
// as it is the same file.
func TestResume(t *testing.T) {
	for name, tt := range map[string]struct {
		set   func(*export)
		asked string
		fixed string
	}{
		"the rest":                   {nil, "all.zip broken, all.zip 206", "1.0.0"},
		"no ranges":                  {func(e *export) { e.noRange = true }, "all.zip broken, all.zip 200", "1.0.0"},
		"no tag":                     {func(e *export) { e.weak = true }, "all.zip broken, all.zip 200", "1.0.0"},
		"another file by then":       {func(e *export) { e.replaced = true }, "all.zip broken, all.zip 200", "7.0.0"},
		"it breaks at its beginning": {func(e *export) { e.breakAt = 1 }, "all.zip broken, all.zip 206", "1.0.0"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.from.breakAt, s.from.times = 3000, nil
			if tt.set != nil {
				tt.set(s.from)
			}
			s.add(nil)
			st := s.turn()
			asked := strings.ReplaceAll(s.from.took(), "modified_id.csv 404, ", "")
			if st.Problem != "" || asked != tt.asked || s.fixed("X-00") != tt.fixed {
				t.Errorf("%q, asked %s, want %s; %s", st.Problem, asked, tt.asked, s.fixed("X-00"))
			}
			left, _ := filepath.Glob(filepath.Join(s.o.Dir, "fetch-*"))
			if len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestThreat_Feed_HostileUpstream: whatever an upstream gives, the old feed stays
// in force, with the reason and a growing age.
func TestThreat_Feed_HostileUpstream(t *testing.T) {
	bomb := func() []byte { // some hundred KiB that unpack to far more than a record may have
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		w, _ := z.Create("X-00.json")
		for range 64 {
			_, _ = w.Write(bytes.Repeat([]byte(" "), 1<<20))
		}
		_ = z.Close()
		return b.Bytes()
	}
	for name, tt := range map[string]struct {
		change func(*site)
		want   string
	}{
		"no zip":    {func(s *site) { s.from.extra["/osv/npm/all.zip"] = []byte("<html>sorry</html>") }, "not a valid zip"},
		"cut short": {func(s *site) { z := s.from.zip(); s.from.extra["/osv/npm/all.zip"] = z[:len(z)-200] }, "not a valid zip"},
		"corrupt":   {func(s *site) { z := s.from.zip(); copy(z[60:], "XXXXXXXX"); s.from.extra["/osv/npm/all.zip"] = z }, ""},
		"a bomb":    {func(s *site) { s.from.extra["/osv/npm/all.zip"] = bomb() }, "a record of more than"},
		"too large": {func(s *site) { s.from.extra["/osv/npm/all.zip"] = make([]byte, 200_000) }, "at most 100000 are taken"},
		"gone": {func(s *site) {
			s.from.extra["/osv/npm/all.zip"] = nil
			s.url += "/elsewhere"
			s.add(func(p *Spec) { p.URL = s.url })
		}, "404"},
		"lost records": {func(s *site) {
			e := export{records: map[string]string{"X-00": "1.0.0"}, times: s.from.times}
			s.from.extra["/osv/npm/all.zip"] = e.zip()
		}, "lacks 29 of the 30"},
		"goes back": {func(s *site) {
			for id := range s.from.times {
				s.from.times[id] = "2026-03-01T00:00:00Z"
			}
		}, "older than what is in force"},
		"a bad index": {func(s *site) {
			s.from.extra["/osv/npm/modified_id.csv"] = []byte("2026-01-01T00:00:00Z,../../etc/passwd\n")
		}, "want TIME,ID"},
		"a pin":                         {func(s *site) { s.add(func(p *Spec) { p.SHA256 = strings.Repeat("ab", 32) }) }, "pinned is abab"},
		"a signature that is not there": {func(s *site) { s.add(func(p *Spec) { p.Signature = Signature{"a", "b"} }) }, "is not there"},
		"a bad signature": {func(s *site) {
			s.from.extra["/osv/npm/all.zip.sigstore.json"] = []byte("bad")
			s.add(func(p *Spec) { p.Signature = Signature{"a", "b"} })
		}, "a bad signature"},
		"a metadata service": {func(s *site) { s.add(func(p *Spec) { p.URL = "http://169.254.169.254/latest" }) }, "never contacted"},
		"a private address": {func(s *site) {
			s.add(func(p *Spec) { p.URL, p.AllowPrivate = strings.Replace(s.url, "http:", "https:", 1), false })
		}, "is private"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.add(func(p *Spec) { p.MaxBytes = 100_000 })
			if name == "a bomb" {
				s.add(func(p *Spec) { p.MaxBytes = 1 << 20 })
			}
			if st := s.turn(); st.Problem != "" {
				t.Fatal(st.Problem)
			}
			since := s.now
			tt.change(s)
			s.now = s.now.Add(25 * time.Hour) // the archive is due
			st := s.turn()
			if st.Problem == "" || !strings.Contains(st.Problem, tt.want) {
				t.Errorf("problem %q, want %q", st.Problem, tt.want)
			}
			src, err := s.feeds.Source(t.Context(), "osv", "npm")
			if err != nil || src.Operation != 1 || !src.Checked.Equal(since) || src.Problem == "" || s.fixed("X-00") != "1.0.0" {
				t.Errorf("%+v, %v, %s", src, err, s.fixed("X-00"))
			}
		})
	}
}

// TestBackoff: a failing upstream is asked less and less, and once more at once
// when somebody says so; a downgrade needs its word.
func TestBackoff(t *testing.T) {
	s := newSite(t)
	s.add(nil)
	s.turn()
	for id := range s.from.times {
		s.from.times[id] = "2026-03-01T00:00:00Z"
	}
	wait := time.Duration(0)
	for range 4 {
		st := s.turn()
		if next := st.Due.Sub(st.Tried); next < wait/2 || next > 70*time.Minute {
			t.Errorf("after %d failures the next look is in %s, and was in %s", st.Failures, next, wait)
		} else {
			wait = next
		}
	}
	if wait < 6*time.Minute {
		t.Errorf("after four failures it waits %s", wait)
	}
	if _, err := s.Sync(t.Context(), "osv", "the export was rebuilt", "bob"); err != nil {
		t.Fatal(err)
	}
	if st := s.turn(); st.Problem != "" || st.Failures != 0 {
		t.Errorf("%+v", st)
	}
	if _, err := s.Sync(t.Context(), "nosuch", "", "bob"); !errors.Is(err, fault.NotFound) {
		t.Error(err)
	}
}

func TestLists(t *testing.T) {
	s := newSite(t)
	kev := []byte(`{"catalogVersion": "2026.04.01", "dateReleased": "2026-04-01", "vulnerabilities": [{"cveID": "CVE-2024-0001", "dateAdded": "2026-04-01"}]}`)
	s.from.extra["/osv/kev.json"] = kev
	one := Spec{Name: "kev", Type: KEV, URL: s.url + "/kev.json", AllowPrivate: true, Proxy: "none"}
	if err := s.Add(t.Context(), one, "alice"); err != nil {
		t.Fatal(err)
	}
	if st := s.turn(); !strings.HasPrefix(st.Outcome, "imported: 1 records") || st.Problem != "" {
		t.Errorf("%+v", st)
	}
	if st := s.turn(); st.Outcome != "unchanged" {
		t.Errorf("%+v", st)
	}
	if ages, err := s.o.Lists.Ages(t.Context()); err != nil || !ages["kev"].Equal(s.now) {
		t.Errorf("%v, %v", ages, err)
	}
	s.from.extra["/osv/kev.json"] = bytes.ReplaceAll(kev, []byte("2026-04-01"), []byte("2025-04-01"))
	if st := s.turn(); !strings.Contains(st.Problem, "the one in force of 2026-04-01") {
		t.Errorf("%+v", st)
	}
	s.from.extra["/osv/kev.json"] = []byte("#model_version:v1,score_date:2026-05-01T00:00:00Z\ncve,epss,percentile\nCVE-2024-0001,0.5,0.9\n")
	if st := s.turn(); !strings.Contains(st.Problem, "wanted was kev") {
		t.Errorf("%+v", st)
	}
}

// TestFiles: a tree on this machine.
func TestFiles(t *testing.T) {
	s := newSite(t)
	dir := t.TempDir()
	for _, eco := range []string{"npm", "PyPI"} {
		if err := os.MkdirAll(filepath.Join(dir, eco), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, eco, "all.zip"), s.from.zip(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Add(t.Context(), Spec{Name: "osv", URL: "file://" + filepath.ToSlash(dir)}, "alice"); err != nil {
		t.Fatal(err)
	}
	if st := s.turn(); st.Problem != "" || !strings.Contains(st.Outcome, "operation 2") {
		t.Errorf("%+v", st)
	}
	if all, err := s.feeds.Sources(t.Context()); err != nil || len(all) != 2 || all[1].Ecosystem != "npm" {
		t.Errorf("%+v, %v", all, err)
	}
	// A tree that is away for a while leaves no feed behind that stays broken.
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	if st := s.turn(); st.Problem == "" {
		t.Errorf("%+v", st)
	}
	if err := os.Rename(dir+"-away", dir); err != nil {
		t.Fatal(err)
	}
	if st := s.turn(); st.Problem != "" {
		t.Errorf("%+v", st)
	}
	if all, err := s.feeds.Sources(t.Context()); err != nil || len(all) != 2 || !all[0].Checked.Equal(s.now) {
		t.Errorf("%+v, %v", all, err)
	}
	if err := s.Remove(t.Context(), "osv", "alice"); err != nil {
		t.Fatal(err)
	}
	if all, err := s.Status(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestSpec(t *testing.T) {
	for name, s := range map[string]Spec{
		"no ecosystem":      {Name: "osv", URL: "https://osv.example"},
		"http":              {Name: "osv", URL: "http://osv.example", Ecosystems: []string{"npm"}},
		"credentials":       {Name: "osv", URL: "https://u:p@osv.example", Ecosystems: []string{"npm"}},
		"a query":           {Name: "osv", URL: "https://osv.example/?token=x", Ecosystems: []string{"npm"}},
		"a path":            {Name: "osv", URL: "/tmp/osv", Ecosystems: []string{"npm"}},
		"another's name":    {Name: "mykev", Type: KEV, URL: "https://kev.example/kev.json"},
		"an odd ecosystem":  {Name: "osv", URL: "https://osv.example", Ecosystems: []string{"../x"}},
		"too often":         {Name: "osv", URL: "https://osv.example", Ecosystems: []string{"npm"}, Every: time.Second},
		"half a signature":  {Name: "osv", URL: "https://osv.example", Ecosystems: []string{"npm"}, Signature: Signature{Identity: "x"}},
		"a secret":          {Name: "osv", URL: "https://osv.example", Ecosystems: []string{"npm"}, Credentials: "hunter2"},
		"a name with slash": {Name: "o/v", URL: "https://osv.example", Ecosystems: []string{"npm"}},
		"a bucket nowhere":  {Name: "osv", URL: "s3://bucket/osv", Ecosystems: []string{"npm"}},
	} {
		if err := s.Validate(); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte("2026-01-01T00:00:00Z,GHSA-1\n"))
	f.Add([]byte(",\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, _, err := readIndex(b, time.Now())
		if (err == nil) != (len(all) > 0) {
			t.Errorf("%d records, %v", len(all), err)
		}
		for id := range all {
			if strings.ContainsAny(id, "/?#%") {
				t.Errorf("%q", id)
			}
		}
	})
}
