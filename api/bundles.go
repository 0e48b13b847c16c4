package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"assay/artifact"
	"assay/client"
	"assay/config"
	"assay/identity"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// Bundles carries content and trust between sites that no network joins.
// Refusals carry a trust.Code.
type Bundles interface {
	Make(ctx context.Context, q client.BundleExport) (*client.Bundle, error)
	// Open finds a bundle that was made; write writes it.
	Open(ctx context.Context, target string, sequence int64) (size int64, write func(ctx context.Context, w io.Writer) error, err error)
	Feed(ctx context.Context, name string, tar io.Reader) (*client.BundleFeed, error)
	// Import takes a bundle in. apply plans documents, and with false carries it out.
	Import(ctx context.Context, file io.Reader, q client.BundleImport, apply func(docs []config.Document, dryRun bool) (*client.ApplyAnswer, error)) (*client.BundleImported, error)
	List(ctx context.Context) (*client.BundleList, error)
}

const maxBundleRequest = 1 << 20

func (a *API) bundleRoutes() []Route {
	return []Route{
		{Method: "POST", Path: "/api/v1/bundles", Summary: "Make a signed bundle for another site: what is new since the last one, or everything", Action: identity.ActOperate,
			In: client.BundleExport{}, Out: client.Bundle{}, Status: 201, handle: a.makeBundle},
		{Method: "GET", Path: "/api/v1/bundles", Summary: "Bundles that were made, and how far the sites are whose bundles are imported", Action: identity.ActOperate, Out: client.BundleList{}, Status: 200, handle: a.listBundles},
		{Method: "GET", Path: "/api/v1/bundles/{target}/{sequence}", Summary: "A bundle that was made, as a stream; the same bytes each time", Action: identity.ActOperate, Out: RawBytes{client.BundleMediaType}, Status: 200, handle: a.bundleContent},
		{Method: "POST", Path: "/api/v1/bundles/feeds", Summary: "Upload the files of a feed, as a tar, for a bundle to carry", Action: identity.ActOperate,
			Query: []Param{{"name", "of the feed"}}, In: RawBytes{"application/x-tar"}, Out: client.BundleFeed{}, Status: 201, handle: a.uploadFeed},
		{Method: "POST", Path: "/api/v1/bundles/import", Summary: "Import a bundle of another site; the first of a site, and more namespaces, need the action admin", Action: identity.ActOperate,
			Query: []Param{{"root", "digest of a TUF root.json of the exporter, needed the first time"}, {"name", "of the foreign root that it becomes"},
				{"namespaces", "JSON array of repository patterns in which it counts"}, {"apply_policies", "true applies the documents in it"}},
			In: RawBytes{client.BundleMediaType}, Out: client.BundleImported{}, Status: 200, handle: a.importBundle},
	}
}

// unhurried takes back the limit on one request's time, and gives each of its
// reads and writes one of its own: a stream may be long, and may not be silent.
func unhurried(w http.ResponseWriter, r *http.Request) (io.Reader, io.Writer) {
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Time{}) // a door without deadlines has none to take back
	_ = c.SetWriteDeadline(time.Time{})
	return &patient{c: c, r: r.Body}, &patient{c: c, w: w}
}

// streamIdle is how long a stream may stand still.
const streamIdle = 2 * time.Minute

type patient struct {
	c *http.ResponseController
	r io.Reader
	w io.Writer
}

func (p *patient) Read(b []byte) (int, error) {
	_ = p.c.SetReadDeadline(time.Now().Add(streamIdle))
	return p.r.Read(b)
}

func (p *patient) Write(b []byte) (int, error) {
	_ = p.c.SetWriteDeadline(time.Now().Add(streamIdle))
	return p.w.Write(b)
}

func (a *API) bundles(r *http.Request) error {
	if err := a.allow(r, identity.ActOperate, identity.ResourceConfig, ""); err != nil {
		return err
	}
	if a.o.Bundles == nil {
		return fault.Newf(fault.NotFound, "this process carries no bundles")
	}
	return nil
}

