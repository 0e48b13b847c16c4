package slo

import (
	"slices"
	"time"

	"assay/artifact"
)

// ID names an indicator.
type ID string

// The indicators. M1 to M8 are the issue's; the others say whether those can be
// believed.
const (
	AttestationCoverage    ID = "attestation-coverage"    // M1
	SignedPushes           ID = "signed-pushes"           // M2, of what is pushed
	SignedRunning          ID = "signed-running"          // M2, of what runs
	SBOMAvailability       ID = "sbom-availability"       // M3
	SBOMQuality            ID = "sbom-quality"            // M3
	DetectionTime          ID = "detection-time"          // M4
	UnauthorizedPulls      ID = "unauthorized-pulls"      // M5
	FailedVerifications    ID = "failed-verifications"    // M6
	VulnerableDependencies ID = "vulnerable-dependencies" // M7
	BuilderIncidents       ID = "builder-incidents"       // M8
	ScanCoverage           ID = "scan-coverage"
	DecisionLatency        ID = "decision-latency"
	LogHealth              ID = "log-health"
	FeedFreshness          ID = "feed-freshness"
	ScanCost               ID = "scan-cost"
)

// Unit says what an indicator's value is.
type Unit string

// The units.
const (
	Ratio   Unit = "ratio"   // 0 to 1, the more the better
	Seconds Unit = "seconds" // the mean
	Count   Unit = "count"   // how many there were in the window
	Level   Unit = "level"   // how many there are, on average over the window
	Score   Unit = "score"   // 0 to 100, the mean
)

// Definition is what an indicator means.
type Definition struct {
	ID          ID
	Metric      string // M1 to M8; "" of the others
	Name        string
	Unit        Unit
	Numerator   string // what is counted
	Denominator string // of what
	Unknown     string // what counts as unknown
	// State says that it is looked at every minute rather than counted as events
	// come: a window's numbers are then means over its looks.
	State bool
	// By are the dimensions that it has besides those of every place: "type" of
	// evidence, "cause" of a failure, "depth" of a dependency.
	By []string
}

// Definitions are those of all indicators, in their order.
func Definitions() []Definition { return slices.Clone(definitions) }

// DefinitionOf is an indicator's definition; ok is false where there is none.
func DefinitionOf(id ID) (d Definition, ok bool) {
	i := slices.IndexFunc(definitions, func(d Definition) bool { return d.ID == id })
	if i < 0 {
		return d, false
	}
	return definitions[i], true
}

var definitions = []Definition{
	{AttestationCoverage, "M1", "Attestation coverage of what runs", Ratio,
		"running digests with a verified provenance, SBOM and signature", "digests that run", "digests that nobody could tell, and those of clusters that fell silent", true, []string{"type"}},
	{SignedPushes, "M2", "Pushes signed by approved identities", Ratio,
		"pushed artifacts that an allowed decision found signed within 15 minutes", "artifacts pushed, carriers of evidence and dev pushes left out", "signed artifacts that nothing was decided about", false, nil},
	{SignedRunning, "M2", "What runs signed by approved identities", Ratio,
		"running digests with verified evidence and an allowed decision in force", "digests that run", "digests with verified evidence that nothing was decided about", true, nil},
	{SBOMAvailability, "M3", "SBOM availability", Ratio,
		"running digests with a signed bill of materials that could be read", "digests that run", "digests that nobody could tell", true, nil},
	{SBOMQuality, "M3", "SBOM quality", Score,
		"quality scores of the bills of materials of what runs", "running digests that have one", "running digests without one", true, nil},
	{DetectionTime, "M4", "Time to detect", Seconds,
		"seconds from when it could be known (advisory in force, invalidSince of a revocation) to its event, and on to the alert", "detections whose start is known", "detections whose start nobody can know (tampering, anomalies)", false, nil},
	{UnauthorizedPulls, "M5", "Unauthorised pulls", Count,
		"pulls served whose right proved invalid later", "pulls served", "", false, nil},
	{FailedVerifications, "M6", "Failed verifications", Ratio,
		"verifications that came to an allow", "verifications: decisions, admissions, evidence handed in", "", false, []string{"cause"}},
	{VulnerableDependencies, "M7", "Vulnerable dependencies of what runs", Level,
		"affected components of running digests, direct and transitive", "digests that run and were scanned", "digests that run and were not scanned", true, []string{"depth"}},
	{BuilderIncidents, "M8", "Build worker incidents and anomalies", Count,
		"anomalies of builds, unlogged signers, revoked builders", "builds whose evidence came", "", false, nil},
	{ScanCoverage, "", "Scan coverage of what runs", Ratio,
		"running digests whose bill of materials was matched against the feeds in force", "digests that run", "digests that nobody could tell", true, nil},
	{DecisionLatency, "", "Decision latency", Ratio,
		"decisions within 1 s", "decisions made", "", false, nil},
	{LogHealth, "", "Log health", Ratio,
		"minutes in which heads of the event log were published in time and no commit failed", "minutes", "", true, nil},
	{FeedFreshness, "", "Feed freshness", Ratio,
		"feeds looked at with success within vuln.max_age", "feeds in force", "", true, []string{"feed"}},
	{ScanCost, "", "Cost per scan", Seconds,
		"processor seconds of looking bills of materials up in the advisories", "bills of materials looked up", "", false, nil},
}

// Place is whose something is and where it is; every member may be "".
type Place struct {
	Team        string
	Service     string
	Environment string
	Cluster     string
	Release     string // REPOSITORY:TAG
	Kind        string // image, index, function, chart, package, ...
}

// The dimensions of every place.
const (
	ByTeam        = "team"
	ByService     = "service"
	ByEnvironment = "environment"
	ByCluster     = "cluster"
	ByRelease     = "release"
	ByKind        = "kind"
)

// Dimensions are those that every indicator is counted by.
func Dimensions() []string {
	return []string{ByTeam, ByService, ByEnvironment, ByCluster, ByRelease, ByKind}
}

// Indicator is an indicator's value in a window.
type Indicator struct {
	Definition
	// Value is in the unit; meaningless where Known is false.
	Value float64
	// Known says that anything was counted at all.
	Known       bool
	Numerator   float64 // good, or the sum of what the unit is
	Denominator float64 // of all of which it is known or not
	Bad         float64
	Unknown     float64 // its part that is not known, in the denominator's unit
	From, To    time.Time
	Window      time.Duration
	// By are the parts, where a dimension was asked for: the greatest part of bad
	// and unknown first.
	By []Part
}

// Part is an indicator's value of one part of the site.
type Part struct {
	Dimension, Value string // for example service, payments
	Number           float64
	Known            bool
	Numerator        float64
	Denominator      float64
	Bad              float64
	Unknown          float64
}

// Point is an indicator's value in one step of a series.
type Point struct {
	Start       time.Time
	Value       float64
	Known       bool
	Numerator   float64
	Denominator float64
	Bad         float64
	Unknown     float64
}

// Item is an artifact behind a number: one that is not as it should be.
type Item struct {
	Indicator ID
	Digest    artifact.Digest
	Place     Place
	Reason    string
	Unknown   bool // it is not known to be bad; it is not known
	Since     time.Time
	Seen      time.Time
	Event     string // evt_..., of one that an event told
}

// The causes of failed verifications, and the depths of dependencies.
const (
	CauseSecurity       = "security"       // evidence or policy refused
	CauseInfrastructure = "infrastructure" // no answer could be found
	DepthDirect         = "direct"
	DepthTransitive     = "transitive"
)
