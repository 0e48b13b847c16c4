package evidence

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/big"
	"slices"

	"assay/internal/fault"
	"assay/store"
	"assay/trust"
)

// signedKey names what was signed and what stands for it, whatever bytes carry
// it: anyone can write a bundle anew (white space, order, what no signature
// covers in a timestamp token), and each writing has another ID. Two bundles
// have the same key when the same signer made the same signature over the same
// payload, and the same parties vouch for it under the same root.
//
// The parties are part of it because a copy from which somebody took the log
// entry or the timestamp proves less, and must not keep the whole bundle out.
// So are the two legacy forms, whose subjects differ. Both bound the copies of
// one signature by what the root trusts, not by what a stranger writes.
func signedKey(sub submission, v *trust.Verified) string {
	h := sha256.New()
	add := func(parts ...string) {
		for _, p := range parts {
			var n [8]byte
			binary.BigEndian.PutUint64(n[:], uint64(len(p)))
			h.Write(n[:])
			h.Write([]byte(p))
		}
	}
	list := func(l []string) {
		slices.Sort(l)
		l = slices.Compact(l)
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(l)))
		h.Write(n[:])
		add(l...)
	}
	flag := map[bool]string{true: "1"}
	add("assay evidence signed v1", string(v.Scheme), v.PayloadType, string(v.PayloadDigest), v.KeyFingerprint, v.Root,
		flag[sub.legacy], flag[sub.payload != nil], string(sub.image))
	if c := v.Certificate; c != nil {
		// Without the authority's signature, of which there may be two writings.
		add("certificate", string(c.RawTBSCertificate))
		_, isECDSA := c.PublicKey.(*ecdsa.PublicKey)
		add(string(canonicalSignature(v.Signature, isECDSA)))
	} else {
		// The key's kind is not told; what reads as a pair of numbers is one.
		add("key", string(canonicalSignature(v.Signature, true)))
	}
	var logs, times []string
	for _, l := range v.Logs {
		logs = append(logs, l.LogID)
	}
	for _, t := range v.Times {
		times = append(times, t.Source+" "+t.Party)
	}
	list(logs)
	list(times)
	return hex.EncodeToString(h.Sum(nil))
}

// canonicalSignature takes from an ECDSA signature (r, s) what its twin
// (r, n-s), which anyone can make of it and which verifies as well, does not
// change: r, which is drawn anew for each signature. Other signatures it leaves
// as they are.
func canonicalSignature(sig []byte, isECDSA bool) []byte {
	var pair struct{ R, S *big.Int }
	if !isECDSA {
		return sig
	}
	if rest, err := asn1.Unmarshal(sig, &pair); err != nil || len(rest) > 0 || pair.R.Sign() <= 0 {
		return sig
	}
	return pair.R.Bytes()
}

// claimSigned files a new bundle under what was signed. When another bundle has
// that place, it gives its ID, and nothing is to be written.
//
// A holder that was last verified under an earlier trust epoch loses the place:
// nobody asked whether it still verifies, and the new bundle does.
func claimSigned(ctx context.Context, tx *store.Tx, p *prepared) (holder string, err error) {
	n, err := tx.Exec(ctx, `INSERT INTO evidence_signed (signed, id) VALUES (?, ?) ON CONFLICT (signed) DO NOTHING`, p.signed, p.record.ID)
	if err != nil || n == 1 {
		return "", err
	}
	holder, err = findSigned(ctx, tx, p)
	if err != nil || holder != "" {
		return holder, err
	}
	_, err = tx.Exec(ctx, `UPDATE evidence_signed SET id = ? WHERE signed = ?`, p.record.ID, p.signed)
	return "", err
}

// findSigned gives the ID of another bundle that stands for what p proves, or "".
func findSigned(ctx context.Context, tx *store.Tx, p *prepared) (holder string, err error) {
	err = tx.QueryRow(ctx, `SELECT b.id FROM evidence_signed s CROSS JOIN evidence_bundle b
		WHERE s.signed = ? AND b.id = s.id AND b.id <> ? AND b.trust_epoch >= ?`, p.signed, p.record.ID, p.record.TrustEpoch).Scan(&holder)
	if errors.Is(err, fault.NotFound) {
		return "", nil
	}
	return holder, err
}

// putCopy notes where a copy of a bundle that is kept came from, and makes p
// stand for that bundle.
func putCopy(ctx context.Context, tx *store.Tx, p *prepared, holder string, from Origin) error {
	records, err := findRecords(ctx, tx, holder)
	if err != nil {
		return err
	}
	if len(records) == 0 {
		return fault.Newf(fault.Internal, "evidence %s has no subject", holder)
	}
	p.kept = records
	return putOrigin(ctx, tx, &records[0], store.Micros(records[0].IngestedAt), from)
}
