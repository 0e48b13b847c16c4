// Package convert makes policies of ours out of other admission controllers':
// Kyverno, sigstore's policy-controller, Gatekeeper with Ratify.
//
// What cannot be said in ours, or would mean something else, is listed with its
// place and the reason, and nothing is guessed: a wish that is left out makes the
// policy milder, and whoever moves in has to know.
package convert

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"assay/internal/fault"
	"assay/internal/glob"
	"assay/internal/strictyaml"
	"assay/policy"
	"assay/trust"
	"assay/trust/foreign"

	"go.yaml.in/yaml/v3"
)

// Systems lists the systems whose policies are read.
func Systems() []string { return []string{"gatekeeper", "kyverno", "policy-controller"} }

// Options say what a document alone does not.
type Options struct {
	// Own is the host of our registry: its repositories have no host in policies.
	Own string
	// Keys are public keys (PEM) that documents name by a secret or a KMS, by that
	// name: "k8s://NAMESPACE/SECRET", "awskms://…".
	Keys map[string]string
}

// Item is something that has to be known of a conversion.
type Item struct {
	Document string `json:"document"` // "ClusterPolicy/check-image"
	Place    string `json:"place"`    // "spec.rules[0].verifyImages[0].attestors[0]"
	Reason   string `json:"reason"`
}

// Root is a root of trust that the policies want.
type Root struct {
	foreign.Document
	Import string `json:"import"` // the command that imports it, from the folder of its file
}

// File is the name of the file that Import reads.
func (r *Root) File() string { return r.Name + ".pem" }

// PEM is what stands in it.
func (r *Root) PEM() []byte { return []byte(strings.Join(r.PublicKeys, "")) }

// Result is what came of documents.
type Result struct {
	Policies []policy.Document `json:"policies"`
	Roots    []Root            `json:"roots"`
	Left     []Item            `json:"left"`  // not converted
	Notes    []Item            `json:"notes"` // converted, and worth knowing
}

// Convert reads the documents of a system. Errors are of texts that are no
// documents; what is a document and is not understood is listed.
func Convert(system string, text []byte, o Options) (*Result, error) {
	docs, err := read(text)
	if err != nil {
		return nil, err
	}
	c := &conversion{o: o, out: &Result{Policies: []policy.Document{}, Roots: []Root{}, Left: []Item{}, Notes: []Item{}}, keys: map[string][]string{}}
	switch system {
	case "kyverno":
		c.kyverno(docs)
	case "policy-controller":
		c.policyController(docs)
	case "gatekeeper":
		c.gatekeeper(docs)
	default:
		return nil, fault.Newf(fault.Invalid, "system %.40q: want one of %s", system, strings.Join(Systems(), ", "))
	}
	c.combine()
	c.finish()
	return c.out, nil
}

type object map[string]any

func read(text []byte) ([]object, error) {
	parts, err := strictyaml.Split(text)
	if err != nil {
		return nil, err
	}
	var out []object
	for _, p := range parts {
		var o map[string]any
		if err := yaml.Unmarshal(p.Text(), &o); err != nil {
			return nil, fault.Newf(fault.Invalid, "document at line %d: want a mapping: %w", p.Line, err)
		}
		if object(o).str("kind") == "List" {
			out = append(out, object(o).list("items")...)
			continue
		}
		out = append(out, o)
	}
	if len(out) == 0 {
		return nil, fault.Newf(fault.Invalid, "no document in it")
	}
	return out, nil
}

