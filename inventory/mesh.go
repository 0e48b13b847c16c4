package inventory

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
)

// MTLS is whether who reaches a workload must show by mutual TLS who it is.
type MTLS string

// The modes, the weakest first. What could not be found out is weaker than strict
// alone.
const (
	MTLSNone       MTLS = "none"       // no proxy of a mesh stands before it
	MTLSDisabled   MTLS = "disabled"   // its mesh is told not to
	MTLSPermissive MTLS = "permissive" // plaintext is taken too, on some port at least
	MTLSUnknown    MTLS = "unknown"
	MTLSStrict     MTLS = "strict" // on every port
)

var mtlsOrder = []MTLS{MTLSNone, MTLSDisabled, MTLSPermissive, MTLSUnknown, MTLSStrict}

// WeakestMTLS is the weaker of two.
func WeakestMTLS(a, b MTLS) MTLS {
	if slices.Index(mtlsOrder, b) < slices.Index(mtlsOrder, a) {
		return b
	}
	return a
}

// IdentitySource is who says which SPIFFE identity a workload has.
type IdentitySource string

// The sources, the surest first.
const (
	BySPIRE    IdentitySource = "spire"   // SPIRE's ClusterSPIFFEIDs: what its controller registers
	ByIstio    IdentitySource = "istio"   // Istio's convention, of a workload that is in its mesh
	NoIdentity IdentitySource = "none"    // nobody gives it one
	ByClaim    IdentitySource = "claimed" // an annotation of the workload itself, which is no proof
	Unread     IdentitySource = "unknown"
)

var sourceOrder = []IdentitySource{BySPIRE, ByIstio, NoIdentity, ByClaim, Unread}

// SurestLeast is the less sure of two.
func SurestLeast(a, b IdentitySource) IdentitySource {
	if slices.Index(sourceOrder, b) > slices.Index(sourceOrder, a) {
		return b
	}
	return a
}

// KindNamespace is the kind of an [Identity] that says what a workload of a
// namespace gets that comes to be there.
const KindNamespace = "Namespace"

// MaxSPIFFEIDs is how many identities one workload may have.
const MaxSPIFFEIDs = 16

// Identity is what a cluster's API server says of a workload's identity, and of the
// mesh that it is in: of all its instances together, the worst of each.
type Identity struct {
	Namespace, Kind, Name string
	SPIFFEIDs             []string // sorted; at most [MaxSPIFFEIDs]
	Source                IdentitySource
	Mesh                  string // istio, linkerd, or "" of none
	MTLS                  MTLS
}

// who names the workload of an identity.
type who struct{ namespace, kind, name string }

func (i *Identity) who() who { return who{i.Namespace, i.Kind, i.Name} }

// Same says whether two say the same of one workload.
func (i *Identity) Same(o *Identity) bool {
	return i.Source == o.Source && i.Mesh == o.Mesh && i.MTLS == o.MTLS && slices.Equal(i.SPIFFEIDs, o.SPIFFEIDs)
}

func (i *Identity) validate() error {
	if err := (&Key{Namespace: i.Namespace, Kind: i.Kind, Name: i.Name}).validate(); err != nil {
		return err
	}
	if !slices.Contains(mtlsOrder, i.MTLS) {
		return fault.Newf(fault.Invalid, "mutual TLS %.40q of %.200q: want strict, permissive, disabled, none or unknown", i.MTLS, i.Name)
	}
	if !slices.Contains(sourceOrder, i.Source) {
		return fault.Newf(fault.Invalid, "source %.40q of the identity of %.200q: want spire, istio, claimed, none or unknown", i.Source, i.Name)
	}
	if i.Mesh != "" && i.Mesh != "istio" && i.Mesh != "linkerd" {
		return fault.Newf(fault.Invalid, "mesh %.40q of %.200q: want istio or linkerd", i.Mesh, i.Name)
	}
	if len(i.SPIFFEIDs) > MaxSPIFFEIDs || !slices.IsSorted(i.SPIFFEIDs) {
		return fault.Newf(fault.Invalid, "%d identities of %.200q: want at most %d, sorted", len(i.SPIFFEIDs), i.Name, MaxSPIFFEIDs)
	}
	for _, id := range i.SPIFFEIDs {
		if err := CheckSPIFFEID(id); err != nil {
			return err
		}
	}
	return nil
}

