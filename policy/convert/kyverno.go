package convert

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"assay/attestation"
	"assay/policy"
)

func (c *conversion) kyverno(docs []object) {
	for _, d := range docs {
		c.doc = d.name()
		switch kind := d.str("kind"); kind {
		case "ClusterPolicy", "Policy":
			c.kyvernoPolicy(d)
		case "ImageValidatingPolicy", "NamespacedImageValidatingPolicy":
			c.imageValidatingPolicy(d)
		case "PolicyException":
			c.left("spec", "exceptions of ours are for a digest, expire, and have an approver: grant those that are still needed (docs/exceptions.md)")
		default:
			c.left("kind", "%s is not about what images must be; it stays with Kyverno", orWord(kind, "a document without kind"))
		}
	}
}

func orWord(s, or string) string {
	if s == "" {
		return or
	}
	return s
}

func (c *conversion) kyvernoPolicy(d object) {
	mode := kyvernoMode(d.str("spec.validationFailureAction"))
	var namespaces []string
	if d.str("kind") == "Policy" {
		namespaces = []string{d.str("metadata.namespace")}
	}
	if d.has("spec.validationFailureActionOverrides") {
		c.left("spec.validationFailureActionOverrides", "the mode by namespace: a policy of ours has one mode; apply it twice, with scope.namespaces")
	}
	if d.str("spec.failurePolicy") == "Ignore" {
		c.note("spec.failurePolicy", "Ignore: what could not be verified ran before; ours is denied unless the mode is audit")
	}
	for i, r := range d.list("spec.rules") {
		place := fmt.Sprintf("spec.rules[%d]", i)
		if !r.has("verifyImages") {
			c.left(place, "rule %s has no verifyImages: it judges Kubernetes objects, not evidence, and stays with Kyverno", orWord(r.str("name"), "?"))
			continue
		}
		spaces := slices.Clone(namespaces)
		spaces = append(spaces, c.kyvernoMatch(place, r)...)
		for j, v := range r.list("verifyImages") {
			at := fmt.Sprintf("%s.verifyImages[%d]", place, j)
			name := nameOf(d.str("metadata.name"), r.str("name"))
			if nameOf(d.str("metadata.name")) == nameOf(r.str("name")) {
				name = nameOf(r.str("name"))
			}
			m := mode
			if v.has("failureAction") {
				m = kyvernoMode(v.str("failureAction"))
			}
			c.verifyImages(at, name, m, spaces, v)
		}
	}
}

func kyvernoMode(action string) policy.Mode {
	if strings.EqualFold(action, "enforce") {
		return policy.Enforce
	}
	return policy.Audit // Kyverno's default
}

// kyvernoMatch reads for what a rule holds. Only namespaces have a counterpart.
func (c *conversion) kyvernoMatch(place string, r object) (namespaces []string) {
	for _, part := range []string{"preconditions", "context", "celPreconditions"} {
		if r.has(part) {
			c.left(place+"."+part, "conditions over Kubernetes objects have no counterpart: ours hold for all images of the scope")
		}
	}
	filters := append(r.list("match.any"), r.list("match.all")...)
	if r.has("match.resources") {
		filters = append(filters, r.obj("match"))
	}
	for i, f := range filters {
		res := f.obj("resources")
		namespaces = append(namespaces, res.strings("namespaces")...)
		for _, k := range []string{"selector", "namespaceSelector", "names", "name", "annotations", "operations"} {
			if res.has(k) {
				c.left(fmt.Sprintf("%s.match[%d].resources.%s", place, i, k), "ours hold for all workloads of the scope, whatever their labels, names and operations: that is stricter")
			}
		}
		for _, k := range []string{"subjects", "roles", "clusterRoles"} {
			if f.has(k) {
				c.left(fmt.Sprintf("%s.match[%d].%s", place, i, k), "who makes the workload does not matter to ours")
			}
		}
	}
	if r.has("exclude") {
		c.left(place+".exclude", "nothing is excluded from ours: except digests (docs/exceptions.md), or exempt namespaces at the webhook")
	}
	return namespaces
}

