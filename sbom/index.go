package sbom

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"time"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
)

// Store keeps what bills of materials hold, to be searched and matched. The
// documents themselves are evidence; what is here can be made anew from them.
type Store struct {
	db  *store.DB
	lim Limits
}

// NewStore makes a store over a database that was migrated with [Migrations] and
// event.Migrations.
func NewStore(db *store.DB, lim Limits) *Store { return &Store{db: db, lim: lim} }

// Source says where a document comes from: verified evidence, never a claim.
type Source struct {
	Attestation string          // evidence ID, "att_…"
	Subject     artifact.Digest // what it is about, by the signed statement
	Issuer      string          // of the signer's certificate; "" when a key signed
	Identity    string          // of the signer: its subject, or the key's fingerprint
}

// Indexed is one stored document.
type Indexed struct {
	ID int64
	Source
	Format      Format
	SpecVersion string
	Document    string // the document's own ID
	Name        string
	Created     time.Time // claimed; zero: absent
	Ingested    time.Time
	Packages    int
	Quality     Quality
	Problem     string // why it could not be read; "" when it is in force
}

// Index reads a document and puts it in force. A document of this attestation
// about this subject that is there already is left as it is, and fresh is false.
// One that cannot be read is recorded as refused, with the reason, which is no
// error here: what is refused must be seen, and counts as an absent SBOM.
//
// A document is read in pieces of some thousand rows, so that none holds up the
// database; it counts from the last piece on. After a crash it is begun again.
func (s *Store) Index(ctx context.Context, from Source, r io.Reader) (ix Indexed, fresh bool, err error) {
	if from.Attestation == "" || from.Subject.Validate() != nil {
		return ix, false, fault.Newf(fault.Invalid, "index SBOM: want the attestation's ID and the subject's digest")
	}
	if ix, err = s.begin(ctx, from); err != nil || ix.Problem != "" || ix.Packages >= 0 {
		return ix, false, err
	}
	in := &indexing{s: s, id: ix.ID, refs: map[string]int64{}, comps: map[int64]*occurrence{}}
	head, err := Stream(r, s.lim, Visitor{Component: in.component(ctx), Dependency: in.dependency})
	switch {
	case errors.Is(err, fault.Invalid), errors.Is(err, fault.TooLarge):
		ix, err = s.refuse(ctx, ix.ID, err)
		return ix, true, err
	case err != nil:
		return ix, false, err
	}
	if err := in.flush(ctx); err != nil {
		return ix, false, err
	}
	in.resolve(head.Roots)
	if err := in.write(ctx); err != nil {
		return ix, false, err
	}
	ix, err = s.finish(ctx, in, head)
	return ix, err == nil, err
}

// begin makes the document's row, or finds it. Packages is -1 while it is to be
// read.
func (s *Store) begin(ctx context.Context, from Source) (ix Indexed, err error) {
	var leftover int64
	err = s.db.Update(ctx, func(tx *store.Tx) error {
		leftover = 0
		ix, err = findIndexed(ctx, tx, `attestation = ? AND subject = ?`, from.Attestation, string(from.Subject))
		switch {
		case err == nil && ix.Packages >= 0:
			return nil
		case err == nil:
			leftover = ix.ID
			return nil
		case !errors.Is(err, fault.NotFound):
			return err
		}
		var id int64
		if err := tx.QueryRow(ctx, `SELECT COALESCE(MAX(id), 0) + 1 FROM sbom_document`).Scan(&id); err != nil {
			return err
		}
		ix = Indexed{ID: id, Source: from, Packages: -1, Ingested: tx.Now()}
		_, err := tx.Exec(ctx, `INSERT INTO sbom_document (id, attestation, subject, state, problem, format, spec_version, document, name, created, ingested, packages, quality, parts, incomplete, issuer, identity)
			VALUES (?, ?, ?, ?, '', '', '', '', '', 0, ?, -1, 0, '', '', ?, ?)`,
			id, from.Attestation, string(from.Subject), stateReading, store.Micros(tx.Now()), from.Issuer, from.Identity)
		return err
	})
	if err == nil && leftover != 0 {
		err = s.clear(ctx, leftover)
	}
	return ix, err
}

