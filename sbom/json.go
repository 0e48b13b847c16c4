package sbom

import (
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"

	"assay/internal/fault"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

func itoa(n int) string { return strconv.Itoa(n) }

// readJSON reads a CycloneDX or SPDX document, or an in-toto statement about
// one. The members come in any order, so what the document is may be known only
// at its end.
func (s *stream) readJSON() error {
	d := jsontext.NewDecoder(s.r)
	three := &spdx3{s: s}
	if err := s.document(d, three, 0); err != nil {
		return err
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return fault.Newf(fault.Invalid, "data after the end of the document")
	}
	switch s.head.Format {
	case CycloneDXJSON:
		if !slices.Contains(cycloneDXVersions, s.head.SpecVersion) {
			return fault.Newf(fault.Invalid, "CycloneDX specVersion %.20q: want one of %s", s.head.SpecVersion, strings.Join(cycloneDXVersions, ", "))
		}
	case SPDXJSON:
		return s.spdxDone()
	case SPDX3JSON:
		return three.done()
	default:
		return fault.Newf(fault.Invalid, "neither bomFormat (CycloneDX) nor spdxVersion (SPDX 2) nor @graph (SPDX 3): this is no SBOM that is known here")
	}
	return nil
}

// document walks the members. A statement's predicate is walked in its place.
func (s *stream) document(d *jsontext.Decoder, three *spdx3, depth int) error {
	return object(d, "document", func(name string) error {
		switch name {
		case "predicate", "Data":
			if depth < 2 && d.PeekKind() == '{' {
				return s.document(d, three, depth+1)
			}
		case "@context":
			return d.SkipValue()
		case "@graph":
			if err := s.is(SPDX3JSON); err != nil {
				return err
			}
			return array(d, name, func() error {
				var e spdx3Element
				if err := json.UnmarshalDecode(d, &e); err != nil {
					return err
				}
				return three.element(&e)
			})
		}
		for _, known := range []func(*jsontext.Decoder, string) (bool, error){s.cycloneDXMember, s.spdxMember} {
			if took, err := known(d, name); took || err != nil {
				return err
			}
		}
		return d.SkipValue()
	})
}
