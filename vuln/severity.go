package vuln

import (
	"strings"

	cvss20 "github.com/pandatix/go-cvss/20"
	cvss30 "github.com/pandatix/go-cvss/30"
	cvss31 "github.com/pandatix/go-cvss/31"
	cvss40 "github.com/pandatix/go-cvss/40"
)

// Rating is how severe a record says that the flaw is: the highest CVSS base
// score of its vectors, as a word of CVSS's qualitative scale and a number, or
// the word of its database where there is no vector (score 0). "" when it says
// nothing: that is unknown, not harmless.
func (a *Advisory) Rating() (severity string, score float64) {
	ratings := a.Severity
	for i := range a.Affected {
		ratings = append(ratings[:len(ratings):len(ratings)], a.Affected[i].Severity...)
	}
	rated := false
	for _, s := range ratings {
		if n, ok := s.base(); ok {
			rated, score = true, max(score, n)
		}
	}
	if rated {
		return word(score), score
	}
	words := []string{a.Database.Severity}
	for i := range a.Affected {
		words = append(words, a.Affected[i].Specific.Severity, a.Affected[i].Specific.Urgency)
	}
	for _, s := range ratings { // Ubuntu's priority stands as a rating
		words = append(words, s.Score)
	}
	best := 0
	for _, w := range words {
		best = max(best, rank(w))
	}
	return [...]string{"", "none", "low", "medium", "high", "critical"}[best], 0
}

// base is the base score of a vector.
func (s Severity) base() (float64, bool) {
	v := s.Score
	if len(v) > 500 {
		return 0, false
	}
	switch {
	case strings.HasPrefix(v, "CVSS:3.1/"):
		if c, err := cvss31.ParseVector(v); err == nil {
			return c.BaseScore(), true
		}
	case strings.HasPrefix(v, "CVSS:3.0/"):
		if c, err := cvss30.ParseVector(v); err == nil {
			return c.BaseScore(), true
		}
	case strings.HasPrefix(v, "CVSS:4.0/"):
		if c, err := cvss40.ParseVector(v); err == nil {
			return c.Score(), true
		}
	case s.Type == "CVSS_V2":
		if c, err := cvss20.ParseVector(v); err == nil {
			return c.BaseScore(), true
		}
	}
	return 0, false
}

// word is CVSS's qualitative severity rating scale (v3.1 section 5).
func word(score float64) string {
	switch {
	case score == 0:
		return "none"
	case score < 4:
		return "low"
	case score < 7:
		return "medium"
	case score < 9:
		return "high"
	}
	return "critical"
}

// Rank orders words of severity; 0: it is none.
func Rank(severity string) int { return rank(severity) }

func rank(w string) int {
	switch strings.ToLower(strings.TrimSpace(w)) {
	case "none", "unimportant":
		return 1
	case "low", "negligible", "minor":
		return 2
	case "medium", "moderate":
		return 3
	case "high", "important":
		return 4
	case "critical":
		return 5
	}
	return 0
}