// clear takes away what an interrupted reading wrote.
func (s *Store) clear(ctx context.Context, id int64) error {
	for _, table := range []string{"sbom_occurrence", "sbom_digest"} {
		if err := s.db.Update(ctx, func(tx *store.Tx) error {
			_, err := tx.Exec(ctx, `DELETE FROM `+table+` WHERE document = ?`, id)
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// Refuse takes a document out of force that was read, and turns out to be none that
// can be relied on.
func (s *Store) Refuse(ctx context.Context, id int64, why error) error {
	_, err := s.refuse(ctx, id, why)
	return err
}

func (s *Store) refuse(ctx context.Context, id int64, why error) (ix Indexed, err error) {
	if err := s.clear(ctx, id); err != nil {
		return ix, err
	}
	err = s.db.Update(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(ctx, `UPDATE sbom_document SET state = ?, problem = ?, packages = 0 WHERE id = ?`, stateRefused, clip(why.Error(), 500), id); err != nil {
			return err
		}
		if ix, err = findIndexed(ctx, tx, `id = ?`, id); err != nil {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.SBOMRefused, Digest: ix.Subject, Actor: "system:sbom", Body: map[string]any{
			"attestation": ix.Attestation, "reason": ix.Problem,
		}})
	})
	return ix, err
}

// finish puts the document in force, with its event, in one transaction.
func (s *Store) finish(ctx context.Context, in *indexing, head Header) (ix Indexed, err error) {
	q := in.tally.judge(head)
	parts, err := json.Marshal(q.Parts)
	if err != nil {
		return ix, err
	}
	incomplete, err := json.Marshal(q.Incomplete)
	if err != nil {
		return ix, err
	}
	created := int64(0)
	if !head.Created.IsZero() {
		created = store.Micros(head.Created)
	}
	err = s.db.Update(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(ctx, `UPDATE sbom_document SET state = ?, format = ?, spec_version = ?, document = ?, name = ?, created = ?, packages = ?, quality = ?, parts = ?, incomplete = ? WHERE id = ?`,
			stateInForce, string(head.Format), head.SpecVersion, clip(head.ID, 1000), clip(head.Name, 1000), created, in.tally.packages, q.Score, string(parts), string(incomplete), in.id); err != nil {
			return err
		}
		if ix, err = findIndexed(ctx, tx, `id = ?`, in.id); err != nil {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.SBOMIndexed, Digest: ix.Subject, Actor: "system:sbom", Body: map[string]any{
			"attestation": ix.Attestation, "format": string(ix.Format), "packages": ix.Packages, "quality": ix.Quality.Score, "incomplete": len(q.Incomplete) > 0,
		}})
	})
	return ix, err
}

// occurrence is a component's place in the document that is read.
type occurrence struct {
	license string
	direct  int64
	via     int64
	seen    bool

	published bool // what is described is a part, where several are: see [Header.stands]
}

// indexing is the reading of one document.
type indexing struct {
	s     *Store
	id    int64
	tally tally
	refs  map[string]int64 // ref -> component
	comps map[int64]*occurrence
	edges [][2]string

	components, digests [][]any
}

func (in *indexing) component(ctx context.Context) func(Component) error {
	return func(c Component) error {
		in.tally.component(&c)
		for _, d := range c.Digests.Strong() {
			in.digests = append(in.digests, []any{string(d), in.id, clip(c.FullName(), 500)})
		}
		if sum := c.Digests["sha1"]; sum != "" {
			in.digests = append(in.digests, []any{"sha1:" + sum, in.id, clip(c.FullName(), 500)})
		}
		if c.IsPackage() {
			key := componentKey(&c)
			id := ComponentID(key)
			in.refs[c.Ref] = id
			license := clip(spdxLicense(firstOf(c.Concluded, c.Licenses)), 500)
			if was := in.comps[id]; was != nil {
				was.license = bothLicenses(was.license, license)
			} else {
				in.comps[id] = &occurrence{direct: -1, license: license, published: c.published()}
				pkg, version := c.PURL.Package().String(), firstText(c.PURL.Version, c.Version)
				in.components = append(in.components, []any{id, key, pkg, listedName(&c), version, c.Type, c.SourceName, c.SourceVersion})
			}
		} else {
			in.refs[c.Ref] = 0
		}
		if len(in.components)+len(in.digests) >= chunk {
			return in.flush(ctx)
		}
		return nil
	}
}

