package vex

import (
	"slices"
	"strings"
	"time"
)

// Attested is a document that somebody attested about an artifact or about a
// component of one, verified, for who judges whose word counts.
type Attested struct {
	book  *Book
	about Subject
}

// NewAttested takes a document that was attested about an artifact itself.
func NewAttested(id string, d *Document, about Subject) *Attested {
	return newAttested(id, d.Statements, about)
}

// NewAttestedOf takes one that was attested about a component: what it says of
// components, by their package URLs, counts, and nothing that it says of
// artifacts, which it is not about.
func NewAttestedOf(id string, d *Document) *Attested {
	var kept []Statement
	for _, s := range d.Statements {
		s.Products = slices.DeleteFunc(slices.Clone(s.Products), func(p string) bool {
			return !strings.HasPrefix(p, "pkg:") || strings.HasPrefix(p, "pkg:oci/")
		})
		if len(s.Products) > 0 {
			kept = append(kept, s)
		}
	}
	return newAttested(id, kept, Subject{})
}

func newAttested(id string, statements []Statement, about Subject) *Attested {
	a := &Attested{book: &Book{by: map[string][]*said{}}, about: about}
	a.book.add(&Entry{ID: id, Source: Import, Statements: statements})
	return a
}

// Of is what the document says of a flaw of a component, the most cautious of it;
// nil: nothing, or it is over.
func (a *Attested) Of(f Flaw, now time.Time) *Stated { return a.book.Of(a.about, f, now) }

// Concerns says whether a statement may say something of an artifact that it is
// attested about: the artifact, its repository, or components.
func (s *Statement) Concerns(about Subject) bool {
	return slices.ContainsFunc(s.Products, func(text string) bool {
		p, err := parseProduct(text)
		switch {
		case err != nil:
			return false
		case p.digest != "":
			return p.digest == about.Digest
		case p.repository != nil:
			return about.in(&p)
		}
		return true
	})
}
