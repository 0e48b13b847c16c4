package convert

import (
	"fmt"
	"slices"
	"strings"

	"assay/policy"

	"github.com/open-policy-agent/opa/v1/ast"
)

func (c *conversion) policyController(docs []object) {
	for _, d := range docs {
		c.doc = d.name()
		switch d.str("kind") {
		case "ClusterImagePolicy":
			c.clusterImagePolicy(d)
		case "TrustRoot":
			c.left("spec", "a root of trust: import its trusted_root.json, or its TUF repository's, with assay trust import")
		default:
			c.left("kind", "%s is not a policy of policy-controller", orWord(d.str("kind"), "a document without kind"))
		}
	}
}

func (c *conversion) clusterImagePolicy(d object) {
	spec := d.obj("spec")
	c.unread("spec", spec, "images", "authorities", "policy", "mode", "match")
	var patterns []string
	for i, im := range spec.list("images") {
		place := fmt.Sprintf("spec.images[%d].glob", i)
		for _, p := range cipGlob(im.str("glob")) {
			if got, ok := c.repository(place, p, false); ok {
				patterns = append(patterns, got)
			}
		}
	}
	if len(patterns) == 0 {
		c.left("spec.images", "none of its images could be said: it is left out whole")
		return
	}
	for i, m := range spec.list("match") {
		if m.has("selector") {
			c.left(fmt.Sprintf("spec.match[%d].selector", i), "ours hold for all workloads of the scope, whatever their labels: that is stricter")
		} else {
			c.note(fmt.Sprintf("spec.match[%d]", i), "ours hold for every kind of workload, not for %s alone", orWord(m.str("resource"), "some"))
		}
	}
	if spec.has("policy") {
		c.left("spec.policy", "a policy over the results of all authorities (%s) has no counterpart: write it in Rego over facts (docs/policy.md)", orWord(spec.str("policy.type"), "?"))
	}
	doc := policy.Document{Metadata: policy.Metadata{Name: nameOf(d.str("metadata.name"))}, Spec: policy.Spec{Scope: scopeOf(patterns), Mode: policy.Enforce, Requirements: &policy.Requirements{}}}
	if spec.str("mode") == "warn" {
		doc.Spec.Mode = policy.Warn
	}
	c.authorities(spec.list("authorities"), &doc)
	c.add("spec", doc)
}

// cipGlob is a pattern of policy-controller: "*" stays within a segment, "**" does
// not, and names without a host are of Docker Hub.
func cipGlob(g string) []string {
	if g == "*" {
		return []string{"docker.io/library/*"}
	}
	if rest, ok := strings.CutSuffix(g, "**"); ok && !strings.HasSuffix(rest, "/") && rest != "" && !strings.Contains(rest, "*") {
		return []string{rest + "*/**"}
	}
	if g == "" || strings.HasPrefix(g, "**") {
		return []string{g}
	}
	host, _, has := strings.Cut(g, "/")
	if !has {
		return []string{"docker.io/library/" + g}
	}
	if !strings.ContainsAny(host, ".:*") && host != "localhost" {
		return []string{"docker.io/" + g}
	}
	return []string{g}
}

// authorities are of which one must hold: by a signature, or by all of its
// attestations.
func (c *conversion) authorities(list []object, doc *policy.Document) {
	type plain struct {
		ids  []policy.IdentityMatch
		atts []object
		at   string
	}
	var all []plain
	for i, a := range list {
		place := fmt.Sprintf("spec.authorities[%d]", i)
		c.unread(place, a, "name", "key", "keyless", "static", "source", "ctlog", "rfc3161timestamp", "attestations", "signatureFormat")
		if a.has("static") {
			c.static(place, a.str("static.action"), len(list), doc)
			continue
		}
		if a.has("source") {
			c.note(place+".source", "signatures in another repository are not looked for: copy them beside the image, or hand them in")
		}
		if a.has("rfc3161timestamp") {
			c.note(place+".rfc3161timestamp", "the timestamp authority must be among those of the imported root")
		}
		if ids := c.authority(place, a); len(ids) > 0 {
			all = append(all, plain{ids, a.list("attestations"), place})
		}
	}
	r := doc.Spec.Requirements
	switch {
	case len(all) == 0:
	case !slices.ContainsFunc(all, func(p plain) bool { return len(p.atts) > 0 }):
		var ids []policy.IdentityMatch
		for _, p := range all {
			ids = append(ids, p.ids...)
		}
		r.Signatures = append(r.Signatures, policy.SignatureRequirement{Name: "authorities", Identities: ids})
	case len(all) == 1:
		for i, a := range all[0].atts {
			c.cipAttestation(fmt.Sprintf("%s.attestations[%d]", all[0].at, i), a, all[0].ids, r)
		}
	default:
		c.left("spec.authorities", "one of several authorities with attestations of their own had to hold: of ours all that is asked for must hold; write one policy for each, or Rego")
	}
}

