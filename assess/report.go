package assess

import (
	"time"

	"assay/artifact"
	"assay/policy"
)

// Schema is the value of Report.Schema.
const Schema = "assay/assessment/v1"

// Answer is what is known of one question.
type Answer string

// The answers.
const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Claimed Answer = "claimed" // the registry holds something that says so, and nothing here verified it
	Unknown Answer = "unknown"
)

// Tally counts digests by an answer. The four are all of them.
type Tally struct {
	Yes     int `json:"yes"`
	Claimed int `json:"claimed"`
	No      int `json:"no"`
	Unknown int `json:"unknown"`
}

func (t *Tally) add(a Answer) {
	switch a {
	case Yes:
		t.Yes++
	case Claimed:
		t.Claimed++
	case No:
		t.No++
	default:
		t.Unknown++
	}
}

// Report is what a look found.
type Report struct {
	Schema  string    `json:"schema"`
	At      time.Time `json:"at"`
	Seconds float64   `json:"seconds"`
	// Incomplete is why not all was looked at; "" when all was.
	Incomplete string   `json:"incomplete,omitempty"`
	Sources    []Source `json:"sources"`
	Trust      Trust    `json:"trust"`
	Policy     Judged   `json:"policy"`
	Advisories Lists    `json:"advisories"`
	Summary    Summary  `json:"summary"`
	Signers    []Signer `json:"signers"`
	// Claims are identities that signatures name and nothing here verified. They are no
	// signers: whoever may push can write any name.
	Claims  []Claim  `json:"claims"`
	Moved   []Tag    `json:"moved"`   // tags that point elsewhere than what runs by them, are gone, or could not be asked
	Dangers []Danger `json:"dangers"` // malicious and known exploited components
	Causes  []Cause  `json:"causes"`
	Fixes   []Fix    `json:"fixes"`
	Digests []Digest `json:"digests"`
}

// Source is where artifacts were named.
type Source struct {
	Kind    string `json:"kind"` // cluster, registry, list
	Name    string `json:"name"`
	Found   int    `json:"found"`            // workloads' containers, or references
	LeftOut int    `json:"left_out"`         // of what it lists, beyond the bounds of this look
	Unread  int    `json:"unread,omitempty"` // that could not be read
	Problem string `json:"problem,omitempty"`
}

// Trust says what signatures were verified with.
type Trust struct {
	Roots []string `json:"roots"`          // with no key either, nothing could be verified: all signatures are claims
	Keys  []string `json:"keys,omitempty"` // fingerprints of those that were given
	// NoLog says that a key's signature counted without a transparency log, so that
	// nothing proves when it was made.
	NoLog bool `json:"no_log,omitempty"`
}

// Judged is the policy that was asked.
type Judged struct {
	Name    string   `json:"name"`
	Hash    string   `json:"hash"`
	Signers []string `json:"signers"` // whose word counts
	// Anybody says that no identity was named, so that every signer who verified counts,
	// which is more lenient than the profile will be.
	Anybody bool `json:"anybody"`
}

// Lists says what advisories there were.
type Lists struct {
	Given bool     `json:"given"` // false: what is malicious or exploited is unknown
	From  string   `json:"from,omitempty"`
	KEV   bool     `json:"kev"`
	EPSS  bool     `json:"epss"`
	Feeds []string `json:"feeds"`
}

// Summary counts digests.
type Summary struct {
	Digests      int   `json:"digests"`
	Containers   int   `json:"containers"`   // that run them
	Unidentified int   `json:"unidentified"` // images whose digest nobody reports, among the digests
	Unreachable  int   `json:"unreachable"`  // of which nothing could be read
	Signed       Tally `json:"signed"`
	Provenance   Tally `json:"provenance"`
	SBOM         Tally `json:"sbom"`
	Malicious    Tally `json:"malicious"`
	Exploited    Tally `json:"exploited"`
	Allowed      int   `json:"allowed"`
	Denied       int   `json:"denied"`
	Undecided    int   `json:"undecided"`
	Tags         int   `json:"tags"` // that something runs by
	TagsMoved    int   `json:"tags_moved"`
	TagsGone     int   `json:"tags_gone"`
	TagsUnknown  int   `json:"tags_unknown"`
}

