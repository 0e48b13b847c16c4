package server

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/admission"
	"assay/artifact"
	"assay/client"
	"assay/config"
	"assay/event"
)

// reviewer is an API server that asks about Pods.
type reviewer struct {
	s    *testSite
	http *http.Client
}

func (s *testSite) reviewer() *reviewer {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.admission.authority.PEM())
	return &reviewer{s, &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, MaxIdleConnsPerHost: 64}}}
}

func (r *reviewer) ask(path, namespace string, images ...string) *admission.Response {
	r.s.t.Helper()
	var containers []string
	for i, im := range images {
		containers = append(containers, fmt.Sprintf(`{"name":"c%d","image":%q}`, i, im))
	}
	body := fmt.Sprintf(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","operation":"CREATE","namespace":%q,"kind":{"group":"","version":"v1","kind":"Pod"},"resource":{"group":"","version":"v1","resource":"pods"},"userInfo":{"username":"alice"},"object":{"metadata":{"name":"p"},"spec":{"containers":[%s]}}}}`, namespace, strings.Join(containers, ","))
	return r.post(path, body)
}

// post sends a review as it is.
func (r *reviewer) post(path, body string) *admission.Response {
	r.s.t.Helper()
	req, err := http.NewRequestWithContext(r.s.t.Context(), http.MethodPost, "https://"+r.s.admission.listener.Addr().String()+path+"?timeout=5s", strings.NewReader(body))
	if err != nil {
		r.s.t.Fatal(err)
	}
	resp, err := r.http.Do(req)
	if err != nil {
		r.s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var out admission.Review
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || out.Response == nil {
		r.s.t.Fatalf("%s: %v", resp.Status, err)
	}
	return out.Response
}

// TestAdmission asks a running site over TLS, as an API server does: by evidence
// that is really signed, by tag and by digest, before and after a revocation.
func TestAdmission(t *testing.T) {
	s := newSite(t, true, func(c *config.Config) {
		c.Admission = config.Admission{Listen: "127.0.0.1:0", Cluster: "c1", Environment: "prod", Environments: map[string]string{"dev-*": "dev"}}
	})
	s.apply(s.policyDoc("me@example.com"), false)
	r, ctx := s.reviewer(), t.Context()
	host := s.host()
	manifest, good := s.image("shop/app", "v1", "layer one")
	s.signImage("shop/app", manifest)
	_, unsigned := s.image("shop/unsigned", "v1", "layer two")
	pin := host + "/shop/app:v1@" + string(good)

	if a := r.ask(admission.PathMutate, "shop", host+"/shop/app:v1"); !a.Allowed || !bytes.Contains(a.Patch, []byte(pin)) {
		t.Fatalf("signed, by tag: %+v %s", a, a.Patch)
	}
	if a := r.ask(admission.PathValidate, "shop", pin); !a.Allowed {
		t.Fatalf("signed, pinned: %+v", a)
	}
	for image, want := range map[string]string{
		host + "/shop/unsigned:v1":                           "signatures/who",
		host + "/shop/unsigned@" + string(unsigned):          "signatures/who",
		host + "/shop/none:v1":                               "not in the registry",
		"docker.io/library/nginx":                            "of registry docker.io",
		"nginx":                                              "of registry docker.io",
		host + "/shop/app@sha256:" + strings.Repeat("0", 64): "not in the registry",
	} {
		if a := r.ask(admission.PathMutate, "shop", image); a.Allowed || !strings.Contains(a.Status.Message, want) {
			t.Errorf("%s: %+v", image, a.Status)
		}
	}
	// What was missing comes: the next Pod runs.
	m, _ := s.image("shop/late", "v1", "layer three")
	if a := r.ask(admission.PathMutate, "shop", host+"/shop/late:v1"); a.Allowed {
		t.Fatal("allowed without a signature")
	}
	s.signImage("shop/late", m)
	await(t, func() bool { return r.ask(admission.PathMutate, "shop", host+"/shop/late:v1").Allowed })

	testIndex(t, s, r, manifest, good, unsigned)

	// Another policy counts at once.
	s.apply(s.policyDoc("other@example.com"), false)
	if a := r.ask(admission.PathValidate, "shop", pin); a.Allowed {
		t.Fatal("allowed by a policy that was replaced")
	}
	s.apply(s.policyDoc("me@example.com"), false)
	await(t, func() bool { return r.ask(admission.PathValidate, "shop", pin).Allowed })

	// A revocation reaches new admissions within a second.
	if _, err := s.admin.Revoke(ctx, client.RevokeRequest{Entries: []client.Revocation{{Kind: "artifact", Digest: good, InvalidSince: time.Unix(0, 0), Reason: "backdoor"}}}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	await(t, func() bool { return !r.ask(admission.PathValidate, "shop", pin).Allowed })
	t.Logf("a revocation reached admission after %s", time.Since(began))
	if a := r.ask(admission.PathValidate, "shop", pin); !strings.Contains(a.Status.Message, "backdoor") {
		t.Errorf("%+v", a.Status)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s.start()
	seen := map[event.Kind]int{}
	for _, k := range []event.Kind{event.AdmissionAllowed, event.AdmissionDenied} {
		for _, e := range s.eventsOf(k) {
			if seen[k]++; e.Cluster != "c1" || e.Env != "prod" || e.Actor != "k8s:alice" {
				t.Errorf("%+v", e)
			}
		}
	}
	if seen[event.AdmissionAllowed] == 0 || seen[event.AdmissionDenied] < 6 {
		t.Errorf("events: %v", seen)
	}
}

// testIndex: who signs an index signs its parts, whether they are asked for
// through it or by themselves; what is not part of it is not, and a revoked part
// takes the index along.
func testIndex(t *testing.T, s *testSite, r *reviewer, manifest string, good, unsigned artifact.Digest) {
	child, c := s.image("shop/multi", "amd64", "layer four")
	_, lone := s.image("shop/multi", "lone", "layer five")
	index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":%d}]}`, c, len(child))
	s.put("/v2/shop/multi/manifests/v1", "application/vnd.oci.image.index.v1+json", index)
	at := s.host() + "/shop/multi"
	if a := r.ask(admission.PathMutate, "shop", at+":v1"); a.Allowed {
		t.Error("an unsigned index is allowed")
	}
	s.signImage("shop/multi", index)
	await(t, func() bool { return r.ask(admission.PathMutate, "shop", at+":v1").Allowed })
	if a := r.ask(admission.PathValidate, "shop", at+"@"+string(c)); !a.Allowed {
		t.Errorf("the child of a signed index: %+v", a.Status)
	}
	if a := r.ask(admission.PathValidate, "shop", at+"@"+string(lone)); a.Allowed {
		t.Error("a manifest beside a signed index is allowed")
	}
	if _, err := s.gate.Revoke(t.Context(), c, "admin", "child is bad"); err != nil {
		t.Fatal(err)
	}
	if a := r.ask(admission.PathMutate, "shop", at+":v1"); a.Allowed || !strings.Contains(a.Status.Message, "child is bad") {
		t.Errorf("an index with a revoked child: %+v", a.Status)
	}
}

// TestAdmissionOnce: fifty containers of one image, in as many Pods at once, cost
// one verification.
func TestAdmissionOnce(t *testing.T) {
	s := newSite(t, true, func(c *config.Config) { c.Admission = config.Admission{Listen: "127.0.0.1:0", Cluster: "c1"} })
	s.apply(s.policyDoc("me@example.com"), false)
	manifest, _ := s.image("shop/app", "v1", "layer one")
	s.signImage("shop/app", manifest)
	r, image := s.reviewer(), s.host()+"/shop/app:v1"
	images := make([]string, 50)
	for i := range images {
		images[i] = image
	}
	made := func() int {
		got, err := s.events.Query(t.Context(), event.Filter{Kinds: []event.Kind{event.DecisionMade}, Limit: 100})
		if err != nil {
			t.Error(err)
		}
		return len(got)
	}
	before := made()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if a := r.ask(admission.PathMutate, "shop", images...); !a.Allowed {
				t.Errorf("%+v", a.Status)
			}
		})
	}
	wg.Wait()
	await(t, func() bool { return made() > before })
	if n := made() - before; n != 1 {
		t.Errorf("%d decisions for 1,000 containers of one image", n)
	}
}
