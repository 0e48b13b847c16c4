package admission

import (
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
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/types"
	"go.yaml.in/yaml/v3"

	"assay/artifact"
	"assay/event"
)

// gatekeeperSite is the provider on a TLS listener, and Gatekeeper's certificate.
type gatekeeperSite struct {
	t      *testing.T
	url    string
	rec    *recorder
	roots  *x509.CertPool
	client *http.Client
}

// issue makes an authority's file and a client certificate that it signed.
func issue(t *testing.T, name string) (file string, cert tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gatekeeper-ca"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	rawCA, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	raw, err := x509.CreateCertificate(rand.Reader, leaf, ca, leafKey.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rawCA}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: leafKey}
}

func newGatekeeper(t *testing.T, change func(*Options)) *gatekeeperSite {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := OpenAuthority(filepath.Join(t.TempDir(), "admission.pem"), key, []string{"127.0.0.1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	file, cert := issue(t, "gatekeeper-webhook-service.gatekeeper-system.svc")
	callers, err := OpenClientCA(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &gatekeeperSite{t: t, rec: &recorder{}, roots: x509.NewCertPool()}
	o := Options{Judge: &judge{}, Record: s.rec, Cluster: "c1", Never: []string{"kube-system"}, Environment: func(ns string) string { return map[string]string{"shop": "prod"}[ns] }}
	if change != nil {
		change(&o)
	}
	hook, err := NewWebhook(o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: NewGatekeeper(hook, callers).With(hook), TLSConfig: ca.TLS(), ReadHeaderTimeout: time.Second}
	go srv.ServeTLS(l, "", "")
	t.Cleanup(func() { srv.Close() })
	s.roots.AppendCertsFromPEM(ca.PEM())
	s.url = "https://" + l.Addr().String()
	s.client = s.with(cert)
	return s
}

// with is a client that shows a certificate, by TLS 1.3 as Gatekeeper's.
func (s *gatekeeperSite) with(certs ...tls.Certificate) *http.Client {
	tr := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: s.roots, Certificates: certs}}
	s.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 3 * time.Second}
}

func (s *gatekeeperSite) post(c *http.Client, path, body string) (int, ProviderResponse) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var out ProviderResponse
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		s.t.Fatalf("%s: %v", resp.Status, err)
	}
	return resp.StatusCode, out
}

func askFor(keys ...string) string {
	b, _ := json.Marshal(keys)
	return `{"apiVersion":"externaldata.gatekeeper.sh/v1beta1","kind":"ProviderRequest","request":{"keys":` + string(b) + `}}`
}

