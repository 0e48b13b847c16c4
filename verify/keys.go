package verify

import (
	"crypto"
	"fmt"

	"assay/attestation"
	"assay/trust"
)

// decisionKeys are the key that signs decisions and the fingerprints of all that
// ever did here.
type decisionKeys struct {
	signer crypto.Signer
	own    map[string]bool
}

// SetKey makes key sign the decisions from the next one on. others are the keys
// that signed before or will: like the key's own, bundles by them are no evidence
// for this instance. A decision that stands and was signed by another key is
// signed anew when it is due, not before.
func (e *Engine) SetKey(key crypto.Signer, others ...crypto.PublicKey) error {
	k := &decisionKeys{signer: key, own: map[string]bool{}}
	for _, pub := range append([]crypto.PublicKey{key.Public()}, others...) {
		fp, err := trust.KeyFingerprint(pub)
		if err != nil {
			return fmt.Errorf("decision key: %w", err)
		}
		k.own[fp] = true
	}
	e.keys.Store(k)
	return nil
}

// signed says whether a stored decision bears the signature of the key that
// signs now: only such a one is extended, so that a key which went for a reason
// does not vouch for ever.
func (e *Engine) signed(d *Decision) bool {
	env, err := attestation.ParseEnvelope(d.VSA, attestation.DefaultLimits())
	if err != nil {
		return false
	}
	m, err := attestation.VerifyDSSE(env, e.keys.Load().signer.Public())
	return err == nil && len(m) > 0
}
