package convert

import (
	"fmt"
	"regexp"
	"strings"

	"assay/policy"
	"assay/trust"
)

func trustExtensions() []string { return trust.ExtensionNames() }

// The forms of CEL that say what requirements say; all others are listed.
var (
	celImages       = `images\.(?:containers|initContainers|ephemeralContainers|all\(\))`
	celSignatures   = regexp.MustCompile(`^` + celImages + `\.map\(\s*(\w+)\s*,\s*verifyImageSignatures?\(\s*(\w+)\s*,\s*\[([^\]]*)\]\s*\)\s*\)\.all\(\s*(\w+)\s*,\s*(\w+)\s*>\s*0\s*\)$`)
	celAttestations = regexp.MustCompile(`^` + celImages + `\.map\(\s*(\w+)\s*,\s*verifyAttestationSignatures?\(\s*(\w+)\s*,\s*attestations\.(\w+)\s*,\s*\[([^\]]*)\]\s*\)\s*\)\.all\(\s*(\w+)\s*,\s*(\w+)\s*>\s*0\s*\)$`)
	celPayload      = regexp.MustCompile(`^` + celImages + `\.map\(\s*(\w+)\s*,\s*extractPayload\(\s*(\w+)\s*,\s*attestations\.(\w+)\s*\)\.([A-Za-z0-9_.\[\]]+)\s*==\s*(?:'([^']*)'|"([^"]*)"|(true|false|-?[0-9]+))\s*\)\.all\(\s*(\w+)\s*,\s*(\w+)\s*\)$`)
)

func (c *conversion) imageValidatingPolicy(d object) {
	spec := d.obj("spec")
	c.unread("spec", spec, "validationActions", "matchConstraints", "matchImageReferences", "imageRules", "attestors", "attestations", "validations", "validationConfigurations", "failurePolicy", "evaluation", "webhookConfiguration", "credentials", "matchConditions", "variables", "images", "autogen", "auditAnnotations")
	mode := policy.Enforce
	for _, a := range append(spec.strings("validationActions"), spec.strings("validationAction")...) {
		mode = map[string]policy.Mode{"Audit": policy.Audit, "Warn": policy.Warn}[a]
		if a == "Deny" || mode == "" {
			mode = policy.Enforce
			break
		}
	}
	for _, k := range []string{"matchConditions", "variables", "images"} {
		if spec.has(k) {
			c.left("spec."+k, "CEL over Kubernetes objects has no counterpart: ours hold for all images of the scope")
		}
	}
	var patterns []string
	for _, k := range []string{"matchImageReferences", "imageRules"} {
		for i, m := range spec.list(k) {
			place := fmt.Sprintf("spec.%s[%d]", k, i)
			if !m.has("glob") {
				c.left(place, "images by CEL (%s%s): name them by pattern", m.str("expression"), m.str("cel"))
				continue
			}
			if p, ok := c.repository(place, m.str("glob"), true); ok {
				patterns = append(patterns, p)
			}
		}
	}
	if len(patterns) == 0 {
		c.left("spec.matchImageReferences", "none of its images could be said: it is left out whole")
		return
	}
	attestors := map[string][]policy.IdentityMatch{}
	for i, a := range spec.list("attestors") {
		attestors[a.str("name")] = c.attestor(fmt.Sprintf("spec.attestors[%d]", i), a)
	}
	types := map[string]string{}
	for i, a := range spec.list("attestations") {
		if a.has("intoto") {
			types[a.str("name")] = predicateType(a.str("intoto.type"))
		} else {
			c.left(fmt.Sprintf("spec.attestations[%d]", i), "a plain referrer is no statement that anybody signed: ask for an attestation")
		}
	}
	doc := policy.Document{Metadata: policy.Metadata{Name: nameOf(d.str("metadata.name"))}, Spec: policy.Spec{Mode: mode, Scope: scopeOf(patterns), Requirements: &policy.Requirements{}}}
	if ns := d.str("metadata.namespace"); d.str("kind") == "NamespacedImageValidatingPolicy" && ns != "" {
		doc.Spec.Scope.Namespaces = []string{ns}
	}
	fields := map[string][]policy.FieldMatch{}
	for i, v := range spec.list("validations") {
		c.celValidation(fmt.Sprintf("spec.validations[%d].expression", i), v.str("expression"), attestors, types, fields, doc.Spec.Requirements)
	}
	for name, f := range fields {
		found := false
		for i := range doc.Spec.Requirements.Attestations {
			if a := &doc.Spec.Requirements.Attestations[i]; a.PredicateType == types[name] {
				a.Fields, found = append(a.Fields, f...), true
			}
		}
		if !found {
			c.left("spec.validations", "members of %s are judged, and nobody is asked to have signed it: ours wants to know who", name)
		}
	}
	c.add("spec", doc)
}

