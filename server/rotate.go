package server

import (
	"context"
	"strings"

	"assay/authority/rotation"
	"assay/client"
	"assay/identity"
	"assay/internal/fault"
	"assay/internal/keyring"
)

// ownState adds what its row says to a key of the folder.
func (s *Server) ownState(k *client.Key) {
	rows := s.trust().keys
	for _, r := range rows {
		if r.Name != k.Name {
			continue
		}
		k.Role, k.State, k.Reason, k.PublicKey = string(r.Role), string(r.State), r.Reason, r.Public
		if k.Window = (client.KeyWindow{Start: r.Start, End: earlier(r.End, r.Expires())}); r.End.IsZero() && r.Expires().IsZero() {
			k.Window.End = r.End
		}
		schedule := s.cfg.Keys.Rotation.Schedule(r.Role)
		k.TakesOver, k.Expires = schedule.TakesOver(r), earlier(r.Expires(), s.keyExpires(r.Role))
		if r.State == rotation.Retired {
			k.Expires = r.Expires()
		}
		if len(rotation.In(rows, r.Role, rotation.Pending)) == 0 {
			k.Rotates = schedule.Due(r)
		}
		if r.State != rotation.Retired {
			s.own.mu.Lock()
			k.Waits = s.own.waiting[r.Role]
			s.own.mu.Unlock()
		}
	}
}

// rotate answers POST /api/v1/keys/{role}/rotate.
func (s *Server) rotate(ctx context.Context, role string, q client.RotateKeyRequest) (client.Key, error) {
	if q.Reason != "" && q.Reason != rotation.ReasonCompromised {
		return client.Key{}, fault.Newf(fault.Invalid, "reason %.40q: want %s or none", q.Reason, rotation.ReasonCompromised)
	}
	if s.cfg.Trust.OfflineRoot != "" && strings.HasPrefix(role, "tuf-") {
		return client.Key{}, fault.Newf(fault.Conflict, "the keys of the TUF root are not here, and the root names the online key: assay trust online-key --new makes that one's successor, assay trust next-root and sign-root make the root that names it (docs/split.md)")
	}
	if q.Place != "" {
		if rotation.Role(role) == rotation.Registry {
			return client.Key{}, fault.Newf(fault.Invalid, "the registry key cannot lie elsewhere, since other keys are derived from it")
		}
		if err := keyring.CheckURI(q.Place); err != nil {
			return client.Key{}, err
		}
	}
	key, err := s.own.keeper.Rotate(ctx, rotation.Request{
		Role: rotation.Role(role), Now: q.Now, Compromised: q.Reason == rotation.ReasonCompromised, Since: q.Since, Place: q.Place,
		Actor: identity.FromContext(ctx).Actor(),
	})
	if err != nil {
		return client.Key{}, err
	}
	for _, k := range s.listKeys() {
		if k.Name == key.Name {
			return k, nil
		}
	}
	return client.Key{}, fault.Newf(fault.Internal, "key %s was made and is not in the key folder", key.Name)
}
