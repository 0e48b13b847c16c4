package server

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"assay/api"
	"assay/authority"
	"assay/client"
	"assay/config"
	"assay/identity"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// listenAdmin opens the admin socket in the data folder. Whoever may open it
// is the user that the server runs as, or root: the folder's mode sees to it,
// and the peer's credentials are checked at each connection.
func listenAdmin(path string) (net.Listener, error) {
	// The lock of the data folder says that no server lives here, so what lies
	// there is of a dead one.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("admin socket %s: %w (a path longer than some 100 bytes is too long for a socket: use a shorter data folder)", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &peerListener{l}, nil
}

// peerListener accepts connections of this user and of root.
type peerListener struct{ net.Listener }

func (l *peerListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid, err := peerUID(c)
		if err == nil && (uid == os.Getuid() || uid == 0) {
			return &peerConn{Conn: c, uid: uid}, nil
		}
		_ = c.Close()
	}
}

type peerConn struct {
	net.Conn
	uid int
}

// adminHandler serves the socket: the whole API and the log's entries with
// every right, since who may open the socket owns the site, and tokens of the
// local issuer, each audited with the peer that asked.
func (s *Server) adminHandler() http.Handler {
	mux := http.NewServeMux()
	if s.has(config.RoleAPI) {
		mux.HandleFunc("/api/v1/", func(w http.ResponseWriter, r *http.Request) {
			s.api.ServeAdmin(w, r, peerName(r))
		})
	} else {
		mux.Handle("/api/v1/", s.elsewhere(config.RoleAPI))
		// The keys of this folder are rotated here.
		keys := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.api.ServeAdmin(w, r, peerName(r)) })
		mux.Handle("/api/v1/keys", keys)
		mux.Handle("/api/v1/keys/", keys)
		mux.HandleFunc("GET /api/v1/status", func(w http.ResponseWriter, r *http.Request) {
			api.WriteJSON(w, http.StatusOK, s.status(r.Context()))
		})
	}
	if s.has(config.RoleLog) {
		mux.Handle("GET /rekor/", http.StripPrefix("/rekor", s.rekor))
		mux.Handle("GET /ct/", http.StripPrefix("/ct", s.ct.Handler(s.readLog)))
	} else {
		mux.Handle("/rekor/", s.elsewhere(config.RoleLog))
	}
	if s.has(config.RoleSigner) {
		mux.HandleFunc("POST /v1/token", s.mint)
		mux.HandleFunc("POST /v1/break-glass", s.breakGlass)
	} else {
		mux.Handle("/v1/", s.elsewhere(config.RoleSigner))
	}
	mux.HandleFunc("POST /v1/backup/sign", s.signBackup)
	mux.HandleFunc("GET /v1/log/vkeys", s.vkeys)
	s.ceremonyHandler(mux)
	owner := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mux.ServeHTTP(w, r.WithContext(identity.WithPrincipal(r.Context(), identity.System(peerName(r)))))
	})
	return s.http.door("admin", owner, s.log, shortRequest)
}

// mint answers POST /v1/token: client.TokenRequest to client.TokenAnswer.
func (s *Server) mint(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
	if err != nil {
		api.WriteError(w, r, s.log, fault.Newf(fault.TooLarge, "token request: %w", err))
		return
	}
	var q client.TokenRequest
	if err := strictjson.Unmarshal(b, &q, strictjson.RejectUnknown()); err != nil {
		api.WriteError(w, r, s.log, fault.Newf(fault.Invalid, "token request: %w", err))
		return
	}
	if q.Subject == "" {
		api.WriteError(w, r, s.log, fault.Newf(fault.Invalid, "token request: no subject; say who the token is for (--subject)"))
		return
	}
	// Before it becomes a duration, which a large number would overflow.
	if q.TTL < 0 || q.TTL > maxTokenSeconds {
		api.WriteError(w, r, s.log, fault.Newf(fault.Invalid, "token request: ttl_seconds %d: want from 1 to %d", q.TTL, maxTokenSeconds))
		return
	}
	ttl := time.Duration(q.TTL) * time.Second
	if ttl == 0 {
		ttl = 5 * time.Minute
	}
	token, err := s.issuer.Mint(r.Context(), authority.MintRequest{
		Subject: q.Subject, Audience: identity.Audience(q.Audience), TTL: ttl, By: peerName(r),
	})
	if err != nil {
		api.WriteError(w, r, s.log, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	api.WriteJSON(w, http.StatusOK, client.TokenAnswer{Token: token, Expires: s.clock().Add(ttl).UTC()})
}

// maxTokenSeconds is how long a token of the local issuer may live.
const maxTokenSeconds = 600

func peerName(r *http.Request) string {
	if c, ok := r.Context().Value(peerKey{}).(*peerConn); ok {
		return fmt.Sprintf("uid:%d", c.uid)
	}
	return "uid:unknown"
}

type peerKey struct{}

// breakGlass answers POST /v1/break-glass: client.BreakGlassRequest to
// client.BreakGlassAnswer. It is on the admin socket and nowhere else: whoever
// opens that owns the data folder, and only wants a token for what asks for one.
func (s *Server) breakGlass(w http.ResponseWriter, r *http.Request) {
	token, err := s.openGlass(w, r)
	if err != nil {
		api.WriteError(w, r, s.log, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	api.WriteJSON(w, http.StatusOK, token)
}

func (s *Server) openGlass(w http.ResponseWriter, r *http.Request) (*client.BreakGlassAnswer, error) {
	if s.cfg.Identity.NoBreakGlass {
		return nil, fault.Newf(fault.Denied, "break-glass is turned off at this site (identity.no_break_glass)")
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
	if err != nil {
		return nil, fault.Newf(fault.TooLarge, "break-glass request: %w", err)
	}
	var q client.BreakGlassRequest
	if err := strictjson.Unmarshal(b, &q, strictjson.RejectUnknown()); err != nil {
		return nil, fault.Newf(fault.Invalid, "break-glass request: %w", err)
	}
	aud := identity.Audience(q.Audience)
	if aud != identity.AudienceAPI && aud != identity.AudienceRegistry {
		return nil, fault.Newf(fault.Invalid, "break-glass: audience %.40q, want %s or %s", q.Audience, identity.AudienceAPI, identity.AudienceRegistry)
	}
	if q.TTL < 1 || q.TTL > maxTokenSeconds {
		return nil, fault.Newf(fault.Invalid, "break-glass: ttl_seconds %d: want from 1 to %d", q.TTL, maxTokenSeconds)
	}
	ttl := time.Duration(q.TTL) * time.Second
	subject, err := s.credentials.BreakGlass(r.Context(), q.Reason, ttl, peerName(r))
	if err != nil {
		return nil, err
	}
	s.log.Warn("break-glass: a local administrator's token was handed out", "subject", subject, "peer", peerName(r), "reason", q.Reason)
	token, err := s.issuer.Mint(r.Context(), authority.MintRequest{Subject: subject, Audience: aud, TTL: ttl, By: peerName(r)})
	if err != nil {
		return nil, err
	}
	return &client.BreakGlassAnswer{Token: token, Subject: subject, Expires: s.clock().Add(ttl).UTC()}, nil
}
