package transfer

import (
	"fmt"
	"regexp"
	"time"
	"unicode/utf8"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/fault"
	"assay/internal/glob"
	"assay/internal/strictjson"
)

const (
	// Schema is the version of the format.
	Schema = "assay/bundle/v1"
	// PredicateType is that of the manifest's statement.
	PredicateType = "urn:assay:bundle:v1"
	// MediaType is that of the file.
	MediaType = "application/vnd.assay.bundle.v1+tar"

	manifestName = "assay-bundle.sigstore.json"

	// Validity is how long a file may be imported: that of the revocations in it.
	Validity = 30 * 24 * time.Hour

	maxManifest = 16 << 20 // bytes of the signed manifest
	maxMembers  = 60_000
	// MaxDocument bounds members that are read as a whole, in bytes.
	MaxDocument = 16 << 20
	// maxMember bounds any member, in bytes: a registry's largest layers.
	maxMember = 1 << 40
	maxText   = 512
	maxList   = 64
)

// Kind says what a member is.
type Kind string

// The kinds of members.
const (
	KindRoots       Kind = "tuf-roots"     // all root.json of the exporter, [Roots]; the first member
	KindTrustedRoot Kind = "trusted-root"  // its trusted_root.json; the second
	KindLayout      Kind = "oci-layout"    // the marker of an image layout
	KindIndex       Kind = "oci-index"     // index.json of the layout
	KindContents    Kind = "contents"      // what belongs where, [Contents]
	KindRevocations Kind = "revocations"   // the signed list, for 30 days
	KindDelegations Kind = "delegations"   // delegations.json
	KindForeign     Kind = "foreign-roots" // foreign_roots.json: what the exporter imported itself
	KindPolicies    Kind = "policies"      // documents of assay apply, YAML
	KindManifest    Kind = "manifest"      // an OCI manifest or index, referrers among them
	KindBlob        Kind = "blob"          // what a manifest names
	KindEvidence    Kind = "evidence"      // a Sigstore bundle
	KindFeed        Kind = "feed"          // a file of a feed
)

// once are the kinds that a file has exactly once, or at most once.
var once = map[Kind]bool{
	KindRoots: true, KindTrustedRoot: true, KindLayout: true, KindIndex: true, KindContents: true, KindRevocations: true,
	KindDelegations: false, KindForeign: false, KindPolicies: false,
}

// listed says whether a kind may stand more than once.
func listed(k Kind) bool {
	return k == KindManifest || k == KindBlob || k == KindEvidence || k == KindFeed
}

// Member is one file of the tar.
type Member struct {
	Path   string          `json:"path"`
	Digest artifact.Digest `json:"digest"` // sha256
	Size   int64           `json:"size"`   // bytes
	Kind   Kind            `json:"kind"`
}

// NewMember names a member of a kind.
func NewMember(k Kind, d artifact.Digest, size int64) Member {
	return Member{Path: pathOf(k, d), Digest: d, Size: size, Kind: k}
}

func pathOf(k Kind, d artifact.Digest) string {
	switch k {
	case KindLayout:
		return "oci-layout"
	case KindIndex:
		return "index.json"
	}
	return "blobs/sha256/" + d.Hex()
}

// Selection is what was asked to be carried.
type Selection struct {
	Repositories []string `json:"repositories"` // patterns of internal/glob
	Policies     bool     `json:"policies"`
	Feeds        []string `json:"feeds"` // names
}

// Manifest is what the exporter signed about a file.
type Manifest struct {
	Schema   string `json:"schema"`
	Origin   string `json:"origin"`             // the exporting site: its host name
	Target   string `json:"target"`             // whom the file is for
	Sequence int64  `json:"sequence"`           // from 1, for each target
	Previous string `json:"previous,omitempty"` // digest of the manifest before, whose content this one adds to
	Full     bool   `json:"full"`               // holds everything that was selected
	// Created and Expires are by the exporter's clock; the importer holds Expires
	// against its own.
	Created   time.Time `json:"created"`
	Expires   time.Time `json:"expires"`
	Selection Selection `json:"selection"`
	Members   []Member  `json:"members"` // in the order of the file
}

