// Package pipeline writes pipelines for CI systems: build, attest, push and
// verify, with the job's own short-lived identity and everything it brings in
// pinned by digest.
//
// The steps are shell that every system runs alike; a template adds what is a
// system's own: how a job gets its tokens, and where its variables come from.
package pipeline

import (
	"bytes"
	"embed"
	"encoding/hex"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
	"text/template"

	"assay/artifact"
	"assay/internal/fault"
)

// System is a CI system.
type System string

// The systems that pipelines are written for.
const (
	GitHub  System = "github"
	GitLab  System = "gitlab"
	Generic System = "generic"
	Tekton  System = "tekton"
	Jenkins System = "jenkins"
)

// form is what is particular to a system.
type form struct {
	path     string // where the system looks for it
	template string
	tag      string // shell for the image's tag: the commit
	issuer   string // of the jobs' tokens; empty: the site's own to say
	kind     string // the issuer's type in its document
	hosted   bool   // the issuer is the same for everybody
}

var forms = map[System]form{
	GitHub:  {path: ".github/workflows/assay.yml", template: "github.yml.tmpl", tag: "$GITHUB_SHA", issuer: "https://token.actions.githubusercontent.com", kind: "github", hosted: true},
	GitLab:  {path: ".gitlab-ci.yml", template: "gitlab.yml.tmpl", tag: "$CI_COMMIT_SHA", issuer: "https://gitlab.com", kind: "gitlab"},
	Generic: {path: "assay-ci.sh", template: "generic.sh.tmpl", tag: "$(git rev-parse HEAD)", issuer: "https://oidc.example.com", kind: "uri"},
	Tekton:  {path: ".tekton/assay.yaml", template: "tekton.yaml.tmpl", tag: "$(git rev-parse HEAD)", issuer: "https://kubernetes.default.svc", kind: "kubernetes"},
	Jenkins: {path: "Jenkinsfile", template: "jenkins.tmpl", tag: "$(git rev-parse HEAD)", issuer: "https://jenkins.example.com/oidc", kind: "uri"},
}

// Systems are all of them, sorted.
func Systems() []string {
	var all []string
	for s := range forms {
		all = append(all, string(s))
	}
	slices.Sort(all)
	return all
}

// Options say what the pipeline builds and where its evidence goes.
type Options struct {
	System    System
	Server    string   // https://HOST[:PORT]
	Image     string   // HOST/REPOSITORY, without tag
	Command   []string // words that build; one word alone is a line of shell
	Materials []string // what the build reads
	Products  []string // files that it makes
	Branch    string   // the protected one, whose commits are built
	Platform  string   // "linux-amd64": of the runner, whose program is fetched
	SHA256    string   // hex digest of the program
	Source    string   // OWNER/REPO or GROUP/PROJECT; for the site's documents
	Trace     bool     // observe the build
}

// Pipeline is what was written: the pipeline itself, and what an operator of
// the site applies so that its jobs are let in and its images allowed.
type Pipeline struct {
	Path string // below the repository's root
	Body []byte
	Site []byte // documents for assay apply
}

//go:embed templates
var templates embed.FS

