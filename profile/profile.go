// Package profile writes sites that are whole: configuration, access, policies,
// trust and objectives of a way to work, with words about it.
package profile

import (
	"bytes"
	"embed"
	"encoding/json"
	"io/fs"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"assay/internal/fault"
)

//go:embed files
var files embed.FS

// Profile is a way to work.
type Profile struct {
	Name  string `json:"name"`
	Title string `json:"title"`
}

var profiles = []Profile{
	{"minimal", "one rule: what runs is signed by the pipeline"},
	{"gate-enforced", "nothing is pullable before signature, provenance, bill of materials and known flaws allow it"},
	{"declarative", "policy as code: tested, signed as a bundle, taken over by the server itself"},
	{"federated", "teams sign for themselves, within what the organisation's root hands to them"},
	{"immutable-canary", "tags are set once; production takes what ran as a canary"},
}

// All lists the profiles.
func All() []Profile { return slices.Clone(profiles) }

// Names lists their names.
func Names() (out []string) {
	for _, p := range profiles {
		out = append(out, p.Name)
	}
	return out
}

// Options fill in what a site has of its own.
type Options struct {
	Issuer    string   // OIDC issuer of pipelines and people
	CI        string   // subject that the pipeline signs and pushes as
	Release   string   // subject who releases, and signs policies
	Teams     []string // of profile federated
	Domain    string   // of the teams' identities: ci@TEAM.DOMAIN
	Data      string   // data folder
	Listen    string   // HOST:PORT
	PublicURL string   // "": made from Listen
	// PolicyKey is the fingerprint of a key that signs policies in place of
	// Release, and PolicyKeyFile where its public half lies.
	PolicyKey, PolicyKeyFile string
	// Bundle is where the policies of profile declarative lie.
	Bundle string
}

var (
	teamRE    = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?$`)
	subjectRE = regexp.MustCompile(`^[^\s"'\\*{}]{1,300}$`)
	domainRE  = regexp.MustCompile(`^[a-z0-9.-]{1,200}$`)
)

func (o *Options) validate() error {
	u, err := url.Parse(o.Issuer)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return fault.Newf(fault.Invalid, "issuer %.120q: want the URL of the OIDC issuer of your pipelines", o.Issuer)
	}
	for what, s := range map[string]string{"ci": o.CI, "release": o.Release} {
		if !subjectRE.MatchString(s) {
			return fault.Newf(fault.Invalid, "%s %.120q: want one subject, without spaces, quotes and stars", what, s)
		}
	}
	if o.CI == o.Release {
		return fault.Newf(fault.Invalid, "ci and release are one identity: who releases is another than who builds")
	}
	if len(o.Teams) == 0 {
		return fault.Newf(fault.Invalid, "teams: want one at least")
	}
	for _, t := range o.Teams {
		if !teamRE.MatchString(t) {
			return fault.Newf(fault.Invalid, "team %.60q: want lower-case letters, digits and -", t)
		}
	}
	if !domainRE.MatchString(o.Domain) {
		return fault.Newf(fault.Invalid, "domain %.60q: want a domain", o.Domain)
	}
	return nil
}

// Write gives a profile's files by their paths.
func Write(name string, o Options) (map[string][]byte, error) {
	i := slices.IndexFunc(profiles, func(p Profile) bool { return p.Name == name })
	if i < 0 {
		return nil, fault.Newf(fault.Invalid, "profile %.60q: want one of %s", name, strings.Join(Names(), ", "))
	}
	if err := o.validate(); err != nil {
		return nil, err
	}
	in := struct {
		Options
		Profile
		Coverage string
	}{o, profiles[i], "0.98"}
	if name == "minimal" {
		in.Coverage = "0.80"
	}
	out := map[string][]byte{}
	for _, dir := range []string{"common", name} {
		list, err := fs.ReadDir(files, path.Join("files", dir))
		if err != nil {
			return nil, err
		}
		for _, e := range list {
			text, err := fs.ReadFile(files, path.Join("files", dir, e.Name()))
			if err != nil {
				return nil, err
			}
			b, err := fill(e.Name(), string(text), in)
			if err != nil {
				return nil, err
			}
			out[place(name, e.Name())] = b // a profile's own goes over the common one
		}
	}
	return out, nil
}

// place is where a file belongs in the folder of the site.
func place(profile, file string) string {
	switch {
	case file == "config.yaml", file == "README.md":
		return file
	case file == "bundle.manifest":
		return "policies/.manifest"
	case profile == "declarative" && !slices.Contains([]string{"access.yaml", "issuer.yaml", "objectives.yaml"}, file):
		return "policies/" + file
	}
	return "site/" + file
}

func fill(name, text string, in any) ([]byte, error) {
	if path.Ext(name) == ".rego" {
		return []byte(text), nil
	}
	t, err := template.New(name).Option("missingkey=error").Funcs(template.FuncMap{"q": quote}).Parse(text)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, in); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// quote writes a text as YAML and JSON both read it.
func quote(s string) (string, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	err := enc.Encode(s)
	return strings.TrimSpace(out.String()), err
}
