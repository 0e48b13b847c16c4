package server

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"assay/api"
	"assay/artifact"
	"assay/authority/rotation"
	"assay/client"
	"assay/config"
	"assay/event"
	"assay/internal/durable"
	"assay/internal/fault"
	"assay/internal/keyring"
	"assay/store"
	"assay/trust/tuf"
)

// maxOnlineKeys bounds the search for the online key that a root names.
const maxOnlineKeys = 64

// onlineKeyName names the n-th online TUF key of a site, from 1.
func onlineKeyName(n int) string {
	if n == 1 {
		return keyTUFOnline
	}
	return keyTUFOnline + "-" + strconv.Itoa(n)
}

// keyStore is what is asked of the folder of keys here.
type keyStore interface {
	Load(ctx context.Context, name string) (crypto.Signer, error)
	Create(ctx context.Context, name string) (crypto.Signer, error)
}

// onlineKeys gives the online keys that this folder holds, oldest first.
func onlineKeys(ctx context.Context, keys keyStore) ([]crypto.Signer, error) {
	var out []crypto.Signer
	for n := 1; n <= maxOnlineKeys; n++ {
		k, err := keys.Load(ctx, onlineKeyName(n))
		if errors.Is(err, fault.NotFound) {
			break
		}
		if err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	return out, nil
}

// newOnlineKey makes one more.
func newOnlineKey(ctx context.Context, keys keyStore) (crypto.Signer, error) {
	have, err := onlineKeys(ctx, keys)
	if err != nil {
		return nil, err
	}
	if len(have) >= maxOnlineKeys {
		return nil, fault.Newf(fault.Invalid, "there are %d online TUF keys already", len(have))
	}
	return keys.Create(ctx, onlineKeyName(len(have)+1))
}

// tufRoles says which keys sign the TUF repository. With an offline root the
// root's keys are elsewhere, and the online key is the one that the newest root
// names; a root is never made here.
func (s *Server) tufRoles(ctx context.Context, keys *keyring.Folder) (roles tuf.Roles, before []crypto.Signer, err error) {
	dir := s.data.join("tuf")
	var online crypto.Signer
	if s.cfg.Trust.OfflineRoot == "" {
		for _, r := range []rotation.Role{rotation.TUFRoot, rotation.TUFOnline} {
			if _, err := s.ownKey(ctx, keys, r); err != nil {
				return roles, nil, err
			}
		}
		rows, err := s.own.keeper.List(ctx)
		if err != nil {
			return roles, nil, err
		}
		return s.tufRows(ctx, rows)
	}
	if err := s.placeRoot(dir); err != nil {
		return roles, nil, err
	}
	newest, err := tuf.Newest(dir)
	if err != nil {
		return roles, nil, err
	}
	if err := s.refuseRootKey(ctx, keys, newest); err != nil {
		return roles, nil, err
	}
	if online, err = s.namedOnline(ctx, keys, newest); err != nil {
		return roles, nil, err
	}
	return tuf.Roles{Targets: online, Snapshot: online, Timestamp: online}, nil, nil
}

// namedOnline is the online key here that a root names.
func (s *Server) namedOnline(ctx context.Context, keys keyStore, root []byte) (crypto.Signer, error) {
	want, err := tuf.TargetsKey(root)
	if err != nil {
		return nil, err
	}
	have, err := onlineKeys(ctx, keys)
	if err != nil {
		return nil, err
	}
	for _, k := range have {
		if id, err := tuf.KeyID(k.Public()); err == nil && id == want {
			return k, nil
		}
	}
	return nil, fault.Newf(fault.Conflict, "the TUF root names online key %.12s…, which is not among the %d here: make the root for this server's own (assay trust online-key --config FILE), or restore keys/ from the backup", want, len(have))
}

// refuseRootKey keeps an offline root offline: a key of the root role on this
// machine would be a part of it.
func (s *Server) refuseRootKey(ctx context.Context, keys keyStore, root []byte) error {
	k, err := keys.Load(ctx, keyTUFRoot)
	if errors.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	id, err := tuf.KeyID(k.Public())
	if err != nil {
		return err
	}
	st, err := tuf.CheckRoot(root, nil)
	if err != nil {
		return err
	}
	for _, have := range st.Keys {
		if have == id {
			return fault.Newf(fault.Conflict, "trust.offline_root is set, and the key of root %d lies here (%s): make the next root without it (assay trust next-root --root-key …), sign it with this key and the new ones, set trust.offline_root to that file, and take the key off this machine", st.Version, s.data.join("keys", keyTUFRoot+".pem"))
		}
	}
	s.log.Warn("a TUF root key of an earlier root lies here and serves nothing any more: delete it", "path", s.data.join("keys", keyTUFRoot+".pem"))
	return nil
}

// placeRoot puts the configured root into the folder at the first start, or as
// the next version of what is there. Another root of the same version is
// refused: one of the two was not made by this site's root keys.
func (s *Server) placeRoot(dir string) error {
	b, err := readSmall(s.cfg.Trust.OfflineRoot)
	if err != nil {
		return fmt.Errorf("trust.offline_root: %w (assay trust init --offline-root makes it, on another machine; this server makes none)", err)
	}
	newest, err := tuf.Newest(dir)
	first := errors.Is(err, fault.NotFound)
	if err != nil && !first {
		return err
	}
	st, err := tuf.CheckRoot(b, nil)
	if err != nil {
		return fmt.Errorf("trust.offline_root: %w", err)
	}
	if first {
		if !st.Complete {
			return fault.Newf(fault.Unverified, "trust.offline_root: root %d has %d of %d signatures; have the others sign it (assay trust sign-root)", st.Version, st.Signed, st.Threshold)
		}
		if st.Version != 1 {
			return fault.Newf(fault.Invalid, "trust.offline_root: a new site begins with root 1, this is root %d: put 1.root.json to %d.root.json into %s, or restore that folder", st.Version, st.Version-1, dir)
		}
		return durable.WriteFile(filepath.Join(dir, "1.root.json"), b, 0o600)
	}
	same, err := os.ReadFile(filepath.Join(dir, strconv.FormatInt(st.Version, 10)+".root.json"))
	switch {
	case err == nil && string(same) == string(b):
		return nil
	case err == nil:
		return fault.Newf(fault.Conflict, "trust.offline_root: root %d differs from the one that this site published: one of the two was not made in its ceremony", st.Version)
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	if st, err = tuf.CheckRoot(b, newest); err != nil {
		return fmt.Errorf("trust.offline_root: %w", err)
	}
	if !st.Complete {
		return fault.Newf(fault.Unverified, "trust.offline_root: root %d has %d of %d signatures of its own keys and %d of %d of root %d's", st.Version, st.Signed, st.Threshold, st.OldSigned, st.OldThreshold, st.Version-1)
	}
	return durable.WriteFile(filepath.Join(dir, strconv.FormatInt(st.Version, 10)+".root.json"), b, 0o600)
}

// rootStages are how long before a root's expiry it is told, each once.
var rootStages = []time.Duration{90 * 24 * time.Hour, 30 * 24 * time.Hour, 14 * 24 * time.Hour, 7 * 24 * time.Hour, 3 * 24 * time.Hour, 24 * time.Hour, 0}

// rootStage is the last stage that has been reached; -1: none.
func rootStage(left time.Duration) int {
	stage := -1
	for i, d := range rootStages {
		if left <= d {
			stage = i
		}
	}
	return stage
}

// watchRoot tells of a root that nobody but people can renew, long before
// clients find it expired.
func (s *Server) watchRoot(ctx context.Context) error {
	version, expires, renewable := s.tuf.RootInfo()
	stage := rootStage(expires.Sub(s.clock()))
	if renewable || stage < 0 {
		return nil
	}
	told, err := s.events.Query(ctx, event.Filter{Kinds: []event.Kind{event.TrustRootExpiring}, Newest: true, Limit: 1})
	if err != nil {
		return err
	}
	if len(told) > 0 {
		var body rootExpiring
		if err := told[0].Decode(&body); err == nil && body.Version == version && rootStage(body.left()) >= stage {
			return nil
		}
	}
	s.log.Warn("the TUF root expires and its keys are not here: make the next one (docs/split.md)", "version", version, "expires", expires)
	return s.db.Update(ctx, func(tx *store.Tx) error {
		return event.Append(ctx, tx, event.Event{Kind: event.TrustRootExpiring, Actor: "system:server", Body: rootExpiring{
			Version: version, Expires: expires.UTC(), Days: int(max(0, expires.Sub(s.clock())) / (24 * time.Hour)),
		}})
	})
}

type rootExpiring struct {
	Version int64     `json:"version"`
	Expires time.Time `json:"expires"`
	Days    int       `json:"days"`
}

func (b rootExpiring) left() time.Duration { return time.Duration(b.Days) * 24 * time.Hour }

// ceremonyHandler serves the ceremony's steps on the admin socket.
func (s *Server) ceremonyHandler(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/trust/root", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(s.tuf.Root())
	})
	mux.HandleFunc("POST /v1/trust/root", s.answer(s.importRoot))
	mux.HandleFunc("GET /v1/trust/online-key", s.answer(func(r *http.Request) (any, error) { return s.onlineKey(r, false) }))
	mux.HandleFunc("POST /v1/trust/online-key", s.answer(func(r *http.Request) (any, error) { return s.onlineKey(r, true) }))
}

