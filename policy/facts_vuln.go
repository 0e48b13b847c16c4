package policy

// Vulnerabilities is what this site knows of the flaws of an artifact, from its
// stored bills of materials and the advisories in force. What is not known
// stands in it by its own names: none of them counts as clean.
type Vulnerabilities struct {
	Scan           string          `json:"scan"`                     // done, pending (a bill of materials is not looked up yet), or no_sbom
	SBOMs          []string        `json:"sboms,omitempty"`          // attestations of the documents that were looked up
	SBOMsBy        string          `json:"sboms_by,omitempty"`       // stands for the signers whose documents alone were looked at, since the policy named them; absent: all were
	Components     int             `json:"components"`               // distinct, of all documents
	Incomplete     []string        `json:"incomplete,omitempty"`     // what the documents say that they do not hold
	Unmatched      int             `json:"unmatched,omitzero"`       // components of a kind that no feed knows
	ReleaseUnknown int             `json:"release_unknown,omitzero"` // components of a distribution whose release is not known
	FeedsMissing   []string        `json:"feeds_missing,omitempty"`  // ecosystems that no feed in force is for
	FeedsStale     []string        `json:"feeds_stale,omitempty"`    // ecosystems whose feeds were not looked at lately
	KEV            bool            `json:"kev"`                      // the catalog of known exploited vulnerabilities is in force, and fresh
	EPSS           bool            `json:"epss"`                     // so are the scores of exploit prediction
	Findings       []Vulnerability `json:"findings"`                 // the worst first, at most 100
	More           []FindingGroup  `json:"more,omitempty"`           // all others, counted by what decides about them
	VEX            []VEXFact       `json:"vex,omitempty"`            // attested statements about findings, by signers whom the policy names
	VEXOf          string          `json:"vex_of,omitempty"`         // stands for the signers that the policy named; absent: none
}

// Vulnerability is one flaw of one component.
type Vulnerability struct {
	ID        string         `json:"id"`                   // its CVE where it has one
	Records   []string       `json:"records,omitempty"`    // advisories that say so, at most 4
	Component string         `json:"component"`            // package URL
	State     string         `json:"state"`                // affected, unknown (whether this version is), or by a statement: not_affected, fixed, under_investigation
	Reason    string         `json:"reason,omitempty"`     // why it is unknown
	Severity  string         `json:"severity"`             // critical, high, medium, low, none, or unknown
	KEV       string         `json:"kev,omitempty"`        // since when it is known to be exploited
	EPSS      float64        `json:"epss,omitzero"`        // probability that it is exploited within 30 days, in two figures, rounded up
	Malicious bool           `json:"malicious,omitzero"`   // the package is, whatever its version
	Relation  string         `json:"relation"`             // direct, transitive, or unknown
	Via       string         `json:"via,omitempty"`        // the component that brings a transitive one
	Fixed     string         `json:"fixed,omitempty"`      // least version that mends it; absent: none is named
	Reachable string         `json:"reachable,omitempty"`  // no: the site states that its code is not there or not called; absent: nobody does
	FirstSeen string         `json:"first_seen,omitempty"` // since when it is known here that this artifact is concerned, RFC 3339
	Known     string         `json:"known,omitempty"`      // since when an advisory about it is in force here, whatever it affected then, RFC 3339
	Statement *VulnStatement `json:"statement,omitempty"`  // by which its state is not the advisories'
	Attested  []AttestedVEX  `json:"attested,omitempty"`   // what signers whom the policy names say of it, the newest of each
}

// VulnStatement is whose word it is that a flaw does not concern an artifact.
type VulnStatement struct {
	ID            string `json:"id"`                      // of the signed statement
	Author        string `json:"author"`                  // who signed it
	Justification string `json:"justification,omitempty"` // of OpenVEX: vulnerable_code_not_present, ...
	Until         string `json:"until,omitempty"`         // when it ends, RFC 3339
}

// FindingGroup counts findings that a policy judges alike.
type FindingGroup struct {
	Severity string  `json:"severity"`
	State    string  `json:"state"`
	Fixable  bool    `json:"fixable"` // a version is named that mends them
	Count    int     `json:"count"`
	EPSS     float64 `json:"epss,omitzero"`       // the highest among them
	Seen     string  `json:"first_seen,omitzero"` // the earliest among them, of when they are known, too
	Urgent   bool    `json:"urgent,omitzero"`     // malicious, or known to be exploited: always a deny, unless it is stated away
	// Attested is what signers whom the policy names say of all of them alike.
	Attested []AttestedVEX `json:"attested,omitempty"`
}
