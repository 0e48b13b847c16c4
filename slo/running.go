package slo

import (
	"time"

	"assay/artifact"
)

// Verdict is what is known of something that should be so.
type Verdict int

// The verdicts. The zero Verdict is unknown.
const (
	Unknown Verdict = iota
	Yes
	No
)

// Running is a digest that runs at a place, and what is known of it.
type Running struct {
	Digest artifact.Digest // "" : nobody could tell what runs
	Place  Place
	Silent bool // its cluster was not heard of for long

	Provenance Verdict // verified evidence, by type
	SBOM       Verdict
	Signature  Verdict
	VEX        Verdict
	Tests      Verdict
	Approved   Verdict // signed, and allowed by a decision in force
	Scanned    Verdict

	Quality    int // of its bill of materials, 0 to 100
	Direct     int // affected components that it depends on itself
	Transitive int // those that come with others
	Exposed    time.Time
}

// Health is what a process and its site say of themselves. Counters are from the
// process's start.
type Health struct {
	Decisions    int64 // answered questions
	Quick        int64 // of these, within a second
	Undecided    int64 // questions to which no answer was found
	Scans        int64 // bills of materials that were looked up
	ScanCPU      time.Duration
	CommitsLost  int64 // commits of the log that failed
	Backlog      time.Duration
	Feeds        []FeedHealth
	FeedsUnknown bool
}

// FeedHealth is how old a feed is.
type FeedHealth struct {
	Name  string
	Fresh bool
}