func (c *conversion) verifyImages(place, name string, mode policy.Mode, namespaces []string, v object) {
	c.unread(place, v, "imageReferences", "image", "key", "attestors", "attestations", "mutateDigest", "verifyDigest", "required", "type", "failureAction", "skipImageReferences", "imageRegistryCredentials", "repository", "useCache", "validate", "issuer", "subject", "roots", "annotations", "additionalExtensions", "cosignOCI11")
	if t := v.str("type"); t == "Notary" {
		c.left(place+".type", "Notary: import the certificates with a trust policy (assay trust import --type notation), then ask for signatures under that root")
		return
	}
	refs := v.strings("imageReferences")
	if v.has("image") {
		refs = append(refs, v.str("image"))
	}
	var patterns []string
	for i, ref := range refs {
		if p, ok := c.repository(fmt.Sprintf("%s.imageReferences[%d]", place, i), ref, true); ok {
			patterns = append(patterns, p)
		}
	}
	if len(patterns) == 0 {
		c.left(place, "none of its images could be said: it is left out whole")
		return
	}
	for i, ref := range v.strings("skipImageReferences") {
		c.left(fmt.Sprintf("%s.skipImageReferences[%d]", place, i), "%s: a policy of ours has no exceptions among its repositories; apply a policy of its own for it, since the most specific one holds", ref)
	}
	if v.has("repository") {
		c.note(place+".repository", "signatures in another repository are not looked for: copy them beside the image, or hand them in (assay evidence)")
	}
	if v.has("annotations") {
		c.left(place+".annotations", "annotations of a signature are not judged")
	}
	if v.has("validate") {
		c.left(place+".validate", "conditions over Kubernetes objects have no counterpart")
	}
	if v.str("mutateDigest") == "false" && v.str("verifyDigest") == "false" {
		c.note(place, "tags were left in place: ours pins the digest that was verified (or validates only: docs/admission.md)")
	}
	d := policy.Document{Metadata: policy.Metadata{Name: name}, Spec: policy.Spec{Mode: mode, Scope: scopeOf(patterns), Requirements: &policy.Requirements{}}}
	d.Spec.Scope.Namespaces = namespaces
	old := object{}
	for _, k := range []string{"key", "issuer", "subject", "roots"} {
		if v.has(k) {
			old[k] = v[k]
		}
	}
	sets := v.list("attestors")
	switch { // the form before attestors
	case v.has("key"):
		sets = append(sets, object{"entries": []any{map[string]any{"keys": map[string]any{"publicKeys": v.str("key")}}}})
	case v.has("issuer") || v.has("subject"):
		sets = append(sets, object{"entries": []any{map[string]any{"keyless": map[string]any(old)}}})
	}
	r := d.Spec.Requirements
	for i, set := range sets {
		for _, w := range c.attestorSet(fmt.Sprintf("%s.attestors[%d]", place, i), set) {
			r.Signatures = append(r.Signatures, policy.SignatureRequirement{Name: fmt.Sprintf("attestors-%d", i), Threshold: w.threshold, Identities: w.ids})
		}
	}
	for i, a := range v.list("attestations") {
		c.kyvernoAttestation(fmt.Sprintf("%s.attestations[%d]", place, i), a, sets, r)
	}
	c.add(place, d)
}

// wanted is a threshold over identities.
type wanted struct {
	ids       []policy.IdentityMatch
	threshold *int
}

// attestorSet is a set of entries of which count must hold; without it, all.
func (c *conversion) attestorSet(place string, set object) (out []wanted) {
	c.unread(place, set, "count", "entries")
	var ids []policy.IdentityMatch
	missing := 0
	for i, e := range set.list("entries") {
		at := fmt.Sprintf("%s.entries[%d]", place, i)
		if e.has("attestor") {
			c.left(at+".attestor", "a set within a set: write it as requirements of its own")
			missing++
			continue
		}
		got := c.kyvernoEntry(at, e)
		if len(got) == 0 {
			missing++
		}
		ids = append(ids, got...)
	}
	if len(ids) == 0 {
		return nil
	}
	count, _ := strconv.Atoi(set.str("count"))
	if count == 0 || count == len(ids)+missing {
		for _, id := range ids {
			out = append(out, wanted{ids: []policy.IdentityMatch{id}})
		}
		return out
	}
	if missing > 0 {
		c.note(place, "%d of %d entries could not be converted: what is left must have %d among fewer", missing, len(ids)+missing, min(count, len(ids)))
	}
	count = min(count, len(ids))
	if count > 1 && slices.ContainsFunc(ids, func(m policy.IdentityMatch) bool { return m.SubjectRegexp != "" }) {
		c.note(place, "%d of %d entries had to hold; ours wants %d distinct signers, whom one expression alone may match", count, len(ids), count)
	}
	return []wanted{{ids, &count}}
}

