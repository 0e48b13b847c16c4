package registry

import (
	"crypto/hmac"
	"crypto/sha256"
	"sync/atomic"

	"assay/internal/fault"
)

// secrets are the HMAC keys of one use: sums are made with the first and hold
// under any, so that what was handed out before a change is good to its end.
type secrets struct{ keys atomic.Pointer[[][]byte] }

func (s *secrets) set(use string, secret []byte, others [][]byte) {
	keys := [][]byte{deriveKey(secret, use)}
	for _, o := range others {
		keys = append(keys, deriveKey(o, use))
	}
	s.keys.Store(&keys)
}

func hmacSum(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

func (s *secrets) sum(text string) []byte { return hmacSum((*s.keys.Load())[0], text) }

// holds says whether mac, cut to n bytes, is the sum of text under one of the keys.
func (s *secrets) holds(text string, mac []byte, n int) bool {
	ok := false
	for _, k := range *s.keys.Load() {
		ok = hmac.Equal(mac, hmacSum(k, text)[:n]) || ok
	}
	return ok
}

// SetTokenKeys changes the secret of scoped tokens and upload URLs: new ones are
// made with key, and those that were made with one of the others hold on until
// they expire or end. A key of less than 32 bytes is [fault.Invalid], and nothing
// changes.
func (r *Registry) SetTokenKeys(key []byte, others ...[]byte) error {
	for _, k := range append([][]byte{key}, others...) {
		if len(k) < 32 {
			return fault.Newf(fault.Invalid, "registry: a token key of %d bytes, want at least 32", len(k))
		}
	}
	r.tokens.keys.set(useTokens, key, others)
	r.ids.set(useUploads, key, others)
	return nil
}

// What is made of the one secret.
const (
	useTokens  = "assay registry scoped token v1"
	useUploads = "assay registry upload id v1"
)
