package admission

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/policy"
)

var (
	good    = artifact.SHA256Of([]byte("good"))
	bad     = artifact.SHA256Of([]byte("bad"))
	revoked = artifact.SHA256Of([]byte("revoked"))
	old     = artifact.SHA256Of([]byte("old"))
)

// judge knows four images by tag and digest, and counts what it is asked.
type judge struct {
	mu    sync.Mutex
	asked []string
	place Place
}

func (j *judge) Judge(_ context.Context, q Question) (*Answer, error) {
	j.mu.Lock()
	j.asked, j.place = append(j.asked, q.Reference.String()), q.Place
	j.mu.Unlock()
	d := q.Reference.Digest
	if d == "" {
		d = map[string]artifact.Digest{"good": good, "bad": bad, "revoked": revoked, "old": old}[q.Reference.Tag]
	}
	deny := Answer{Digest: d, Verdict: policy.Deny, Mode: policy.Enforce, Policy: "signed", Decision: "dec_" + d.Hex(), Failed: []policy.Check{{Name: "signatures/release", Status: policy.Fail, Expected: "1 signature by release", Found: "none", Mend: "assay sign IMAGE"}}}
	switch {
	case q.Reference.Tag == "down":
		return nil, fault.Newf(fault.Undecided, "the database does not answer")
	case q.Reference.Tag == "panic":
		panic("boom")
	case q.Reference.Tag == "audit":
		deny.Mode = policy.Audit
	case q.Reference.Tag == "warned":
		deny.Mode = policy.Warn
	case d == good:
		return &Answer{Digest: d, Verdict: policy.Allow, Mode: policy.Enforce, Decision: "dec_" + d.Hex(), Basis: BasisDecision}, nil
	case d == revoked:
		deny.Blocked = "revoked since yesterday: stolen key"
	case d == old:
		deny.Soft = true
	case d == "":
		return nil, fault.Newf(fault.NotFound, "there is no such tag")
	}
	return &deny, nil
}

type recorder struct {
	mu   sync.Mutex
	list []event.Event
	full bool
}

func (r *recorder) Record(_ context.Context, list ...event.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.full {
		return fault.Newf(fault.Unavailable, "full")
	}
	r.list = append(r.list, list...)
	return nil
}

func (r *recorder) kinds() (out []string) {
	for _, e := range r.list {
		out = append(out, string(e.Kind)+" "+e.Body.(*body).Image)
	}
	return out
}

type running map[artifact.Digest]bool

func (r running) Runs(_ context.Context, _, namespace string, d artifact.Digest) (bool, error) {
	return namespace == "shop" && r[d], nil
}

type bed struct {
	t   *testing.T
	j   *judge
	rec *recorder
	h   http.Handler
}

func newBed(t *testing.T, change func(*Options)) *bed {
	b := &bed{t: t, j: &judge{}, rec: &recorder{}}
	o := Options{Judge: b.j, Record: b.rec, Cluster: "c1", Never: []string{"kube-system", "assay"}, Running: running{old: true, revoked: true, bad: true}, Environment: func(string) string { return "prod" }}
	if change != nil {
		change(&o)
	}
	h, err := NewWebhook(o)
	if err != nil {
		t.Fatal(err)
	}
	b.h = h
	return b
}

const host = "r.example/shop/app"

func im(tag string) string { return host + ":" + tag }

type ask struct {
	path, op, ns, sub, object, old string
	resource                       string
	dry                            bool
}

func (b *bed) ask(q ask) *Response {
	b.t.Helper()
	req := map[string]any{
		"uid": "u-1", "operation": orElse(q.op, "CREATE"), "namespace": orElse(q.ns, "shop"), "subResource": q.sub, "dryRun": q.dry,
		"kind": map[string]string{"group": "", "version": "v1", "kind": "Pod"}, "requestKind": map[string]string{"group": "", "version": "v1", "kind": "Pod"},
		"resource": map[string]string{"group": "", "version": "v1", "resource": orElse(q.resource, "pods")},
		"userInfo": map[string]any{"username": "alice", "groups": []string{"dev"}, "extra": map[string]any{"a": []string{"b"}}},
		"object":   json.RawMessage(q.object), "options": map[string]any{"kind": "CreateOptions"},
	}
	if q.old != "" {
		req["oldObject"] = json.RawMessage(q.old)
	}
	raw, err := json.Marshal(map[string]any{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": req})
	if err != nil {
		b.t.Fatal(err)
	}
	code, resp := b.post(orElse(q.path, PathValidate), raw)
	if code != 200 || resp == nil || resp.UID != "u-1" {
		b.t.Fatalf("%d %+v", code, resp)
	}
	return resp
}

func (b *bed) post(path string, raw []byte) (int, *Response) {
	w := httptest.NewRecorder()
	b.h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path+"?timeout=5s", bytes.NewReader(raw)))
	var r Review
	if w.Code == 200 {
		if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil {
			b.t.Fatal(err)
		}
	}
	return w.Code, r.Response
}

