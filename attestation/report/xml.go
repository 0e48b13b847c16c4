package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"

	"assay/internal/fault"
)

const (
	maxXMLDepth    = 32
	maxXMLElements = 4 << 20
)

// walkXML gives the elements of a document in order: open with the element and
// its depth from 1, shut when it ends. A DOCTYPE is refused: entities are how
// XML reads files and grows without end. Text is not given.
func walkXML(doc []byte, open func(depth int, e xml.StartElement) error, shut func(depth int, name string) error) error {
	d := xml.NewDecoder(bytes.NewReader(doc))
	d.Strict = true
	var names []string
	elements := 0
	for {
		t, err := d.RawToken()
		switch {
		case errors.Is(err, io.EOF):
			if elements == 0 {
				return fault.Newf(fault.Invalid, "the XML document is empty")
			}
			if len(names) > 0 {
				return fault.Newf(fault.Invalid, "the XML document ends within <%.40s>", names[len(names)-1])
			}
			return nil
		case err != nil:
			return fault.Newf(fault.Invalid, "%w", err)
		}
		switch e := t.(type) {
		case xml.Directive:
			return fault.Newf(fault.Invalid, "the document has a DOCTYPE, which is never read: remove it")
		case xml.ProcInst:
			if e.Target != "xml" {
				continue // a style sheet, which nobody follows here
			}
		case xml.StartElement:
			if elements++; elements > maxXMLElements {
				return fault.Newf(fault.TooLarge, "more than %d XML elements", maxXMLElements)
			}
			if len(names) == 0 && elements > 1 {
				return fault.Newf(fault.Invalid, "the XML document has two roots")
			}
			if len(names) >= maxXMLDepth {
				return fault.Newf(fault.TooLarge, "XML nested deeper than %d", maxXMLDepth)
			}
			if err := uniqueAttributes(e); err != nil {
				return err
			}
			names = append(names, e.Name.Local)
			if err := open(len(names), e); err != nil {
				return err
			}
		case xml.EndElement:
			if len(names) == 0 || names[len(names)-1] != e.Name.Local {
				return fault.Newf(fault.Invalid, "</%.40s> closes what is not open", e.Name.Local)
			}
			if err := shut(len(names), e.Name.Local); err != nil {
				return err
			}
			names = names[:len(names)-1]
		}
	}
}

// uniqueAttributes refuses an attribute that stands twice, of which two readers
// take two values.
func uniqueAttributes(e xml.StartElement) error {
	for i, a := range e.Attr {
		for _, b := range e.Attr[:i] {
			if a.Name == b.Name {
				return fault.Newf(fault.Invalid, "attribute %.40s of <%.40s> stands twice", a.Name.Local, e.Name.Local)
			}
		}
	}
	return nil
}

func attr(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Local == name && a.Name.Space == "" {
			return a.Value
		}
	}
	return ""
}
