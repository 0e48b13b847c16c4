//go:build pkcs11 && cgo

package pkcs11

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
	"sync"

	"assay/internal/fault"

	"github.com/miekg/pkcs11"
)

// Available says whether this build can open tokens.
const Available = true

// maxSessions is how many operations one key may have under way at once.
const maxSessions = 8

// libraries are those that are loaded. A PKCS #11 library has one state for the
// whole process (PKCS #11 v3.0, section 5.4), so this package has one as well.
var libraries = struct {
	sync.Mutex
	open map[string]*pkcs11.Ctx
}{open: map[string]*pkcs11.Ctx{}}

// load gives the library at path, initialised once.
func load(path string) (*pkcs11.Ctx, error) {
	libraries.Lock()
	defer libraries.Unlock()
	if c := libraries.open[path]; c != nil {
		return c, nil
	}
	c := pkcs11.New(path)
	if c == nil {
		return nil, fault.Newf(fault.Invalid, "PKCS #11: %s does not load: want the token's library, a shared object of this machine's architecture", path)
	}
	if err := c.Initialize(); err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		c.Destroy()
		return nil, fault.Newf(fault.Unavailable, "PKCS #11: initialise %s: %w", path, err)
	}
	libraries.open[path] = c
	return c, nil
}

// Close ends the sessions of all tokens and unloads their libraries. Keys that
// were opened before are of no use after.
func Close() {
	libraries.Lock()
	defer libraries.Unlock()
	for path, c := range libraries.open {
		_ = c.Finalize() // nothing can be done about a library that does not end
		c.Destroy()
		delete(libraries.open, path)
	}
}

// Key is a private key of a token. It implements [crypto.Signer]; any number of
// goroutines may use it.
type Key struct {
	uri    *URI
	lib    *pkcs11.Ctx
	slot   uint
	pin    string
	pub    crypto.PublicKey
	places chan struct{}

	mu   sync.Mutex
	idle []session
}

// session is a login with the handle that the key has in it.
type session struct {
	handle pkcs11.SessionHandle
	key    pkcs11.ObjectHandle
}

// Open gives the private key that uri names. Errors are [fault.Invalid] for
// what will not become better, [fault.Denied] for a wrong PIN, else
// [fault.Unavailable].
func Open(_ context.Context, uri string) (crypto.Signer, error) {
	u, err := Parse(uri)
	if err != nil {
		return nil, err
	}
	k := &Key{uri: u, places: make(chan struct{}, maxSessions)}
	if k.pin, err = u.pin(); err != nil {
		return nil, err
	}
	if k.lib, err = load(u.ModulePath); err != nil {
		return nil, err
	}
	if k.slot, err = k.findSlot(); err != nil {
		return nil, err
	}
	s, err := k.connect()
	if err != nil {
		return nil, err
	}
	k.idle = append(k.idle, s)
	k.pub, err = k.public(s)
	return k, err
}

// findSlot finds the one slot whose token is meant.
func (k *Key) findSlot() (uint, error) {
	slots, err := k.lib.GetSlotList(true)
	if err != nil {
		return 0, k.fail("list slots", err)
	}
	var found []uint
	var labels []string
	for _, s := range slots {
		t, err := k.lib.GetTokenInfo(s)
		if err != nil {
			continue // of another token, which is none of ours
		}
		is := func(want, have string) bool { return want == "" || want == strings.TrimRight(have, " \x00") }
		labels = append(labels, fmt.Sprintf("%q", strings.TrimRight(t.Label, " \x00")))
		if is(k.uri.Token, t.Label) && is(k.uri.Serial, t.SerialNumber) && is(k.uri.Manufacturer, t.ManufacturerID) && is(k.uri.Model, t.Model) &&
			(k.uri.Slot == nil || *k.uri.Slot == s) {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		return 0, fault.Newf(fault.Invalid, "PKCS #11: %d tokens fit the URI, want one; the library has %s", len(found), strings.Join(labels, ", "))
	}
	return found[0], nil
}

// connect opens a session, logs in, and finds the key.
func (k *Key) connect() (session, error) {
	h, err := k.lib.OpenSession(k.slot, pkcs11.CKF_SERIAL_SESSION)
	if err != nil {
		return session{}, k.fail("open session", err)
	}
	s := session{handle: h}
	// All sessions of a process with one token share the login.
	if err := k.lib.Login(h, pkcs11.CKU_USER, k.pin); err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_USER_ALREADY_LOGGED_IN)) {
		return session{}, errors.Join(k.fail("log in", err), k.lib.CloseSession(h))
	}
	if s.key, err = k.object(h, pkcs11.CKO_PRIVATE_KEY); err != nil {
		return session{}, errors.Join(err, k.lib.CloseSession(h))
	}
	return s, nil
}

