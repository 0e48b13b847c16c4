// Package rotation gives the site's own keys a time: each is made, published,
// used, and ended, while everything that it signed in its time goes on to
// verify. One row a key, of kind "authority" among the trust documents, says
// where it stands; the server builds its trusted root, its TUF repository and
// its signers from the rows, so that a crash at any point goes on at the next
// start.
//
// # The life of a key
//
//	pending   made and published with the start of its window, signs nothing yet:
//	          clients learn of it while what they meet is still signed by the old one
//	active    signs
//	retiring  signs no more, its window is open a little longer for what is under way
//	retired   its window has ended; it stays in the trusted root, so that history
//	          verifies, and its private half is destroyed, or kept as configured
//
// A new key waits in pending until everyone could have learnt of it: for the
// configured overlap, from the moment that it was published. Both orders of
// learning are safe: who has the old trusted root meets signatures of the old key
// until his root must have been renewed, who has the new one knows both.
//
// A key that was compromised has no overlap: its window ends at once, or at the
// time from which it is not believed, and the next one is active as soon as it
// is published.
package rotation

import (
	"crypto"
	"crypto/x509"
	"slices"
	"time"

	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/trust"
)

// Role is what a key signs.
type Role string

// The roles, in the order in which --all rotates them.
const (
	CA         Role = "ca"         // certificates: a chain of its own
	TSA        Role = "tsa"        // timestamps: a chain of its own
	CT         Role = "ct"         // SCTs and the certificate log's checkpoints
	Log        Role = "log"        // the transparency log's checkpoints
	OIDC       Role = "oidc"       // tokens of the embedded issuer
	Decision   Role = "decision"   // decisions
	Audit      Role = "audit"      // heads of the event log
	Delegation Role = "delegation" // first links of delegations
	Source     Role = "source"     // statements about commits that forges told of; a site that knows no forge has none
	Registry   Role = "registry"   // scoped tokens and upload URLs: a symmetric key is derived of it
	TUFOnline  Role = "tuf-online" // TUF targets, snapshot and timestamp
	TUFRoot    Role = "tuf-root"   // TUF root
)

// roles is the one table of roles. grace is how long what the old key made just
// before the change may still come in: it bounds what is handed out under it.
var roles = []struct {
	role  Role
	rsa   bool
	grace time.Duration
}{
	{role: CA, grace: 15 * time.Minute}, // its certificates live 10 minutes
	{role: TSA, grace: 5 * time.Minute},
	{role: CT, grace: 5 * time.Minute},
	{role: Log, grace: 15 * time.Minute}, // entries are dated by timestamps, which may be older
	{role: OIDC, rsa: true, grace: 15 * time.Minute},
	{role: Decision, grace: 5 * time.Minute},
	{role: Audit, grace: 5 * time.Minute},
	{role: Delegation, grace: 5 * time.Minute},
	{role: Source, grace: 5 * time.Minute},
	{role: Registry, grace: 24 * time.Hour}, // upload URLs
	{role: TUFOnline, grace: 5 * time.Minute},
	{role: TUFRoot, grace: 5 * time.Minute},
}

// Roles lists the roles, in the order in which all are rotated.
func Roles() []Role {
	out := make([]Role, len(roles))
	for i, r := range roles {
		out[i] = r.role
	}
	return out
}

// Valid says whether r is a role.
func (r Role) Valid() bool { return slices.Contains(Roles(), r) }

func (r Role) rsa() bool { return roles[slices.Index(Roles(), r)].rsa }

// Grace is how long the window of a key of this role stays open after another
// took over.
func (r Role) Grace() time.Duration { return roles[slices.Index(Roles(), r)].grace }

// State is where a key stands.
type State string

// The states, in the order of a key's life.
const (
	Pending  State = "pending"
	Active   State = "active"
	Retiring State = "retiring"
	Retired  State = "retired"
)

// Key is one of the site's own keys and its time. Nothing in it is secret.
type Key struct {
	Role        Role     `json:"role"`
	Number      int      `json:"number"` // counts the keys of a role from 1
	Name        string   `json:"name"`   // in the key store; names the row, too
	Place       string   `json:"place,omitempty"`
	Algorithm   string   `json:"algorithm"`
	Fingerprint string   `json:"fingerprint"` // as trust.KeyFingerprint has it
	Public      []byte   `json:"public"`      // SubjectPublicKeyInfo, DER
	Chain       [][]byte `json:"chain,omitempty"`
	State       State    `json:"state"`

	Created   time.Time `json:"created"`
	Start     time.Time `json:"start"`              // of its window
	Published time.Time `json:"published,omitzero"` // since when clients could learn of it
	Activated time.Time `json:"activated,omitzero"`
	End       time.Time `json:"end,omitzero"`     // of its window; zero: open
	Retired   time.Time `json:"retired,omitzero"` // when the server took it out of use

	Hurry   bool   `json:"hurry,omitempty"`   // does not wait for the overlap
	Reason  string `json:"reason,omitempty"`  // why the key before it had to go, or why this one went
	Alerted int64  `json:"alerted,omitempty"` // seconds: the last threshold before expiry that was told
	Gone    bool   `json:"gone,omitempty"`    // its private half was destroyed, or is kept for good

	version int64 // of the row
}