func (c *conversion) kyvernoEntry(place string, e object) (ids []policy.IdentityMatch) {
	c.unread(place, e, "keys", "keyless", "certificates", "annotations", "repository", "attestor")
	if e.has("annotations") {
		c.left(place+".annotations", "annotations of a signature are not judged")
	}
	if e.has("certificates") {
		c.left(place+".certificates", "import the authority (assay trust import --type x509 --name NAME …), then ask for an identity with issuer x509:NAME")
	}
	if e.has("keys") {
		k := e.obj("keys")
		c.unread(place+".keys", k, "publicKeys", "secret", "kms", "rekor", "ctlog", "signatureAlgorithm")
		logged := k.str("rekor.ignoreTlog") != "true"
		switch text := k.str("publicKeys"); {
		case strings.Contains(text, "-----BEGIN"):
			for one := range strings.SplitAfterSeq(text, "-----END PUBLIC KEY-----") {
				if strings.Contains(one, "-----BEGIN") {
					if id, ok := c.key(place+".keys.publicKeys", one, logged); ok {
						ids = append(ids, id)
					}
				}
			}
		case text != "":
			if id, ok := c.named(place+".keys.publicKeys", text, logged); ok {
				ids = append(ids, id)
			}
		case k.has("secret"):
			if id, ok := c.named(place+".keys.secret", "k8s://"+k.str("secret.namespace")+"/"+k.str("secret.name"), logged); ok {
				ids = append(ids, id)
			}
		case k.has("kms"):
			if id, ok := c.named(place+".keys.kms", k.str("kms"), logged); ok {
				ids = append(ids, id)
			}
		default:
			c.left(place+".keys", "no key is named")
		}
	}
	if e.has("keyless") {
		k := e.obj("keyless")
		c.unread(place+".keyless", k, "issuer", "issuerRegExp", "subject", "subjectRegExp", "rekor", "ctlog", "roots", "additionalExtensions")
		id := c.keyless(place+".keyless", k.str("issuer"), k.str("issuerRegExp"), k.str("subject"), k.str("subjectRegExp"), true)
		c.extensions(place+".keyless.additionalExtensions", k.obj("additionalExtensions"), &id)
		if k.has("roots") {
			c.more = append(c.more, "the authority in "+c.doc+" "+place+".keyless.roots")
		} else {
			c.sigstore("")
		}
		if u := k.str("rekor.url"); u != "" && u != "https://rekor.sigstore.dev" {
			c.more = append(c.more, u)
		}
		ids = append(ids, id)
	}
	return ids
}

// extensionNames are those of a certificate that both name.
var extensionNames = map[string]string{
	"githubWorkflowTrigger": "githubWorkflowTrigger", "githubWorkflowSHA": "githubWorkflowSHA", "githubWorkflowName": "githubWorkflowName",
	"githubWorkflowRepository": "githubWorkflowRepository", "githubWorkflowRef": "githubWorkflowRef",
}

func (c *conversion) extensions(place string, ext object, id *policy.IdentityMatch) {
	known := trustExtensions()
	for _, k := range sortedKeys(ext) {
		name, ok := extensionNames[k]
		if !ok || !slices.Contains(known, name) {
			c.left(place+"."+k, "this extension of certificates is not known here by that name")
			continue
		}
		if id.Extensions == nil {
			id.Extensions = map[string]string{}
		}
		id.Extensions[name] = ext.str(k)
	}
}

func (c *conversion) kyvernoAttestation(place string, a object, fallback []object, r *policy.Requirements) {
	c.unread(place, a, "type", "predicateType", "name", "attestors", "conditions")
	t := orWord(a.str("type"), a.str("predicateType"))
	if t == "" {
		c.left(place, "no predicate type is named")
		return
	}
	sets := a.list("attestors")
	if len(sets) == 0 {
		sets = fallback
	}
	fields := c.conditions(place+".conditions", a.list("conditions"))
	n := 0
	for i, set := range sets {
		for _, w := range c.attestorSet(fmt.Sprintf("%s.attestors[%d]", place, i), set) {
			n++
			r.Attestations = append(r.Attestations, policy.AttestationRequirement{Name: nameOf(orWord(a.str("name"), "attestation")), PredicateType: predicateType(t), Threshold: w.threshold, Identities: w.ids, Fields: fields})
		}
	}
	if n == 0 {
		c.left(place, "nobody is named whose attestation counts: ours wants to know who")
	}
}

