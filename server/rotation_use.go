package server

import (
	"context"
	"crypto"
	"errors"
	"fmt"

	"assay/authority/rotation"
	"assay/internal/fault"
)

// publishTUFKeys brings the TUF repository to the rows. A root that cannot be
// signed here is waited for.
func (s *Server) publishTUFKeys(ctx context.Context, rows []rotation.Key) error {
	if s.cfg.Trust.OfflineRoot != "" || rotation.ActiveOf(rows, rotation.TUFOnline) == nil || rotation.ActiveOf(rows, rotation.TUFRoot) == nil {
		return nil
	}
	roles, before, err := s.tufRows(ctx, rows)
	if err != nil {
		return err
	}
	err = s.tuf.SetRoles(ctx, roles, before...)
	s.own.mu.Lock()
	defer s.own.mu.Unlock()
	s.own.waiting = nil
	if errors.Is(err, fault.Conflict) {
		why := "a signature of the TUF root that is not made here: " + err.Error()
		s.own.waiting = map[rotation.Role]string{rotation.TUFOnline: why, rotation.TUFRoot: why}
		return nil
	}
	return err
}

// useKeys makes every part of this process use the keys of the rows. A part that
// uses them already is left alone.
func (s *Server) useKeys(ctx context.Context, rows []rotation.Key) error {
	var errs []error
	for _, role := range rotation.Roles() {
		in := rotation.Of(rows, role)
		if len(in) == 0 {
			continue
		}
		if !s.holds(role) {
			if role == rotation.OIDC {
				errs = append(errs, s.takeTokenKeys(in))
			}
			if role == rotation.CA && s.ct != nil {
				if chain, err := rotation.ActiveOf(in, role).Certificates(); err == nil {
					s.ct.AddIssuers(chain)
				}
			}
			continue
		}
		words := ""
		for _, k := range in {
			words += k.Name + " " + string(k.State) + "\n"
		}
		s.own.mu.Lock()
		same := s.own.using[role] == words
		s.own.mu.Unlock()
		if same {
			continue
		}
		done, err := s.useRole(ctx, role, in)
		if err != nil {
			errs = append(errs, fmt.Errorf("take %s key into use: %w", role, err))
		}
		if done && err == nil {
			s.own.mu.Lock()
			s.own.using[role] = words
			s.own.mu.Unlock()
			s.log.Info("keys in use", "role", role, "key", rotation.ActiveOf(rows, role).Name)
		}
	}
	return errors.Join(errs...)
}

// useRole takes the keys of one role into use. done is false where this process
// has no such part, or not yet.
func (s *Server) useRole(ctx context.Context, role rotation.Role, in []rotation.Key) (done bool, err error) {
	active := rotation.ActiveOf(in, role)
	signer, err := s.signerOf(ctx, *active)
	if err != nil {
		return false, err
	}
	switch role {
	case rotation.CA, rotation.TSA:
		chain, err := active.Certificates()
		if err != nil {
			return false, err
		}
		if role == rotation.TSA {
			return s.tsa != nil, s.tsa.SetChain(chain, signer)
		}
		if s.ca == nil {
			return false, nil
		}
		if s.ct != nil {
			s.ct.AddIssuers(chain)
		}
		return true, s.ca.SetChain(chain, signer)
	case rotation.Log, rotation.CT:
		keys, err := s.logKeys(ctx, in, role)
		if err != nil || s.tlog == nil || s.ct == nil {
			return false, err
		}
		if role == rotation.Log {
			return true, s.tlog.SetKeys(ctx, keys)
		}
		return true, s.ct.SetKeys(ctx, keys)
	case rotation.OIDC:
		others, err := publics(in, func(k rotation.Key) bool { return k.State == rotation.Pending || k.State == rotation.Retiring })
		if err != nil || s.issuer == nil {
			return false, err
		}
		return true, s.issuer.SetKeys(signer, others...)
	case rotation.Audit:
		s.own.audit.Store(&auditKey{signer})
		return true, nil
	case rotation.Decision:
		others, err := publics(in, func(k rotation.Key) bool { return k.State != rotation.Active })
		if err != nil || s.engine == nil {
			return false, err
		}
		return true, s.engine.SetKey(signer, others...)
	case rotation.Registry:
		return s.useTokenKeys(ctx, signer, in)
	}
	return true, nil // the TUF keys are the repository's: see publishTUFKeys
}

func (s *Server) useTokenKeys(ctx context.Context, signer crypto.Signer, in []rotation.Key) (bool, error) {
	if s.registry == nil {
		return false, nil
	}
	key, err := derive(signer, useTokenKey)
	if err != nil {
		return false, err
	}
	var others [][]byte
	for _, k := range in {
		if k.State != rotation.Pending && k.State != rotation.Retiring {
			continue
		}
		other, err := s.signerOf(ctx, k)
		if err != nil {
			return false, err
		}
		b, err := derive(other, useTokenKey)
		if err != nil {
			return false, err
		}
		others = append(others, b)
	}
	return true, s.registry.SetTokenKeys(key, others...)
}

// useTokenKey is what the registry's symmetric key is derived for.
const useTokenKey = "assay registry token key v1"

func publics(in []rotation.Key, take func(rotation.Key) bool) (out []crypto.PublicKey, err error) {
	for _, k := range in {
		if !take(k) {
			continue
		}
		pub, err := k.PublicKey()
		if err != nil {
			return nil, err
		}
		out = append(out, pub)
	}
	return out, nil
}
