package assess

import (
	"net/http"

	"assay/internal/fault"
)

// ReadOnly is a transport that sends nothing but GET and HEAD, to registries and to
// those who give tokens for them. A login that takes a POST therefore does not work,
// and what it would show is unknown.
func ReadOnly(next http.RoundTripper) http.RoundTripper {
	if next == nil {
		next = http.DefaultTransport
	}
	return readOnly{next}
}

type readOnly struct{ next http.RoundTripper }

func (r readOnly) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		return nil, fault.Newf(fault.Denied, "%s to %s: an assessment only reads, by GET and HEAD", req.Method, req.URL.Host)
	}
	return r.next.RoundTrip(req)
}