func orElse(s, d string) string {
	if s == "" {
		return d
	}
	return s
}

func podOf(containers string, more ...string) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"%s},"spec":{"containers":[%s]%s}}`, strings.Join(more[min(1, len(more)):], ""), containers, strings.Join(more[:min(1, len(more))], ""))
}

func c(name, image string) string { return fmt.Sprintf(`{"name":%q,"image":%q}`, name, image) }

// Every way by which a Pod names an image is decided about, on every path into
// the cluster; nothing that the object says of itself excuses it.
func TestThreat_Admission_EveryImageOfAPod(t *testing.T) {
	pin := im("good") + "@" + string(good)
	for name, q := range map[string]ask{
		"container":          {object: podOf(c("a", pin) + "," + c("b", im("bad")))},
		"init container":     {object: podOf(c("a", pin), `,"initContainers":[`+c("i", im("bad"))+`]`)},
		"image volume":       {object: podOf(c("a", pin), `,"volumes":[{"name":"x","emptyDir":{}},{"name":"v","image":{"reference":"`+im("bad")+`","pullPolicy":"Always"}}]`)},
		"ephemeral at birth": {object: podOf(c("a", pin), `,"ephemeralContainers":[`+c("e", im("bad"))+`]`)},
		"kubectl debug":      {op: "UPDATE", sub: "ephemeralcontainers", object: podOf(c("a", pin), `,"ephemeralContainers":[`+c("e", im("bad"))+`]`), old: podOf(c("a", pin))},
		"set image":          {op: "UPDATE", object: podOf(c("a", im("bad"))), old: podOf(c("a", pin))},
		"deletion timestamp": {op: "UPDATE", object: podOf(c("a", im("bad")), "", `,"deletionTimestamp":"2026-01-01T00:00:00Z","finalizers":["x/y"]`), old: podOf(c("a", pin))},
		"forged owner":       {object: podOf(c("a", im("bad")), "", `,"ownerReferences":[{"apiVersion":"apps/v1","kind":"DaemonSet","name":"kube-proxy","uid":"1","controller":true}]`)},
		"forged annotation":  {object: podOf(c("a", im("bad")), "", `,"annotations":{"assay.dev/verified":"true","kubernetes.io/config.mirror":"x"},"labels":{"assay.dev/break-glass":"true"}`)},
		"moved to another":   {op: "UPDATE", object: podOf(c("a", pin) + "," + c("b", im("bad"))), old: podOf(c("b", pin) + "," + c("a", im("bad")))},
		"no image":           {object: podOf(`{"name":"a"}`)},
		"no tag that exists": {object: podOf(c("a", im("nothing")))},
		"not a reference":    {object: podOf(c("a", "Not A Reference"))},
		"back end down":      {object: podOf(c("a", im("down")))},
		"a panic":            {object: podOf(c("a", im("panic")))},
		"revoked and runs":   {object: podOf(c("a", im("revoked")))},
		"denied and runs":    {object: podOf(c("a", im("bad")))},
		"dry run":            {dry: true, object: podOf(c("a", im("bad")))},
		"no list":            {object: `{"spec":{"containers":{"image":"x"}}}`},
		"no spec":            {object: `{}`},
		"no object":          {object: `null`},
		"another kind":       {resource: "secrets", object: podOf(c("a", pin))},
	} {
		for _, path := range []string{PathMutate, PathValidate} {
			b := newBed(t, nil)
			q.path = path
			if r := b.ask(q); r.Allowed || r.Status == nil || !strings.HasPrefix(r.Status.Message, "assay: ") || r.Patch != nil {
				t.Errorf("%s at %s: %+v", name, path, r)
			}
			if q.dry && len(b.rec.list) > 0 {
				t.Errorf("%s at %s: recorded %v", name, path, b.rec.kinds())
			}
		}
	}
}

