package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
)

// AdmissionQuestion asks whether an image may run at a place: POST
// /api/v1/admission/judge.
type AdmissionQuestion struct {
	Reference   string `json:"reference"` // whole, with a tag or a digest
	Cluster     string `json:"cluster"`
	Namespace   string `json:"namespace"`
	Environment string `json:"environment,omitempty"`
	Standing    bool   `json:"standing,omitempty"` // what stands is enough
	// What the Pod may show the image's registry, by name: no secret is sent.
	ServiceAccount string   `json:"service_account,omitempty"`
	PullSecrets    []string `json:"pull_secrets,omitempty"`
}

// AdmissionRecords is what a webhook did: POST /api/v1/admission/records.
type AdmissionRecords struct {
	Cluster string            `json:"cluster"`
	Records []AdmissionRecord `json:"records"`
}

// AdmissionRecord is one event of a webhook.
type AdmissionRecord struct {
	Kind        string          `json:"kind"` // admission.allowed, admission.denied or admission.warned
	Digest      string          `json:"digest,omitempty"`
	Actor       string          `json:"actor"`
	Environment string          `json:"environment,omitempty"`
	Body        json.RawMessage `json:"body"`
}

// JudgeAdmission asks; out takes the reply.
func (c *Client) JudgeAdmission(ctx context.Context, q AdmissionQuestion, out any) error {
	return c.call(ctx, http.MethodPost, "/api/v1/admission/judge", nil, q, out)
}

// AdmissionBundle fetches the cluster's newest signed bundle, as bytes; none when
// it is of the version that is there.
func (c *Client) AdmissionBundle(ctx context.Context, cluster string, version int64) (raw []byte, err error) {
	q := url.Values{"cluster": {cluster}}
	if version > 0 {
		q.Set("version", strconv.FormatInt(version, 10))
	}
	return raw, c.call(ctx, http.MethodGet, "/api/v1/admission/bundle", q, nil, &raw)
}

// RecordAdmission hands events on.
func (c *Client) RecordAdmission(ctx context.Context, r AdmissionRecords) error {
	return c.call(ctx, http.MethodPost, "/api/v1/admission/records", nil, r, nil)
}
