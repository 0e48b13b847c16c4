package convert

import (
	"fmt"
	"slices"
	"strings"

	"assay/policy"
)

// gatekeeper reads ConstraintTemplates with their constraints, and Ratify's
// configuration, whose verifiers say what its constraint asks for.
func (c *conversion) gatekeeper(docs []object) {
	templates := map[string]object{} // by the kind of their constraints
	var constraints, ratify []object
	for _, d := range docs {
		api, _, _ := strings.Cut(d.str("apiVersion"), "/")
		switch {
		case d.str("kind") == "ConstraintTemplate":
			templates[d.str("spec.crd.spec.names.kind")] = d
		case api == "constraints.gatekeeper.sh":
			constraints = append(constraints, d)
		case api == "config.ratify.deislabs.io" || api == "config.ratify.dev":
			ratify = append(ratify, d)
		default:
			c.doc = d.name()
			c.left("kind", "%s %s is neither a constraint, a template, nor Ratify's", orWord(d.str("apiVersion"), "no version"), orWord(d.str("kind"), "and no kind"))
		}
	}
	used := map[string]bool{}
	asks := false
	for _, d := range constraints {
		c.doc = d.name()
		kind := d.str("kind")
		used[kind] = true
		rego := templateRego(templates[kind])
		switch {
		case kind == "K8sAllowedRepos" || strings.Contains(rego, "startswith(") && strings.Contains(rego, "parameters.repos") && !strings.Contains(strings.ToLower(kind), "disallow"):
			c.allowedRepos(d, rego, true)
		case kind == "K8sDisallowedRepos" || kind == "K8sDisallowedrepos":
			c.allowedRepos(d, rego, false)
		case kind == "K8sImageDigests":
			c.note("spec", "digests alone: admission pins the digest that was verified, and assay admission manifests writes a ValidatingAdmissionPolicy that lets digests in alone")
		case kind == "K8sDisallowedTags":
			c.left("spec", "tags are names that move: ours decides about digests, and makes tags immutable at the registry (immutableTags)")
		case strings.Contains(rego, "ratify") || strings.HasPrefix(kind, "Ratify"):
			asks = true
			c.ratify(d, ratify)
		case templates[kind] == nil:
			c.left("spec", "its ConstraintTemplate is not among the documents, and is none that is known here")
		default:
			c.left("spec", "the Rego of its template judges Kubernetes objects, not evidence: it stays with Gatekeeper")
		}
	}
	for _, kind := range sortedKeys(templates) {
		if !used[kind] {
			c.doc = templates[kind].name()
			c.note("", "no constraint of it is among the documents: it asks for nothing")
		}
	}
	if len(ratify) > 0 && !asks {
		c.doc = "ratify"
		c.left("", "Ratify is configured, and no constraint among the documents asks it")
	}
}

func templateRego(d object) string {
	var out strings.Builder
	for _, t := range d.list("spec.targets") {
		out.WriteString(t.str("rego"))
		for _, code := range t.list("code") {
			out.WriteString(code.str("source.rego"))
		}
	}
	return out.String()
}

func (c *conversion) gatekeeperMode(d object) policy.Mode {
	switch d.str("spec.enforcementAction") {
	case "", "deny":
		return policy.Enforce
	case "warn":
		return policy.Warn
	case "dryrun":
		return policy.Audit
	}
	c.left("spec.enforcementAction", "%s: by enforcement point; ours has one mode, set to audit", d.str("spec.enforcementAction"))
	return policy.Audit
}

func (c *conversion) gatekeeperScope(d object) *policy.Selector {
	m := d.obj("spec.match")
	s := &policy.Selector{}
	for _, n := range m.strings("namespaces") {
		if strings.Contains(strings.Trim(n, "*"), "*") {
			c.left("spec.match.namespaces", "%s: a star in the middle", n)
			continue
		}
		s.Namespaces = append(s.Namespaces, n)
	}
	for _, k := range []string{"excludedNamespaces", "labelSelector", "namespaceSelector", "name", "source", "scope"} {
		if m.has(k) {
			c.left("spec.match."+k, "ours hold for all workloads of the scope; exempt namespaces at the webhook (docs/admission.md)")
		}
	}
	return s
}

