package ui

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"assay/client"
	"assay/identity"
	"assay/internal/fault"
)

// asker puts a page's questions to the API, in this process and as the person who
// looks. The pages are so the HTML face of the same queries, behind the same
// rights, and can show nothing that the API would not tell.
type asker struct {
	ctx context.Context
	api func(w http.ResponseWriter, r *http.Request, p identity.Principal)
	who identity.Principal
	had map[string][]byte // answers of this visit: parts of a page ask the same
}

// problem is what the API answered instead.
type problem struct {
	status int
	detail string
}

func (p *problem) Error() string { return p.detail }

// Is lets errors.Is find the kind of fault.
func (p *problem) Is(target error) bool {
	switch p.status {
	case http.StatusUnauthorized:
		return target == error(fault.Unauthenticated)
	case http.StatusForbidden:
		return target == error(fault.Denied)
	case http.StatusNotFound:
		return target == error(fault.NotFound)
	case http.StatusBadRequest:
		return target == error(fault.Invalid)
	}
	return false
}

func (a *asker) do(method, path string, q url.Values, media string, body []byte) ([]byte, error) {
	u := "/api/v1/" + path
	if len(q) > 0 {
		u += "?" + q.Encode()
	}
	r, err := http.NewRequestWithContext(a.ctx, method, u, bytes.NewReader(body))
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	if media != "" {
		r.Header.Set("Content-Type", media)
	}
	w := &answer{header: http.Header{}, status: http.StatusOK}
	a.api(w, r, a.who)
	if w.status/100 != 2 {
		var p client.Problem
		if json.Unmarshal(w.body.Bytes(), &p) != nil || p.Detail == "" {
			p.Detail = "the API answers " + strconv.Itoa(w.status)
		}
		return nil, &problem{w.status, p.Detail}
	}
	return w.body.Bytes(), nil
}

// answer keeps what a handler writes.
type answer struct {
	header http.Header
	status int
	begun  bool
	body   bytes.Buffer
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) {
	if !a.begun {
		a.status, a.begun = status, true
	}
}

func (a *answer) Write(b []byte) (int, error) {
	a.begun = true
	return a.body.Write(b)
}

// get asks for JSON. Pairs are names and values of the query; empty values are
// left out.
func (a *asker) get(out any, path string, pairs ...string) error {
	b, err := a.raw(path, pairs...)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, out)
}

func (a *asker) raw(path string, pairs ...string) ([]byte, error) {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	key := path + "?" + q.Encode()
	if b, ok := a.had[key]; ok {
		return b, nil
	}
	b, err := a.do(http.MethodGet, path, q, "", nil)
	if err == nil {
		if a.had == nil {
			a.had = map[string][]byte{}
		}
		a.had[key] = b
	}
	return b, err
}