func (c *conversion) static(place, action string, of int, doc *policy.Document) {
	switch {
	case of > 1:
		c.left(place+".static", "a static authority among others: ours has no alternatives")
	case action == "pass":
		doc.Spec.Rego = policy.Modules{{Name: "static", Text: "package assay.policy\n\nallow if input.subject.kind == \"image\"\n"}}
		c.note(place+".static", "pass: images of this scope run without any evidence, as before")
	case action == "fail":
		doc.Spec.Rego = policy.Modules{{Name: "static", Text: "package assay.policy\n\nallow if input.subject.digest == \"\"\n\ndeny contains \"images of this scope do not run\" if input.subject.digest != \"\"\n"}}
	default:
		c.left(place+".static.action", "%s: want pass or fail", orWord(action, "none"))
	}
}

func (c *conversion) authority(place string, a object) (ids []policy.IdentityMatch) {
	if k := a.obj("key"); k != nil {
		c.unread(place+".key", k, "data", "secretRef", "kms", "hashAlgorithm")
		logged := a.has("ctlog") // without it, policy-controller asks no log of a key
		switch {
		case k.has("data"):
			if id, ok := c.key(place+".key.data", k.str("data"), logged); ok {
				ids = append(ids, id)
			}
		case k.has("secretRef"):
			if id, ok := c.named(place+".key.secretRef", "k8s://"+orWord(k.str("secretRef.namespace"), "cosign-system")+"/"+k.str("secretRef.name"), logged); ok {
				ids = append(ids, id)
			}
		case k.has("kms"):
			if id, ok := c.named(place+".key.kms", k.str("kms"), logged); ok {
				ids = append(ids, id)
			}
		}
	}
	if k := a.obj("keyless"); k != nil {
		c.unread(place+".keyless", k, "url", "identities", "ca-cert", "trustRootRef", "insecureIgnoreSCT")
		switch {
		case k.has("trustRootRef"):
			c.more = append(c.more, "TrustRoot/"+k.str("trustRootRef"))
		case k.has("ca-cert"):
			c.more = append(c.more, "the authority in "+c.doc+" "+place+".keyless.ca-cert")
		default:
			c.sigstore(k.str("url"))
		}
		if u := a.str("ctlog.url"); u != "" && u != "https://rekor.sigstore.dev" {
			c.more = append(c.more, u)
		}
		list := k.list("identities")
		if len(list) == 0 {
			list = []object{{}}
		}
		for i, id := range list {
			ids = append(ids, c.keyless(fmt.Sprintf("%s.keyless.identities[%d]", place, i), id.str("issuer"), id.str("issuerRegExp"), id.str("subject"), id.str("subjectRegExp"), false))
		}
	}
	if !a.has("key") && !a.has("keyless") {
		c.left(place, "neither key nor keyless nor static")
	}
	return ids
}

func (c *conversion) cipAttestation(place string, a object, ids []policy.IdentityMatch, r *policy.Requirements) {
	c.unread(place, a, "name", "predicateType", "policy")
	w := policy.AttestationRequirement{Name: nameOf(orWord(a.str("name"), "attestation")), PredicateType: predicateType(a.str("predicateType")), Identities: ids}
	if p := a.obj("policy"); p != nil {
		c.unread(place+".policy", p, "type", "data", "url", "configMapRef", "fetchConfigFile", "includeSpec", "includeObjectMeta", "includeTypeMeta")
		switch {
		case p.str("type") == "cue":
			c.left(place+".policy", "CUE is not converted: write fields, or Rego, for what it asks of the predicate")
		case p.str("type") == "rego" && p.has("data"):
			fields, err := regoFields(p.str("data"), w.PredicateType)
			if err != nil {
				c.left(place+".policy.data", "this Rego is more than members that equal values: %v; write it over facts (docs/policy.md)", err)
			}
			w.Fields = fields
		default:
			c.left(place+".policy", "its text is not in the document")
		}
	}
	r.Attestations = append(r.Attestations, w)
}

