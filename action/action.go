// Package action holds back what the site would do by itself when it touches much
// of what runs. A record of a feed can name half of all images by mistake, and a
// bundle of policies can refuse them: before such an action is carried out, the
// workloads are counted that it touches, together with those that other automatic
// actions touched lately. Over a share of all that run, it waits for a person.
//
// What waits is written down, told at once, and told again until somebody answers;
// it is never carried out for want of an answer, and never forgotten. What persons
// do themselves is not asked about here.
package action

import (
	"time"

	"assay/artifact"
	"assay/internal/excerpt"
	"assay/internal/fault"
)

// Kind is a sort of automatic action.
type Kind string

// The kinds.
const (
	// Quarantine takes an artifact from everybody. While it waits, nothing new may run
	// it; what runs goes on, and its image is served.
	Quarantine Kind = "quarantine"
	// PolicyBundle puts a followed bundle of policies in force. While it waits, the
	// version before stays.
	PolicyBundle Kind = "policy-bundle"
)

// Kinds lists them.
func Kinds() []Kind { return []Kind{Quarantine, PolicyBundle} }

// The states of an [Entry].
const (
	Held     = "held"     // it waits for a person
	Approved = "approved" // a person said yes, and it is carried out next
	Done     = "done"     // it was carried out
	Refused  = "refused"  // a person said no
	// Superseded is what nobody answered and nobody asks any more: something else is
	// proposed in its place.
	Superseded = "superseded"
)

// States lists them.
func States() []string { return []string{Held, Approved, Done, Refused, Superseded} }

// Limits say when an action waits. Zero members have defaults.
type Limits struct {
	// Share is the most of the running workloads that may be touched, in percent;
	// default 10.
	Share int
	// Least is how many workloads have to be touched for anything to wait, so that a
	// site of a few is not kept from defending itself; default 10.
	Least int
	// Window is for how long what was touched counts towards the share; default 1h.
	Window time.Duration
	// Answer is after how long without an answer it is told again; default 4h.
	Answer time.Duration
}

func (l Limits) filled() Limits {
	if l.Share <= 0 {
		l.Share = 10
	}
	if l.Least <= 0 {
		l.Least = 10
	}
	if l.Window <= 0 {
		l.Window = time.Hour
	}
	if l.Answer <= 0 {
		l.Answer = 4 * time.Hour
	}
	return l
}

// Reach is what an action would touch.
type Reach struct {
	Touched int // workloads
	Running int // all that run; 0: nobody tells what runs
}

// over says whether so many of them are more than may be touched at once.
func (l Limits) over(touched, running int) bool {
	return touched >= l.Least && touched*100 > l.Share*running
}

// Proposal is what the site would do.
type Proposal struct {
	Kind   Kind
	Key    string          // names it: the same one is asked about once
	Digest artifact.Digest // that it is about, if any
	Reason string
	Actor  string // the part of the site that would do it: system:vuln
	// By are those whose word made the site do it, as far as they are persons: none of
	// them approves. Addresses, or identities' subjects.
	By []string
}

func (p *Proposal) check() error {
	switch {
	case p.Kind != Quarantine && p.Kind != PolicyBundle:
		return fault.Newf(fault.Internal, "action of kind %.40q", p.Kind)
	case p.Key == "" || p.Actor == "":
		return fault.Newf(fault.Internal, "an action wants a key and an actor")
	}
	p.Key = keyOf(p.Key)
	p.Reason = excerpt.Text(p.Reason, 1000)
	return nil
}

// maxKey is the longest key that is kept as it is.
const maxKey = 1000

// keyOf is a key as it is kept. Names of packages, which strangers choose, stand in
// keys: a long one must not keep the site from defending itself.
func keyOf(key string) string {
	if len(key) <= maxKey {
		return key
	}
	return string(artifact.SHA256Of([]byte(key)))
}

// Entry is an action as it is told.
type Entry struct {
	ID        string          `json:"id"` // act_...
	Kind      Kind            `json:"kind"`
	State     string          `json:"state"` // held, approved, done, refused or superseded
	Digest    artifact.Digest `json:"digest,omitempty"`
	Reason    string          `json:"reason"`
	Actor     string          `json:"actor"`        // the part of the site that would do it
	By        []string        `json:"by,omitempty"` // whose word made it
	Touched   int             `json:"touched"`      // workloads that it touches
	Earlier   int             `json:"earlier"`      // and that other automatic actions touched shortly before
	Running   int             `json:"running"`      // workloads in all
	Share     int             `json:"share"`        // of all, in percent, rounded up
	Limit     int             `json:"limit"`        // percent from which it waits
	At        time.Time       `json:"at"`
	Due       time.Time       `json:"due,omitzero"`     // when it is told again; of what waits
	Overdue   bool            `json:"overdue,omitzero"` // nobody answered in time: it waits all the same
	DecidedBy string          `json:"decided_by,omitempty"`
	DecidedAt time.Time       `json:"decided_at,omitzero"`
	Answer    string          `json:"answer,omitempty"`
	DoneAt    time.Time       `json:"done_at,omitzero"`

	key string
}

// share is the part of all in percent, rounded up; 100 where all is unknown.
func share(touched, running int) int {
	if running <= 0 {
		return 100
	}
	return min(100, (touched*100+running-1)/running)
}

// Who is somebody who answers. Person is empty for machines, and for identities
// that nobody verified.
type Who struct{ Actor, Person string }