func TestGatekeeperProvider(t *testing.T) {
	s := newGatekeeper(t, nil)
	keys := []string{
		"shop r.example/app:good", "shop r.example/app:bad", "shop r.example/app:revoked", "shop r.example/app:down", "shop r.example/app:panic", "shop r.example/app:none",
		"shop r.example/app:warned", "kube-system r.example/app:bad", "r.example/app:good", "shop ", "shop r.example/app:good", "../x r.example/app:good", "shop a b",
	}
	status, got := s.post(s.client, PathGatekeeper, askFor(keys...))
	if status != http.StatusOK || got.APIVersion != providerVersion || got.Kind != providerResponse || !got.Response.Idempotent || got.Response.SystemError != "" {
		t.Fatalf("%d %+v", status, got)
	}
	if len(got.Response.Items) != len(keys) {
		t.Fatalf("%d items for %d keys", len(got.Response.Items), len(keys))
	}
	want := []string{"allowed", "denied", "denied", "error", "error", "error", "warned", "warned", "error", "error", "allowed", "error", "error"}
	var have []string
	for i, it := range got.Response.Items {
		if it.Key != keys[i] {
			t.Errorf("item %d is of key %q, want %q", i, it.Key, keys[i])
		}
		switch {
		case it.Error != "" && it.Value == nil:
			have = append(have, "error")
		case it.Error == "" && it.Value != nil:
			have = append(have, it.Value.Decision)
		default:
			have = append(have, "neither")
		}
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Error(diff)
	}
	v := got.Response.Items[0].Value
	if v.Digest != good || v.Image != "r.example/app:good@"+string(good) || v.ID == "" || len(v.Reasons) != 0 {
		t.Errorf("%+v", v)
	}
	if r := got.Response.Items[1].Value.Reasons; len(r) != 1 || !strings.Contains(r[0], "signatures/release: expected 1 signature by release, found none; to mend it: assay sign IMAGE") {
		t.Errorf("%q", r)
	}
	if r := got.Response.Items[2].Value.Reasons; len(r) != 1 || !strings.Contains(r[0], "stolen key") {
		t.Errorf("%q", r)
	}
	// An image alone is asked about where the Provider's url says.
	if _, one := s.post(s.client, PathGatekeeper+"?namespace=shop", askFor("r.example/app:good")); len(one.Response.Items) != 1 || one.Response.Items[0].Value == nil || one.Response.Items[0].Value.Decision != "allowed" {
		t.Errorf("%+v", one)
	}
	// What was told stands in the log with the door, and the same within a minute once.
	n := len(s.rec.list)
	if n == 0 {
		t.Fatal("nothing was recorded")
	}
	for _, e := range s.rec.list {
		if b := e.Body.(*body); b.Door != "gatekeeper" || b.Operation != "REVIEW" || e.Actor != "k8s:gatekeeper/gatekeeper-webhook-service.gatekeeper-system.svc" || e.Cluster != "c1" {
			t.Errorf("%+v %+v", e, b)
		}
	}
	if s.rec.list[0].Kind != event.AdmissionWarned && s.rec.list[0].Kind != event.AdmissionDenied && s.rec.list[0].Kind != event.AdmissionAllowed {
		t.Errorf("kind %s", s.rec.list[0].Kind)
	}
	s.post(s.client, PathGatekeeper, askFor(keys...))
	if len(s.rec.list) != n {
		t.Errorf("%d events after the same question, want %d", len(s.rec.list), n)
	}
}

// TestThreat_Admission_GatekeeperCallers: who shows no certificate of Gatekeeper's
// authority learns nothing, and whatever is wrong is no allow.
func TestThreat_Admission_GatekeeperCallers(t *testing.T) {
	s := newGatekeeper(t, nil)
	_, foreign := issue(t, "gatekeeper-webhook-service.gatekeeper-system.svc")
	ok := askFor("shop r.example/app:good")
	for name, c := range map[string]struct {
		client *http.Client
		body   string
		status int
		want   string
	}{
		"no certificate":         {s.with(), ok, 403, "want a client certificate"},
		"of another authority":   {s.with(foreign), ok, 403, "is not one that"},
		"no JSON":                {s.client, "{", 400, "provider request"},
		"a member twice":         {s.client, strings.Replace(ok, `{"keys"`, `{"keys":["shop r.example/app:bad"],"keys"`, 1), 400, "provider request"},
		"another version":        {s.client, strings.Replace(ok, "v1beta1", "v9", 1), 400, "want externaldata"},
		"no keys":                {s.client, askFor(), 400, "0 keys"},
		"too many keys":          {s.client, askFor(make([]string, MaxKeys+1)...), 400, "513 keys"},
		"too large":              {s.client, askFor(strings.Repeat("x", MaxProviderRequest)), 413, "over 1048576 bytes"},
		"an AdmissionReview":     {s.client, `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`, 400, "want externaldata"},
		"keys that are no texts": {s.client, strings.Replace(ok, `"shop r.example/app:good"`, `{"a":1}`, 1), 400, "provider request"},
	} {
		t.Run(name, func(t *testing.T) {
			status, got := s.post(c.client, PathGatekeeper, c.body)
			if status != c.status || len(got.Response.Items) != 0 || !strings.Contains(got.Response.SystemError, c.want) {
				t.Errorf("%d %+v", status, got)
			}
		})
	}
	if len(s.rec.list) != 0 {
		t.Errorf("%d events", len(s.rec.list))
	}
	// What cannot be recorded is no answer.
	s.rec.full = true
	if status, got := s.post(s.client, PathGatekeeper, ok); status != 503 || len(got.Response.Items) != 0 || !strings.Contains(got.Response.SystemError, "cannot be recorded") {
		t.Errorf("%d %+v", status, got)
	}
	s.rec.full = false
	if _, got := s.post(s.client, PathGatekeeper, ok); len(got.Response.Items) != 1 {
		t.Errorf("%+v", got)
	}
}

