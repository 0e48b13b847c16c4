package sbom

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/store"
)

// Held is what there is of an artifact's bills of materials and overlays.
type Held struct {
	Documents  []string // attestations of those in force, sorted
	Read       []string // of all that were read, refused ones among them, sorted
	Overlays   []string // of all overlays that were read, refused ones among them, sorted
	Incomplete []string // what the documents say that they do not hold
}

// HeldComponent is one component of an artifact, over all of its documents.
type HeldComponent struct {
	Key      string
	Licenses []Stated // what the documents and overlays say; a document that says nothing is left out
	Dates    []Stated // days on which it was published, by overlays
	First    time.Time
}

// Stated is a value and the attestation that states it.
type Stated struct{ Value, Attestation string }

// HeldAsk says what is read of the components.
type HeldAsk struct {
	Overlays []string // attestations of those that count
	First    bool     // when this site first met each in a signed document
}

const maxOverlaid = 300_000 // values of overlays about one artifact's components

// Held gives what there is of documents and overlays about a subject.
func (s *Store) Held(ctx context.Context, subject artifact.Digest) (h Held, err error) {
	if err := subject.Validate(); err != nil {
		return h, err
	}
	err = s.db.View(ctx, func(tx *store.Tx) error {
		h = Held{}
		rows, err := tx.Query(ctx, `SELECT attestation, state, incomplete FROM sbom_document WHERE subject = ? ORDER BY attestation`, string(subject))
		if err != nil {
			return err
		}
		for rows.Next() {
			var id, incomplete string
			var state int
			if err := rows.Scan(&id, &state, &incomplete); err != nil {
				rows.Close()
				return err
			}
			if err := h.document(id, incomplete, state); err != nil {
				rows.Close()
				return err
			}
		}
		if err := rows.Err(); err != nil {
			return err
		}
		rows.Close()
		over, err := tx.Query(ctx, `SELECT attestation FROM sbom_overlay WHERE subject = ? ORDER BY attestation`, string(subject))
		if err != nil {
			return err
		}
		defer over.Close()
		for over.Next() {
			var id string
			if err := over.Scan(&id); err != nil {
				return err
			}
			h.Overlays = append(h.Overlays, id)
		}
		return over.Err()
	})
	return h, err
}

func (h *Held) document(id, incomplete string, state int) error {
	if state != stateReading {
		h.Read = append(h.Read, id)
	}
	if state != stateInForce {
		return nil
	}
	h.Documents = append(h.Documents, id)
	var reasons []string
	if incomplete != "" {
		if err := json.Unmarshal([]byte(incomplete), &reasons); err != nil {
			return fault.Wrap(fault.Tampered, err)
		}
	}
	for _, r := range reasons {
		if !slices.Contains(h.Incomplete, r) {
			h.Incomplete = append(h.Incomplete, r)
		}
	}
	return nil
}

// EachHeld gives an artifact's components one by one, in an order that is always
// the same. What overlays add to them, and one component, are in memory.
func (s *Store) EachHeld(ctx context.Context, subject artifact.Digest, ask HeldAsk, fn func(*HeldComponent) error) error {
	if err := subject.Validate(); err != nil {
		return err
	}
	return s.db.View(ctx, func(tx *store.Tx) error {
		added, err := overlaidValues(ctx, tx, subject, ask.Overlays)
		if err != nil {
			return err
		}
		first := "0"
		if ask.First {
			// Documents are numbered as they come, and the index gives them in order.
			first = `COALESCE((SELECT f.ingested FROM sbom_occurrence p JOIN sbom_document f ON f.id = p.document
				WHERE p.component = c.id AND f.state = 1 AND f.attestation NOT LIKE 'upload!_%' ESCAPE '!' ORDER BY p.document LIMIT 1), 0)`
		}
		rows, err := tx.Query(ctx, `SELECT c.id, c.key, o.license, d.attestation, `+first+` FROM sbom_document d JOIN sbom_occurrence o ON o.document = d.id JOIN sbom_component c ON c.id = o.component
			WHERE d.subject = ? AND d.state = 1 ORDER BY c.id, d.id`, string(subject))
		if err != nil {
			return err
		}
		defer rows.Close()
		var at *HeldComponent
		last := int64(-1)
		for rows.Next() {
			var id, seen int64
			var key, license, attestation string
			if err := rows.Scan(&id, &key, &license, &attestation, &seen); err != nil {
				return err
			}
			if id != last {
				if at != nil {
					if err := fn(at); err != nil {
						return err
					}
				}
				last, at = id, &HeldComponent{Key: key}
				at.add(added[id])
				if seen != 0 {
					at.First = store.Time(seen)
				}
			}
			if license != "" {
				at.Licenses = append(at.Licenses, Stated{license, attestation})
			}
		}
		if err := rows.Err(); err != nil || at == nil {
			return err
		}
		return fn(at)
	})
}

// added is a value that an overlay adds to a component.
type added struct{ field, value, attestation string }

func (c *HeldComponent) add(all []added) {
	for _, a := range all {
		if a.field == "license" {
			c.Licenses = append(c.Licenses, Stated{a.value, a.attestation})
		} else {
			c.Dates = append(c.Dates, Stated{a.value, a.attestation})
		}
	}
}

// overlaidValues reads what some overlays say of licences and of when components
// were published. It is read before the components: one connection reads one answer
// at a time.
func overlaidValues(ctx context.Context, tx *store.Tx, subject artifact.Digest, overlays []string) (map[int64][]added, error) {
	if len(overlays) == 0 {
		return nil, nil
	}
	args := []any{string(subject)}
	for _, id := range overlays {
		args = append(args, id)
	}
	rows, err := tx.Query(ctx, `SELECT DISTINCT c.id, v.field, v.value, v.attestation FROM sbom_document d JOIN sbom_occurrence o ON o.document = d.id JOIN sbom_component c ON c.id = o.component, `+addedJoin+`
		AND d.subject = ? AND d.state = 1 AND v.field IN ('license', 'published') AND w.attestation IN (`+marks(len(overlays))+`) ORDER BY c.id, v.field, v.value, v.attestation LIMIT ?`, append(args, maxOverlaid+1)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out, n := map[int64][]added{}, 0
	for rows.Next() {
		var id int64
		var a added
		if err := rows.Scan(&id, &a.field, &a.value, &a.attestation); err != nil {
			return nil, err
		}
		if n++; n > maxOverlaid {
			return nil, fault.Newf(fault.TooLarge, "overlays add more than %d values to the components of %s: fewer of them must count", maxOverlaid, subject)
		}
		out[id] = append(out[id], a)
	}
	return out, rows.Err()
}

// LicenseParts are the parts of an SPDX expression which must all hold; known says
// of each whether it is well-formed and of identifiers on the SPDX list alone.
func LicenseParts(text string) (parts []string, known []bool) {
	if LicenseIDs(text) == nil {
		return []string{text}, []bool{false} // no expression has parts
	}
	for _, p := range splitAnd(text) {
		ids := LicenseIDs(p)
		parts = append(parts, p)
		known = append(known, ids != nil && !slices.ContainsFunc(ids, func(id string) bool {
			return strings.HasPrefix(id, "LicenseRef-") || strings.HasPrefix(id, "DocumentRef-") || strings.HasPrefix(id, "AdditionRef-")
		}))
	}
	return parts, known
}
