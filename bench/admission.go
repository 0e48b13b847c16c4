package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"assay/admission"
)

const (
	reviewsPerSecond = 1000
	reviewClients    = 16
	reviewedImages   = 10
)

// admissions measures the webhook of a running server: reviews of Pods whose
// images were decided about, over TLS, at a steady rate, in turns with a handler
// that reads the review and allows everything.
func (b *bench) admissions(ctx context.Context) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	door := fmt.Sprintf("127.0.0.1:%d", port)
	data := b.folder("admission")
	defer os.RemoveAll(data)
	s, err := upWith(ctx, b.assay, data, "ASSAY_ADMISSION_LISTEN="+door, "ASSAY_ADMISSION_CLUSTER=bench", "ASSAY_ADMISSION_ENVIRONMENT=production")
	if err != nil {
		return err
	}
	defer s.stop()
	images, err := b.reviewedImages(ctx, s, data)
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(filepath.Join(data, "ca", "admission.pem"))
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	peer := httptest.NewUnstartedServer(http.HandlerFunc(allowAll))
	peer.EnableHTTP2 = true
	peer.StartTLS()
	defer peer.Close()
	pool.AddCert(peer.Certificate())
	h := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, MaxIdleConnsPerHost: reviewClients, ForceAttemptHTTP2: false}}
	var reviews [][]byte
	for _, image := range images {
		reviews = append(reviews, reviewOf(image))
	}
	if _, err := hammer(ctx, h, "https://"+door+admission.PathValidate, reviews, 500*time.Millisecond); err != nil {
		return err
	}
	var p50, p99, peer50, peer99 samples
	var others float64
	if err := b.turns(ctx, func(int) error {
		m := startMeter(s.process)
		own, err := hammer(ctx, h, "https://"+door+admission.PathValidate, reviews, b.slot)
		if err != nil {
			return err
		}
		others = max(others, m.stop(b.processors).others)
		theirs, err := hammer(ctx, h, peer.URL+"/", reviews, b.slot)
		if err != nil {
			return err
		}
		p50, p99 = append(p50, own.quantile(0.5)), append(p99, own.quantile(0.99))
		peer50, peer99 = append(peer50, theirs.quantile(0.5)), append(peer99, theirs.quantile(0.99))
		return nil
	}); err != nil {
		return err
	}
	note := fmt.Sprintf("reviews of Pods with a pinned image that was decided about, %d a second over TLS from the same machine, each recorded in the event log", reviewsPerSecond)
	f := figure("admission.decided.p50", "ms", p50, &Aim{"<=", 1.5})
	f.Others, f.Note = others, note
	b.add(f)
	f = figure("admission.decided.p99", "ms", p99, &Aim{"<=", 10})
	f.Others, f.Note = others, fmt.Sprintf("the trivial handler's in the same run: %s ms", plain(peer99.median()))
	b.add(f)
	f = figure("admission.decided.ratio", "ms", p50, nil).against("trivial TLS handler", p50, peer50, &Aim{"<=", 2})
	f.Others = others
	b.add(f)
	return b.coldDigest(ctx, s, data, h, "https://"+door+admission.PathMutate)
}

// coldDigest is the time of a first review of an image that nobody asked about.
func (b *bench) coldDigest(ctx context.Context, s *site, data string, h *http.Client, url string) error {
	var times samples
	for i := range reviewedImages {
		image, err := b.reviewedImage(ctx, s, data, fmt.Sprintf("cold%d", i))
		if err != nil {
			return err
		}
		began := time.Now()
		if err := post(ctx, h, url, reviewOf(strings.Replace(image, "@", ":v1@", 1))); err != nil {
			return err
		}
		times = append(times, float64(time.Since(began).Microseconds())/1000)
	}
	f := figure("admission.cold", "ms", times, &Aim{"<=", 300})
	f.Note = "the first review of a signed image of the site's own registry"
	b.add(f)
	return nil
}