// ReasonCompromised says that a key is not believed any more.
const ReasonCompromised = "compromised"

// Version is that of the row: it rises with every change.
func (k *Key) Version() int64 { return k.version }

// Window is the time in which what the key signs counts.
func (k *Key) Window() trust.Window { return trust.Window{Start: k.Start, End: k.End} }

// Signs says whether the key signs or may soon: its private half is needed.
func (k *Key) Signs() bool { return k.State != Retired }

// PublicKey parses the key.
func (k *Key) PublicKey() (crypto.PublicKey, error) {
	pub, err := x509.ParsePKIXPublicKey(k.Public)
	if err != nil {
		return nil, fault.Newf(fault.Tampered, "key %s: its public half in the database does not parse: %w", k.Name, err)
	}
	return pub, nil
}

// Certificates parses the chain of a ca or tsa key, signing certificate first.
func (k *Key) Certificates() ([]*x509.Certificate, error) {
	out := make([]*x509.Certificate, len(k.Chain))
	for i, der := range k.Chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fault.Newf(fault.Tampered, "key %s: certificate %d in the database does not parse: %w", k.Name, i, err)
		}
		out[i] = c
	}
	return out, nil
}

// Expires is when the key's certificate ends; zero: it has none.
func (k *Key) Expires() time.Time {
	chain, err := k.Certificates()
	if err != nil || len(chain) == 0 {
		return time.Time{}
	}
	end := chain[0].NotAfter
	for _, c := range chain {
		if c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	return end.UTC()
}

// Parse reads the rows of the keys, in the order of roles and numbers.
func Parse(docs []trust.Document) ([]Key, error) {
	var out []Key
	for _, d := range docs {
		var k Key
		if err := strictjson.Unmarshal(d.Body, &k, strictjson.RejectUnknown()); err != nil {
			return nil, fault.Newf(fault.Tampered, "row of key %s: %w", d.Name, err)
		}
		if !k.Role.Valid() || k.Name != d.Name || k.Number < 1 || k.Start.IsZero() {
			return nil, fault.Newf(fault.Tampered, "row of key %s does not name itself: role %q, name %q, number %d", d.Name, k.Role, k.Name, k.Number)
		}
		switch k.State {
		case Pending, Active, Retiring, Retired:
		default:
			return nil, fault.Newf(fault.Tampered, "row of key %s: state %.20q", d.Name, k.State)
		}
		k.version = d.Version
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b Key) int {
		if d := slices.Index(Roles(), a.Role) - slices.Index(Roles(), b.Role); d != 0 {
			return d
		}
		return a.Number - b.Number
	})
	return out, check(out)
}

// check refuses rows that contradict each other.
func check(keys []Key) error {
	active, pending := map[Role]int{}, map[Role]int{}
	for _, k := range keys {
		switch k.State {
		case Active:
			active[k.Role]++
		case Pending:
			pending[k.Role]++
		}
	}
	for _, k := range keys {
		if active[k.Role] != 1 || pending[k.Role] > 1 {
			return fault.Newf(fault.Tampered, "keys of role %s: %d are active and %d pending, want one and at most one: restore the database from a backup", k.Role, active[k.Role], pending[k.Role])
		}
	}
	return nil
}

// Of gives the keys of one role, oldest first.
func Of(keys []Key, r Role) (out []Key) {
	for _, k := range keys {
		if k.Role == r {
			out = append(out, k)
		}
	}
	return out
}

// In gives the keys of a role in a state, oldest first.
func In(keys []Key, r Role, s State) (out []Key) {
	for _, k := range keys {
		if k.Role == r && k.State == s {
			out = append(out, k)
		}
	}
	return out
}

// ActiveOf is the key of a role that signs; nil where the site has none.
func ActiveOf(keys []Key, r Role) *Key {
	if in := In(keys, r, Active); len(in) == 1 {
		return &in[0]
	}
	return nil
}