func (s *Server) answer(do func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s.tuf == nil {
			api.WriteError(w, r, s.log, fault.Newf(fault.NotFound, "this process publishes no TUF repository: ask the one with role api"))
			return
		}
		v, err := do(r)
		if err != nil {
			api.WriteError(w, r, s.log, err)
			return
		}
		api.WriteJSON(w, http.StatusOK, v)
	}
}

func (s *Server) importRoot(r *http.Request) (any, error) {
	b, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "TUF root: %w", err)
	}
	if s.cfg.Trust.OfflineRoot == "" {
		return nil, fault.Newf(fault.Conflict, "this server holds its root key itself: set trust.offline_root first (docs/split.md)")
	}
	online, err := onlineKeys(r.Context(), s.keys)
	if err != nil {
		return nil, err
	}
	st, err := s.tuf.Import(b, online...)
	if err != nil {
		return nil, err
	}
	if err := s.tuf.Refresh(r.Context()); err != nil {
		return nil, err
	}
	err = s.db.Update(r.Context(), func(tx *store.Tx) error {
		return event.Append(r.Context(), tx, event.Event{Kind: event.TrustRootImported, Actor: "system:" + peerName(r), Body: map[string]any{
			"version": st.Version, "expires": st.Expires.UTC(), "hash": artifact.SHA256Of(b).String(), "signatures": st.Signed,
		}})
	})
	return json.RawMessage(mustJSON(st)), err
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil { // plain types marshal
		panic(err)
	}
	return b
}

