package attestation

import (
	"assay/internal/strictjson"
)

// VSASourceMerges is the member of a source verification summary that says what
// came of making its merge commits again; its value is a [SourceMerges].
const VSASourceMerges = "urn:assay:source:merges"

// SourceMerges counts the merge commits of a summary by what they hold beside
// what git makes of their parents. docs/source.md describes the four.
type SourceMerges struct {
	Clean    int `json:"clean"`
	Resolved int `json:"resolved"`
	Changed  int `json:"changed"`
	Unknown  int `json:"unknown"`
	// Commits are the changed ones, at most [MaxSourceMerges].
	Commits []string `json:"commits,omitempty"`
}

// MaxSourceMerges is how many merge commits a summary names.
const MaxSourceMerges = 20

// SourceMerges reads what the summary says of merges; nil when it says nothing
// that can be read.
func (v *VSA) SourceMerges() *SourceMerges {
	raw, there := v.Extensions[VSASourceMerges]
	if !there {
		return nil
	}
	var m SourceMerges
	if strictjson.Unmarshal(raw, &m) != nil || min(m.Clean, m.Resolved, m.Changed, m.Unknown) < 0 || len(m.Commits) > MaxSourceMerges {
		return nil
	}
	return &m
}