// TestGatekeeperAuthorityChanges: a Secret that is renewed counts at once, and
// while it is gone nobody is known.
func TestGatekeeperAuthorityChanges(t *testing.T) {
	file, cert := issue(t, "a")
	other, next := issue(t, "b")
	now := time.Now()
	c, err := OpenClientCA(file, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	by := func(x tls.Certificate) error {
		leaf, err := x509.ParseCertificate(x.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Caller(&http.Request{TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}})
		return err
	}
	if by(cert) != nil || by(next) == nil {
		t.Fatal("the authority was not taken")
	}
	b, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(b, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	now = now.Add(clientCAEvery)
	if by(cert) == nil || by(next) != nil {
		t.Error("the renewed authority does not count")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	now = now.Add(clientCAEvery)
	if by(next) == nil || by(cert) == nil {
		t.Error("known by an authority that is gone")
	}
}

// templateRego reads the Rego out of the manifest, as Gatekeeper does.
func templateRego(t *testing.T, s *gatekeeperSite) string {
	t.Helper()
	all, err := Manifests(ManifestOptions{CA: []byte("-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"), URL: s.url, Gatekeeper: true})
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Spec struct {
			Targets []struct {
				Code []struct {
					Source struct{ Version, Rego string }
				}
			}
		}
	}
	for _, m := range all {
		if m.Name != "gatekeeper/template.yaml" {
			continue
		}
		if err := yaml.Unmarshal(m.YAML, &doc); err != nil {
			t.Fatal(err)
		}
		return doc.Spec.Targets[0].Code[0].Source.Rego
	}
	t.Fatal("there is no template")
	return ""
}

// violations evaluates the ConstraintTemplate as Gatekeeper does, with an
// external_data that asks over TLS. broken stands for what the built-in gives when
// it does not reach the provider: nothing, in older versions of Gatekeeper.
func violations(t *testing.T, s *gatekeeperSite, broken func(keys []string) (map[string]any, error), input map[string]any) []string {
	t.Helper()
	external := rego.Function1(&rego.Function{Name: "external_data", Decl: types.NewFunction(types.Args(types.A), types.A), Nondeterministic: true}, func(_ rego.BuiltinContext, arg *ast.Term) (*ast.Term, error) {
		var q struct {
			Provider string
			Keys     []string
		}
		if err := ast.As(arg.Value, &q); err != nil {
			return nil, err
		}
		if q.Provider != "assay" {
			return nil, fmt.Errorf("no provider %s", q.Provider)
		}
		out := map[string]any{}
		if broken != nil {
			var err error
			if out, err = broken(q.Keys); err != nil {
				return nil, err
			}
		} else {
			status, resp := s.post(s.client, PathGatekeeper, askFor(q.Keys...))
			responses, errs := [][]any{}, [][]any{}
			for _, it := range resp.Response.Items {
				if it.Error != "" {
					errs = append(errs, []any{it.Key, it.Error})
				} else {
					responses = append(responses, []any{it.Key, it.Value})
				}
			}
			out["responses"], out["errors"], out["status_code"], out["system_error"] = responses, errs, status, resp.Response.SystemError
		}
		b, err := json.Marshal(out)
		if err != nil {
			return nil, err
		}
		v, err := ast.ValueFromReader(bytes.NewReader(b))
		return ast.NewTerm(v), err
	})
	rs, err := rego.New(external, rego.SetRegoVersion(ast.RegoV1), rego.Strict(true), rego.Module("template.rego", templateRego(t, s)), rego.Query("data.assayimages.violation"), rego.Input(input)).Eval(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, r := range rs {
		for _, e := range r.Expressions {
			for _, v := range e.Value.([]any) {
				out = append(out, v.(map[string]any)["msg"].(string))
			}
		}
	}
	return out
}

func gatekeeperPod(images ...string) map[string]any {
	var list []any
	for i, im := range images {
		list = append(list, map[string]any{"name": fmt.Sprint("c", i), "image": im})
	}
	return map[string]any{"metadata": map[string]any{"name": "p"}, "spec": map[string]any{"containers": list}}
}

func review(operation string, object, before any) map[string]any {
	r := map[string]any{"kind": map[string]any{"kind": "Pod"}, "namespace": "shop", "object": object}
	if operation != "" {
		r["operation"] = operation
	}
	if before != nil {
		r["oldObject"] = before
	}
	return map[string]any{"review": r, "parameters": map[string]any{}}
}

// TestThreat_Admission_GatekeeperFailsClosed: the ConstraintTemplate refuses
// whatever is no allow of the image that was asked about.
func TestThreat_Admission_GatekeeperFailsClosed(t *testing.T) {
	s := newGatekeeper(t, nil)
	pin := func(tag string) string {
		return "r.example/app:" + tag + "@" + string(map[string]artifact.Digest{"good": good, "bad": bad, "revoked": revoked}[tag])
	}
	goodPod, badPod := gatekeeperPod(pin("good")), gatekeeperPod(pin("good"), pin("bad"))
	special := func(list, name string, v any) map[string]any {
		p := gatekeeperPod(pin("good"))
		p["spec"].(map[string]any)[list] = []any{map[string]any{"name": "x", name: v}}
		return p
	}
	tags := review("CREATE", gatekeeperPod("r.example/app:good"), nil)
	tags["parameters"] = map[string]any{"tags": true}
	elsewhere := review("CREATE", goodPod, nil)
	elsewhere["parameters"] = map[string]any{"provider": "other"}
	nowhere := review("CREATE", goodPod, nil)
	delete(nowhere["review"].(map[string]any), "namespace")
	deployment := map[string]any{"spec": map[string]any{"template": badPod}}
	for name, c := range map[string]struct {
		input map[string]any
		want  []string // parts of the messages; none: allowed
	}{
		"allowed, pinned":          {review("CREATE", goodPod, nil), nil},
		"one of two denied":        {review("CREATE", badPod, nil), []string{"signatures/release"}},
		"revoked":                  {review("CREATE", gatekeeperPod(pin("revoked")), nil), []string{"stolen key"}},
		"no answer":                {review("CREATE", gatekeeperPod("r.example/app:down"), nil), []string{"could not be decided"}},
		"a panic":                  {review("CREATE", gatekeeperPod("r.example/app:panic"), nil), []string{"could not be decided"}},
		"a tag":                    {review("CREATE", gatekeeperPod("r.example/app:good"), nil), []string{"want r.example/app:good@" + string(good)}},
		"a tag, let":               {tags, nil},
		"an init container":        {review("CREATE", special("initContainers", "image", pin("bad")), nil), []string{"signatures/release"}},
		"an ephemeral container":   {review("UPDATE", special("ephemeralContainers", "image", pin("bad")), goodPod), []string{"signatures/release"}},
		"an image volume":          {review("CREATE", special("volumes", "image", map[string]any{"reference": pin("bad")}), nil), []string{"signatures/release"}},
		"another volume":           {review("CREATE", special("volumes", "emptyDir", map[string]any{}), nil), nil},
		"no image":                 {review("CREATE", gatekeeperPod(""), nil), []string{"no image is named"}},
		"an update, no image":      {review("UPDATE", badPod, badPod), nil},
		"an update of an image":    {review("UPDATE", gatekeeperPod(pin("bad")), goodPod), []string{"signatures/release"}},
		"a forged old object":      {review("CREATE", badPod, badPod), []string{"signatures/release"}},
		"Gatekeeper's audit":       {review("", badPod, nil), []string{"signatures/release"}},
		"a deletion":               {review("DELETE", badPod, nil), nil},
		"a Deployment":             {review("CREATE", deployment, nil), []string{"signatures/release"}},
		"a CronJob":                {review("CREATE", map[string]any{"spec": map[string]any{"jobTemplate": map[string]any{"spec": map[string]any{"template": badPod}}}}, nil), []string{"signatures/release"}},
		"a Provider that is not":   {elsewhere, []string{"it gave no answer"}},
		"a Pod without namespace":  {nowhere, []string{"want NAMESPACE IMAGE"}},
		"the same image 200 times": {review("CREATE", gatekeeperPod(strings.Split(strings.Repeat(pin("bad")+" ", 199)+pin("bad"), " ")...), nil), []string{"signatures/release"}},
	} {
		t.Run(name, func(t *testing.T) { expect(t, violations(t, s, nil, c.input), c.want) })
	}
	pod := review("CREATE", goodPod, nil)
	key := "shop " + pin("good")
	allow := map[string]any{"decision": "allowed", "digest": string(good)}
	for name, c := range map[string]struct {
		answer map[string]any
		err    error
		want   string // "": allowed
	}{
		"an allow":                     {map[string]any{"responses": []any{[]any{key, allow}}, "errors": []any{}, "system_error": ""}, nil, ""},
		"not reached":                  {nil, fmt.Errorf("connection refused"), "it gave no answer"},
		"an empty answer":              {map[string]any{}, nil, "it gave no answer"},
		"system error beside an allow": {map[string]any{"responses": []any{[]any{key, allow}}, "errors": []any{}, "system_error": "down"}, nil, "down"},
		"error beside an allow":        {map[string]any{"responses": []any{[]any{key, allow}}, "errors": []any{[]any{key, "odd"}}, "system_error": ""}, nil, "odd"},
		"both answers":                 {map[string]any{"responses": []any{[]any{key, allow}, []any{key, map[string]any{"decision": "denied"}}}, "errors": []any{}, "system_error": ""}, nil, "gives no reason"},
		"about another image":          {map[string]any{"responses": []any{[]any{"shop other", allow}}, "errors": []any{}, "system_error": ""}, nil, "gives no reason"},
		"an unknown word":              {map[string]any{"responses": []any{[]any{key, map[string]any{"decision": "fine", "digest": string(good)}}}, "errors": []any{}, "system_error": ""}, nil, "gives no reason"},
		"a text":                       {map[string]any{"responses": []any{[]any{key, "allowed"}}, "errors": []any{}, "system_error": ""}, nil, "gives no reason"},
		"another digest":               {map[string]any{"responses": []any{[]any{key, map[string]any{"decision": "allowed", "digest": string(bad)}}}, "errors": []any{}, "system_error": ""}, nil, "named by a tag"},
		"no digest":                    {map[string]any{"responses": []any{[]any{key, map[string]any{"decision": "allowed", "digest": ""}}}, "errors": []any{}, "system_error": ""}, nil, "named by a tag"},
		"no value":                     {map[string]any{"responses": []any{[]any{key, nil}}, "errors": []any{}, "system_error": ""}, nil, "gives no reason"},
	} {
		t.Run("answered "+name, func(t *testing.T) {
			var want []string
			if c.want != "" {
				want = []string{c.want}
			}
			expect(t, violations(t, s, func([]string) (map[string]any, error) { return c.answer, c.err }, pod), want)
		})
	}
}

func expect(t *testing.T, got, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("violations %q, want %q", got, want)
	}
	for i := range want {
		if !strings.Contains(got[i], want[i]) {
			t.Errorf("violation %q, want %q", got[i], want[i])
		}
	}
}

func FuzzProviderRequest(f *testing.F) {
	f.Add([]byte(askFor("shop r.example/app:good")))
	f.Add([]byte(`{"apiVersion":"externaldata.gatekeeper.sh/v1beta1","kind":"ProviderRequest","request":{"keys":[1]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := parseProviderRequest(b)
		if err == nil && (len(q.Request.Keys) == 0 || len(q.Request.Keys) > MaxKeys) {
			t.Errorf("%d keys", len(q.Request.Keys))
		}
	})
}