// object finds the one object of a class that the URI names.
func (k *Key) object(h pkcs11.SessionHandle, class uint) (pkcs11.ObjectHandle, error) {
	want := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, class)}
	if k.uri.Object != "" {
		want = append(want, pkcs11.NewAttribute(pkcs11.CKA_LABEL, k.uri.Object))
	}
	if k.uri.ID != nil {
		want = append(want, pkcs11.NewAttribute(pkcs11.CKA_ID, k.uri.ID))
	}
	if err := k.lib.FindObjectsInit(h, want); err != nil {
		return 0, k.fail("find key", err)
	}
	objects, _, err := k.lib.FindObjects(h, 2)
	if err := errors.Join(err, k.lib.FindObjectsFinal(h)); err != nil {
		return 0, k.fail("find key", err)
	}
	if len(objects) != 1 {
		what := map[uint]string{pkcs11.CKO_PRIVATE_KEY: "private", pkcs11.CKO_PUBLIC_KEY: "public"}[class]
		return 0, fault.Newf(fault.Invalid, "PKCS #11: %d %s keys of the token fit object=%s id=%x, want one (is the PIN there? private keys show after a login)", len(objects), what, k.uri.Object, k.uri.ID)
	}
	return objects[0], nil
}

// public reads the public half: of RSA from the private key, of a curve from
// the public object beside it.
func (k *Key) public(s session) (crypto.PublicKey, error) {
	at, err := k.lib.GetAttributeValue(s.handle, s.key, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, nil)})
	if err != nil || len(at) != 1 {
		return nil, k.fail("read key type", err)
	}
	switch {
	case bytes.Equal(at[0].Value, pkcs11.NewAttribute(0, uint(pkcs11.CKK_RSA)).Value):
		at, err := k.lib.GetAttributeValue(s.handle, s.key, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_MODULUS, nil), pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, nil),
		})
		if err != nil || len(at) != 2 {
			return nil, k.fail("read RSA key", err)
		}
		e := new(big.Int).SetBytes(at[1].Value)
		if !e.IsInt64() || e.Int64() > 1<<31-1 || e.Int64() < 3 {
			return nil, fault.Newf(fault.Invalid, "PKCS #11: RSA key with exponent %.40s", e)
		}
		pub := &rsa.PublicKey{N: new(big.Int).SetBytes(at[0].Value), E: int(e.Int64())}
		if pub.N.BitLen() < 2048 {
			return nil, fault.Newf(fault.Invalid, "PKCS #11: an RSA key of %d bits is too weak: want 2048 or more", pub.N.BitLen())
		}
		return pub, nil
	case bytes.Equal(at[0].Value, pkcs11.NewAttribute(0, uint(pkcs11.CKK_EC)).Value):
		return k.publicEC(s)
	}
	return nil, fault.Newf(fault.Invalid, "PKCS #11: key type %x: want EC or RSA", at[0].Value)
}

// oidP256 is secp256r1 (RFC 5480, section 2.1.1.1).
var oidP256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}

func (k *Key) publicEC(s session) (crypto.PublicKey, error) {
	obj, err := k.object(s.handle, pkcs11.CKO_PUBLIC_KEY)
	if err != nil {
		return nil, err
	}
	at, err := k.lib.GetAttributeValue(s.handle, obj, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, nil), pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, nil),
	})
	if err != nil || len(at) != 2 {
		return nil, k.fail("read EC key", err)
	}
	var curve asn1.ObjectIdentifier
	if rest, err := asn1.Unmarshal(at[0].Value, &curve); err != nil || len(rest) != 0 || !curve.Equal(oidP256) {
		return nil, fault.Newf(fault.Invalid, "PKCS #11: EC key of curve %s: want P-256", curve)
	}
	// CKA_EC_POINT is an OCTET STRING of the point; some libraries leave the
	// wrapping out.
	point := at[1].Value
	var inner []byte
	if rest, err := asn1.Unmarshal(point, &inner); err == nil && len(rest) == 0 {
		point = inner
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "PKCS #11: EC point: %w", err)
	}
	return pub, nil
}

// Public implements [crypto.Signer].
func (k *Key) Public() crypto.PublicKey { return k.pub }

// Sign implements [crypto.Signer]; rand is not used, since the token has its
// own. RSA signatures are PKCS #1 v1.5. Each is verified.
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if _, pss := opts.(*rsa.PSSOptions); pss {
		return nil, fault.Newf(fault.Invalid, "PKCS #11: RSA-PSS is not asked of tokens")
	}
	hash := opts.HashFunc()
	if hash == 0 || len(digest) != hash.Size() {
		return nil, fault.Newf(fault.Invalid, "PKCS #11: want a digest of %v, found %d bytes", hash, len(digest))
	}
	k.places <- struct{}{}
	defer func() { <-k.places }()
	sig, err := k.sign(digest, hash)
	if gone(err) {
		// The token was taken out and put in again, or its session timed out.
		k.mu.Lock()
		k.idle = nil
		k.mu.Unlock()
		sig, err = k.sign(digest, hash)
	}
	if err != nil {
		return nil, k.fail("sign", err)
	}
	return sig, nil
}

