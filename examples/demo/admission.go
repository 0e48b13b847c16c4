package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"assay/admission"
)

// chooseDoor finds an address for the webhook, which stays over restarts.
func (d *demo) chooseDoor() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	d.door = l.Addr().String()
	return l.Close()
}

// admission asks as a Kubernetes API server does: with an AdmissionReview about a
// Pod, over TLS, under the authority that stands in webhook configurations.
func (d *demo) admission(ctx context.Context, signed, unsigned, other string) error {
	d.title("Kubernetes asks: may this Pod run? An AdmissionReview over TLS")
	ca, err := os.ReadFile(filepath.Join(d.data, "ca", "admission.pem"))
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return errors.New("the webhook's authority does not read")
	}
	c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	pinned := d.review(ctx, c, "a Pod with the signed image, by its tag", allowed, admission.PathMutate, signed)
	if pinned == "" {
		return nil // told already
	}
	d.review(ctx, c, "the same Pod, pinned, at the last door", allowed, admission.PathValidate, pinned)
	d.review(ctx, c, "a Pod with the unsigned image", denied, admission.PathMutate, unsigned)
	d.review(ctx, c, "a Pod with mallory's image", denied, admission.PathMutate, other)
	d.review(ctx, c, "a Pod with an image from elsewhere", denied, admission.PathMutate, "nginx:1.27")
	return nil
}

// review is one step: it gives the image as the webhook pinned it.
func (d *demo) review(ctx context.Context, c *http.Client, name, expected, path, image string) (pinned string) {
	began := time.Now()
	s := step{Step: name, Expected: expected, Command: "POST https://" + d.door + path + " (AdmissionReview, image " + image + ")"}
	resp, err := ask(ctx, c, "https://"+d.door+path, image)
	s.Seconds = time.Since(began).Seconds()
	switch {
	case err != nil:
		s.Got, s.ExitCode = fmt.Sprintf("error (%v)", err), 2
	case resp.Allowed:
		s.Got, pinned = allowed, image
	default:
		s.Got, s.ExitCode = denied, 1
	}
	d.steps = append(d.steps, s)
	mark := "as expected"
	if s.Got != expected {
		mark = "EXPECTED " + strings.ToUpper(expected)
		d.failed++
	}
	d.say("%-8s %s (%d ms): %s", s.Got, name, time.Since(began).Milliseconds(), mark)
	if err != nil {
		return ""
	}
	if resp.Status != nil {
		d.say("    %s", resp.Status.Message)
	}
	var patch []struct {
		Path  string `json:"path"`
		Value any    `json:"value"`
	}
	if json.Unmarshal(resp.Patch, &patch) == nil {
		for _, op := range patch {
			if text, ok := op.Value.(string); ok && strings.HasSuffix(op.Path, "/image") {
				d.say("    runs as %s", text)
				pinned = text
			}
		}
	}
	return pinned
}

func ask(ctx context.Context, c *http.Client, url, image string) (*admission.Response, error) {
	object, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]string{"name": "hello", "namespace": "demo"},
		"spec": map[string]any{"containers": []map[string]string{{"name": "hello", "image": image}}},
	})
	if err != nil {
		return nil, err
	}
	review, err := json.Marshal(map[string]any{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": map[string]any{
		"uid": "8f0e4a9c-0000-4000-8000-000000000001", "operation": "CREATE", "namespace": "demo", "name": "hello",
		"kind": map[string]string{"version": "v1", "kind": "Pod"}, "resource": map[string]string{"version": "v1", "resource": "pods"},
		"userInfo": map[string]string{"username": "developer"}, "object": json.RawMessage(object),
	}})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"?timeout=5s", bytes.NewReader(review))
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var out admission.Review
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		return nil, fmt.Errorf("%s: %w", resp.Status, err)
	}
	if out.Response == nil {
		return nil, errors.New("the review has no response")
	}
	return out.Response, nil
}
