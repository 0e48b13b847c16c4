package ui

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"assay/client"
	"assay/identity"
	"assay/internal/fault"
)

// asker puts a page's questions to the API, in this process and as the person who
// looks. The pages are so the HTML face of the same queries, behind the same
// rights, and can show nothing that the API would not tell.
type asker struct {
	ctx     context.Context
	api     func(w http.ResponseWriter, r *http.Request, p identity.Principal)
	who     identity.Principal
	had     map[string][]byte // answers of this visit: parts of a page ask the same
	patient bool              // it waits for what is being counted
	// counting says that something was not ready: the page is to be asked again.
	counting bool
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

// patience is how long a page waits for what is counted over everything: just
// after a start nobody has counted it yet.
const patience = 50 * time.Millisecond

// errCounting says that an answer is still being made, which goes on meanwhile.
var errCounting = errors.New("it is being counted, the server has just begun; look again in some seconds")

// soon is get for answers that are kept once they were made: a page does not wait
// for the first one and says so, while an export does.
func (a *asker) soon(out any, path string, pairs ...string) error {
	if a.patient {
		return a.get(out, path, pairs...)
	}
	all, wait := a.ctx, patience
	if a.counting {
		wait = patience / 10 // this page has waited
	}
	ctx, cancel := context.WithTimeoutCause(all, wait, errCounting)
	defer cancel()
	a.ctx = ctx
	err := a.get(out, path, pairs...)
	a.ctx = all
	if err != nil && ctx.Err() != nil && all.Err() == nil {
		a.counting = true
		return errCounting
	}
	return err
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
