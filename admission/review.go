package admission

import (
	"github.com/go-json-experiment/json/jsontext"

	"assay/internal/fault"
	"assay/internal/strictjson"
)

// MaxReview is the most that a review may hold, in bytes: an object and the one
// before it, each of at most 3 MiB as the API server takes them.
const MaxReview = 8 << 20

// reviewVersion and reviewKind are of the only review that is spoken.
const (
	reviewVersion = "admission.k8s.io/v1"
	reviewKind    = "AdmissionReview"
)

// Review is an AdmissionReview of admission.k8s.io/v1, in the members that count
// here.
type Review struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Request    *Request  `json:"request,omitempty"`
	Response   *Response `json:"response,omitempty"`
}

// GVK names a kind.
type GVK struct {
	Group   string `json:"group"`
	Version string `json:"version"`
	Kind    string `json:"kind"`
}

// GVR names a resource.
type GVR struct {
	Group    string `json:"group"`
	Version  string `json:"version"`
	Resource string `json:"resource"`
}

// Request is what the API server asks.
type Request struct {
	UID         string         `json:"uid"`
	Kind        GVK            `json:"kind"`
	Resource    GVR            `json:"resource"`
	SubResource string         `json:"subResource,omitempty"`
	Name        string         `json:"name,omitempty"`
	Namespace   string         `json:"namespace,omitempty"`
	Operation   string         `json:"operation"`
	UserInfo    UserInfo       `json:"userInfo"`
	Object      jsontext.Value `json:"object,omitempty"`
	OldObject   jsontext.Value `json:"oldObject,omitempty"`
	DryRun      bool           `json:"dryRun,omitempty"`

	door string // by which it came, where that is not the webhook
}

// UserInfo says who asks, as the API server authenticated them.
type UserInfo struct {
	Username string   `json:"username,omitempty"`
	Groups   []string `json:"groups,omitempty"`
}

// Response is the answer.
type Response struct {
	UID       string   `json:"uid"`
	Allowed   bool     `json:"allowed"`
	Status    *Status  `json:"status,omitempty"`
	Patch     []byte   `json:"patch,omitempty"` // JSON Patch (RFC 6902)
	PatchType *string  `json:"patchType,omitempty"`
	Warnings  []string `json:"warnings,omitempty"`
	// AuditAnnotations stand in the API server's own audit log.
	AuditAnnotations map[string]string `json:"auditAnnotations,omitempty"`
}

// Status says why not.
type Status struct {
	Code    int    `json:"code,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

// parseReview reads a review strictly: another version, a member twice, or no
// request is fault.Invalid.
func parseReview(b []byte) (*Request, error) {
	var r Review
	if err := strictjson.Unmarshal(b, &r, strictjson.WithMaxBytes(MaxReview)); err != nil {
		return nil, fault.Newf(fault.Invalid, "admission review: %w", err)
	}
	if r.APIVersion != reviewVersion || r.Kind != reviewKind {
		return nil, fault.Newf(fault.Invalid, "admission review: %.60q %.60q, want %s %s", r.APIVersion, r.Kind, reviewVersion, reviewKind)
	}
	if r.Request == nil || r.Request.UID == "" {
		return nil, fault.Newf(fault.Invalid, "admission review: want a request with a uid")
	}
	return r.Request, nil
}
