package builder

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/fault"
)

// FailureType is the predicate type of statements that a build failed. Their
// subjects are the files that it left, which are no good, and the build's own
// id. docs/build.md describes it.
const FailureType = attestation.PredicateBuildFailure

// The reasons of a failed build: fixed words.
const (
	FailedStart     = "start"             // the command could not be started
	FailedExit      = "exit"              // it ended with another exit code than 0
	FailedSignal    = "signal"            // a signal ended it
	FailedMaterial  = "material.changed"  // what was declared as its input changed meanwhile
	FailedMissing   = "product.missing"   // a product is not there, or is no regular file
	FailedUnwritten = "product.unwritten" // a product was there before, and the build did not write it
	FailedProduct   = "product.changed"   // a product changed between the end of the build and its statements
)

// Failure is why a build's products are not attested.
type Failure struct {
	Reason string // a fixed word
	Detail string // for people
	Files  []File // products by name that the build wrote all the same
}

// fail makes the record one of a failed build, and gives the error.
func (r *Run) fail(reason, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	r.Failure = &Failure{Reason: reason, Detail: oneLine(err), Files: r.left()}
	r.Products = nil
	return fault.Newf(fault.Denied, "%w; nothing is attested", err)
}

// left lists the products that the failed build wrote, as far as they can be
// read.
func (r *Run) left() []File {
	var out []File
	found, err := r.products.find(r.dir)
	if err == nil && r.products.none() {
		found, err = r.made(context.Background()) // the build's own context may be over
	}
	if err != nil {
		return nil
	}
	for _, name := range found {
		if unwritten(r.dir, name, r.before) {
			continue
		}
		if f, err := HashFile(r.dir, name); err == nil {
			out = append(out, f)
		}
	}
	return out
}

// FailureSubjects are what the statement about a failed build is about: its
// files, and its id, whose SHA-256 stands for it where a digest is wanted.
func (r *Run) FailureSubjects() []File {
	subjects := []File{{Name: r.ID, Digest: artifact.SHA256Of([]byte(r.ID))}}
	if r.Failure == nil {
		return subjects
	}
	for _, f := range r.Failure.Files {
		if !slices.ContainsFunc(subjects, func(s File) bool { return s.Digest == f.Digest }) {
			subjects = append(subjects, f)
		}
	}
	return subjects
}

// failure is the predicate of FailureType.
type failure struct {
	InvocationID string    `json:"invocationId"`
	Builder      builderID `json:"builder"`
	Reason       string    `json:"reason"`
	Detail       string    `json:"detail,omitempty"`
	ExitCode     int       `json:"exitCode"`
	Command      []string  `json:"command"`
	Dir          string    `json:"dir"`
	Source       *resource `json:"source,omitempty"`
	StartedOn    string    `json:"startedOn,omitempty"`
	FinishedOn   string    `json:"finishedOn,omitempty"`
}

// FailurePredicate states why the build failed.
func (r *Run) FailurePredicate(builder, version string) ([]byte, error) {
	if r.Failure == nil {
		return nil, fault.Newf(fault.Internal, "build %s did not fail", r.ID)
	}
	f := failure{
		InvocationID: r.ID, Builder: builderID{ID: builder, Version: map[string]string{"assay": version}},
		Reason: r.Failure.Reason, Detail: r.Failure.Detail, ExitCode: r.ExitCode, Command: r.Command, Dir: r.Dir,
		StartedOn: r.StartedOn.Format(time.RFC3339), FinishedOn: r.FinishedOn.Format(time.RFC3339),
	}
	if r.Source != nil {
		f.Source = &resource{URI: r.Source.address(), Digest: artifact.DigestSet{"gitCommit": r.Source.Commit}}
	}
	return json.Marshal(f)
}

// unwritten says that a file was there before and is still the same one.
func unwritten(dir, name string, before map[string]os.FileInfo) bool {
	was := before[name]
	if was == nil {
		return false
	}
	st, err := os.Stat(within(dir, filepath.FromSlash(name)))
	return err == nil && os.SameFile(was, st) && was.Size() == st.Size() && was.ModTime().Equal(st.ModTime())
}