// allowedRepos is a rule over names alone.
func (c *conversion) allowedRepos(d object, rego string, allowed bool) {
	repos := d.strings("spec.parameters.repos")
	if len(repos) == 0 {
		c.left("spec.parameters.repos", "no repository is named")
		return
	}
	if rego != "" && !strings.Contains(rego, "parameters.repos") {
		c.left("spec", "its template is not the library's: the Rego reads other parameters")
		return
	}
	if d.has("spec.parameters.exemptImages") {
		c.left("spec.parameters.exemptImages", "exempt images: apply a policy of its own for their repositories, since the most specific one holds")
	}
	var values []any
	for i, r := range repos {
		if host, _, _ := strings.Cut(r, "/"); !strings.ContainsAny(host, ".:") && host != "localhost" {
			c.note(fmt.Sprintf("spec.parameters.repos[%d]", i), "%s was compared with images as they were written; ours compares with the whole name, so that Docker Hub's begin with docker.io/", r)
		}
		if c.o.Own != "" {
			r = strings.TrimPrefix(r, c.o.Own+"/")
		}
		values = append(values, r)
	}
	name := nameOf(d.str("metadata.name"))
	text := `package assay.policy

name := concat("/", [part | some part in [object.get(input.subject, "registry", ""), object.get(input.subject, "repository", "")]; part != ""])

listed if {
	some prefix in data.moved_in["` + name + `"]
	startswith(name, prefix)
}

`
	if allowed {
		text += "allow if listed\n\ndeny contains sprintf(\"%s begins with no repository that is allowed\", [name]) if not listed\n"
		c.note("spec", "repositories are allowed by name, and nothing is asked of the evidence, as before; add requirements")
	} else {
		text += "allow if not listed\n\ndeny contains sprintf(\"%s begins with a repository that is not allowed\", [name]) if listed\n"
	}
	if slices.ContainsFunc(repos, func(r string) bool { return !strings.HasSuffix(r, "/") }) {
		c.note("spec.parameters.repos", "prefixes that do not end with / also match names that only begin so: ghcr.io/org matches ghcr.io/organisation")
	}
	c.add("spec", policy.Document{Metadata: policy.Metadata{Name: name}, Spec: policy.Spec{
		Mode: c.gatekeeperMode(d), Scope: c.gatekeeperScope(d), Rego: policy.Modules{{Name: name, Text: text}},
		Data: map[string]policy.Value{"moved_in": {JSON: map[string]any{name: values}}},
	}})
}

// ratify makes policies of the verifiers that Ratify's constraint asks.
func (c *conversion) ratify(d object, config []object) {
	mode, spaces := c.gatekeeperMode(d), c.gatekeeperScope(d).Namespaces
	keys := map[string][]string{} // PEM by provider
	made := 0
	for _, k := range config {
		c.doc = k.name()
		switch k.str("kind") {
		case "KeyManagementProvider", "NamespacedKeyManagementProvider":
			if k.str("spec.type") == "inline" && k.str("spec.parameters.contentType") == "key" {
				keys[k.str("metadata.name")] = append(keys[k.str("metadata.name")], k.str("spec.parameters.value"))
			} else if k.str("spec.parameters.contentType") != "certificate" {
				c.left("spec", "keys of a provider of type %s are not in the document", orWord(k.str("spec.type"), "?"))
			}
		case "Policy", "NamespacedPolicy":
			if t := k.str("spec.type"); t == "rego-policy" || t == "regopolicy" {
				c.left("spec.parameters.policy", "Ratify's Rego judges its verifiers' reports: ours judges facts; all that the verifiers ask must hold")
			}
		case "Verifier", "NamespacedVerifier", "Store", "NamespacedStore", "CertificateStore":
		default:
			c.left("kind", "%s is not understood here", k.str("kind"))
		}
	}
	for _, v := range config {
		c.doc = v.name()
		if v.str("kind") != "Verifier" && v.str("kind") != "NamespacedVerifier" {
			continue
		}
		switch t := orWord(v.str("spec.type"), v.str("spec.name")); t {
		case "cosign":
			made += c.ratifyCosign(v, keys, mode, spaces)
		case "notation":
			c.left("spec", "notation: import trust stores and trust policy as they are (assay trust import --trust-store … --trust-policy), then ask for signatures under that root")
		case "sbom", "spdx":
			c.left("spec", "an SBOM must be there: ours wants to know whose (attestations of type https://spdx.dev/Document or https://cyclonedx.org/bom, with identities)")
		case "vulnerabilityreport", "schemavalidator":
			c.left("spec", "%s: ours matches advisories itself (requirements.vulnerabilities), and takes reports as attestations that somebody signed", t)
		default:
			c.left("spec", "a verifier of type %s has no counterpart", orWord(t, "?"))
		}
	}
	c.doc = d.name()
	if made == 0 {
		c.left("spec", "what it asks of Ratify stands in Ratify's verifiers (config.ratify.deislabs.io): none among the documents could be converted")
	}
}