// bothLicenses are those of a component that a document names twice: both hold.
func bothLicenses(a, b string) string {
	switch {
	case a == "", a == b:
		return b
	case b == "" || strings.Contains(a, "("+b+")"):
		return a
	}
	return clip("("+a+") AND ("+b+")", 500)
}

func firstText(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func firstOf(a, b []string) []string {
	if len(a) > 0 {
		return a
	}
	return b
}

func (in *indexing) dependency(d Dependency) error {
	for _, on := range d.On {
		in.edges = append(in.edges, [2]string{d.Ref, on})
	}
	in.tally.edges += len(d.On)
	return nil
}

// flush writes the components and digests that were gathered.
func (in *indexing) flush(ctx context.Context) error {
	components, digests := in.components, in.digests
	in.components, in.digests = nil, nil
	sort.Slice(components, func(i, j int) bool { return components[i][0].(int64) < components[j][0].(int64) })
	return in.s.db.Update(ctx, func(tx *store.Tx) error {
		if err := insert(ctx, tx, "sbom_component (id, key, package, name, version, type, source_name, source_version)", 8, components, "ON CONFLICT (id) DO NOTHING"); err != nil {
			return err
		}
		return insert(ctx, tx, "sbom_digest (digest, document, name)", 3, digests, "ON CONFLICT (digest, document, name) DO NOTHING")
	})
}

// resolve finds out what is direct and how the rest is reached: breadth first
// from the roots, through files and images too.
func (in *indexing) resolve(roots []string) {
	on := make(map[string][]string, len(in.edges))
	for _, e := range in.edges {
		on[e[0]] = append(on[e[0]], e[1])
	}
	in.edges = nil
	type step struct {
		ref string
		via int64
	}
	var queue []step
	visited := map[string]bool{}
	rooted := false
	for _, r := range roots {
		if visited[r] {
			continue
		}
		visited[r] = true
		queue = append(queue, step{r, 0})
		rooted = rooted || len(on[r]) > 0
		if o := in.comps[in.refs[r]]; o != nil && o.published && len(roots) > 1 {
			o.direct, o.seen = 1, true
		} else {
			delete(in.comps, in.refs[r]) // what is described is no dependency of itself
		}
	}
	if !rooted {
		return
	}
	isRoot := len(queue)
	for i := 0; i < len(queue); i++ {
		at := queue[i]
		for _, next := range on[at.ref] {
			if visited[next] {
				continue
			}
			visited[next] = true
			via := at.via
			if o := in.comps[in.refs[next]]; o != nil {
				if !o.seen {
					o.seen, o.via, o.direct = true, at.via, 0
					if i < isRoot {
						o.direct = 1
					}
				}
				via = in.refs[next]
			}
			queue = append(queue, step{next, via})
		}
	}
}

// write enters the occurrences.
func (in *indexing) write(ctx context.Context) error {
	ids := make([]int64, 0, len(in.comps))
	for id := range in.comps {
		ids = append(ids, id)
	}
	sort.Slice(ids, func(i, j int) bool { return ids[i] < ids[j] })
	for len(ids) > 0 {
		n := min(chunk, len(ids))
		rows := make([][]any, 0, n)
		for _, id := range ids[:n] {
			o := in.comps[id]
			rows = append(rows, []any{in.id, id, o.direct, o.via, o.license})
		}
		if err := in.s.db.Update(ctx, func(tx *store.Tx) error {
			return insert(ctx, tx, "sbom_occurrence (document, component, direct, via, license)", 5, rows, "ON CONFLICT (document, component) DO NOTHING")
		}); err != nil {
			return fmt.Errorf("index SBOM: %w", err)
		}
		ids = ids[n:]
	}
	return nil
}