// onlineKey gives the newest online key, or makes one for the next root.
func (s *Server) onlineKey(r *http.Request, fresh bool) (any, error) {
	var k crypto.Signer
	have, err := onlineKeys(r.Context(), s.keys)
	switch {
	case err != nil:
		return nil, err
	case fresh:
		if k, err = newOnlineKey(r.Context(), s.keys); err != nil {
			return nil, err
		}
		s.log.Info("an online TUF key was made for the next root", "name", onlineKeyName(len(have)+1))
	case len(have) == 0:
		return nil, fault.Newf(fault.NotFound, "this server holds no online TUF key")
	default:
		k = have[len(have)-1]
	}
	pub, err := keyring.MarshalPublic(k.Public())
	if err != nil {
		return nil, err
	}
	id, err := tuf.KeyID(k.Public())
	return client.OnlineKey{ID: id, PEM: string(pub)}, err
}

// FolderOnlineKey gives the public half of the newest online TUF key in the
// data folder of a site that does not run, making one where there is none or
// fresh is set. It is what the first root of an offline ceremony is made for.
func FolderOnlineKey(ctx context.Context, cfg config.Config, prompt func() ([]byte, error), fresh bool) (_ crypto.PublicKey, err error) {
	for _, dir := range []string{cfg.Data, filepath.Join(cfg.Data, "keys")} {
		if err := durable.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	lock, err := durable.Lock(filepath.Join(cfg.Data, "lock"))
	if err != nil {
		return nil, fmt.Errorf("%w: the server runs; ask it with --data", err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	unlock, err := keyring.UnlockFrom(ctx, cfg.Keys.Unlock, keyring.UnlockOptions{DataDir: cfg.Data, Prompt: prompt})
	if err != nil {
		return nil, err
	}
	keys, err := keyring.OpenFolder(ctx, KeyFolder(cfg, unlock, keyring.Options{}))
	if err != nil {
		return nil, err
	}
	have, err := onlineKeys(ctx, keys)
	if err != nil {
		return nil, err
	}
	if len(have) > 0 && !fresh {
		return have[len(have)-1].Public(), nil
	}
	k, err := newOnlineKey(ctx, keys)
	if err != nil {
		return nil, err
	}
	return k.Public(), nil
}