// Write makes the pipeline. Everything in it comes from the options, quoted
// for the place it stands in; what cannot be quoted there is [fault.Invalid].
func Write(o Options) (*Pipeline, error) {
	f, ok := forms[o.System]
	if !ok {
		return nil, fault.Newf(fault.Invalid, "no CI system %q: want one of %s", o.System, strings.Join(Systems(), ", "))
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	tpl, err := template.New("").Funcs(template.FuncMap{"sh": quote, "flags": flags, "words": words, "indent": indent, "yaml": yamlText, "groovy": groovyText}).ParseFS(templates, "templates/*")
	if err != nil {
		return nil, err
	}
	// Steps that are in several templates are rendered first, as text to indent.
	view := struct {
		Options
		Tag, Repository, Issuer, IssuerType, Name string
		Hosted                                    bool
		Fetch, Build, Verify                      string
	}{Options: o, Tag: f.tag, Issuer: f.issuer, IssuerType: f.kind, Hosted: f.hosted}
	_, view.Repository, _ = strings.Cut(o.Image, "/")
	view.Name = strings.NewReplacer("/", "-", "_", "-", ".", "-").Replace(view.Repository)
	for name, to := range map[string]*string{"fetch": &view.Fetch, "build": &view.Build, "verify": &view.Verify} {
		var b bytes.Buffer
		if err := tpl.ExecuteTemplate(&b, name, view); err != nil {
			return nil, err
		}
		*to = strings.TrimSpace(b.String())
	}
	var body, site bytes.Buffer
	if err := tpl.ExecuteTemplate(&body, f.template, view); err != nil {
		return nil, err
	}
	if err := tpl.ExecuteTemplate(&site, "site.yaml.tmpl", view); err != nil {
		return nil, err
	}
	return &Pipeline{Path: f.path, Body: body.Bytes(), Site: site.Bytes()}, nil
}

func (o *Options) check() error {
	u, err := url.Parse(o.Server)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.User != nil {
		return fault.Newf(fault.Invalid, "server %.200q: want https://HOST[:PORT] and nothing more", o.Server)
	}
	o.Server = u.Scheme + "://" + u.Host
	ref, err := artifact.ParseReference(o.Image)
	if err != nil {
		return fault.Newf(fault.Invalid, "image: %w", err)
	}
	if ref.Tag != "" || ref.Digest != "" {
		return fault.Newf(fault.Invalid, "image %.200q: without tag or digest, since each build's tag is its commit", o.Image)
	}
	if len(o.Products) == 0 {
		return fault.Newf(fault.Invalid, "no products: which files does the build make?")
	}
	if b, err := hex.DecodeString(o.SHA256); err != nil || len(b) != 32 {
		return fault.Newf(fault.Invalid, "digest %.80q of the program: want 64 hexadecimal digits", o.SHA256)
	}
	for _, p := range o.Products {
		if path.IsAbs(p) || strings.HasPrefix(path.Clean(p), "..") {
			return fault.Newf(fault.Invalid, "product %.200q: want a path below the repository's root", p)
		}
	}
	all := slices.Concat(o.Command, []string{o.Branch, o.Source, o.Platform}, o.Products, o.Materials)
	for _, s := range all {
		switch {
		case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
			return fault.Newf(fault.Invalid, "%.200q: control characters and line ends cannot stand in a pipeline; put long commands into a script or Makefile", s)
		case strings.Contains(s, "${{") || strings.Contains(s, "$(params.") || strings.Contains(s, "$[["):
			return fault.Newf(fault.Invalid, "%.200q: the CI system would expand this into the script, as text that anybody may have written; use environment variables", s)
		}
	}
	for _, s := range slices.Concat(o.Products, o.Materials) {
		if strings.Contains(s, ",") {
			return fault.Newf(fault.Invalid, "%.200q: a comma separates paths", s)
		}
	}
	if len(o.Command) == 0 || o.Command[0] == "" {
		return fault.Newf(fault.Invalid, "no command: what builds?")
	}
	for name, s := range map[string]string{"branch": o.Branch, "source": o.Source, "platform": o.Platform} {
		if s == "" || strings.ContainsAny(s, "'\"\\ *$`") {
			return fault.Newf(fault.Invalid, "%s %.200q: want a plain name", name, s)
		}
	}
	return nil
}

// quote makes one word of a POSIX shell of any text.
func quote(s string) string {
	plain := s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@%+=,", r)
	})
	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// words makes a command line; one word with spaces in it is for a shell.
func words(cmd []string) string {
	if len(cmd) == 1 && strings.ContainsAny(cmd[0], " \t;&|<>$`") {
		cmd = []string{"sh", "-c", cmd[0]}
	}
	quoted := make([]string, len(cmd))
	for i, w := range cmd {
		quoted[i] = quote(w)
	}
	return strings.Join(quoted, " ")
}

// flags repeats a flag with each value.
func flags(name string, values []string) string {
	var b strings.Builder
	for _, v := range values {
		fmt.Fprintf(&b, "--%s %s ", name, quote(v))
	}
	return b.String()
}

// indent moves all lines but the first to the right.
func indent(n int, s string) string {
	return strings.ReplaceAll(s, "\n", "\n"+strings.Repeat(" ", n))
}

// yamlText is a double-quoted scalar (YAML 1.2 section 7.3.1).
func yamlText(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// groovyText is the inside of a single-quoted Groovy string, where nothing is
// expanded.
func groovyText(s string) string {
	return strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s)
}
