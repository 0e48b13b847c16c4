package server

import (
	"context"
	"strings"
	"time"

	"assay/authority"
	"assay/client"
	"assay/config"
	"assay/internal/keyring"
	"assay/internal/keyring/pkcs11"
)

// fileKeyIndex remembers the keys. It lies beside the folder of the keys and
// not in it, so that a folder that was lost is not taken for a new one.
const fileKeyIndex = "keys.json"

// keyName is the name in the key folder of a role's key.
func keyName(role string) string {
	if role == "ca" {
		return authority.KeyCAIntermediate
	}
	return role
}

// keyRole is the role of a named key. Rotation gives keys of a role names of
// their own: ROLE.N.
func keyRole(name string) string {
	role, _, _ := strings.Cut(name, ".")
	if role == authority.KeyCAIntermediate {
		return "ca"
	}
	return role
}

// openKeys opens the folder of the keys by what the configuration names.
func (s *Server) openKeys(ctx context.Context) (*keyring.Folder, error) {
	unlock, err := keyring.UnlockFrom(ctx, s.cfg.Keys.Unlock, keyring.UnlockOptions{DataDir: s.data.path, Prompt: s.opts.Prompt})
	if err != nil {
		return nil, err
	}
	s.onClose("tokens", func() error { pkcs11.Close(); return nil })
	s.keys, err = keyring.OpenFolder(ctx, KeyFolder(s.cfg, unlock, keyring.Options{Clock: s.clock, Logger: s.log}))
	return s.keys, err
}

// KeyFolder completes o to the options of a site's key folder.
func KeyFolder(cfg config.Config, unlock *keyring.Unlocker, o keyring.Options) keyring.Options {
	d := dataFolder{path: cfg.Data}
	o.Dir, o.Index, o.Unlock = d.join("keys"), d.join(fileKeyIndex), unlock
	o.Removable = []string{authority.KeyCARoot, authority.KeyTSARoot}
	if cfg.Trust.OfflineRoot != "" {
		o.Removable = append(o.Removable, keyTUFRoot) // of a site that began with its root online
	}
	o.Places = map[string]string{}
	for role, uri := range cfg.Keys.Places {
		o.Places[keyName(role)] = uri
	}
	return o
}

// listKeys answers GET /api/v1/keys.
func (s *Server) listKeys() []client.Key {
	now := s.clock()
	out := []client.Key{}
	for _, e := range s.keys.List() {
		k := client.Key{
			Name: e.Name, Role: keyRole(e.Name), Algorithm: e.Algorithm, Fingerprint: e.Fingerprint,
			Where: keyring.Redact(e.Where), Created: e.Created, Age: int64(now.Sub(e.Created).Seconds()), Window: s.keyWindow(e),
		}
		if e.Where == "file" && s.keys.Sealed() {
			k.Where = "file, sealed"
		}
		s.ownState(&k)
		out = append(out, k)
	}
	return out
}

// keyWindow is the time in which the trusted root lets a key count.
func (s *Server) keyWindow(e keyring.Entry) client.KeyWindow {
	p := s.trust().root.Parts()
	for _, l := range append(p.Logs, p.CTLogs...) {
		if fp, err := keyring.Fingerprint(l.Key); err == nil && fp == e.Fingerprint {
			return client.KeyWindow{Start: l.Window.Start, End: l.Window.End}
		}
	}
	for _, a := range append(p.CAs, p.TSAs...) {
		for _, c := range a.Chain {
			if fp, err := keyring.Fingerprint(c.PublicKey); err == nil && fp == e.Fingerprint {
				return client.KeyWindow{Start: later(a.Window.Start, c.NotBefore), End: earlier(a.Window.End, c.NotAfter)}
			}
		}
	}
	return client.KeyWindow{Start: e.Created, End: e.Retired}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a.UTC()
	}
	return b.UTC()
}

// earlier is the first end; a zero one is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b.UTC()
	}
	return a.UTC()
}