func (o object) at(path string) any {
	var v any = map[string]any(o)
	for name := range strings.SplitSeq(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}

func (o object) str(path string) string {
	switch v := o.at(path).(type) {
	case string:
		return v
	case nil:
		return ""
	default:
		return fmt.Sprint(v)
	}
}

func (o object) obj(path string) object {
	m, _ := o.at(path).(map[string]any)
	return m
}

func (o object) has(path string) bool { return o.at(path) != nil }

func (o object) list(path string) (out []object) {
	l, _ := o.at(path).([]any)
	for _, v := range l {
		m, _ := v.(map[string]any)
		out = append(out, m)
	}
	return out
}

func (o object) strings(path string) (out []string) {
	l, _ := o.at(path).([]any)
	for _, v := range l {
		out = append(out, fmt.Sprint(v))
	}
	return out
}

// name is how a document is called in lists.
func (o object) name() string { return o.str("kind") + "/" + cmp.Or(o.str("metadata.name"), "?") }

type conversion struct {
	o    Options
	out  *Result
	doc  string
	keys map[string][]string // PEM by the root that holds them
	used bool                // of the public Sigstore
	more []string            // other Sigstores, by their address
}

func (c *conversion) left(place, format string, args ...any) {
	c.out.Left = append(c.out.Left, Item{c.doc, place, fmt.Sprintf(format, args...)})
}

func (c *conversion) note(place, format string, args ...any) {
	it := Item{c.doc, place, fmt.Sprintf(format, args...)}
	if !slices.Contains(c.out.Notes, it) {
		c.out.Notes = append(c.out.Notes, it)
	}
}

// unread lists the members of an object that nobody looked at: a wish that is not
// known is not met.
func (c *conversion) unread(place string, o object, known ...string) {
	for _, k := range sortedKeys(o) {
		if !slices.Contains(known, k) {
			c.left(strings.TrimPrefix(place+"."+k, "."), "this member is not understood here")
		}
	}
}

func sortedKeys[V any](m map[string]V) (out []string) {
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

var notName = regexp.MustCompile(`[^a-z0-9.-]+`)

// nameOf is a name as ours are.
func nameOf(parts ...string) string {
	s := strings.Trim(notName.ReplaceAllString(strings.ToLower(strings.Join(parts, "-")), "-"), "-.")
	if len(s) > 63 {
		s = strings.Trim(s[:63], "-.")
	}
	return cmp.Or(s, "policy")
}

// add keeps a policy that compiles, and lists one that does not.
func (c *conversion) add(place string, d policy.Document) {
	d.APIVersion, d.Kind = policy.APIVersion, policy.KindPolicy
	if s := d.Spec.Scope; s != nil && len(s.Repositories)+len(s.Namespaces) == 0 {
		d.Spec.Scope = nil
	}
	if r := d.Spec.Requirements; r != nil && len(r.Signatures)+len(r.Attestations) == 0 {
		d.Spec.Requirements = nil
	}
	if d.Spec.Requirements == nil && len(d.Spec.Rego) == 0 {
		c.left(place, "nothing of it could be converted: what it asks for is asked by no policy")
		return
	}
	for n, base := 2, d.Metadata.Name; slices.ContainsFunc(c.out.Policies, func(o policy.Document) bool { return o.Metadata.Name == d.Metadata.Name }); n++ {
		d.Metadata.Name = nameOf(base[:min(len(base), 58)], fmt.Sprint(n))
	}
	d.Metadata.Description = "converted from " + c.doc
	if _, err := policy.Compile(&d); err != nil {
		c.left(place, "what it would come to is no policy: %v", err)
		return
	}
	c.out.Policies = append(c.out.Policies, d)
}

// key gives the identity of a public key, which becomes part of a root of trust.
func (c *conversion) key(place, pem string, logged bool) (policy.IdentityMatch, bool) {
	pub, err := trust.ParsePublicKey([]byte(strings.TrimSpace(pem) + "\n"))
	if err != nil {
		c.left(place, "the public key cannot be read: %v", err)
		return policy.IdentityMatch{}, false
	}
	fp, err := trust.KeyFingerprint(pub)
	if err != nil {
		c.left(place, "the public key cannot be read: %v", err)
		return policy.IdentityMatch{}, false
	}
	name := "moved-in-keys"
	if !logged {
		name = "moved-in-keys-unlogged"
	}
	if text := strings.TrimSpace(pem) + "\n"; !slices.Contains(c.keys[name], text) {
		c.keys[name] = append(c.keys[name], text)
	}
	return policy.IdentityMatch{Key: fp}, true
}

// named is a key that a document names and does not hold.
func (c *conversion) named(place, name string, logged bool) (policy.IdentityMatch, bool) {
	pem, ok := c.o.Keys[name]
	if !ok {
		c.left(place, "the key %s is not in the document: give its public half with --key '%s=FILE'", name, name)
		return policy.IdentityMatch{}, false
	}
	return c.key(place, pem, logged)
}

// expression is one that another system looks for anywhere in a text: ours are
// anchored.
func (c *conversion) expression(place, re string) string {
	out := re
	if !strings.HasPrefix(re, "^") && !strings.HasPrefix(re, ".*") || !strings.HasSuffix(re, "$") && !strings.HasSuffix(re, ".*") {
		out = ".*(?:" + re + ").*"
		c.note(place, "the expression %s is not anchored: it matches texts that only contain it; the policy says so too, and should rather name whom you mean", re)
	}
	return out
}

// wildcard is a text with * and ?, as an expression; "" when it has neither.
func wildcard(s string) string {
	if !strings.ContainsAny(s, "*?") {
		return ""
	}
	var out strings.Builder
	for _, r := range s {
		switch r {
		case '*':
			out.WriteString(".*")
		case '?':
			out.WriteString(".")
		default:
			out.WriteString(regexp.QuoteMeta(string(r)))
		}
	}
	return out.String()
}

// keyless is an identity of issuer and subject, as those systems write it.
func (c *conversion) keyless(place string, issuer, issuerRE, subject, subjectRE string, wild bool) policy.IdentityMatch {
	var m policy.IdentityMatch
	switch {
	case issuer != "":
		m.Issuer = issuer
	case issuerRE != "":
		m.IssuerRegexp = c.expression(place, issuerRE)
	default:
		m.IssuerRegexp = ".*"
		c.note(place, "no issuer is named: an identity that anybody's issuer vouches for will do, as before; name one")
	}
	switch {
	case subject != "" && wild && wildcard(subject) != "":
		m.SubjectRegexp = wildcard(subject)
	case subject != "":
		m.Subject = subject
	case subjectRE != "":
		m.SubjectRegexp = c.expression(place, subjectRE)
	default:
		m.SubjectRegexp = ".*"
		c.note(place, "no subject is named: whoever has an account with the issuer may sign, as before; name whom you mean")
	}
	return m
}

// sigstore remembers which Sigstore an identity is of.
func (c *conversion) sigstore(url string) {
	switch strings.TrimSuffix(url, "/") {
	case "", "https://fulcio.sigstore.dev":
		c.used = true
	default:
		if !slices.Contains(c.more, url) {
			c.more = append(c.more, url)
		}
	}
}

// repository is a pattern over images as ours is over repositories. cross says
// that a star of theirs also stands for slashes.
func (c *conversion) repository(place, pattern string, cross bool) (string, bool) {
	p := pattern
	if at := strings.Index(p, "@"); at >= 0 {
		c.left(place, "%s names digests: a policy of ours is about repositories; revoke or except single digests instead", pattern)
		return "", false
	}
	if colon := strings.LastIndex(p, ":"); colon > strings.LastIndex(p, "/") {
		if tag := p[colon+1:]; tag != "*" && tag != "**" {
			c.left(place, "%s is about the tag %s: a tag is a name that moves, and a policy of ours is about the repository whatever its tags", pattern, tag)
			return "", false
		}
		p = p[:colon]
	}
	if strings.HasSuffix(p, "/") {
		c.left(place, "%s ends with a slash: want a repository, or all below it (/**)", pattern)
		return "", false
	}
	if strings.ContainsAny(p, "?[]{}") {
		c.left(place, "%s: ? and other signs have no counterpart in our patterns", pattern)
		return "", false
	}
	if p == "*" || p == "**" || p == "*/*" && cross {
		return "**", true
	}
	if p, ok := strings.CutPrefix(p, "index.docker.io/"); ok {
		return c.repository(place, "docker.io/"+p, cross)
	}
	if cross {
		if rest, ok := strings.CutSuffix(p, "/*"); ok && !strings.Contains(rest, "*") {
			p = rest + "/**"
		} else if rest, ok := strings.CutSuffix(p, "*"); ok && !strings.Contains(rest, "*") {
			p = rest + "*/**" // "/**" stands for nothing as well
		} else if strings.Contains(p, "*") {
			c.left(place, "%s: its stars stand for slashes too, which has no counterpart in the middle of our patterns; write the repositories out", pattern)
			return "", false
		}
	}
	if c.o.Own != "" {
		p = strings.TrimPrefix(p, c.o.Own+"/")
	}
	if _, err := glob.Parse(p); err != nil {
		c.left(place, "%s: %v", pattern, err)
		return "", false
	}
	return p, true
}

// repositories are those of a list; all says that there is no bound.
func scopeOf(patterns []string) *policy.Selector {
	if len(patterns) == 0 || slices.Contains(patterns, "**") {
		return &policy.Selector{}
	}
	slices.Sort(patterns)
	return &policy.Selector{Repositories: slices.Compact(patterns)}
}

// combine makes up for a difference: of other systems' policies all that match
// an image hold, of ours the most specific. So what a wider one asks for is
// written into each narrower one.
func (c *conversion) combine() {
	all := slices.Clone(c.out.Policies)
	for i := range c.out.Policies {
		narrow := &c.out.Policies[i]
		for j := range all {
			wide := &all[j]
			if i == j || equalScope(narrow.Spec.Scope, wide.Spec.Scope) {
				continue
			}
			switch covers(wide.Spec.Scope, narrow.Spec.Scope) {
			case 1:
				c.doc = "policy/" + narrow.Metadata.Name
				if narrow.Spec.Mode != wide.Spec.Mode {
					c.left("", "%s holds for the same images in mode %s, this one in mode %s, and of ours the most specific policy holds alone: what that one asks for is not in this one", wide.Metadata.Name, cmp.Or(wide.Spec.Mode, policy.Enforce), cmp.Or(narrow.Spec.Mode, policy.Enforce))
					continue
				}
				join(narrow, wide)
				c.note("", "holds also what %s asks for: all policies that matched held before, of ours the most specific alone", wide.Metadata.Name)
			case 0:
				if i < j && covers(narrow.Spec.Scope, wide.Spec.Scope) != 1 {
					c.doc = "policy/" + narrow.Metadata.Name
					c.left("", "its images are partly those of %s, and of ours the most specific policy holds alone: write one policy for the part that both had", wide.Metadata.Name)
				}
			}
		}
	}
}

func equalScope(a, b *policy.Selector) bool {
	x, _ := yaml.Marshal(a)
	y, _ := yaml.Marshal(b)
	return bytes.Equal(x, y)
}

// covers says whether a scope holds all that another one does (1), a part (0) or
// nothing of it (-1).
func covers(wide, narrow *policy.Selector) int {
	repos := func(s *policy.Selector) []string {
		if s == nil || len(s.Repositories) == 0 {
			return []string{"**"}
		}
		return s.Repositories
	}
	spaces := func(s *policy.Selector) []string {
		if s == nil || len(s.Namespaces) == 0 {
			return []string{"**"}
		}
		return s.Namespaces
	}
	return min(coversList(repos(wide), repos(narrow)), coversList(spaces(wide), spaces(narrow)))
}

func coversList(wide, narrow []string) int {
	in, touch := 0, false
	for _, n := range narrow {
		best := -1
		for _, w := range wide {
			best = max(best, coversOne(w, n))
		}
		if best == 1 {
			in++
		}
		touch = touch || best >= 0
	}
	switch {
	case in == len(narrow):
		return 1
	case touch:
		return 0
	}
	return -1
}

func sample(p string) string {
	return strings.ReplaceAll(strings.ReplaceAll(p, "**", "x0/x1"), "*", "x2")
}

func coversOne(wide, narrow string) int {
	g, err := glob.Parse(wide)
	if err != nil {
		return 0
	}
	if g.Match(sample(narrow)) {
		return 1
	}
	if h, err := glob.Parse(narrow); err == nil && h.Match(sample(wide)) {
		return 0
	}
	return -1
}

// join writes what one policy asks for into another.
func join(into, from *policy.Document) {
	if r := from.Spec.Requirements; r != nil {
		if into.Spec.Requirements == nil {
			into.Spec.Requirements = &policy.Requirements{}
		} else {
			own := *into.Spec.Requirements
			into.Spec.Requirements = &own
		}
		into.Spec.Requirements.Signatures = append(slices.Clone(into.Spec.Requirements.Signatures), r.Signatures...)
		into.Spec.Requirements.Attestations = append(slices.Clone(into.Spec.Requirements.Attestations), r.Attestations...)
	}
	into.Spec.Rego = append(slices.Clone(into.Spec.Rego), from.Spec.Rego...)
	into.Spec.Data = maps.Clone(into.Spec.Data)
	for k, v := range from.Spec.Data {
		if into.Spec.Data == nil {
			into.Spec.Data = map[string]policy.Value{}
		}
		a, isA := into.Spec.Data[k].JSON.(map[string]any)
		b, isB := v.JSON.(map[string]any)
		if isA && isB {
			both := maps.Clone(a)
			maps.Copy(both, b)
			v = policy.Value{JSON: both}
		}
		into.Spec.Data[k] = v
	}
}

// finish makes the roots, and compiles what was joined.
func (c *conversion) finish() {
	for i := range c.out.Policies {
		d := &c.out.Policies[i]
		named(d)
		if _, err := policy.Compile(d); err != nil {
			c.doc = "policy/" + d.Metadata.Name
			c.left("", "what it came to is no policy: %v", err)
		}
	}
	for _, name := range sortedKeys(c.keys) {
		doc := foreign.Document{Name: name, Version: 1, Type: foreign.Keys, Namespaces: []string{"**"}, PublicKeys: c.keys[name], Reason: "moved in with policies"}
		flags := ""
		if strings.HasSuffix(name, "-unlogged") {
			doc.Thresholds = &foreign.Thresholds{}
			flags = " --min-sct 0 --min-log 0 --min-tsa 0"
		}
		r := Root{Document: doc}
		r.Import = fmt.Sprintf("assay trust import --name %s --namespace '**'%s %s", name, flags, r.File())
		c.out.Roots = append(c.out.Roots, r)
	}
	c.doc = "trust"
	if c.used {
		c.note("", "identities of the public Sigstore count once its root is imported: assay trust import --name sigstore --namespace '**' trusted_root.json (docs/trust.md)")
	}
	for _, url := range c.more {
		c.left("", "identities are certified by %s: import that Sigstore's trusted_root.json (assay trust import), which no policy holds", url)
	}
}

// named gives requirements names of their own, where several policies were joined.
func named(d *policy.Document) {
	r := d.Spec.Requirements
	if r == nil {
		return
	}
	seen := map[string]int{}
	unique := func(s string) string {
		if seen[s]++; seen[s] > 1 {
			return fmt.Sprintf("%s-%d", s, seen[s])
		}
		return s
	}
	for i := range r.Signatures {
		r.Signatures[i].Name = unique(r.Signatures[i].Name)
	}
	for i := range r.Attestations {
		r.Attestations[i].Name = unique(r.Attestations[i].Name)
	}
	mods := map[string]int{}
	for i := range d.Spec.Rego {
		if mods[d.Spec.Rego[i].Name]++; mods[d.Spec.Rego[i].Name] > 1 {
			d.Spec.Rego[i].Name = fmt.Sprintf("%s-%d", d.Spec.Rego[i].Name, mods[d.Spec.Rego[i].Name])
		}
	}
}