var targetGrammar = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,62})$`)

// ValidName says whether a target or a feed may be called so.
func ValidName(s string) bool { return targetGrammar.MatchString(s) }

// ParseManifest reads the predicate strictly. Errors are fault.Invalid and
// fault.TooLarge.
func ParseManifest(b []byte) (*Manifest, error) {
	var m Manifest
	if err := strictjson.Unmarshal(b, &m, strictjson.RejectUnknown(), strictjson.WithMaxBytes(maxManifest)); err != nil {
		return nil, fault.Newf(fault.KindOf(err), "bundle manifest: %w", err)
	}
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return &m, nil
}

func bad(format string, args ...any) error {
	return fault.Newf(fault.Invalid, "bundle manifest: %w", fmt.Errorf(format, args...))
}

// Validate checks the manifest by itself.
func (m *Manifest) Validate() error {
	switch {
	case m.Schema != Schema:
		return bad("schema %.60q, want %s; this Assay may be too old for it", m.Schema, Schema)
	case m.Origin == "" || len(m.Origin) > 255 || !utf8.ValidString(m.Origin):
		return bad("origin %.80q, want a host name", m.Origin)
	case !ValidName(m.Target):
		return bad("target %.80q, want a name of lower-case letters, digits, \".\", \"_\" and \"-\", at most 63", m.Target)
	case m.Sequence < 1:
		return bad("sequence %d, want 1 or more", m.Sequence)
	case m.Full != (m.Previous == ""):
		return bad("a full bundle names no bundle before it, and any other does")
	case !m.Full && artifact.Digest(m.Previous).Validate() != nil:
		return bad("previous %.80q, want a digest", m.Previous)
	case m.Created.IsZero() || !m.Expires.After(m.Created):
		return bad("it is of %s and expires on %s", stamp(m.Created), stamp(m.Expires))
	case len(m.Selection.Repositories) > maxList || len(m.Selection.Feeds) > maxList:
		return bad("%d repository patterns and %d feeds, want at most %d", len(m.Selection.Repositories), len(m.Selection.Feeds), maxList)
	case len(m.Members) > maxMembers:
		return bad("%d members, want at most %d: export fewer repositories at a time", len(m.Members), maxMembers)
	}
	for _, p := range m.Selection.Repositories {
		if _, err := glob.Parse(p); err != nil {
			return bad("repositories: %w", err)
		}
	}
	for _, f := range m.Selection.Feeds {
		if !ValidName(f) {
			return bad("feed %.80q: no name", f)
		}
	}
	return m.checkMembers()
}

func (m *Manifest) checkMembers() error {
	if len(m.Members) < 2 || m.Members[0].Kind != KindRoots || m.Members[1].Kind != KindTrustedRoot {
		return bad("the first members are not the exporter's roots")
	}
	seen, kinds := map[string]bool{}, map[Kind]bool{}
	for i, e := range m.Members {
		_, single := once[e.Kind]
		switch {
		case !single && !listed(e.Kind):
			return bad("member %d is of kind %.40q, which is none", i, string(e.Kind))
		case single && kinds[e.Kind]:
			return bad("member %d is a second one of kind %s", i, e.Kind)
		case e.Digest.Validate() != nil || e.Digest.Algorithm() != artifact.SHA256:
			return bad("member %d has digest %.80q, want a sha256", i, string(e.Digest))
		case e.Path != pathOf(e.Kind, e.Digest):
			return bad("member %d has path %.80q, want %s", i, e.Path, pathOf(e.Kind, e.Digest))
		case seen[e.Path]:
			return bad("%s stands twice", e.Path)
		case e.Size < 0 || e.Size > maxMember || e.Kind != KindBlob && e.Kind != KindFeed && e.Size > MaxDocument:
			return bad("%s of %d bytes is too large for a %s", e.Path, e.Size, e.Kind)
		}
		seen[e.Path], kinds[e.Kind] = true, true
	}
	for k, must := range once {
		if must && !kinds[k] {
			return bad("it has no member of kind %s", k)
		}
	}
	return nil
}

// Member finds the one member of a kind.
func (m *Manifest) Member(k Kind) (Member, bool) {
	for _, e := range m.Members {
		if e.Kind == k {
			return e, true
		}
	}
	return Member{}, false
}

// Size is that of all members, in bytes.
func (m *Manifest) Size() (n int64) {
	for _, e := range m.Members {
		n += e.Size
	}
	return n
}

// Statement is the in-toto statement that is signed. Its subject is index.json,
// by which readers of image layouts begin.
func (m *Manifest) Statement() (*attestation.Statement, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	index, _ := m.Member(KindIndex)
	return attestation.NewStatement(PredicateType, m, attestation.Subject{Name: "index.json", Digest: index.Digest.Set()})
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
