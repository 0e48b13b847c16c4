package attestation

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// The statement types that are read; [NewStatement] writes v1.
const (
	StatementV1  = "https://in-toto.io/Statement/v1"
	StatementV01 = "https://in-toto.io/Statement/v0.1"
)

// ResourceDescriptor is in-toto's ResourceDescriptor (spec/v1): a resource by
// name, place or content. Digest alone identifies; all else is description.
type ResourceDescriptor struct {
	Name             string             `json:"name,omitempty"` // opaque text, never a path
	URI              string             `json:"uri,omitempty"`
	Digest           artifact.DigestSet `json:"digest,omitempty"`
	Content          []byte             `json:"content,omitempty"` // base64 in JSON
	DownloadLocation string             `json:"downloadLocation,omitempty"`
	MediaType        string             `json:"mediaType,omitempty"`
	Annotations      map[string]any     `json:"annotations,omitempty"`
}

// Subject is what a statement is about; only its Digest binds it to content.
type Subject = ResourceDescriptor

// Statement is an in-toto Statement (in-toto/attestation, spec/v1/statement.md).
// One that came from [ParseStatement] has at least one subject, a strong digest
// or git commit on each (unless Limits.OpaqueSubjects), a predicate type, and a predicate
// that is an object or nil.
type Statement struct {
	Type          string          `json:"_type"`
	Subject       []Subject       `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate,omitzero"` // an object, or nil
}

type wireStatement struct {
	Type          string         `json:"_type"`
	Subject       jsontext.Value `json:"subject"`
	PredicateType string         `json:"predicateType"`
	Predicate     jsontext.Value `json:"predicate"`
}

// ParseStatement reads a Statement v1 or v0.1. It refuses null or absent
// subjects, a subject without a strong digest (sha256, sha384, sha512) or git commit, a
// digest that is not what its algorithm gives, and more than lim.MaxSubjects
// subjects, which are counted before any is decoded.
func ParseStatement(b []byte, lim Limits) (*Statement, error) {
	lim = lim.orDefault()
	var w wireStatement
	if err := strictjson.Unmarshal(b, &w, lim.json()); err != nil {
		return nil, fault.Newf(fault.KindOf(err), "statement: %w", err)
	}
	if w.Type != StatementV1 && w.Type != StatementV01 {
		return nil, invalid("statement: _type is %.100q, want %q or %q", w.Type, StatementV1, StatementV01)
	}
	if err := capArray("statement: subject", w.Subject, lim.MaxSubjects); err != nil {
		return nil, err
	}
	s := &Statement{Type: w.Type, PredicateType: w.PredicateType}
	if err := strictjson.Unmarshal(w.Subject, &s.Subject, lim.json()); err != nil {
		return nil, fault.Newf(fault.KindOf(err), "statement: subject: %w", err)
	}
	if w.Predicate.Kind() != jsontext.KindNull && len(w.Predicate) > 0 {
		s.Predicate = json.RawMessage(w.Predicate)
	}
	if err := s.validate(lim); err != nil {
		return nil, err
	}
	return s, nil
}

// NewStatement makes a Statement v1. The predicate is any value that encodes
// to a JSON object, raw JSON included.
func NewStatement(predicateType string, predicate any, subjects ...Subject) (*Statement, error) {
	raw, err := strictjson.Marshal(predicate)
	if err != nil {
		return nil, err
	}
	s := &Statement{Type: StatementV1, Subject: subjects, PredicateType: predicateType, Predicate: raw}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	return s, nil
}

// Validate applies the rules of [ParseStatement] to a statement made here, with
// the default limits.
func (s *Statement) Validate() error { return s.validate(DefaultLimits()) }

func (s *Statement) validate(lim Limits) error {
	if err := validPredicateType(s.PredicateType); err != nil {
		return err
	}
	if len(s.Subject) == 0 {
		return invalid("statement: has no subject: want at least one")
	}
	if len(s.Subject) > lim.MaxSubjects {
		return tooMany("statement: subject", lim.MaxSubjects)
	}
	for i, sub := range s.Subject {
		if err := ValidateDigestSet(sub.Digest); err != nil {
			return invalid("statement: subject %d (%.80q): %w", i, sub.Name, err)
		}
		if len(sub.Digest.Strong()) == 0 && GitCommit(sub.Digest) == "" && !(lim.OpaqueSubjects && opaqueSubject(sub.Digest)) {
			return invalid("statement: subject %d (%.80q): digest has %.200q, want sha256, sha384 or sha512, or gitCommit",
				i, sub.Name, slices.Sorted(maps.Keys(sub.Digest)))
		}
	}
	if k := jsontext.Value(s.Predicate).Kind(); s.Predicate != nil && k != jsontext.KindBeginObject {
		return invalid("statement: predicate is %v, want an object", k)
	}
	return nil
}

