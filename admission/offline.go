package admission

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strings"

	"assay/artifact"
	"assay/policy"
)

// offline answers out of a bundle. Its entries are packed: a webhook holds 100,000
// of them beside as many that replace them.
type offline struct {
	*Bundle
	packed  []packed          // by digest
	texts   []string          // scopes, policies, modes and reasons, each once
	odd     map[oddKey]*Entry // whose names are not as this site makes them
	blocked map[artifact.Digest]string
}

type oddKey struct {
	digest artifact.Digest
	scope  string
}

const (
	isAllow = 1 << iota
	isSoft
	isRunning
)

// packed is an Entry.
type packed struct {
	digest, decision            [32]byte
	scope, mode, policy, reason uint32 // in texts
	until                       int64
	is                          uint8
}

// openOffline opens a bundle for answers.
func openOffline(raw, authority []byte, cluster string, seen int64) (*offline, error) {
	p := newPacker()
	b, err := openBundle(raw, authority, cluster, seen, p.add)
	if err != nil {
		return nil, err
	}
	return p.done(b), nil
}

func newOffline(b *Bundle) *offline {
	p := newPacker()
	for i := range b.Entries {
		p.add(&b.Entries[i])
	}
	return p.done(b)
}

type packer struct {
	o    offline
	seen map[string]uint32
}

func newPacker() *packer {
	return &packer{o: offline{odd: map[oddKey]*Entry{}, blocked: map[artifact.Digest]string{}}, seen: map[string]uint32{}}
}

func (p *packer) text(s string) uint32 {
	n, ok := p.seen[s]
	if !ok {
		n = uint32(len(p.o.texts)) // a bundle has at most 2*MaxBundle bytes
		p.o.texts, p.seen[s] = append(p.o.texts, s), n
	}
	return n
}

// unhex reads prefix and 32 bytes in lower-case hexadecimal.
func unhex(s, prefix string) (out [32]byte, ok bool) {
	rest, ok := strings.CutPrefix(s, prefix)
	if !ok || len(rest) != 64 || strings.ToLower(rest) != rest {
		return out, false
	}
	_, err := hex.Decode(out[:], []byte(rest))
	return out, err == nil
}

const (
	digestPrefix   = "sha256:"
	decisionPrefix = "dec_"
)

func (p *packer) add(e *Entry) {
	d, ok := unhex(string(e.Digest), digestPrefix)
	id, ok2 := unhex(e.Decision, decisionPrefix)
	if !ok || !ok2 {
		one := *e
		p.o.odd[oddKey{e.Digest, e.Scope}] = &one
		return
	}
	x := packed{digest: d, decision: id, scope: p.text(e.Scope), mode: p.text(string(e.Mode)), policy: p.text(e.Policy), reason: p.text(e.Reason), until: e.Until}
	for bit, set := range map[uint8]bool{isAllow: e.Allow, isSoft: e.Soft, isRunning: e.Runs} {
		if set {
			x.is |= bit
		}
	}
	p.o.packed = append(p.o.packed, x)
}

func (p *packer) done(b *Bundle) *offline {
	o := p.o
	o.Bundle = b
	slices.SortStableFunc(o.packed, func(x, y packed) int { return bytes.Compare(x.digest[:], y.digest[:]) })
	for _, x := range b.Blocked {
		o.blocked[x.Digest] = x.Reason
	}
	return &o
}

// entry is what was decided about a digest in a scope, nil when nothing was.
func (o *offline) entry(d artifact.Digest, scope string) *Entry {
	if e := o.odd[oddKey{d, scope}]; e != nil {
		return e
	}
	key, ok := unhex(string(d), digestPrefix)
	if !ok {
		return nil
	}
	at, _ := slices.BinarySearchFunc(o.packed, key, func(x packed, key [32]byte) int { return bytes.Compare(x.digest[:], key[:]) })
	for ; at < len(o.packed) && o.packed[at].digest == key; at++ {
		x := &o.packed[at]
		if o.texts[x.scope] != scope {
			continue
		}
		return &Entry{
			Digest: d, Scope: scope, Decision: decisionPrefix + hex.EncodeToString(x.decision[:]), Mode: policy.Mode(o.texts[x.mode]), Policy: o.texts[x.policy], Reason: o.texts[x.reason],
			Until: x.until, Allow: x.is&isAllow != 0, Soft: x.is&isSoft != 0, Runs: x.is&isRunning != 0,
		}
	}
	return nil
}

// scoped says whether anything was decided about a repository's images.
func (o *offline) scoped(repository string) bool {
	of := func(scope string) bool { return strings.HasSuffix(scope, "@"+repository) }
	for k := range o.odd {
		if of(k.scope) {
			return true
		}
	}
	return slices.ContainsFunc(o.texts, of)
}
