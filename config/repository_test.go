package config

import (
	"errors"
	"strings"
	"testing"
	"time"

	"assay/internal/fault"

	"github.com/google/go-cmp/cmp"
)

func TestRepositories(t *testing.T) {
	r, err := NewRepositories(
		RepositorySpec{Pattern: "**", Profile: ProfileDev},
		RepositorySpec{Pattern: "team/**", Mode: ModeStaged, StagedFor: time.Hour, ImmutableTags: []string{"v*"}},
		RepositorySpec{Pattern: "team/app", Mode: ModeStrict, Environment: "production"},
		// Equally specific, and both match x-y: the stricter setting of each.
		RepositorySpec{Pattern: "x-*", Mode: ModeStaged, StagedFor: 2 * time.Hour},
		RepositorySpec{Pattern: "*-y", Profile: ProfileDev, Immutable: true},
	)
	if err != nil {
		t.Fatal(err)
	}
	type answer struct {
		Mode         Mode
		Profile, Env string
		Staged       time.Duration
		V1, Latest   bool
	}
	of := func(name string) answer {
		s := r.For(name)
		_, v1 := s.ImmutableTag("v1")
		_, latest := s.ImmutableTag("latest")
		return answer{s.Mode, s.Profile, s.Environment, s.StagedFor, v1, latest}
	}
	for name, want := range map[string]answer{
		"other":    {ModeOpen, ProfileDev, "", DefaultStagedFor, false, false},
		"team/lib": {ModeStaged, "", "", time.Hour, true, false},
		"team/app": {ModeStrict, "", "production", DefaultStagedFor, false, false},
		"x-y":      {ModeStaged, "", "", 2 * time.Hour, true, true},
	} {
		if d := cmp.Diff(want, of(name)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
	var none *Repositories
	if s := none.For("any"); s.Mode != ModeOpen || s.Profile != "" {
		t.Errorf("without documents: %+v", s)
	}
	again, err := NewRepositories(RepositorySpec{Pattern: "**", Profile: ProfileDev})
	if err != nil || again.Fingerprint() == r.Fingerprint() {
		t.Errorf("other rules have the same fingerprint; %v", err)
	}
}

func TestRepositorySpecRefuses(t *testing.T) {
	for spec, words := range map[string]string{
		`{pattern: "a/**", mode: closed}`:                              "want open, staged or strict",
		`{pattern: "a/**", profile: prod}`:                             "want dev, or none",
		`{pattern: "a/**", profile: dev, mode: strict}`:                "want one of them",
		`{pattern: "a/**", expireAfter: 1h}`:                           "expireAfter is for profile dev",
		`{pattern: "a/**", stagedFor: 1h}`:                             "stagedFor is for modes",
		`{pattern: "a/**", mode: staged, stagedFor: -1h}`:              "more than nothing",
		`{pattern: "a/**", mode: staged, environment: "a@b"}`:          "want a word",
		`{pattern: "a/**", immutableTags: ["v[0-9]"]}`:                 "immutableTags",
		`{pattern: "a/**", immutableTags: ["v**"]}`:                    "immutableTags",
		`{pattern: "a/**", immutabletags: ["v*"]}`:                     "immutabletags",
		`{pattern: "a/**", mode: staged, stagedFor: a week}`:           "a week",
		`{pattern: "a[b]/**"}`:                                         "no meaning",
		`{pattern: ""}`:                                                "empty pattern",
		`{pattern: "a/**", mode: staged, mode: open}`:                  "mode",
		`{pattern: "a/**", mode: strict, profile: dev, stagedFor: 1h}`: "want one of them",
	} {
		_, err := ParseDocuments([]byte(repository("r", spec)))
		if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v, want %q", spec, err, words)
		}
	}
}