// validPredicateType refuses what could be read as another type by those who
// trim or split: the type is compared byte for byte.
func validPredicateType(s string) error {
	if s == "" {
		return invalid("statement: predicateType is absent or empty")
	}
	if len(s) > 1024 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return invalid("statement: predicateType %.100q: want a URI of at most 1024 bytes without white space or control characters", s)
	}
	return nil
}

// Bytes validates the statement and writes it as JSON, ready to be signed.
func (s *Statement) Bytes() ([]byte, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	b, err := strictjson.Marshal(s)
	if err != nil {
		return nil, err
	}
	// A raw predicate passes through the writer as it is; the reader's rules
	// hold for it as well, or somebody could sign what nobody may read.
	if err := strictjson.Check(b, DefaultLimits().json()); err != nil {
		return nil, fault.Newf(fault.KindOf(err), "statement: %w", err)
	}
	return b, nil
}

// GitCommit is the commit that a digest set names, "" for none. A commit is no
// content with a strong hash and matches no artifact; statements about it (SLSA
// 1.2, source attestations) name it by this alone, and whoever asks about a
// commit compares the whole id.
func GitCommit(s artifact.DigestSet) string { return s["gitCommit"] }

// Match finds the first subject that names the artifact: some strong algorithm
// agrees and none disagrees. A caller who has the content itself gives the
// digests of every algorithm in [Statement.Algorithms], so that a subject with
// one right and one wrong digest is found out.
func (s *Statement) Match(of artifact.DigestSet) (Subject, bool) {
	for _, sub := range s.Subject {
		if sub.Digest.Match(of) {
			return sub, true
		}
	}
	return Subject{}, false
}

// Algorithms lists the strong digest algorithms that the subjects use, sorted.
func (s *Statement) Algorithms() []string {
	algs := map[string]bool{}
	for _, sub := range s.Subject {
		for _, d := range sub.Digest.Strong() {
			algs[d.Algorithm()] = true
		}
	}
	return slices.Sorted(maps.Keys(algs))
}

// hexDigits is the length of the algorithms of in-toto's digest_set.md that
// are written as hex. Others (dirHash, goModuleH1, gce_image_id) are opaque.
var hexDigits = map[string][]int{
	"md5": {32}, "sha1": {40}, "sha224": {56}, "sha512_224": {56}, "sha512_256": {64},
	"sha3_224": {56}, "sha3_256": {64}, "sha3_384": {96}, "sha3_512": {128},
	"gitCommit": {40, 64}, "gitTree": {40, 64}, "gitBlob": {40, 64}, "gitTag": {40, 64},
}

// ValidateDigestSet checks that each value has the form that its algorithm
// gives: lowercase hex of the right length for the known ones, something for
// the others. An empty set is valid, as a descriptor needs no digest.
func ValidateDigestSet(s artifact.DigestSet) error {
	for _, alg := range slices.Sorted(maps.Keys(s)) {
		v := s[alg]
		switch alg {
		case "":
			return invalid("digest: algorithm is empty")
		case artifact.SHA256, artifact.SHA384, artifact.SHA512:
			if _, err := artifact.ParseDigest(alg + ":" + v); err != nil {
				return err
			}
			continue
		}
		if want, known := hexDigits[alg]; known {
			if !slices.Contains(want, len(v)) || strings.Trim(v, "0123456789abcdef") != "" {
				return invalid("digest %s:%.80q: want %v lowercase hex digits", alg, v, want)
			}
			continue
		}
		if v == "" {
			return invalid("digest: %.80q has no value", alg)
		}
	}
	return nil
}

// opaqueSubject says whether the set identifies by something else than a hash
// that was found weak.
func opaqueSubject(s artifact.DigestSet) bool {
	for alg := range s {
		switch alg {
		case "md5", "sha1", "sha224", "sha512_224", "sha3_224":
			return false
		}
	}
	return len(s) > 0
}