func (c *conversion) ratifyCosign(v object, keys map[string][]string, mode policy.Mode, spaces []string) (made int) {
	if !v.has("spec.parameters.trustPolicies") {
		c.left("spec.parameters", "a verifier without trustPolicies (the older form): say scopes and keys or identities")
		return 0
	}
	for i, p := range v.list("spec.parameters.trustPolicies") {
		place := fmt.Sprintf("spec.parameters.trustPolicies[%d]", i)
		c.unread(place, p, "name", "version", "scopes", "keys", "keyless", "enforcement", "tLogVerify", "rekorURL")
		var patterns []string
		for j, s := range p.strings("scopes") {
			at := fmt.Sprintf("%s.scopes[%d]", place, j)
			if s == "*" {
				patterns = append(patterns, "**")
				continue
			}
			if rest, ok := strings.CutSuffix(s, "/*"); ok {
				s = rest + "/**"
			} else if rest, ok := strings.CutSuffix(s, "*"); ok {
				s = rest + "*/**"
			}
			if got, ok := c.repository(at, s, false); ok {
				patterns = append(patterns, got)
			}
		}
		var ids []policy.IdentityMatch
		for j, k := range p.list("keys") {
			at := fmt.Sprintf("%s.keys[%d]", place, j)
			logged := p.str("tLogVerify") != "false"
			provider := k.str("provider")
			switch {
			case len(keys[provider]) > 0:
				for _, pem := range keys[provider] {
					if id, ok := c.key(at, pem, logged); ok {
						ids = append(ids, id)
					}
				}
			default:
				if id, ok := c.named(at, orWord(provider, k.str("file")), logged); ok {
					ids = append(ids, id)
				}
			}
		}
		if k := p.obj("keyless"); k != nil {
			c.unread(place+".keyless", k, "certificateIdentity", "certificateIdentityRegExp", "certificateOIDCIssuer", "certificateOIDCIssuerRegExp", "ctLogVerify", "tufRoot")
			ids = append(ids, c.keyless(place+".keyless", k.str("certificateOIDCIssuer"), k.str("certificateOIDCIssuerRegExp"), k.str("certificateIdentity"), k.str("certificateIdentityRegExp"), false))
			c.sigstore("")
		}
		if len(ids) == 0 || len(patterns) == 0 {
			c.left(place, "nobody, or no image, that could be said: it is left out whole")
			continue
		}
		doc := policy.Document{Metadata: policy.Metadata{Name: nameOf(v.str("metadata.name"), p.str("name"))}, Spec: policy.Spec{Mode: mode, Scope: scopeOf(patterns), Requirements: &policy.Requirements{}}}
		doc.Spec.Scope.Namespaces = spaces
		switch p.str("enforcement") {
		case "all":
			for _, id := range ids {
				doc.Spec.Requirements.Signatures = append(doc.Spec.Requirements.Signatures, policy.SignatureRequirement{Name: "cosign", Identities: []policy.IdentityMatch{id}})
			}
		default:
			doc.Spec.Requirements.Signatures = []policy.SignatureRequirement{{Name: "cosign", Identities: ids}}
		}
		c.add(place, doc)
		made++
	}
	return made
}