func (a *API) makeBundle(w http.ResponseWriter, r *http.Request) {
	out, err := func() (*client.Bundle, error) {
		if err := a.bundles(r); err != nil {
			return nil, err
		}
		if err := wantMedia(r, "application/json"); err != nil {
			return nil, err
		}
		b, err := body(w, r, maxBundleRequest)
		if err != nil {
			return nil, err
		}
		var q client.BundleExport
		if err := strictjson.Unmarshal(b, &q, strictjson.RejectUnknown()); err != nil {
			return nil, fault.Newf(fault.Invalid, "request: %w", err)
		}
		unhurried(w, r)
		return a.o.Bundles.Make(r.Context(), q)
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusCreated, out)
}

func (a *API) listBundles(w http.ResponseWriter, r *http.Request) {
	err := a.bundles(r)
	var l *client.BundleList
	if err == nil {
		l, err = a.o.Bundles.List(r.Context())
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, l)
}

func (a *API) bundleContent(w http.ResponseWriter, r *http.Request) {
	var size int64
	var write func(context.Context, io.Writer) error
	err := a.bundles(r)
	if err == nil {
		n, perr := strconv.ParseInt(r.PathValue("sequence"), 10, 64)
		if perr != nil {
			err = fault.Newf(fault.Invalid, "sequence %.40q: want a number", r.PathValue("sequence"))
		} else {
			size, write, err = a.o.Bundles.Open(r.Context(), r.PathValue("target"), n)
		}
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	_, out := unhurried(w, r)
	w.Header().Set("Content-Type", client.BundleMediaType)
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	if err := write(r.Context(), out); err != nil {
		a.o.Logger.ErrorContext(r.Context(), "a bundle was not written to its end", "target", r.PathValue("target"), "sequence", r.PathValue("sequence"), "error", err)
		panic(http.ErrAbortHandler) // the answer has begun: it breaks off, and the client sees that
	}
}

func (a *API) uploadFeed(w http.ResponseWriter, r *http.Request) {
	err := a.bundles(r)
	if err == nil {
		err = wantMedia(r, "application/x-tar")
	}
	var out *client.BundleFeed
	if err == nil {
		in, _ := unhurried(w, r)
		out, err = a.o.Bundles.Feed(r.Context(), r.URL.Query().Get("name"), in)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusCreated, out)
}

func (a *API) importBundle(w http.ResponseWriter, r *http.Request) {
	q, err := readImport(r)
	if aerr := a.bundles(r); aerr != nil {
		err = aerr
	}
	if err == nil {
		err = wantMedia(r, client.BundleMediaType)
	}
	if err == nil && q.ApplyPolicies {
		err = a.allow(r, identity.ActApply, identity.ResourceConfig, "")
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	in, _ := unhurried(w, r)
	// The answer may come before the end of the body: a refusal does not wait
	// for terabytes.
	_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/2 always is
	out, err := a.o.Bundles.Import(r.Context(), in, q, func(docs []config.Document, dryRun bool) (*client.ApplyAnswer, error) {
		return a.applyDocuments(r, docs, dryRun, false)
	})
	if err != nil {
		w.Header().Set("Connection", "close")
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, out)
}

func readImport(r *http.Request) (q client.BundleImport, err error) {
	v := r.URL.Query()
	if text := v.Get("root"); text != "" {
		q.Root, err = artifact.ParseDigest(text)
	}
	q.Name = v.Get("name")
	if text := v.Get("namespaces"); text != "" && err == nil {
		if jerr := json.Unmarshal([]byte(text), &q.Namespaces); jerr != nil {
			err = fault.Newf(fault.Invalid, "namespaces: want a JSON array of patterns: %w", jerr)
		}
	}
	var ferr error
	q.ApplyPolicies, ferr = flag(r, "apply_policies")
	return q, errors.Join(err, ferr)
}
