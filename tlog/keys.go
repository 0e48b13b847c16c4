package tlog

import (
	"context"
	"crypto"
	"errors"
	"slices"

	"assay/internal/fault"

	"golang.org/x/mod/sumdb/note"
)

// Keys are the keys of a log at one time. A log outlives its keys: the tree goes
// on under the next one, since witnesses, monitors and everyone who holds a
// proof follow one origin, and a new tree would leave the old one without
// anybody who watches it. During a change both keys sign every checkpoint (C2SP
// tlog-checkpoint lets any number sign), so that who knows either key can check
// the newest checkpoint.
type Keys struct {
	// Signer is the key that answers are given under: its id is the log id of
	// entries, and of SCTs.
	Signer crypto.Signer
	// Cosigners sign every checkpoint too: a key that follows and is known to
	// few yet, or one that goes and is all that some know.
	Cosigners []crypto.Signer
	// Past are public keys that signed before. Their checkpoints are the log's
	// own when it opens, nothing more.
	Past []crypto.PublicKey
}

// keyset is Keys, ready to use.
type keyset struct {
	id        Hash
	public    crypto.PublicKey
	signers   []note.Signer
	verifier  note.Verifier   // of Signer
	signing   []note.Verifier // of all that sign; the first is verifier
	verifiers []note.Verifier // and of those that signed before
}

func (l *Log) newKeyset(k Keys) (*keyset, error) {
	if k.Signer == nil {
		return nil, fault.Newf(fault.Invalid, "a log needs a key to sign with")
	}
	s := &keyset{public: k.Signer.Public()}
	var err error
	if s.id, _, err = KeyID(l.opts.Origin, s.public); err != nil {
		return nil, err
	}
	seen := map[uint32]bool{}
	for _, key := range append([]crypto.Signer{k.Signer}, k.Cosigners...) {
		v, err := l.verifierOf(key.Public())
		if err != nil {
			return nil, err
		}
		if seen[v.KeyHash()] {
			continue
		}
		seen[v.KeyHash()] = true
		sign, err := l.signerOf(key)
		if err != nil {
			return nil, err
		}
		s.signers, s.signing = append(s.signers, sign), append(s.signing, v)
	}
	s.verifier, s.verifiers = s.signing[0], append([]note.Verifier(nil), s.signing...)
	for _, pub := range k.Past {
		v, err := l.verifierOf(pub)
		if err != nil {
			return nil, err
		}
		if !seen[v.KeyHash()] {
			seen[v.KeyHash()] = true
			s.verifiers = append(s.verifiers, v)
		}
	}
	return s, nil
}

func (l *Log) signerOf(key crypto.Signer) (note.Signer, error) {
	if l.opts.CT {
		return newCTSigner(l.opts.Origin, key, l.opts.Clock)
	}
	return newSigner(l.opts.Origin, key)
}

func (l *Log) verifierOf(pub crypto.PublicKey) (note.Verifier, error) {
	if l.opts.CT {
		return NewCTVerifier(l.opts.Origin, pub)
	}
	return NewVerifier(l.opts.Origin, pub)
}

// same says whether two sets name the same keys for the same uses.
func (s *keyset) same(other *keyset) bool {
	hashes := func(vs []note.Verifier) (out []uint32) {
		for _, v := range vs {
			out = append(out, v.KeyHash())
		}
		return out
	}
	return s.id == other.id && slices.Equal(hashes(s.signing), hashes(other.signing)) && slices.Equal(hashes(s.verifiers), hashes(other.verifiers))
}

// parse reads a checkpoint that the log signed, now or before.
func (s *keyset) parse(signed []byte) (Checkpoint, error) {
	return ParseCheckpoint(signed, s.verifier, s.verifiers...)
}

// complete says whether every key that signs now has signed the checkpoint.
func (s *keyset) complete(c Checkpoint) bool {
	for _, v := range s.signing {
		if _, err := ParseCheckpoint(c.Note, v); err != nil {
			return false
		}
	}
	return true
}

// SetKeys changes the log's keys while it runs. It returns once the newest
// checkpoint is signed by all that sign now, recorded and published: from then
// on entries are answered under k.Signer's id. An error leaves the keys as they
// were, though the checkpoint may bear further signatures.
func (l *Log) SetKeys(ctx context.Context, k Keys) error {
	next, err := l.newKeyset(k)
	if err != nil {
		return err
	}
	if l.opts.Held != "" {
		return nil // it signs nothing; the next start, with the log let go on, takes the keys
	}
	p := &pending{keys: next, done: make(chan outcome, 1)}
	if err := l.enqueue(p); err != nil {
		return err
	}
	select {
	case out := <-p.done:
		return out.err
	case <-ctx.Done():
		return fault.Wrap(fault.Unavailable, ctx.Err())
	}
}

// rekey signs the head with the next keys and takes them. Only the sequencer
// calls it.
func (l *Log) rekey(ctx context.Context, next *keyset) error {
	if next.same(l.keyset()) {
		// Nothing to sign: it must not wait for a log that cannot publish now.
		l.setKeyset(next)
		return nil
	}
	if err := l.settle(ctx); err != nil {
		return err
	}
	before := l.keyset()
	h := l.current()
	if !next.complete(h.cp) {
		signed, err := next.sign(Checkpoint{Origin: h.cp.Origin, Size: h.cp.Size, Root: h.cp.Root})
		if err != nil {
			return err
		}
		// What settles an unknown end must know both.
		both := *before
		both.verifiers = append(append([]note.Verifier(nil), before.verifiers...), next.signing...)
		l.setKeyset(&both)
		if err := l.swap(ctx, h.cp, signed, nil); err != nil {
			return errors.Join(err, l.settle(ctx))
		}
		h.cp = signed
	}
	h.id = next.id
	l.setKeyset(next)
	return l.advance(h)
}

func (l *Log) keyset() *keyset {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.keys
}

func (l *Log) setKeyset(s *keyset) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keys = s
}

// sign signs a checkpoint with every key that signs.
func (s *keyset) sign(c Checkpoint) (Checkpoint, error) {
	signed, err := note.Sign(&note.Note{Text: c.text()}, s.signers...)
	if err != nil {
		return c, fault.Newf(fault.Unavailable, "sign the checkpoint of %d entries: %w", c.Size, err)
	}
	c.Note = signed
	return c, nil
}
