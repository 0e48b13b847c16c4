package sbom

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"

	"assay/internal/fault"
)

// looksLikeTagValue says whether a document begins as SPDX tag-value does, which
// may be with comments.
func looksLikeTagValue(start []byte) bool {
	for _, line := range bytes.Split(start, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		return bytes.HasPrefix(line, []byte("SPDXVersion:"))
	}
	return false
}

// tagReader parts a tag-value document into tags (SPDX 2.3 section 4.3 and
// annex on tag-value).
type tagReader struct {
	r    *bufio.Reader
	line int
}

const maxTagLine = 1 << 20

func (t *tagReader) text() (string, error) {
	var out []byte
	for {
		part, err := t.r.ReadSlice('\n')
		out = append(out, part...)
		if len(out) > maxTagLine {
			return "", fault.Newf(fault.TooLarge, "line %d has more than %d bytes", t.line+1, maxTagLine)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil && (!errors.Is(err, io.EOF) || len(out) == 0) {
			return "", err
		}
		t.line++
		return strings.TrimRight(string(out), "\r\n"), nil
	}
}

// next gives one tag. A value between <text> and </text> spans lines.
func (t *tagReader) next() (tag, value string, err error) {
	for {
		line, err := t.text()
		if err != nil {
			return "", "", err
		}
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		tag, value, ok := strings.Cut(line, ":")
		if !ok {
			return "", "", fault.Newf(fault.Invalid, "line %d: want TAG: VALUE, found %.60q", t.line, line)
		}
		value = strings.TrimSpace(value)
		rest, long := strings.CutPrefix(value, "<text>")
		if !long {
			return tag, value, nil
		}
		for !strings.Contains(rest, "</text>") {
			more, err := t.text()
			if err != nil {
				return "", "", fault.Newf(fault.Invalid, "line %d: <text> has no end", t.line)
			}
			if rest += "\n" + more; len(rest) > maxTagLine {
				return "", "", fault.Newf(fault.TooLarge, "line %d: a text of more than %d bytes", t.line, maxTagLine)
			}
		}
		value, _, _ = strings.Cut(rest, "</text>")
		return tag, value, nil
	}
}

// tagDocument is what the tags so far are about.
type tagDocument struct {
	pkg  *spdxPackage
	file *spdxFile
}

func (s *stream) readTagValue() error {
	t := &tagReader{r: s.r}
	s.head.Format = SPDXTagValue
	at := &tagDocument{}
	for {
		tag, value, err := t.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := s.tag(at, tag, value); err != nil {
			return err
		}
	}
	if err := s.flush(at); err != nil {
		return err
	}
	return s.spdxDone()
}

// flush hands on the package or file that ended.
func (s *stream) flush(at *tagDocument) (err error) {
	switch {
	case at.pkg != nil:
		err = s.spdxPackage(at.pkg)
	case at.file != nil:
		err = s.spdxFile(at.file)
	}
	*at = tagDocument{}
	return err
}

func (s *stream) tag(at *tagDocument, tag, value string) error {
	switch tag {
	case "PackageName":
		if err := s.flush(at); err != nil {
			return err
		}
		at.pkg = &spdxPackage{Name: value}
		return nil
	case "FileName":
		if err := s.flush(at); err != nil {
			return err
		}
		at.file = &spdxFile{Name: value}
		return nil
	case "SnippetSPDXID", "LicenseID":
		return s.flush(at)
	case "Relationship":
		parts := strings.Fields(value)
		if len(parts) != 3 {
			return fault.Newf(fault.Invalid, "relationship %.100q: want ELEMENT TYPE ELEMENT", value)
		}
		return s.relationship(spdxRelationship{From: parts[0], Type: parts[1], To: parts[2]})
	}
	switch {
	case at.pkg != nil:
		packageTag(at.pkg, tag, value)
	case at.file != nil:
		fileTag(at.file, tag, value)
	default:
		return s.documentTag(tag, value)
	}
	return nil
}

func (s *stream) documentTag(tag, value string) error {
	switch tag {
	case "SPDXVersion":
		s.head.SpecVersion = strings.TrimPrefix(value, "SPDX-")
	case "SPDXID":
		if value != spdxDocumentID {
			return fault.Newf(fault.Invalid, "the document's SPDXID is %.60q: want %s", value, spdxDocumentID)
		}
	case "DocumentName":
		s.head.Name = value
	case "DocumentNamespace":
		s.head.ID = value
	case "Created":
		s.head.Created = s.timestamp(value)
	case "Creator":
		s.creator(value)
	}
	return nil
}

func packageTag(p *spdxPackage, tag, value string) {
	switch tag {
	case "SPDXID":
		p.ID = value
	case "PackageVersion":
		p.Version = value
	case "PackageSupplier":
		p.Supplier = value
	case "PrimaryPackagePurpose":
		p.Purpose = value
	case "PackageLicenseDeclared":
		p.Declared = value
	case "PackageLicenseConcluded":
		p.Concluded = value
	case "PackageComment":
		p.Comment = value
	case "PackageChecksum":
		alg, sum, _ := strings.Cut(value, ":")
		p.Checksums = append(p.Checksums, spdxChecksum{alg, strings.TrimSpace(sum)})
	case "ExternalRef":
		if parts := strings.Fields(value); len(parts) == 3 {
			p.Refs = append(p.Refs, spdxExternalRef{parts[1], parts[2]})
		}
	}
}

func fileTag(f *spdxFile, tag, value string) {
	switch tag {
	case "SPDXID":
		f.ID = value
	case "LicenseConcluded":
		f.Concluded = value
	case "FileChecksum":
		alg, sum, _ := strings.Cut(value, ":")
		f.Checksums = append(f.Checksums, spdxChecksum{alg, strings.TrimSpace(sum)})
	}
}