func (k *Key) sign(digest []byte, hash crypto.Hash) ([]byte, error) {
	s, err := k.take()
	if err != nil {
		return nil, err
	}
	mechanism, input := uint(pkcs11.CKM_ECDSA), digest
	if _, ok := k.pub.(*rsa.PublicKey); ok {
		mechanism = pkcs11.CKM_RSA_PKCS
		if input, err = digestInfo(hash, digest); err != nil {
			return nil, err
		}
	}
	if err := k.lib.SignInit(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, s.key); err != nil {
		return nil, errors.Join(err, k.lib.CloseSession(s.handle))
	}
	sig, err := k.lib.Sign(s.handle, input)
	if err != nil {
		return nil, errors.Join(err, k.lib.CloseSession(s.handle))
	}
	k.mu.Lock()
	k.idle = append(k.idle, s)
	k.mu.Unlock()
	switch pub := k.pub.(type) {
	case *rsa.PublicKey:
		if err := rsa.VerifyPKCS1v15(pub, hash, digest, sig); err != nil {
			return nil, fault.Newf(fault.Unverified, "PKCS #11: the token's signature does not verify: %w", err)
		}
		return sig, nil
	case *ecdsa.PublicKey:
		// r and s side by side (PKCS #11 v3.0, section 6.3.1).
		if len(sig) != 64 {
			return nil, fault.Newf(fault.Unverified, "PKCS #11: the token's ECDSA signature has %d bytes, want 64", len(sig))
		}
		der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])})
		if err != nil {
			return nil, err
		}
		if !ecdsa.VerifyASN1(pub, digest, der) {
			return nil, fault.Newf(fault.Unverified, "PKCS #11: the token's signature does not verify under its public key")
		}
		return der, nil
	}
	return nil, fault.Newf(fault.Invalid, "PKCS #11: a key of type %T", k.pub)
}

// take gives a session that nobody else uses.
func (k *Key) take() (session, error) {
	k.mu.Lock()
	if n := len(k.idle); n > 0 {
		s := k.idle[n-1]
		k.idle = k.idle[:n-1]
		k.mu.Unlock()
		return s, nil
	}
	k.mu.Unlock()
	return k.connect()
}

// gone says whether the session, and not the operation, was at fault.
func gone(err error) bool {
	for _, code := range []uint{
		pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_USER_NOT_LOGGED_IN, pkcs11.CKR_DEVICE_REMOVED,
		pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID,
	} {
		if errors.Is(err, pkcs11.Error(code)) {
			return true
		}
	}
	return false
}

// fail gives an error of the token its kind.
func (k *Key) fail(doing string, err error) error {
	if err == nil {
		err = errors.New("the answer has another number of attributes")
	}
	kind := fault.Unavailable
	for _, code := range []uint{pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE, pkcs11.CKR_PIN_LOCKED, pkcs11.CKR_PIN_EXPIRED} {
		if errors.Is(err, pkcs11.Error(code)) {
			kind = fault.Denied
		}
	}
	var marked *fault.Kind
	for _, m := range []*fault.Kind{fault.Invalid, fault.Unverified} {
		if errors.Is(err, m) {
			marked = m
		}
	}
	if marked != nil {
		return err
	}
	return fault.Newf(kind, "PKCS #11: %s: %w", doing, err)
}

// digestInfo is what RSA PKCS #1 v1.5 signs (RFC 8017, section 9.2).
func digestInfo(hash crypto.Hash, digest []byte) ([]byte, error) {
	oid, ok := map[crypto.Hash]asn1.ObjectIdentifier{
		crypto.SHA256: {2, 16, 840, 1, 101, 3, 4, 2, 1},
		crypto.SHA384: {2, 16, 840, 1, 101, 3, 4, 2, 2},
		crypto.SHA512: {2, 16, 840, 1, 101, 3, 4, 2, 3},
	}[hash]
	if !ok {
		return nil, fault.Newf(fault.Invalid, "PKCS #11: hash %v: want SHA-256, SHA-384 or SHA-512", hash)
	}
	type algorithm struct {
		OID  asn1.ObjectIdentifier
		Null asn1.RawValue
	}
	return asn1.Marshal(struct {
		Algorithm algorithm
		Digest    []byte
	}{algorithm{oid, asn1.NullRawValue}, digest})
}