// Signer is somebody whose signatures verified.
type Signer struct {
	Identity   string `json:"identity"` // subject, or "key sha256:..."
	Issuer     string `json:"issuer,omitempty"`
	Root       string `json:"root,omitempty"` // that verified it
	Signed     int    `json:"signed"`         // digests
	Provenance int    `json:"provenance"`
	SBOM       int    `json:"sbom"`
}

// Claim is a name in signatures that were not verified.
type Claim struct {
	Identity string `json:"identity"`
	Issuer   string `json:"issuer,omitempty"`
	Digests  int    `json:"digests"`
	Reason   string `json:"reason"` // why it was not verified
}

// Tag is what a tag that something runs by points to now.
type Tag struct {
	Image   string          `json:"image"`
	Running artifact.Digest `json:"running"`
	Now     artifact.Digest `json:"now,omitempty"`
	State   string          `json:"state"` // moved, gone, unknown
	Reason  string          `json:"reason,omitempty"`
	Where   []string        `json:"where"` // workloads, at most 5
}

// Danger is a component that is malicious, or has a flaw that is known to be
// exploited.
type Danger struct {
	Component string   `json:"component"`
	Flaw      string   `json:"flaw"`
	Malicious bool     `json:"malicious"`
	KEV       string   `json:"kev,omitempty"` // since when it stands in the catalog
	Affected  string   `json:"affected"`      // affected, or unknown: nobody can tell of this version
	Fixed     string   `json:"fixed,omitempty"`
	By        []string `json:"by"` // sbom, claimed (a document nobody verified), scan
	Digests   int      `json:"digests"`
	Images    []string `json:"images"` // at most 10
}

// Cause is why artifacts are denied, or undecided.
type Cause struct {
	Cause   string `json:"cause"`
	Digests int    `json:"digests"` // denied for it, perhaps among others
	Alone   int    `json:"alone"`   // denied for nothing else
	Decided bool   `json:"decided"` // false: it leaves open what would be
}

// Fix is what would turn denials. They are in the order in which each helps most,
// once those before it are done.
type Fix struct {
	Fix     string   `json:"fix"`
	Digests int      `json:"digests"` // that need it
	Turns   int      `json:"turns"`   // denials it turns, when those before it are done
	Sum     int      `json:"sum"`     // turned until then
	AtMost  bool     `json:"at_most"` // what it brings to light may deny again
	Images  []string `json:"images"`  // at most 10
}

// Digest is one artifact.
type Digest struct {
	Digest     artifact.Digest `json:"digest,omitempty"` // absent: nobody reports it
	Images     []string        `json:"images"`           // references it is known by
	Where      []string        `json:"where,omitempty"`  // workloads that run it, at most 20
	Containers int             `json:"containers"`
	Signed     Answer          `json:"signed"`
	Provenance Answer          `json:"provenance"`
	SBOM       Answer          `json:"sbom"`
	Signers    []string        `json:"signers,omitempty"` // verified
	Malicious  Answer          `json:"malicious"`
	Exploited  Answer          `json:"exploited"`
	// NotKnown are reasons why its flaws are not, or not wholly, known.
	NotKnown []string       `json:"not_known,omitempty"`
	Verdict  string         `json:"verdict"` // allow, deny, unknown
	Causes   []string       `json:"causes,omitempty"`
	Checks   []policy.Check `json:"checks,omitempty"` // that fail
	Problem  string         `json:"problem,omitempty"`

	needs    []need
	signers  []signed
	claims   []claim
	dangers  []Danger
	problems bool
}
