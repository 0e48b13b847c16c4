// transit serves HashiCorp Vault's own transit engine, its keys in memory, with
// the part of Vault's HTTP API that clients of the engine use:
//
//	VAULT_TOKEN=… transit        prints "transit http://127.0.0.1:PORT"
//
// The whole of Vault does not build as a module (its go.mod replaces its own
// sdk), and would be 2,591 packages; the engine is the part that signs.
package main

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/builtin/logical/transit"
	"github.com/hashicorp/vault/sdk/logical"
)

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	token := os.Getenv("VAULT_TOKEN")
	if token == "" {
		return errors.New("set VAULT_TOKEN to the token that clients must show")
	}
	storage := &logical.InmemStorage{}
	engine, err := transit.Factory(ctx, &logical.BackendConfig{
		StorageView: storage, System: logical.TestSystemView(), Logger: hclog.NewNullLogger(),
	})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("transit http://%s\n", l.Addr())
	srv := &http.Server{Handler: &face{engine, storage, token}, ReadHeaderTimeout: 10 * time.Second}
	return srv.Serve(l)
}

// face is Vault's HTTP API before one engine, mounted at transit/.
type face struct {
	engine  logical.Backend
	storage logical.Storage
	token   string
}

func (f *face) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, ok := strings.CutPrefix(r.URL.Path, "/v1/transit/")
	if !ok {
		answer(w, http.StatusNotFound, map[string]any{"errors": []string{"no handler for route"}})
		return
	}
	if subtle.ConstantTimeCompare([]byte(r.Header.Get("X-Vault-Token")), []byte(f.token)) != 1 {
		answer(w, http.StatusForbidden, map[string]any{"errors": []string{"permission denied"}})
		return
	}
	req := &logical.Request{Path: path, Storage: f.storage, Operation: logical.ReadOperation, Data: map[string]any{}}
	if r.Method == http.MethodPut || r.Method == http.MethodPost {
		req.Operation = logical.UpdateOperation
		if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&req.Data); err != nil && !errors.Is(err, io.EOF) {
			answer(w, http.StatusBadRequest, map[string]any{"errors": []string{err.Error()}})
			return
		}
	}
	resp, err := f.engine.HandleRequest(r.Context(), req)
	switch {
	case err != nil:
		answer(w, http.StatusBadRequest, map[string]any{"errors": []string{err.Error()}})
	case resp == nil && req.Operation == logical.ReadOperation:
		answer(w, http.StatusNotFound, map[string]any{"errors": []string{}})
	case resp == nil:
		w.WriteHeader(http.StatusNoContent)
	case resp.IsError():
		answer(w, http.StatusBadRequest, map[string]any{"errors": []string{resp.Error().Error()}})
	default:
		answer(w, http.StatusOK, map[string]any{"data": resp.Data, "request_id": "x", "lease_id": "", "renewable": false, "lease_duration": 0})
	}
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}