func TestAllowed(t *testing.T) {
	pin := im("good") + "@" + string(good)
	for name, q := range map[string]ask{
		"by digest":          {object: podOf(c("a", pin))},
		"delete":             {op: "DELETE", object: `null`, old: podOf(c("a", im("bad")))},
		"labels of a bad":    {op: "UPDATE", object: podOf(c("a", im("bad")), "", `,"labels":{"a":"b"}`), old: podOf(c("a", im("bad")))},
		"finalizer of a bad": {op: "UPDATE", object: podOf(c("a", im("bad")), "", `,"deletionTimestamp":"2026-01-01T00:00:00Z"`), old: podOf(c("a", im("bad")), "", `,"finalizers":["x/y"]`)},
		"mirror of a static": {object: podOf(c("a", im("good")), "", `,"annotations":{"kubernetes.io/config.mirror":"x"}`)},
	} {
		b := newBed(t, nil)
		if r := b.ask(q); !r.Allowed || len(r.Warnings) > 0 {
			t.Errorf("%s: %+v", name, r)
		}
	}
	// Between the doors a tag can move: what is not pinned is not what was decided.
	b := newBed(t, nil)
	if r := b.ask(ask{object: podOf(c("a", im("good")))}); r.Allowed || !strings.Contains(r.Status.Message, "pinned") {
		t.Errorf("not pinned: %+v", r)
	}
	b = newBed(t, func(o *Options) { o.NoPin = true })
	if r := b.ask(ask{object: podOf(c("a", im("good")))}); !r.Allowed {
		t.Errorf("validate only: %+v", r)
	}
}

// What is refused is told of so that a developer knows what to do.
func TestMessage(t *testing.T) {
	b := newBed(t, nil)
	r := b.ask(ask{object: podOf(c("web", im("bad")), `,"initContainers":[`+c("i", im("revoked"))+`]`)})
	want := "assay: container web: image r.example/shop/app:bad may not run in namespace shop: signatures/release: expected 1 signature by release, found none; to mend it: assay sign IMAGE (policy signed, " + bad.Short() + ", dec_" + bad.Hex()[:12] + ")\n" +
		"assay: init container i: image r.example/shop/app:revoked may not run in namespace shop: revoked since yesterday: stolen key"
	if d := cmp.Diff(want, r.Status.Message); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"admission.denied " + im("bad"), "admission.denied " + im("revoked")}, b.rec.kinds()); d != "" {
		t.Error(d)
	}
	if e := b.rec.list[0]; e.Actor != "k8s:alice" || e.Cluster != "c1" || e.Env != "prod" || e.Digest != bad {
		t.Errorf("%+v", e)
	}
	if d := cmp.Diff(Place{Cluster: "c1", Namespace: "shop", Environment: "prod"}, b.j.place); d != "" {
		t.Error(d)
	}
}

func TestWarned(t *testing.T) {
	for name, tt := range map[string]struct {
		q    ask
		want string
		set  func(*Options)
	}{
		"a deployment early": {q: ask{path: PathWarn, resource: "deployments", object: `{"spec":{"template":{"spec":{"containers":[` + c("a", im("bad")) + `]}}}}`}, want: "signatures/release"},
		"a cron job early":   {q: ask{path: PathWarn, resource: "cronjobs", object: `{"spec":{"jobTemplate":{"spec":{"template":{"spec":{"containers":[` + c("a", im("bad")) + `]}}}}}}`}, want: "signatures/release"},
		"an unknown kind":    {q: ask{path: PathWarn, resource: "things", object: `{"spec":{"big":18446744073709551615,"groups":[{"pod":{"containers":[` + c("a", im("down")) + `]}}]}}`}, want: "looked into"},
		"another kind":       {q: ask{path: PathWarn, resource: "things", object: `{"spec":{"groups":[{"pod":{"containers":[` + c("a", im("down")) + `]}}]}}`}, want: "could not be decided"},
		"mode warn":          {q: ask{object: podOf(c("a", im("warned")))}, want: "signatures/release"},
		"kube-system":        {q: ask{ns: "kube-system", object: podOf(c("a", im("bad")))}, want: "signatures/release"},
		"kube-system down":   {q: ask{ns: "kube-system", object: podOf(c("a", im("down")))}, want: "could not be decided"},
		"the own namespace":  {q: ask{ns: "assay", object: podOf(c("a", im("revoked")))}, want: "revoked"},
		"a broken review":    {q: ask{ns: "assay", object: `{}`}, want: "no spec"},
		"a site in audit":    {q: ask{object: podOf(c("a", im("bad")))}, want: "signatures/release", set: func(o *Options) { o.Audit = true }},
		"it runs already":    {q: ask{object: podOf(c("a", im("old")))}, want: "runs here already"},
		"its tag is down":    {q: ask{object: podOf(c("a", im("down")+"@"+string(old)))}, want: "runs here already"},
	} {
		b := newBed(t, tt.set)
		r := b.ask(tt.q)
		if !r.Allowed || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], tt.want) || len(r.Warnings[0]) > 256 {
			t.Errorf("%s: %+v", name, r)
		}
	}
	b := newBed(t, nil)
	if r := b.ask(ask{object: podOf(c("a", im("audit")))}); !r.Allowed || len(r.Warnings) > 0 || !cmp.Equal(b.rec.kinds(), []string{"admission.warned " + im("audit")}) {
		t.Errorf("mode audit: %+v %v", r, b.rec.kinds())
	}
	// What runs elsewhere runs elsewhere.
	if r := newBed(t, nil).ask(ask{ns: "bank", object: podOf(c("a", im("old")))}); r.Allowed {
		t.Errorf("restart in another namespace: %+v", r)
	}
	// What cannot be recorded is not allowed.
	b.rec.full = true
	if r := b.ask(ask{object: podOf(c("a", im("good")+"@"+string(good)))}); r.Allowed {
		t.Errorf("unrecorded: %+v", r)
	}
}

