package baseline

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/builder/runner"
	"assay/evidence"
	"assay/internal/excerpt"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/trust"
)

// document is one verified statement.
type document struct {
	id       string
	identity trust.Identity
	signer   string // issuer and subject, or the key
	key      string
	subjects []artifact.Digest
	time     time.Time
	runner   *runner.Evidence
	prov     *attestation.Provenance
	trace    *traced
}

// observation is one thing that a document says happened.
type observation struct{ kind, name, value string }

// read loads and verifies one attestation again. One that does not verify under
// today's roots, or whose predicate cannot be read, is nil.
func (s *Store) read(ctx context.Context, r evidence.Record) (*document, error) {
	raw, err := s.evidence.Bundle(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	b, err := attestation.ParseBundle(raw, attestation.DefaultLimits())
	if err != nil {
		return nil, nil //nolint:nilerr // it is no evidence any more
	}
	v, err := s.verifier.Verify(ctx, b)
	if errors.Is(err, fault.Unverified) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if v.Statement == nil {
		return nil, nil
	}
	d := &document{id: r.ID, identity: v.Identity, key: v.KeyFingerprint, time: cmp.Or(r.TrustedTime, r.IngestedAt)}
	d.signer = "key\x00" + v.KeyFingerprint
	if v.Certificate != nil {
		d.signer, d.key = v.Identity.Issuer+"\x00"+v.Identity.Subject, ""
	}
	for _, sub := range v.Subjects {
		for _, digest := range sub.Digest.Strong() {
			if len(d.subjects) < maxSubjects && !slices.Contains(d.subjects, digest) {
				d.subjects = append(d.subjects, digest)
			}
		}
	}
	return d, d.parse(v.Statement)
}

// parse reads the predicate; what cannot be read leaves all three nil.
func (d *document) parse(st *attestation.Statement) error {
	var err error
	switch {
	case st.PredicateType == runner.PredicateType:
		d.runner, err = runner.Parse(st.Predicate)
	case attestation.IsProvenance(st.PredicateType):
		d.prov, err = attestation.ParseProvenance(st.PredicateType, st.Predicate)
	case st.PredicateType == attestation.PredicateRuntimeTrace:
		d.trace, err = parseTrace(st.Predicate)
	}
	if err != nil && fault.KindOf(err) == fault.Internal {
		return err
	}
	return nil
}

// invocation is the run that the document is about; "" when it does not say.
func (d *document) invocation() string {
	switch {
	case d.runner != nil:
		return d.runner.Build.InvocationID
	case d.prov != nil:
		return d.prov.InvocationID
	case d.trace != nil:
		return d.trace.Invocation
	}
	return ""
}

func hashID(prefix string, parts ...string) string {
	h := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return prefix + hex.EncodeToString(h[:16])
}

// sourceOf says what a build is compared within. Where the certificate names the
// repository, the provenance's own word is not asked.
func sourceOf(d *document, p *attestation.Provenance) Source {
	x := d.identity.Extensions
	src := Source{Issuer: d.identity.Issuer, Repository: x["source_repository_uri"], Verified: x["source_repository_uri"] != ""}
	if !src.Verified {
		src.Repository = p.SourceURI
	}
	switch {
	case d.key != "":
		src.Workflow = "key:" + d.key
	case x["build_config_uri"] != "":
		src.Workflow = withoutRef(x["build_config_uri"])
	default:
		src.Workflow = withoutRef(d.identity.Subject)
	}
	src.Repository, src.Workflow = clip(src.Repository), clip(src.Workflow)
	src.ID = hashID("src_", src.Issuer, src.Repository, src.Workflow)
	return src
}

// withoutRef cuts "@refs/…" off a workflow's URI: the same workflow of another
// branch is the same source.
func withoutRef(s string) string {
	if i := strings.LastIndex(s, "@refs/"); i >= 0 {
		return s[:i]
	}
	return s
}

// rankOf says how far a run is to be trusted.
func (s *Store) rankOf(d *document, p *attestation.Provenance) (ref string, verified bool, event string, rank int) {
	x := d.identity.Extensions
	ref, event = x["source_repository_ref"], x["build_trigger"]
	verified = ref != ""
	if !verified {
		ref = p.SourceRef
	}
	ref, event = clip(ref), clip(event)
	switch {
	case strings.Contains(event, "pull_request") || strings.Contains(event, "merge_request") || event == "issue_comment":
		return ref, verified, event, RankForeign
	case strings.HasPrefix(ref, "refs/pull/") || strings.HasPrefix(ref, "refs/merge-requests/"):
		return ref, verified, event, RankForeign
	}
	for _, g := range s.refs {
		if ref != "" && g.Match(ref) {
			return ref, verified, event, RankProtected
		}
	}
	return ref, verified, event, RankBranch
}

// commandOf is what was run, in one line.
func commandOf(p *attestation.Provenance) string {
	x := p.ExternalParameters
	if c, ok := x["command"]; ok {
		b, err := strictjson.Canonical(map[string]any{"command": c, "dir": x["dir"]})
		if err != nil {
			return ""
		}
		if len(b) > maxValue {
			sum := sha256.Sum256(b)
			return strings.ToValidUTF8(string(b[:maxValue-80]), "") + "… sha256:" + hex.EncodeToString(sum[:])
		}
		return string(b)
	}
	return clip(p.BuildType + " " + p.EntryPoint)
}

// observations are what a document says that is compared by value.
func (d *document) observations() (out []observation) {
	switch {
	case d.runner != nil:
		for _, t := range d.runner.Tools {
			out = append(out, observation{KindTool, clip(t.Name), string(t.Digest)})
		}
	case d.prov != nil:
		out = append(out, observation{KindCommand, "command", commandOf(d.prov)})
	case d.trace != nil:
		out = d.trace.observations()
	}
	return out
}

// kinds are what a document of this type can say something of: it teaches them
// also by its silence, so that the first build that connects nowhere makes every
// later connection a new one.
func (d *document) kinds() []string {
	switch {
	case d.runner != nil:
		return []string{KindTool, KindReuse, KindCache}
	case d.prov != nil:
		return []string{KindCommand}
	case d.trace.State == "untraced": // what nobody watched teaches nothing
		return []string{KindTrace}
	}
	return []string{KindTrace, KindProgram, KindEgress, KindDomain}
}

// traced is what is read of a runtime trace (in-toto attestation predicate
// runtime-trace v0.1): programs and connections of monitorLog, whose members the
// specification leaves open.
type traced struct {
	Invocation string
	Programs   []observation
	Addresses  []observation
	Domains    []observation
	State      string // traced, incomplete or untraced
}

// maxTraced bounds what is read of one list of a trace.
const maxTraced = 4096

// parseTrace reads a runtime trace, as far as it is compared.
func parseTrace(b []byte) (*traced, error) {
	doc, err := strictjson.UnmarshalAny(b, strictjson.WithMaxBytes(16<<20), strictjson.WithMaxDepth(16))
	if err != nil {
		return nil, err
	}
	top, ok := doc.(map[string]any)
	if !ok {
		return nil, fault.Newf(fault.Invalid, "runtime trace: want an object")
	}
	t := &traced{State: "traced"}
	process, _ := top["monitoredProcess"].(map[string]any)
	// assay run's own member, which others leave out: docs/build.md.
	ours, assay := top["assayTrace"].(map[string]any)
	if t.Invocation = clip(text(ours, "invocationId")); t.Invocation == "" {
		if id := text(process, "event"); strings.HasPrefix(id, "bld_") {
			t.Invocation = clip(id)
		}
	}
	if assay {
		if whole, _ := ours["complete"].(bool); !whole {
			t.State = "incomplete"
		}
		if was, _ := ours["traced"].(bool); !was {
			t.State = "untraced"
		}
		names, _ := ours["names"].([]any)
		for _, n := range names {
			if name, _ := n.(string); name != "" && len(t.Domains) < maxTraced {
				t.Domains = append(t.Domains, observation{KindDomain, "name", clip(strings.ToLower(strings.TrimSuffix(name, ".")))})
			}
		}
	}
	logged, _ := top["monitorLog"].(map[string]any)
	for _, p := range objects(logged["process"]) {
		if made, _ := p["made"].(bool); made {
			continue // what the build itself made has another digest each time
		}
		name := text(p, "program", "name", "uri")
		if name != "" {
			// One whose content nobody knows is as usual as its name, and is told as
			// long as that is new.
			t.Programs = append(t.Programs, observation{KindProgram, clip(name), cmp.Or(digestOf(p["digest"]), "of unknown content")})
		}
	}
	for _, n := range objects(logged["network"]) {
		if o, ok := addressOf(n); ok && !slices.Contains(t.Addresses, o) {
			t.Addresses = append(t.Addresses, o)
		}
	}
	return t, nil
}

func (t *traced) observations() []observation {
	return slices.Concat([]observation{{KindTrace, "trace", t.State}}, t.Programs, t.Addresses, t.Domains)
}

func objects(v any) (out []map[string]any) {
	list, _ := v.([]any)
	for _, e := range list {
		if m, ok := e.(map[string]any); ok && len(out) < maxTraced {
			out = append(out, m)
		}
	}
	return out
}

func text(m map[string]any, names ...string) string {
	for _, n := range names {
		if s, _ := m[n].(string); s != "" {
			return s
		}
	}
	return ""
}

func digestOf(v any) string {
	set, _ := v.(map[string]any)
	if sum, _ := set["sha256"].(string); sum != "" {
		d := artifact.Digest("sha256:" + sum)
		if d.Validate() == nil {
			return string(d)
		}
	}
	return ""
}

// addressOf is where a connection went: its network, since addresses of one
// service change from day to day (/24 of IPv4, /48 of IPv6), and its port. What
// stays on the machine is no egress.
func addressOf(m map[string]any) (observation, bool) {
	protocol := text(m, "protocol")
	addr, err := netip.ParseAddr(text(m, "address", "ip"))
	if err != nil || protocol == "unix" {
		return observation{}, false
	}
	addr = addr.Unmap().WithZone("")
	if addr.IsLoopback() || addr.IsUnspecified() || addr.IsLinkLocalUnicast() && addr.Is6() {
		return observation{}, false
	}
	bits := 24
	if addr.Is6() {
		bits = 48
	}
	net, err := addr.Prefix(bits)
	if err != nil {
		return observation{}, false
	}
	var port int64
	switch p := m["port"].(type) {
	case int64:
		port = p
	case float64:
		port = int64(p)
	}
	return observation{KindEgress, clip(cmp.Or(protocol, "tcp")), net.String() + " " + strconv.FormatInt(port, 10)}, true
}

// clip bounds and cleans one line that others wrote.
func clip(s string) string { return excerpt.Line(s, maxValue, ' ') }
