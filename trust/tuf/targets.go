package tuf

import (
	"context"
	"time"

	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	trustpb "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/trust"
)

// The targets' names, as Sigstore clients ask for them.
const (
	TargetTrustedRoot   = "trusted_root.json"
	TargetSigningConfig = "signing_config.v0.2.json"
	TargetForeignRoots  = "foreign_roots.json" // package trust/foreign
	TargetDelegations   = "delegations.json"   // package trust/delegation
)

const mediaTypeSigningConfig = "application/vnd.dev.sigstore.signingconfig.v0.2+json"

// Service is an address to sign with.
type Service struct {
	URL      string // base URL; of a timestamp authority the whole URL
	Operator string // scheme-less URI, for example "assay.example.com"; required
	Window   trust.Window
}

// SigningConfig is what signing clients need. Several services of a kind are
// listed newest first, as rotation leaves them; clients use one of each.
type SigningConfig struct {
	CA, OIDC, Log, TSA []Service
}

// JSON writes signing_config.v0.2.json: Fulcio API version 1, OIDC 1, Rekor 2,
// timestamp authority 1. CA and Log must not be empty.
func (c SigningConfig) JSON() ([]byte, error) {
	pb := &trustpb.SigningConfig{
		MediaType:       mediaTypeSigningConfig,
		RekorTlogConfig: &trustpb.ServiceConfiguration{Selector: trustpb.ServiceSelector_ANY},
		TsaConfig:       &trustpb.ServiceConfiguration{Selector: trustpb.ServiceSelector_ANY},
	}
	if len(c.CA) == 0 || len(c.Log) == 0 {
		return nil, fault.Newf(fault.Invalid, "signing config: want at least a certificate authority and a log")
	}
	for _, kind := range []struct {
		in  []Service
		out *[]*trustpb.Service
		api uint32
	}{{c.CA, &pb.CaUrls, 1}, {c.OIDC, &pb.OidcUrls, 1}, {c.Log, &pb.RekorTlogUrls, 2}, {c.TSA, &pb.TsaUrls, 1}} {
		for _, s := range kind.in {
			if s.URL == "" || s.Operator == "" || s.Window.Start.IsZero() {
				return nil, fault.Newf(fault.Invalid, "signing config: service %q: want URL, operator and the start of its validity", s.URL)
			}
			w := &commonpb.TimeRange{Start: timestamppb.New(s.Window.Start)}
			if !s.Window.End.IsZero() {
				w.End = timestamppb.New(s.Window.End)
			}
			*kind.out = append(*kind.out, &trustpb.Service{Url: s.URL, MajorApiVersion: kind.api, ValidFor: w, Operator: s.Operator})
		}
	}
	b, err := protojson.Marshal(pb)
	if err != nil {
		return nil, err
	}
	return strictjson.CanonicalBytes(b)
}

// PublishTrust publishes the trusted root and the signing config as the
// repository's targets.
func (r *Repository) PublishTrust(ctx context.Context, root *trust.Root, c SigningConfig) (changed bool, err error) {
	cfg, err := c.JSON()
	if err != nil {
		return false, err
	}
	return r.Publish(ctx, map[string][]byte{TargetTrustedRoot: root.Bytes(), TargetSigningConfig: cfg})
}

// Expires is when a client would find the published metadata expired: the
// earliest expiry of the four roles. Zero before the first Publish.
func (r *Repository) Expires() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timestamp == nil {
		return time.Time{}
	}
	first := r.root.Signed.Expires
	for _, t := range []time.Time{r.targets.Signed.Expires, r.snapshot.Signed.Expires, r.timestamp.Signed.Expires} {
		if t.Before(first) {
			first = t
		}
	}
	return first
}
