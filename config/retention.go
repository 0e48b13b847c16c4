package config

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"assay/internal/fault"
	"assay/internal/glob"
)

// KindRetention is a document that says what is kept for how long:
// [RetentionSpec].
const KindRetention = "Retention"

// The classes of what retention is about.
const (
	ClassImages       = "images"       // manifests that count for themselves, with their tags; their evidence goes with them
	ClassAttestations = "attestations" // verified evidence about what no repository holds any longer
	ClassSBOMs        = "sboms"        // the same, of bills of materials alone
	ClassDecisions    = "decisions"    // decisions that others have replaced
	ClassAudit        = "audit"        // sealed segments of the event log
)

// RetentionSpec is one rule. Whatever any of its keep… members names is kept,
// and so is what another rule that covers it keeps; the rest goes. What no rule
// covers is kept.
type RetentionSpec struct {
	// Class is what it is about: images, attestations, sboms, decisions or audit.
	Class string `yaml:"class"`
	// Repositories are globs over repository names, for images.
	Repositories []string `yaml:"repositories"`
	// KeepLast keeps so many of the newest: images of each repository, by push or
	// the move of a tag, whichever is later; replaced decisions of each artifact
	// and scope.
	KeepLast int `yaml:"keepLast"`
	// KeepFor keeps what is younger, by this site's clock. It is never a time
	// that a document claims.
	KeepFor time.Duration `yaml:"keepFor"`
	// KeepTags keeps images that have a tag which one of these globs matches.
	KeepTags []string `yaml:"keepTags"`
	// KeepRunning keeps images of which it is not known that they run nowhere;
	// default true. While nothing tells what runs, that is all images.
	KeepRunning *bool `yaml:"keepRunning"`
	// Immutable lets the rule delete in immutable repositories, and immutable
	// tags, too.
	Immutable bool `yaml:"immutable"`
	// ObjectLock has an object store with Object Lock keep what KeepFor keeps of
	// images: nobody, this site included, deletes those objects before.
	ObjectLock bool `yaml:"objectLock"`
}

// Validate says what is wrong with a rule. Errors are fault.Invalid.
func (s *RetentionSpec) Validate() error {
	switch s.Class {
	case ClassImages:
		return s.validateImages()
	case ClassAttestations, ClassSBOMs, ClassAudit, ClassDecisions:
	case "logs":
		return fault.Newf(fault.Invalid, "class logs: the transparency log only ever grows and no rule shortens it; the server's own messages are kept by whatever collects its output")
	default:
		return fault.Newf(fault.Invalid, "class %.40q: want %s", s.Class, strings.Join([]string{ClassImages, ClassAttestations, ClassSBOMs, ClassDecisions, ClassAudit}, ", "))
	}
	if len(s.Repositories)+len(s.KeepTags) > 0 || s.KeepRunning != nil || s.Immutable || s.ObjectLock || s.KeepLast != 0 && s.Class != ClassDecisions {
		return fault.Newf(fault.Invalid, "class %s: repositories, keepTags, keepRunning, immutable and objectLock are for images, keepLast for images and decisions; want keepFor", s.Class)
	}
	if s.KeepFor < 24*time.Hour {
		return fault.Newf(fault.Invalid, "class %s: keepFor %s: want at least 24h", s.Class, s.KeepFor)
	}
	if s.KeepLast < 0 {
		return fault.Newf(fault.Invalid, "keepLast %d: want 0 or more", s.KeepLast)
	}
	return nil
}

func (s *RetentionSpec) validateImages() error {
	if len(s.Repositories) == 0 {
		return fault.Newf(fault.Invalid, `class images: want repositories, for example ["team/**"]`)
	}
	for _, p := range slices.Concat(s.Repositories, s.KeepTags) {
		if _, err := glob.Parse(p); err != nil {
			return fmt.Errorf("repositories, keepTags: %w", err)
		}
	}
	if s.KeepLast < 0 || s.KeepFor < 0 {
		return fault.Newf(fault.Invalid, "keepLast, keepFor: want 0 or more")
	}
	if s.KeepLast == 0 && s.KeepFor == 0 {
		return fault.Newf(fault.Invalid, "class images: want keepLast or keepFor: a rule without either would delete what was pushed a moment ago")
	}
	if s.ObjectLock && s.KeepFor == 0 {
		return fault.Newf(fault.Invalid, "objectLock: want keepFor: a bucket locks objects until a time")
	}
	return nil
}

// RetentionRule is a rule with the name of its document.
type RetentionRule struct {
	Name string
	RetentionSpec
}

func retentionRules(docs []Document) (out []RetentionRule) {
	for _, d := range docs {
		if d.Retention != nil {
			out = append(out, RetentionRule{d.Name, *d.Retention})
		}
	}
	return out
}
