package trust

import (
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"fmt"

	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	trustpb "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"assay/internal/strictjson"
)

// Authority is a certificate or timestamp authority to build a root from.
type Authority struct {
	URL      string              // base URL, for people
	Operator string              // who runs it; authorities of one operator count once
	Chain    []*x509.Certificate // leaf side first, trust anchor last; a TSA's begins with its signing certificate
	Window   Window
}

// Log is a transparency log's key to build a root from.
type Log struct {
	URL      string // base URL; its host name is the checkpoint origin of a Rekor v2 log
	Operator string
	Key      crypto.PublicKey
	Window   Window
	// ID overrides the log ID. Left empty, it is what Rekor v2 and CT logs use:
	// the full signed-note key ID for a Rekor log, SHA-256 of the
	// SubjectPublicKeyInfo for a CT log; for ECDSA keys the two are the same.
	ID []byte
}

// Parts are what a trust domain consists of. Retired authorities and keys stay
// in, with the end of their window, so that what they signed stays valid.
type Parts struct {
	Logs        []Log
	CTLogs      []Log
	CAs         []Authority
	TSAs        []Authority
	OperatorsV2 bool // write media type v0.2, which carries operators; clients of 2026 read v0.1 only
}

// NewRoot builds a root from parts. Its document parses under the rules of
// [ParseTrustedRoot], or it is refused.
func NewRoot(p Parts, opts ...RootOption) (*Root, error) {
	pb := &trustpb.TrustedRoot{MediaType: MediaTypeTrustedRoot}
	if p.OperatorsV2 {
		pb.MediaType = mediaTypeTrustedRoot02
	}
	for _, l := range p.Logs {
		t, err := protoLog(l, true, p.OperatorsV2)
		if err != nil {
			return nil, err
		}
		pb.Tlogs = append(pb.Tlogs, t)
	}
	for _, l := range p.CTLogs {
		t, err := protoLog(l, false, p.OperatorsV2)
		if err != nil {
			return nil, err
		}
		pb.Ctlogs = append(pb.Ctlogs, t)
	}
	for _, a := range p.CAs {
		pb.CertificateAuthorities = append(pb.CertificateAuthorities, protoAuthority(a))
	}
	for _, a := range p.TSAs {
		pb.TimestampAuthorities = append(pb.TimestampAuthorities, protoAuthority(a))
	}
	return fromProto(pb, opts)
}

func protoLog(l Log, rekor, v2 bool) (*trustpb.TransparencyLogInstance, error) {
	k, err := newVerifyKey(l.Key)
	if err != nil {
		return nil, fmt.Errorf("log %s: %w", l.URL, err)
	}
	id := l.ID
	switch {
	case len(id) > 0:
	case rekor:
		origin, err := originOf(l.URL)
		if err != nil {
			return nil, fmt.Errorf("log %s: %w", l.URL, err)
		}
		id = noteKeyID(origin, k)
	default:
		id = k.sum[:]
	}
	t := &trustpb.TransparencyLogInstance{
		BaseUrl:       l.URL,
		HashAlgorithm: commonpb.HashAlgorithm_SHA2_256,
		PublicKey:     &commonpb.PublicKey{RawBytes: k.spki, KeyDetails: protoKeyDetails(k), ValidFor: protoWindow(l.Window)},
		LogId:         &commonpb.LogId{KeyId: id},
	}
	if v2 {
		t.Operator = l.Operator
	}
	return t, nil
}

func protoAuthority(a Authority) *trustpb.CertificateAuthority {
	out := &trustpb.CertificateAuthority{Uri: a.URL, CertChain: &commonpb.X509CertificateChain{}, ValidFor: protoWindow(a.Window), Operator: a.Operator}
	for _, c := range a.Chain {
		out.CertChain.Certificates = append(out.CertChain.Certificates, &commonpb.X509Certificate{RawBytes: c.Raw})
	}
	if n := len(a.Chain); n > 0 {
		s := a.Chain[n-1].Subject
		out.Subject = &commonpb.DistinguishedName{CommonName: s.CommonName}
		if len(s.Organization) > 0 {
			out.Subject.Organization = s.Organization[0]
		}
	}
	return out
}

func protoWindow(w Window) *commonpb.TimeRange {
	tr := &commonpb.TimeRange{}
	if !w.Start.IsZero() {
		tr.Start = timestamppb.New(w.Start)
	}
	if !w.End.IsZero() {
		tr.End = timestamppb.New(w.End)
	}
	return tr
}

// MarshalJSON writes trusted_root.json in canonical form (RFC 8785), so that
// the same parts give the same bytes. protojson alone varies its white space
// between builds on purpose.
func (r *Root) MarshalJSON() ([]byte, error) {
	b, err := protojson.Marshal(r.pb)
	if err != nil {
		return nil, err
	}
	return strictjson.CanonicalBytes(b)
}

// Parts gives the root's parts, to change and build anew.
func (r *Root) Parts() Parts {
	p := Parts{OperatorsV2: r.pb.GetMediaType() == mediaTypeTrustedRoot02}
	logs := func(in []*logKey) (out []Log) {
		for _, l := range in {
			out = append(out, Log{URL: l.url, Operator: l.operator, Key: l.pub, Window: l.window, ID: []byte(l.id)})
		}
		return out
	}
	auths := func(in []*authority) (out []Authority) {
		for _, a := range in {
			chain := a.chain
			if a.leaf != nil {
				chain = append([]*x509.Certificate{a.leaf}, chain...)
			}
			out = append(out, Authority{URL: a.uri, Operator: a.operator, Chain: chain, Window: a.window})
		}
		return out
	}
	p.Logs, p.CTLogs, p.CAs, p.TSAs = logs(r.logs), logs(r.ctlogs), auths(r.cas), auths(r.tsas)
	return p
}

// HasLog says whether a transparency log, by its ID in hex, is one of the root's,
// whatever its window.
func (r *Root) HasLog(id string) bool {
	for _, l := range r.logs {
		if hex.EncodeToString([]byte(l.id)) == id {
			return true
		}
	}
	return false
}

// LogIDs are the IDs of the root's transparency logs, in hex, whatever their
// windows.
func (r *Root) LogIDs() (ids []string) {
	for _, l := range r.logs {
		ids = append(ids, hex.EncodeToString([]byte(l.id)))
	}
	return ids
}
