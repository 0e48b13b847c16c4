package rebuild

import (
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"assay/artifact"
	"assay/attestation"
	"assay/builder"
	"assay/internal/fault"
	"assay/internal/secret"
)

// Plan is what a rebuild will do, as verified provenance says.
type Plan struct {
	Of        Of
	BuildType string
	Source    Source
	Command   []string
	Dir       string
	Env       map[string]string
	Files     []Expected // products by their path below Dir
	Images    []Expected // what was made of the products
	Tools     map[string]artifact.Digest
}

// Expected is a product as the provenance has it.
type Expected struct {
	Name   string
	Digest artifact.Digest
}

// NewPlan reads a statement with provenance that was verified by the caller, of
// the signer of. Only builds whose steps are known can be followed; every other
// is [fault.Invalid] with the reason: what is left out would be guessed.
func NewPlan(st *attestation.Statement, of Of) (*Plan, error) {
	p, err := attestation.ParseProvenance(st.PredicateType, st.Predicate)
	if err != nil {
		return nil, err
	}
	of.InvocationID, of.BuilderID = clip(p.InvocationID), clip(p.BuilderID)
	plan := &Plan{Of: of, BuildType: p.BuildType, Env: map[string]string{}, Tools: map[string]artifact.Digest{}}
	bad := func(format string, a ...any) error {
		return fault.Newf(fault.Invalid, "this provenance cannot be followed: "+format, a...)
	}
	if p.BuildType != builder.BuildType {
		return nil, bad("its buildType is %.200q, and only the steps of %s are known", p.BuildType, builder.BuildType)
	}
	if err := plan.steps(p, bad); err != nil {
		return nil, err
	}
	if err := plan.source(p, bad); err != nil {
		return nil, err
	}
	for _, name := range []string{"os", "arch"} {
		here := map[string]string{"os": runtime.GOOS, "arch": runtime.GOARCH}[name]
		if was, _ := p.InternalParameters[name].(string); was != "" && was != here {
			return nil, bad("it was built on %s %q, this machine is %q", name, was, here)
		}
	}
	for _, d := range p.ResolvedDependencies {
		if name, ok := strings.CutPrefix(d.Name, "tool:"); ok && name != "" && len(plan.Tools) < maxTools {
			if sum := d.Digest[artifact.SHA256]; sum != "" {
				plan.Tools[clip(name)] = artifact.Digest("sha256:" + sum)
			}
		}
	}
	return plan, plan.products(st, bad)
}

func (plan *Plan) steps(p *attestation.Provenance, bad func(string, ...any) error) error {
	argv, _ := p.ExternalParameters["command"].([]any)
	for _, a := range argv {
		s, ok := a.(string)
		if !ok {
			return bad("its command is no list of texts")
		}
		plan.Command = append(plan.Command, s)
	}
	if len(plan.Command) == 0 || len(plan.Command) > 1024 {
		return bad("it names no command, or one of over 1024 words")
	}
	plan.Dir, _ = p.ExternalParameters["dir"].(string)
	if plan.Dir == "" {
		plan.Dir = "."
	}
	if !filepath.IsLocal(filepath.FromSlash(plan.Dir)) {
		return bad("its folder %.200q is not below the source's", plan.Dir)
	}
	env, _ := p.ExternalParameters["env"].(map[string]any)
	for k, v := range env {
		s, ok := v.(string)
		if !ok || k == "" || strings.ContainsAny(k, "=\x00") || strings.Contains(s, "\x00") || secret.Name(k) != "" || secret.Looking(s) {
			return bad("its variable %.100q is no name with a text, or looks like a secret", k)
		}
		plan.Env[k] = s
	}
	for name := range p.ExternalParameters {
		if !slices.Contains([]string{"command", "dir", "env", "source"}, name) {
			return bad("it has a parameter %.100q, which is not known here", name)
		}
	}
	return nil
}

func (plan *Plan) source(p *attestation.Provenance, bad func(string, ...any) error) error {
	plan.Source = Source{URI: clip(p.SourceURI), Ref: clip(p.SourceRef), Commit: p.SourceDigest["gitCommit"]}
	for _, d := range p.ResolvedDependencies {
		if d.Name != "source" {
			continue
		}
		if plan.Source.Commit == "" {
			plan.Source.Commit = d.Digest["gitCommit"]
		}
		if dirty, _ := d.Annotations["dirty"].(bool); dirty {
			return bad("its source had changes that were not committed, which nobody else has")
		}
	}
	if !commitHex.MatchString(plan.Source.Commit) {
		return bad("it names no commit of its source")
	}
	if u := plan.Source.URI; u != "" {
		parsed, err := url.Parse(u)
		if err != nil || parsed.Host == "" || parsed.User != nil && parsed.Scheme != "ssh" || parsed.Scheme != "https" && parsed.Scheme != "ssh" && parsed.Scheme != "http" {
			return bad("its source %.200q is no https or ssh address", u)
		}
	}
	return nil
}

// products tells files from the images that were made of them by their names: an
// image has its host first, as references have.
func (plan *Plan) products(st *attestation.Statement, bad func(string, ...any) error) error {
	for _, s := range st.Subject {
		sum := s.Digest[artifact.SHA256]
		if sum == "" {
			return bad("its product %.100q has no SHA-256", s.Name)
		}
		e := Expected{Name: s.Name, Digest: artifact.Digest("sha256:" + sum)}
		host, _, more := strings.Cut(s.Name, "/")
		switch {
		case more && (strings.Contains(host, ":") || host == "localhost" || strings.Contains(host, ".") && host != "." && host != ".."):
			plan.Images = append(plan.Images, e)
		case s.Name == "" || path.Clean(s.Name) != s.Name || !filepath.IsLocal(filepath.FromSlash(s.Name)):
			return bad("its product %.100q is not below the build's folder", s.Name)
		default:
			plan.Files = append(plan.Files, e)
		}
	}
	if len(plan.Files) == 0 || len(plan.Files)+len(plan.Images) > maxProducts {
		return bad("it is about %d files, want 1 to %d", len(plan.Files), maxProducts)
	}
	return nil
}

// Lines say what the plan will do, for somebody who is to agree.
func (plan *Plan) Lines() []string {
	out := []string{"source\t" + plan.Source.URI, "commit\t" + plan.Source.Commit, "folder\t" + plan.Dir}
	for _, k := range sortedKeys(plan.Env) {
		out = append(out, fmt.Sprintf("variable\t%s=%s", k, plan.Env[k]))
	}
	var words []string
	for _, w := range plan.Command {
		if w == "" || strings.ContainsAny(w, " \t\n'\"\\$`*?;&|<>()#~") {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		words = append(words, w)
	}
	out = append(out, "command\t"+strings.Join(words, " "))
	for _, e := range plan.Files {
		out = append(out, "product\t"+e.Name+"\t"+string(e.Digest))
	}
	return out
}
