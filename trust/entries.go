package trust

import (
	"encoding/hex"
	"time"

	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"assay/tlog"
)

// verifyEntry checks one log entry: it is about this content, the log promised
// or included it, and the log's key was in its window then. times are the
// timestamps that verified, by which an entry without a promise is dated.
//
// CodeTLogUnknown and CodeTLogOutside mean that the entry does not count; any
// other error of an entry of a known log is a forgery or a mix-up.
func (r *Root) verifyEntry(e *rekorpb.TransparencyLogEntry, c *content, times []TimeProof) (*entryProof, error) {
	id := string(e.GetLogId().GetKeyId())
	var last error
	for _, l := range r.logs {
		if l.id != id {
			continue
		}
		p, err := r.verifyEntryOf(l, e, c, times)
		if err == nil {
			return p, nil
		}
		last = nearest(last, err)
	}
	if last == nil {
		last = refuse(CodeTLogUnknown, "log entry is of log %x, which is not in the trusted root; give the root of the instance that signed", id)
	}
	return nil, last
}

func (r *Root) verifyEntryOf(l *logKey, e *rekorpb.TransparencyLogEntry, c *content, times []TimeProof) (*entryProof, error) {
	kind, version, body := e.GetKindVersion().GetKind(), e.GetKindVersion().GetVersion(), e.GetCanonicalizedBody()
	v2 := isV2(kind, version)
	if v2 {
		if err := c.bindV2(kind, body); err != nil {
			return nil, err
		}
	} else if err := c.bindV1(kind, version, body); err != nil {
		return nil, err
	}
	p := &entryProof{log: l, proof: LogProof{LogID: hex.EncodeToString([]byte(l.id)), URL: l.url, Kind: kind + "/" + version, Index: e.GetLogIndex()}}
	if set := e.GetInclusionPromise().GetSignedEntryTimestamp(); len(set) > 0 {
		if !r.verifySET(l, body, e.GetIntegratedTime(), e.GetLogIndex(), []byte(l.id), set) {
			return nil, refuse(CodeTLogPromise, "log entry: signed entry timestamp of log %s does not verify: body, time, index or signature was changed", l.url)
		}
		p.at = time.Unix(e.GetIntegratedTime(), 0).UTC()
	}
	if ip := e.GetInclusionProof(); ip != nil && ip.GetCheckpoint().GetEnvelope() != "" {
		size, err := r.verifyInclusion(l, e, v2)
		if err != nil {
			return nil, err
		}
		for _, c := range tlog.Cosignatures([]byte(ip.GetCheckpoint().GetEnvelope()), r.witnesses) {
			p.proof.Witnesses = append(p.proof.Witnesses, c.Witness)
		}
		p.proof.TreeSize = size
		if p.at.IsZero() {
			p.proof.Index = ip.GetLogIndex()
		}
	}
	if err := inWindow(l, p.at, times); err != nil {
		return nil, err
	}
	return p, nil
}

// verifyInclusion checks the checkpoint and that the body is the leaf at the
// proof's index of the tree that it signs (RFC 6962, section 2.1.1).
func (r *Root) verifyInclusion(l *logKey, e *rekorpb.TransparencyLogEntry, v2 bool) (uint64, error) {
	ip := e.GetInclusionProof()
	cp, err := r.verifyCheckpoint(ip.GetCheckpoint().GetEnvelope(), l, v2)
	if err != nil {
		return 0, err
	}
	if !cp.agrees(ip.GetTreeSize(), ip.GetRootHash()) {
		return 0, refuse(CodeTLogCheckpoint, "log entry: inclusion proof is for tree size %d, the checkpoint signs another size (%d) or root hash", ip.GetTreeSize(), cp.size)
	}
	index := ip.GetLogIndex()
	if v2 && index != e.GetLogIndex() {
		return 0, refuse(CodeTLogInclusion, "log entry: index %d, but its inclusion proof is for index %d", e.GetLogIndex(), index)
	}
	if index < 0 || len(ip.GetHashes()) > 64 {
		return 0, refuse(CodeTLogInclusion, "log entry: inclusion proof has index %d and %d hashes", index, len(ip.GetHashes()))
	}
	leaf := rfc6962.DefaultHasher.HashLeaf(e.GetCanonicalizedBody())
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(index), cp.size, leaf, ip.GetHashes(), cp.root); err != nil {
		return 0, refuse(CodeTLogInclusion, "log entry: inclusion proof does not lead to the signed root hash: %w", err)
	}
	return cp.size, nil
}

// inWindow compares the log key's own window with trusted time: the log's
// promise, else every timestamp. A certificate's entry with neither is refused
// later, for want of any trusted time.
func inWindow(l *logKey, at time.Time, times []TimeProof) error {
	if !at.IsZero() {
		times = []TimeProof{{Time: at}}
	}
	for _, t := range times {
		if !l.window.Contains(t.Time) {
			return refuse(CodeTLogOutside, "logged at %s, but the trusted root trusts the key of log %s only %s", stamp(t.Time), l.url, l.window)
		}
	}
	return nil
}