// regoFields reads Rego of policy-controller that is one rule isCompliant, whose
// conditions are each that a member of the predicate is something. All or none.
func regoFields(text, predicateType string) ([]policy.FieldMatch, error) {
	mod, err := ast.ParseModuleWithOpts("policy", text, ast.ParserOptions{RegoVersion: ast.RegoV0})
	if err != nil {
		if mod, err = ast.ParseModuleWithOpts("policy", text, ast.ParserOptions{RegoVersion: ast.RegoV1}); err != nil {
			return nil, fmt.Errorf("it does not parse")
		}
	}
	var rule *ast.Rule
	for _, r := range mod.Rules {
		if r.Default {
			continue
		}
		if rule != nil || r.Head.Ref().String() != "isCompliant" || r.Else != nil || r.Head.Value != nil && r.Head.Value.String() != "true" {
			return nil, fmt.Errorf("it has rules besides one isCompliant")
		}
		rule = r
	}
	if rule == nil {
		return nil, fmt.Errorf("it has no rule isCompliant")
	}
	var out []policy.FieldMatch
	for _, e := range rule.Body {
		f, skip, err := regoField(e, predicateType)
		if err != nil {
			return nil, err
		}
		if !skip {
			out = append(out, f)
		}
	}
	return out, nil
}

func regoField(e *ast.Expr, predicateType string) (f policy.FieldMatch, skip bool, err error) {
	odd := fmt.Errorf("line %d: %s", e.Location.Row, e)
	if e.Negated || len(e.With) > 0 || !e.IsCall() || len(e.Operands()) != 2 {
		return f, false, odd
	}
	op := e.Operator().String()
	ref, val := e.Operand(0), e.Operand(1)
	if _, is := ref.Value.(ast.Ref); !is {
		if op != "equal" && op != "eq" {
			return f, false, odd
		}
		ref, val = val, ref
	}
	r, is := ref.Value.(ast.Ref)
	if !is || !strings.HasPrefix(r.String(), "input.") {
		return f, false, odd
	}
	v, verr := ast.JSON(val.Value)
	if verr != nil {
		return f, false, odd
	}
	if n, is := v.(interface{ Float64() (float64, error) }); is {
		if v, err = n.Float64(); err != nil {
			return f, false, odd
		}
	}
	if r.String() == "input.predicateType" {
		if v != predicateType {
			return f, false, fmt.Errorf("it wants predicateType %v, the attestation is of %s: it never held", v, predicateType)
		}
		return f, true, nil
	}
	path, ok := memberPath(r)
	if !ok {
		return f, false, odd
	}
	f.Path = path
	n, number := v.(float64)
	switch {
	case op == "equal" || op == "eq":
		if number && n == float64(int64(n)) {
			v = int64(n)
		}
		f.Equals = &policy.Value{JSON: v}
	case op == "gte" && number:
		f.AtLeast = &n
	case op == "lte" && number:
		f.AtMost = &n
	default:
		return f, false, odd
	}
	return f, false, nil
}

// memberPath is input.predicate.a.b[0] as a path.
func memberPath(r ast.Ref) (string, bool) {
	if len(r) < 3 || r[1].Value.Compare(ast.String("predicate")) != 0 {
		return "", false
	}
	var out strings.Builder
	for _, t := range r[2:] {
		switch v := t.Value.(type) {
		case ast.String:
			if strings.ContainsAny(string(v), `.[]"`) {
				fmt.Fprintf(&out, "[%q]", string(v))
				continue
			}
			if out.Len() > 0 {
				out.WriteByte('.')
			}
			out.WriteString(string(v))
		case ast.Number:
			fmt.Fprintf(&out, "[%s]", v)
		default:
			return "", false
		}
	}
	return out.String(), true
}
