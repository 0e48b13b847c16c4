// Package risk says how much hangs on a finding: a number from 0 to 100 that
// explains itself. It is the flaw's severity, times factors of which none is more
// than 1, and each of which is 1 where nothing is known:
//
//	100 × severity/10 × exploitation × reachability × dependency
//	    × running × exposure × criticality × evidence
//
// An artifact's risk is the sum of its findings', a service's that of its
// artifacts: what an upgrade takes away is then what it takes from the sum.
package risk

import (
	"fmt"

	"assay/vuln/finding"
)

// Part is one factor of a score, with why it is what it is.
type Part struct {
	Name   string  // severity, exploitation, ...
	Factor float64 // 0 to 1
	Why    string
}

// The factors.
const (
	epssFloor      = 0.2 // of a flaw that nobody is expected to exploit
	epssUnknown    = 0.6 // no score: what is new has none yet
	transitive     = 0.8
	notRunning     = 0.3
	notProduction  = 0.6
	internal       = 0.6
	isolated       = 0.3
	complete       = 0.8
	notReachable   = 0.1
	unknownVersion = 0.8 // whether this version is affected cannot be told
)

var criticality = [...]float64{1: 1, 2: 0.7, 3: 0.45, 4: 0.25}

// severityPoints are what a word counts for where no vector says more: the upper
// part of its range. What nobody rated counts as high.
func severityPoints(f finding.Flaw) (points float64, why string) {
	switch {
	case f.Malicious:
		return 10, "the package is itself the attack"
	case f.Score > 0:
		return f.Score, fmt.Sprintf("%s, CVSS %.1f", f.Severity, f.Score)
	}
	switch f.Severity {
	case "critical":
		return 9.5, "critical, without a vector"
	case "high":
		return 8, "high, without a vector"
	case "medium":
		return 5.5, "medium, without a vector"
	case "low":
		return 2.5, "low, without a vector"
	case "none":
		return 0, "none"
	}
	return 8, "nobody rated it, which counts as high"
}

// ofFlaw are the parts that are the same wherever the flaw is.
func ofFlaw(f finding.Flaw, epss bool) []Part {
	points, why := severityPoints(f)
	exploitation := Part{"exploitation", epssUnknown, "EPSS has no score for it"}
	switch {
	case f.Malicious:
		exploitation = Part{"exploitation", 1, "the package is itself the attack"}
	case f.KEV != "":
		exploitation = Part{"exploitation", 1, "known to be exploited since " + f.KEV}
	case f.EPSS > 0:
		exploitation = Part{"exploitation", epssFloor + (1-epssFloor)*f.EPSS, fmt.Sprintf("EPSS %.4f", f.EPSS)}
	case !epss:
		exploitation = Part{"exploitation", 1, "no EPSS scores are in force: not known"}
	}
	return []Part{{"severity", points / 10, why}, exploitation}
}

// ofUse are the parts of a component within an artifact. Whether its code is
// reached is not known here unless somebody says so.
func ofUse(direct, status, reach string) []Part {
	out := []Part{{"reachability", 1, "not known: counts as reachable"}, {"dependency", 1, "direct"}}
	switch reach {
	case "reachable":
		out[0].Why = "reachable"
	case "not_reachable":
		out[0] = Part{"reachability", notReachable, "not reachable"}
	}
	switch direct {
	case "transitive":
		out[1] = Part{"dependency", transitive, "transitive"}
	case "unknown":
		out[1].Why = "not known whether direct: counts as direct"
	}
	if status == "unknown" {
		out = append(out, Part{"version", unknownVersion, "whether this version is affected is not known"})
	}
	return out
}

// useFactor is the product of ofUse's, without its words: it is asked for each
// finding of each artifact.
func useFactor(direct, status, reach string) float64 {
	out := 1.0
	if reach == "not_reachable" {
		out *= notReachable
	}
	if direct == "transitive" {
		out *= transitive
	}
	if status == "unknown" {
		out *= unknownVersion
	}
	return out
}

func product(parts []Part) float64 {
	out := 1.0
	for _, p := range parts {
		out *= p.Factor
	}
	return out
}
