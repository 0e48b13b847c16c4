package backup

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"

	"assay/internal/fault"
)

const identityName = "identity.age"

// Keys say to whom a backup is encrypted, or who opens it.
type Keys struct {
	Recipients []string // age1…, for writing
	Identities []byte   // text of an age identity file (AGE-SECRET-KEY-1…), for reading
	Passphrase []byte   // for both, instead of the others
}

// recipients gives whom to encrypt to. With a passphrase that is the
// repository's identity, which the passphrase seals and which is made at the
// first backup.
func (k Keys) recipients(ctx context.Context, r Repo) ([]age.Recipient, []string, error) {
	if len(k.Passphrase) > 0 {
		if len(k.Recipients) > 0 {
			return nil, nil, fault.Newf(fault.Invalid, "give recipients or a passphrase, not both")
		}
		id, err := k.sealed(ctx, r)
		if errors.Is(err, fault.NotFound) {
			id, err = k.seal(ctx, r)
		}
		if err != nil {
			return nil, nil, err
		}
		return []age.Recipient{id.Recipient()}, []string{id.Recipient().String()}, nil
	}
	if len(k.Recipients) == 0 {
		return nil, nil, fault.Newf(fault.Invalid, "a backup holds the site's keys and is always encrypted: give a recipient (age1…, made by age-keygen) or a passphrase")
	}
	var all []age.Recipient
	for _, s := range k.Recipients {
		rcpt, err := age.ParseX25519Recipient(strings.TrimSpace(s))
		if err != nil {
			return nil, nil, fault.Newf(fault.Invalid, "recipient %.20q…: want age1… as age-keygen prints it: %w", s, err)
		}
		all = append(all, rcpt)
	}
	return all, k.Recipients, nil
}

func (k Keys) identities(ctx context.Context, r Repo) ([]age.Identity, error) {
	if len(k.Passphrase) > 0 {
		id, err := k.sealed(ctx, r)
		if err != nil {
			return nil, err
		}
		return []age.Identity{id}, nil
	}
	if len(k.Identities) == 0 {
		return nil, fault.Newf(fault.Invalid, "to open a backup give the identity file (age-keygen's, --identity) or the passphrase")
	}
	ids, err := age.ParseIdentities(bytes.NewReader(k.Identities))
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "the identity file does not read: want AGE-SECRET-KEY-1… as age-keygen writes it")
	}
	return ids, nil
}

func (k Keys) sealed(ctx context.Context, r Repo) (*age.X25519Identity, error) {
	b, err := r.Get(ctx, identityName, 64<<10)
	if err != nil {
		return nil, err
	}
	s, err := age.NewScryptIdentity(string(k.Passphrase))
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "passphrase: %w", err)
	}
	s.SetMaxWorkFactor(20) // some seconds; a repository cannot ask for an hour
	plain, err := age.Decrypt(bytes.NewReader(b), s)
	if err != nil {
		return nil, fault.Newf(fault.Denied, "the passphrase does not open %s, or the file is damaged", identityName)
	}
	text, err := io.ReadAll(io.LimitReader(plain, 4096))
	if err != nil {
		return nil, fault.Newf(fault.Tampered, "%s is damaged: %w", identityName, err)
	}
	id, err := age.ParseX25519Identity(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fault.Newf(fault.Tampered, "%s holds no identity", identityName)
	}
	return id, nil
}

func (k Keys) seal(ctx context.Context, r Repo) (*age.X25519Identity, error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, err
	}
	s, err := age.NewScryptRecipient(string(k.Passphrase))
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "passphrase: %w", err)
	}
	var b bytes.Buffer
	w, err := age.Encrypt(&b, s)
	if err == nil {
		_, err = io.WriteString(w, id.String()+"\n")
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("seal the repository's identity: %w", err)
	}
	return id, r.Put(ctx, identityName, b.Bytes())
}

// A piece begins with how the rest stands.
const (
	plainPiece = 'r'
	gzipPiece  = 'z'
)

// lock encrypts a piece.
func lock(to []age.Recipient, data []byte, compress bool) ([]byte, error) {
	var b bytes.Buffer
	b.Grow(len(data) + 1024)
	w, err := age.Encrypt(&b, to...)
	if err != nil {
		return nil, err
	}
	kind := byte(plainPiece)
	if compress {
		kind = gzipPiece
	}
	if _, err := w.Write([]byte{kind}); err != nil {
		return nil, err
	}
	if compress {
		z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // the level is known
		if _, err := z.Write(data); err != nil {
			return nil, err
		}
		err = z.Close()
	} else {
		_, err = w.Write(data)
	}
	err = errors.Join(err, w.Close()) // which writes the rest
	return b.Bytes(), err
}

// unlock opens a piece of exactly size bytes. More is never unpacked.
func unlock(ids []age.Identity, b []byte, size int64) ([]byte, error) {
	if size < 0 || size > maxPiece {
		return nil, fault.Newf(fault.Tampered, "a piece of %d bytes: want at most %d", size, maxPiece)
	}
	r, err := age.Decrypt(bytes.NewReader(b), ids...)
	if err != nil {
		if _, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
			return nil, fault.Newf(fault.Denied, "this identity does not open the backup: it was encrypted to another")
		}
		return nil, fault.Newf(fault.Tampered, "a piece does not decrypt: %w", err)
	}
	var kind [1]byte
	if _, err := io.ReadFull(r, kind[:]); err != nil {
		return nil, fault.Newf(fault.Tampered, "a piece does not decrypt: %w", err)
	}
	switch kind[0] {
	case plainPiece:
	case gzipPiece:
		if r, err = gzip.NewReader(r); err != nil {
			return nil, fault.Newf(fault.Tampered, "a piece does not unpack: %w", err)
		}
	default:
		return nil, fault.Newf(fault.Conflict, "a piece of form %q: use a newer Assay", kind[0])
	}
	data := make([]byte, 0, size+1)
	buf := bytes.NewBuffer(data)
	if _, err := io.Copy(buf, io.LimitReader(r, size+1)); err != nil {
		return nil, fault.Newf(fault.Tampered, "a piece does not decrypt: %w", err)
	}
	if int64(buf.Len()) != size {
		return nil, fault.Newf(fault.Tampered, "a piece has not the %d bytes that the index says", size)
	}
	return buf.Bytes(), nil
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