func TestPin(t *testing.T) {
	b := newBed(t, nil)
	telemetry := "oci.manifest.digest=sha256%3A" + good.Hex() + ",artifact.attestation.id=dec_" + good.Hex()
	env := func(v string) string { return `,"env":` + v + `}` }
	cont := func(name, image, env string) string { return strings.TrimSuffix(c(name, image), "}") + env }
	r := b.ask(ask{path: PathMutate, object: podOf(strings.Join([]string{
		c("a", im("good")),
		cont("b", im("good"), env(`[{"name":"X","value":"1"},{"name":"OTEL_RESOURCE_ATTRIBUTES","value":"service.name=web"}]`)),
		cont("c", im("good"), env(`[{"name":"OTEL_RESOURCE_ATTRIBUTES","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}]`)),
		cont("d", im("good")+"@"+string(good), env(`[{"name":"X","value":"1"}]`)),
	}, ","), `,"volumes":[{"name":"v","image":{"reference":"`+im("good")+`"}}]`)})
	var got []operation
	if err := json.Unmarshal(r.Patch, &got); err != nil || r.PatchType == nil || *r.PatchType != "JSONPatch" {
		t.Fatalf("%v %+v", err, r)
	}
	pin := im("good") + "@" + string(good)
	want := []operation{
		{"replace", "/spec/containers/0/image", pin},
		{"add", "/spec/containers/0/env", []any{map[string]any{"name": otelAttributes, "value": telemetry}}},
		{"replace", "/spec/containers/1/image", pin},
		{"add", "/spec/containers/1/env/1/value", "service.name=web," + telemetry},
		{"replace", "/spec/containers/2/image", pin},
		{"add", "/spec/containers/3/env/-", map[string]any{"name": otelAttributes, "value": telemetry}},
		{"replace", "/spec/volumes/0/image/reference", pin},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	// Five places and one image: one question for the tag, one for the digest.
	if len(b.j.asked) != 2 {
		t.Errorf("asked %v", b.j.asked)
	}
	if len(b.rec.list) != 0 {
		t.Errorf("what is allowed is recorded by the door that comes last: %v", b.rec.kinds())
	}
}

func TestNormalize(t *testing.T) {
	for in, want := range map[string]string{
		"nginx": "docker.io/library/nginx:latest", "nginx:1.2": "docker.io/library/nginx:1.2", "team/app": "docker.io/team/app:latest", "docker.io/nginx:1": "docker.io/library/nginx:1",
		"localhost/app": "localhost/app:latest", "r.example:5000/a/b:c": "r.example:5000/a/b:c", "r.example/a@" + string(good): "r.example/a@" + string(good),
		"nginx@" + string(good): "docker.io/library/nginx@" + string(good), "": "", "a b": "", "UPPER/x": "", "r.example/a:b@sha256:12": "",
	} {
		r, err := normalize(in)
		if (want == "") != (err != nil) || want != "" && r.String() != want {
			t.Errorf("%q: %v, %v; want %q", in, r, err, want)
		}
	}
}

func TestSoft(t *testing.T) {
	fail := func(names ...string) (out []policy.Check) {
		for _, n := range names {
			out = append(out, policy.Check{Name: n, Status: policy.Fail})
		}
		return append(out, policy.Check{Name: "signatures/x", Status: policy.Pass})
	}
	for name, tt := range map[string]struct {
		checks   []policy.Check
		combined bool
		want     bool
	}{
		"stale":                     {fail("trust/fresh"), false, true},
		"stale and combined":        {fail("trust/fresh", "base/vulnerabilities"), true, true},
		"a new finding":             {fail("vulnerabilities"), false, true},
		"no bill of materials":      {fail("vulnerabilities/sbom"), false, false},
		"stale feeds":               {[]policy.Check{{Name: "vulnerabilities/known", Status: policy.Fail, Found: "feeds not looked at lately: debian; the scores of exploit prediction are missing or stale"}}, false, true},
		"stale feeds and no SBOM":   {[]policy.Check{{Name: "vulnerabilities/known", Status: policy.Fail, Found: "no bill of materials; feeds not looked at lately: debian"}}, false, false},
		"stale and unsigned":        {fail("trust/fresh", "signatures/x"), false, false},
		"revoked":                   {fail("trust/revoked"), false, false},
		"a signature named so":      {fail("signatures/vulnerabilities"), false, false},
		"a name with such a prefix": {fail("vulnerabilities-none"), false, false},
		"nothing failed":            {fail(), false, false},
		"stale, and unsigned where that only warns": {[]policy.Check{{Name: "trust/fresh", Status: policy.Fail}, {Name: "signatures/x", Status: policy.Fail, Mode: policy.Warn}}, false, true},
	} {
		if got := soft(tt.checks, tt.combined); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestThreat_Admission_HostileReviews(t *testing.T) {
	b := newBed(t, nil)
	for name, raw := range map[string]string{
		"empty": "", "no JSON": "{", "another version": `{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{"uid":"1"}}`,
		"no request": `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`, "no uid": `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{}}`,
		"a member twice":    `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","operation":"DELETE","operation":"CREATE"}}`,
		"a member misspelt": `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","Operation":"DELETE","operation":"CREATE"}}`,
		"trailing":          `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1"}} {}`,
		"deep":              strings.Repeat(`{"a":`, 100_000),
	} {
		if code, _ := b.post(PathValidate, []byte(raw)); code != http.StatusBadRequest {
			t.Errorf("%s: %d", name, code)
		}
	}
	if code, _ := b.post(PathValidate, bytes.Repeat([]byte(" "), MaxReview+1)); code != http.StatusRequestEntityTooLarge {
		t.Errorf("too large: %d", code)
	}
	many := strings.Repeat(c("a", im("good"))+",", MaxImages) + c("b", im("good"))
	if r := b.ask(ask{object: podOf(many)}); r.Allowed || !strings.Contains(r.Status.Message, "at most") {
		t.Errorf("too many images: %+v", r)
	}
}

func FuzzImages(f *testing.F) {
	f.Add(podOf(c("a", im("good")), `,"volumes":[{"name":"v","image":{"reference":"x"}}]`))
	f.Add(`{"spec":{"template":{"spec":{"containers":[{"image":"x"}]}}}}`)
	f.Fuzz(func(t *testing.T, s string) {
		images, _, err := podImages([]byte(s))
		if err == nil {
			for i := range images {
				_, _ = normalize(images[i].Reference)
			}
		}
		_, _ = templateImages([]byte(s))
	})
}

// TestThreat_Admission_FloodOfLargeReviews: large reviews, or ones that are never
// finished, hold up neither memory nor reviews of a usual size.
func TestThreat_Admission_FloodOfLargeReviews(t *testing.T) {
	b := newBed(t, func(o *Options) { o.Timeout = time.Second })
	srv := httptest.NewServer(b.h)
	defer srv.Close()
	post := func(body io.Reader) int {
		resp, err := srv.Client().Post(srv.URL+PathValidate, "application/json", body)
		if err != nil {
			return 0
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	// More begin than there are places, and none goes on.
	var began, ended sync.WaitGroup
	for range 3 * maxLarge {
		began.Add(1)
		ended.Go(func() {
			r, w := io.Pipe()
			defer r.Close()
			go func() { _, _ = w.Write(bytes.Repeat([]byte(" "), smallReview+1)); began.Done() }()
			if code := post(r); code == http.StatusOK {
				t.Error("half a review was answered")
			}
		})
	}
	began.Wait()
	start := time.Now()
	if r := b.ask(ask{path: PathMutate, object: podOf(c("a", im("good")))}); !r.Allowed {
		t.Errorf("a usual review: %+v", r.Status)
	}
	if took := time.Since(start); took > 500*time.Millisecond {
		t.Errorf("a usual review took %s", took)
	}
	ended.Wait()
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("they were waited for, for %s", took)
	}
	if n := len(b.h.(*Webhook).large); n != 0 {
		t.Errorf("%d places are not given back", n)
	}
	if code := post(bytes.NewReader(append(bytes.Repeat([]byte(" "), 2*smallReview), `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","operation":"CREATE","namespace":"shop","resource":{"version":"v1","resource":"pods"},"object":{}}}`...))); code != http.StatusOK {
		t.Errorf("a large one after that: %d", code)
	}
}