func (c *conversion) attestor(place string, a object) (ids []policy.IdentityMatch) {
	if a.has("notary") {
		c.left(place+".notary", "import the certificates with a trust policy (assay trust import --type notation)")
	}
	k := a.obj("cosign")
	c.unread(place+".cosign", k, "key", "keyless", "ctlog", "certificate", "source", "tuf", "annotations")
	for _, one := range []string{"certificate", "source", "annotations", "tuf"} {
		if k.has(one) {
			c.left(place+".cosign."+one, "this has no counterpart in a policy")
		}
	}
	logged := k.str("ctlog.insecureIgnoreTlog") != "true"
	if key := k.obj("key"); key != nil {
		switch {
		case key.has("data"):
			if id, ok := c.key(place+".cosign.key.data", key.str("data"), logged); ok {
				ids = append(ids, id)
			}
		case key.has("kms"):
			if id, ok := c.named(place+".cosign.key.kms", key.str("kms"), logged); ok {
				ids = append(ids, id)
			}
		default:
			c.left(place+".cosign.key", "the key is worked out by CEL: give it in the document")
		}
	}
	for i, id := range k.list("keyless.identities") {
		ids = append(ids, c.keyless(fmt.Sprintf("%s.cosign.keyless.identities[%d]", place, i), id.str("issuer"), id.str("issuerRegExp"), id.str("subject"), id.str("subjectRegExp"), true))
		if !k.has("keyless.roots") {
			c.sigstore("")
		}
	}
	if k.has("keyless.roots") {
		c.more = append(c.more, "the authority in "+c.doc+" "+place+".cosign.keyless.roots")
	}
	return ids
}

func (c *conversion) celValidation(place, text string, attestors map[string][]policy.IdentityMatch, types map[string]string, fields map[string][]policy.FieldMatch, r *policy.Requirements) {
	text = strings.Join(strings.Fields(text), " ")
	who := func(list string) (ids []policy.IdentityMatch, name string, ok bool) {
		for one := range strings.SplitSeq(list, ",") {
			n, is := strings.CutPrefix(strings.TrimSpace(one), "attestors.")
			if !is {
				return nil, "", false
			}
			name = strings.Trim(name+"-"+n, "-")
			ids = append(ids, attestors[n]...)
		}
		return ids, name, len(ids) > 0
	}
	if m := celSignatures.FindStringSubmatch(text); m != nil && m[1] == m[2] && m[4] == m[5] {
		if ids, name, ok := who(m[3]); ok {
			r.Signatures = append(r.Signatures, policy.SignatureRequirement{Name: nameOf(name), Identities: ids})
			return
		}
	}
	if m := celAttestations.FindStringSubmatch(text); m != nil && m[1] == m[2] && m[5] == m[6] && types[m[3]] != "" {
		if ids, _, ok := who(m[4]); ok {
			r.Attestations = append(r.Attestations, policy.AttestationRequirement{Name: nameOf(m[3]), PredicateType: types[m[3]], Identities: ids})
			return
		}
	}
	if m := celPayload.FindStringSubmatch(text); m != nil && m[1] == m[2] && m[8] == m[9] && types[m[3]] != "" {
		path, isPredicate := strings.CutPrefix(m[4], "predicate.")
		if !isPredicate {
			path = m[4]
		}
		var v any = m[5] + m[6]
		switch m[7] {
		case "":
		case "true", "false":
			v = m[7] == "true"
		default:
			var n int64
			_, _ = fmt.Sscan(m[7], &n)
			v = n
		}
		fields[m[3]] = append(fields[m[3]], policy.FieldMatch{Path: path, Equals: &policy.Value{JSON: v}})
		return
	}
	c.left(place, "CEL beyond \"these attestors signed it\" and \"this member equals that\" is not converted: %s", text)
}
