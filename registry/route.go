package registry

import (
	"net/http"
	"strings"

	"assay/internal/fault"
)

// operation is what a request asks for; also a metric's label, so the set is
// closed.
type operation string

const (
	opUnknown        operation = "unknown"
	opToken          operation = "token"
	opPing           operation = "ping"
	opCatalog        operation = "catalog"
	opTags           operation = "tags"
	opReferrers      operation = "referrers"
	opManifestGet    operation = "manifest_get"
	opManifestHead   operation = "manifest_head"
	opManifestPut    operation = "manifest_put"
	opManifestDelete operation = "manifest_delete"
	opBlobGet        operation = "blob_get"
	opBlobHead       operation = "blob_head"
	opBlobDelete     operation = "blob_delete"
	opUploadStart    operation = "upload_start"
	opUploadPatch    operation = "upload_patch"
	opUploadPut      operation = "upload_put"
	opUploadStatus   operation = "upload_status"
	opUploadCancel   operation = "upload_cancel"
)

// action is the operation's word in the audit trail.
func (o operation) action() string {
	switch o {
	case opManifestPut, opUploadStart, opUploadPatch, opUploadPut, opUploadStatus, opUploadCancel:
		return "push"
	case opManifestDelete, opBlobDelete:
		return "delete"
	}
	return "pull"
}

func (o operation) onManifest() bool {
	return o == opManifestGet || o == opManifestHead || o == opManifestPut || o == opManifestDelete
}

// route is a parsed method and path.
type route struct {
	op   operation
	name string // repository, valid
	ref  string // tag, digest or upload id as sent, not yet checked
}

// endpoint is one row of the table in the OCI Distribution specification,
// section "Endpoints": the path's shape and what each method does there.
type endpoint struct {
	methods map[string]operation
}

var (
	manifestsAt = endpoint{map[string]operation{
		http.MethodGet: opManifestGet, http.MethodHead: opManifestHead,
		http.MethodPut: opManifestPut, http.MethodDelete: opManifestDelete,
	}}
	blobsAt = endpoint{map[string]operation{
		http.MethodGet: opBlobGet, http.MethodHead: opBlobHead, http.MethodDelete: opBlobDelete,
	}}
	uploadsAt = endpoint{map[string]operation{http.MethodPost: opUploadStart}}
	uploadAt  = endpoint{map[string]operation{
		http.MethodPatch: opUploadPatch, http.MethodPut: opUploadPut,
		http.MethodGet: opUploadStatus, http.MethodDelete: opUploadCancel,
	}}
	tagsAt      = endpoint{map[string]operation{http.MethodGet: opTags}}
	referrersAt = endpoint{map[string]operation{http.MethodGet: opReferrers}}
	catalogAt   = endpoint{map[string]operation{http.MethodGet: opCatalog}}
	pingAt      = endpoint{map[string]operation{http.MethodGet: opPing, http.MethodHead: opPing}}
	tokenAt     = endpoint{map[string]operation{http.MethodGet: opToken, http.MethodPost: opToken}}
)

// parseRoute reads a path from its end, since a repository's name may hold any
// number of components, "blobs" and "manifests" among them. The path is the
// decoded one; the grammar of names leaves no room for escapes.
func parseRoute(method, path string) (route, error) {
	at, rt, err := match(path)
	if err != nil {
		return route{op: opUnknown}, err
	}
	op, ok := at.methods[method]
	if !ok {
		return route{op: opUnknown}, &failure{
			code: codeUnsupported, status: http.StatusMethodNotAllowed, allow: at.methods,
			err: fault.Newf(fault.Invalid, "method %.20q is not served at this path", method),
		}
	}
	rt.op = op
	if rt.name != "" && !ValidName(rt.name) {
		return rt, failf(codeNameInvalid, fault.Invalid, "repository name %.300q: want lower case components joined by '/', at most %d bytes (OCI Distribution, Pulling manifests)", rt.name, maxName)
	}
	return rt, nil
}

func match(path string) (endpoint, route, error) {
	switch path {
	case "/token":
		return tokenAt, route{}, nil
	case "/v2", "/v2/":
		return pingAt, route{}, nil
	case "/v2/_catalog":
		return catalogAt, route{}, nil
	}
	unknown := failf(codeUnsupported, fault.NotFound, "no such path: want /v2/<name>/manifests|blobs|tags|referrers/…")
	rest, ok := strings.CutPrefix(path, "/v2/")
	if !ok || len(rest) > 4096 {
		return endpoint{}, route{}, unknown
	}
	if name, ok := cutTail(rest, "/blobs/uploads/", "/blobs/uploads"); ok {
		return uploadsAt, route{name: name}, nil
	}
	if name, ok := cutTail(rest, "/tags/list"); ok {
		return tagsAt, route{name: name}, nil
	}
	i := strings.LastIndexByte(rest, '/')
	if i < 0 {
		return endpoint{}, route{}, unknown
	}
	head, ref := rest[:i], rest[i+1:]
	for _, shape := range []struct {
		tail string
		at   endpoint
	}{
		{"/manifests", manifestsAt},
		{"/blobs/uploads", uploadAt},
		{"/blobs", blobsAt},
		{"/referrers", referrersAt},
	} {
		if name, ok := cutTail(head, shape.tail); ok && ref != "" {
			return shape.at, route{name: name, ref: ref}, nil
		}
	}
	return endpoint{}, route{}, unknown
}

// cutTail cuts the first of the tails that s ends in and that leaves something.
func cutTail(s string, tails ...string) (string, bool) {
	for _, t := range tails {
		if head, ok := strings.CutSuffix(s, t); ok && head != "" {
			return head, true
		}
	}
	return "", false
}