// predicateType brings cosign's short names into full ones.
func predicateType(t string) string {
	switch t {
	case "slsaprovenance", "slsaprovenance02":
		return attestation.PredicateProvenanceV02
	case "slsaprovenance1":
		return attestation.PredicateProvenanceV1
	case "spdx", "spdxjson":
		return attestation.PredicateSPDX
	case "cyclonedx":
		return attestation.PredicateCycloneDX
	case "vuln":
		return attestation.PredicateCosignVuln
	case "openvex":
		return attestation.PredicateOpenVEX
	case "link":
		return "https://in-toto.io/Link/v1"
	case "custom":
		return attestation.PredicateCosignCustom
	}
	return t
}

var jmesPath = regexp.MustCompile(`^\{\{\s*([A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*|\[[0-9]+\])*)\s*\}\}$`)

// conditions are blocks of which all must hold; each of all, or any, of its
// parts.
func (c *conversion) conditions(place string, blocks []object) (fields []policy.FieldMatch) {
	for i, b := range blocks {
		at := fmt.Sprintf("%s[%d]", place, i)
		c.unread(at, b, "all", "any")
		for j, one := range b.list("all") {
			fields = append(fields, c.condition(fmt.Sprintf("%s.all[%d]", at, j), one)...)
		}
		either := b.list("any")
		switch {
		case len(either) == 1:
			fields = append(fields, c.condition(at+".any[0]", either[0])...)
		case len(either) > 1:
			var joined *policy.FieldMatch
			for j, one := range either {
				got := c.condition(fmt.Sprintf("%s.any[%d]", at, j), one)
				if len(got) != 1 || got[0].Equals == nil && got[0].In == nil || joined != nil && joined.Path != got[0].Path {
					joined = nil
					c.left(at+".any", "either of several members: write it in Rego, or as several policies")
					break
				}
				if joined == nil {
					joined = &policy.FieldMatch{Path: got[0].Path}
				}
				if got[0].Equals != nil {
					joined.In = append(joined.In, *got[0].Equals)
				}
				joined.In = append(joined.In, got[0].In...)
			}
			if joined != nil {
				fields = append(fields, *joined)
			}
		}
	}
	return fields
}

func (c *conversion) condition(place string, o object) []policy.FieldMatch {
	m := jmesPath.FindStringSubmatch(strings.TrimSpace(o.str("key")))
	if m == nil {
		c.left(place+".key", "%s: want one member by its path; functions, pipes and projections have no counterpart (write Rego)", o.str("key"))
		return nil
	}
	f := policy.FieldMatch{Path: m[1]}
	v := o["value"]
	text, isText := v.(string)
	if isText && strings.Contains(text, "{{") {
		c.left(place+".value", "%s: a value that is computed has no counterpart", text)
		return nil
	}
	values, isList := v.([]any)
	switch op := o.str("operator"); op {
	case "Equals", "Equal":
		if isText && strings.ContainsAny(text, "*?") {
			f.Matches = wildcard(text)
		} else if isList {
			c.left(place, "equal to a list: ours compares plain members")
			return nil
		} else {
			f.Equals = &policy.Value{JSON: v}
		}
	case "In", "AnyIn":
		if !isList {
			values = []any{v}
		}
		for _, one := range values {
			if s, is := one.(string); is && strings.ContainsAny(s, "*?") {
				c.left(place+".value", "%s: patterns among several values; write an expression (matches)", s)
				return nil
			}
			f.In = append(f.In, policy.Value{JSON: one})
		}
	case "GreaterThanOrEquals", "LessThanOrEquals":
		n, err := strconv.ParseFloat(fmt.Sprint(v), 64)
		if err != nil {
			c.left(place+".value", "%v: want a number; durations, sizes and versions are not compared", v)
			return nil
		}
		if op == "GreaterThanOrEquals" {
			f.AtLeast = &n
		} else {
			f.AtMost = &n
		}
	default:
		c.left(place+".operator", "%s has no counterpart among fields: write it in Rego", op)
		return nil
	}
	return []policy.FieldMatch{f}
}