// CheckSPIFFEID says what is wrong with an identity (SPIFFE ID section 2): a trust
// domain of lower-case letters, digits, dots, dashes and underscores, and a path of
// segments that are not empty, "." or "..". Errors are fault.Invalid.
func CheckSPIFFEID(id string) error {
	bad := func() error {
		return fault.Newf(fault.Invalid, "%.200q is no SPIFFE ID: want spiffe://trust-domain/path", id)
	}
	rest, ok := strings.CutPrefix(id, "spiffe://")
	if !ok || len(id) > 2048 {
		return bad()
	}
	domain, path, has := strings.Cut(rest, "/")
	if domain == "" || len(domain) > 255 || strings.Trim(domain, "abcdefghijklmnopqrstuvwxyz0123456789.-_") != "" {
		return bad()
	}
	for _, seg := range strings.Split(path, "/") {
		if has && (seg == "" || seg == "." || seg == ".." || strings.Trim(seg, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") != "") {
			return bad()
		}
	}
	return nil
}

// validateIdentities is of [Snapshot.Validate].
func (s *Snapshot) validateIdentities() error {
	if len(s.Identities) > MaxSnapshot {
		return fault.Newf(fault.TooLarge, "a snapshot of %d identities: at most %d", len(s.Identities), MaxSnapshot)
	}
	seen := make(map[who]bool, len(s.Identities))
	for i := range s.Identities {
		id := &s.Identities[i]
		if err := id.validate(); err != nil {
			return err
		}
		if seen[id.who()] {
			return fault.Newf(fault.Invalid, "the identity of %s/%s/%s stands twice in the snapshot", id.Namespace, id.Kind, id.Name)
		}
		seen[id.who()] = true
	}
	return nil
}

// forgetIdentity is after how long what was known of a workload that runs no more
// is forgotten. Until then one that comes again is compared with what it was.
const forgetIdentity = 30 * 24 * 3600 * 1e6 // microseconds

// identify writes what a snapshot says of identities, and the events of what became
// weaker or another.
func (s *Store) identify(ctx context.Context, tx *store.Tx, snap *Snapshot) error {
	if len(snap.Identities) == 0 {
		return nil
	}
	known, err := identities(ctx, tx, snap.Cluster)
	if err != nil {
		return err
	}
	now := store.Micros(tx.Now())
	var changed []identityChange
	for i := range snap.Identities {
		id := &snap.Identities[i]
		was, is := known[id.who()]
		delete(known, id.who())
		if is && was.Same(id) && was.gone == 0 {
			continue
		}
		if _, err := tx.Exec(ctx, `INSERT INTO inventory_identity (cluster, namespace, kind, name, spiffe_ids, source, mesh, mtls, since, gone) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)
			ON CONFLICT (cluster, namespace, kind, name) DO UPDATE SET spiffe_ids = excluded.spiffe_ids, source = excluded.source, mesh = excluded.mesh, mtls = excluded.mtls, since = excluded.since, gone = 0`,
			snap.Cluster, id.Namespace, id.Kind, id.Name, strings.Join(id.SPIFFEIDs, " "), string(id.Source), id.Mesh, string(id.MTLS), now); err != nil {
			return err
		}
		c := identityChange{now: *id}
		if is {
			c.was = &was.Identity
		}
		changed = append(changed, c)
	}
	if snap.Complete {
		for w, k := range known {
			if err := goneIdentity(ctx, tx, snap.Cluster, w, k.gone, now); err != nil {
				return err
			}
		}
	}
	if len(changed) == 0 {
		return nil
	}
	return s.tellIdentities(ctx, tx, snap, changed)
}

func goneIdentity(ctx context.Context, tx *store.Tx, cluster string, w who, gone, now int64) error {
	const at = `cluster = ? AND namespace = ? AND kind = ? AND name = ?`
	var err error
	switch {
	case gone == 0:
		_, err = tx.Exec(ctx, `UPDATE inventory_identity SET gone = ? WHERE `+at, now, cluster, w.namespace, w.kind, w.name)
	case now-gone > forgetIdentity:
		_, err = tx.Exec(ctx, `DELETE FROM inventory_identity WHERE `+at, cluster, w.namespace, w.kind, w.name)
	}
	return err
}

// knownIdentity is one that is stored; gone is since when its workload is no more.
type knownIdentity struct {
	Identity
	gone int64
}

func identities(ctx context.Context, tx *store.Tx, cluster string) (map[who]knownIdentity, error) {
	rows, err := tx.Query(ctx, `SELECT namespace, kind, name, spiffe_ids, source, mesh, mtls, gone FROM inventory_identity WHERE cluster = ?`, cluster)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[who]knownIdentity{}
	for rows.Next() {
		var k knownIdentity
		var ids string
		if err := rows.Scan(&k.Namespace, &k.Kind, &k.Name, &ids, &k.Source, &k.Mesh, &k.MTLS, &k.gone); err != nil {
			return nil, err
		}
		k.SPIFFEIDs = strings.Fields(ids)
		out[k.who()] = k
	}
	return out, rows.Err()
}

type identityChange struct {
	was *Identity // nil: nothing was known
	now Identity
}

// meshGroup is what one event tells of: a policy of a mesh changes many workloads
// at once.
type meshGroup struct {
	kind                                 event.Kind
	namespace, team, service, env        string
	mesh, was, now, source, wasID, nowID string
}

// maxTold is how many workloads one event names.
const maxTold = 20

// tellIdentities writes the events of changes, and has decisions made again that
// rest on them.
func (s *Store) tellIdentities(ctx context.Context, tx *store.Tx, snap *Snapshot, changed []identityChange) error {
	all := map[Key]row{}
	if err := s.running(ctx, tx, all, `cluster = ?`, snap.Cluster); err != nil {
		return err
	}
	of, spaces := map[who]row{}, map[string][]artifact.Digest{}
	digests := map[who][]artifact.Digest{}
	for _, r := range all {
		w := who{r.Namespace, r.Kind, r.Name}
		of[w] = r
		digests[w] = append(digests[w], r.Digest)
		spaces[r.Namespace] = append(spaces[r.Namespace], r.Digest)
	}
	stirred := map[artifact.Digest]bool{}
	groups := map[meshGroup][]string{}
	for i := range changed {
		c := &changed[i]
		touched := digests[c.now.who()]
		if c.now.Kind == KindNamespace {
			touched = spaces[c.now.Namespace]
		}
		for _, d := range touched {
			stirred[d] = true
		}
		if c.was == nil {
			continue
		}
		r := of[c.now.who()]
		g := meshGroup{namespace: c.now.Namespace, team: r.team, service: r.service, env: r.environment}
		if c.was.MTLS != c.now.MTLS {
			m := g
			m.kind, m.mesh, m.was, m.now = event.MeshStrengthened, cmp.Or(c.now.Mesh, c.was.Mesh), string(c.was.MTLS), string(c.now.MTLS)
			if WeakestMTLS(c.was.MTLS, c.now.MTLS) == c.now.MTLS {
				m.kind = event.MeshWeakened
			}
			groups[m] = append(groups[m], c.now.Kind+"/"+c.now.Name)
		}
		if !slices.Equal(c.was.SPIFFEIDs, c.now.SPIFFEIDs) {
			m := g
			m.kind, m.source, m.wasID, m.nowID = event.WorkloadIdentityChanged, string(c.now.Source), strings.Join(c.was.SPIFFEIDs, " "), strings.Join(c.now.SPIFFEIDs, " ")
			groups[m] = append(groups[m], c.now.Kind+"/"+c.now.Name)
		}
	}
	weaker, err := notStrict(ctx, tx, snap.Cluster)
	if err != nil {
		return err
	}
	if err := event.AppendAll(ctx, tx, identityEvents(snap, groups, weaker)); err != nil || s.o.Identified == nil || len(stirred) == 0 {
		return err
	}
	return s.o.Identified(ctx, tx, slices.Sorted(maps.Keys(stirred)))
}

// notStrict counts, by namespace, the workloads that are reached otherwise than by
// mutual TLS alone.
func notStrict(ctx context.Context, tx *store.Tx, cluster string) (map[string]int, error) {
	rows, err := tx.Query(ctx, `SELECT namespace, COUNT(*) FROM inventory_identity WHERE cluster = ? AND kind <> ? AND gone = 0 AND mtls <> ? GROUP BY namespace`, cluster, KindNamespace, string(MTLSStrict))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]int{}
	for rows.Next() {
		var namespace string
		var n int
		if err := rows.Scan(&namespace, &n); err != nil {
			return nil, err
		}
		out[namespace] = n
	}
	return out, rows.Err()
}

func identityEvents(snap *Snapshot, groups map[meshGroup][]string, weaker map[string]int) (out []event.Event) {
	for g, names := range groups {
		slices.Sort(names)
		body := map[string]any{"namespace": g.namespace, "workloads": names[:min(len(names), maxTold)], "count": len(names)}
		if g.kind == event.WorkloadIdentityChanged {
			body["was"], body["now"], body["source"] = g.wasID, g.nowID, g.source
		} else {
			body["mesh"], body["was"], body["now"] = g.mesh, g.was, g.now
		}
		if g.kind == event.MeshStrengthened {
			body["weaker"] = weaker[g.namespace]
		}
		out = append(out, event.Event{Kind: g.kind, Actor: snap.Reporter, Team: g.team, Service: g.service, Env: g.env, Cluster: snap.Cluster, Body: body})
	}
	slices.SortFunc(out, func(a, b event.Event) int {
		x, y := a.Body.(map[string]any), b.Body.(map[string]any)
		return cmp.Or(strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(x["namespace"].(string), y["namespace"].(string)), strings.Compare(x["workloads"].([]string)[0], y["workloads"].([]string)[0]))
	})
	return out
}