// reviewedImages makes signed images, and gives them pinned.
func (b *bench) reviewedImages(ctx context.Context, s *site, data string) (out []string, err error) {
	policy := filepath.Join(data, "..", "admission.yaml")
	text := fmt.Sprintf("apiVersion: assay/v1\nkind: Policy\nmetadata: {name: signed}\nspec:\n  requirements:\n    signatures: [{name: who, identities: [{issuer: %q, subject: %q}]}]\n", s.Services.OIDC, benchSubject)
	if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
		return nil, err
	}
	if _, err := b.own(ctx, data, "apply", "-f", policy); err != nil {
		return nil, err
	}
	for i := range reviewedImages {
		image, err := b.reviewedImage(ctx, s, data, fmt.Sprintf("app%d", i))
		if err != nil {
			return nil, err
		}
		out = append(out, image)
	}
	return out, nil
}

func (b *bench) reviewedImage(ctx context.Context, s *site, data, name string) (string, error) {
	file := filepath.Join(data, "..", name)
	if err := os.WriteFile(file, []byte("program "+name), 0o600); err != nil {
		return "", err
	}
	ref := s.Services.Registry + "/bench/" + name
	if _, err := b.own(ctx, data, "push", "--subject", benchSubject, "--product", file, ref+":v1"); err != nil {
		return "", err
	}
	if _, err := b.own(ctx, data, "sign", "--subject", benchSubject, ref+":v1"); err != nil {
		return "", err
	}
	var st struct {
		Digest string `json:"digest"`
	}
	out, err := b.own(ctx, data, "verify", "--subject", benchSubject, "-o", "json", ref+":v1")
	if err == nil {
		err = json.Unmarshal(out, &st)
	}
	return ref + "@" + st.Digest, err
}

// own runs the command line of a site.
func (b *bench) own(ctx context.Context, data string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, b.assay, args...)
	cmd.Env = append(os.Environ(), "ASSAY_DATA="+data)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("assay %s: %w\n%s", strings.Join(args, " "), err, errs.String())
	}
	return out, nil
}

// reviewOf is a review as an API server sends it, of some 4 KB.
func reviewOf(image string) []byte {
	var env []map[string]string
	for i := range 20 {
		env = append(env, map[string]string{"name": fmt.Sprintf("SETTING_%d", i), "value": strings.Repeat("x", 80)})
	}
	b, _ := json.Marshal(map[string]any{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": map[string]any{
		"uid": "8f0e4a9c-0000-4000-8000-000000000001", "operation": "CREATE", "namespace": "shop", "name": "web",
		"kind": map[string]string{"group": "", "version": "v1", "kind": "Pod"}, "resource": map[string]string{"group": "", "version": "v1", "resource": "pods"},
		"userInfo": map[string]any{"username": "system:serviceaccount:kube-system:replicaset-controller", "groups": []string{"system:serviceaccounts", "system:authenticated"}},
		"object": map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "web-1", "namespace": "shop", "labels": map[string]string{"app": "web"}},
			"spec": map[string]any{"containers": []map[string]any{{"name": "web", "image": image, "env": env, "resources": map[string]any{"limits": map[string]string{"memory": "1Gi"}}}}}},
	}})
	return b
}

// allowAll is the peer: it reads the review, and allows.
func allowAll(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Request struct {
			UID    string          `json:"uid"`
			Object json.RawMessage `json:"object"`
		} `json:"request"`
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": map[string]any{"uid": q.Request.UID, "allowed": true}})
}

func post(ctx context.Context, h *http.Client, url string, review []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(review))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := h.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && !bytes.Contains(b, []byte(`"allowed":true`)) {
		err = fmt.Errorf("%s: not allowed: %s", url, b)
	}
	return err
}

// hammer sends reviews at the steady rate, whether the ones before were answered
// or not, and gives each one's time in ms from when it was due.
func hammer(ctx context.Context, h *http.Client, url string, reviews [][]byte, during time.Duration) (samples, error) {
	n := int(during.Seconds() * reviewsPerSecond)
	began := time.Now()
	times, failed := make([]samples, reviewClients), make([]error, reviewClients)
	var wg sync.WaitGroup
	for c := range reviewClients {
		wg.Go(func() {
			for i := c; i < n && ctx.Err() == nil; i += reviewClients {
				due := began.Add(time.Duration(i) * time.Second / reviewsPerSecond)
				time.Sleep(time.Until(due))
				if err := post(ctx, h, url, reviews[i%len(reviews)]); err != nil {
					failed[c] = err
					return
				}
				times[c] = append(times[c], float64(time.Since(due).Microseconds())/1000)
			}
		})
	}
	wg.Wait()
	return slices.Concat(times...), errors.Join(failed...)
}
