package config

import (
	"bytes"
	"fmt"
	"regexp"
	"sort"

	"assay/alert"
	"assay/evidence/contract"
	"assay/identity"
	"assay/internal/fault"
	"assay/internal/strictyaml"
	"assay/inventory"
	"assay/policy"
	"assay/slo"
	"assay/source/forge"
	"assay/verify"
	"assay/webhook"

	"go.yaml.in/yaml/v3"
)

// The kinds of document that `assay apply` brings in.
const (
	KindGrant      = "Grant"      // who has which role where: identity.Grant
	KindIssuer     = "Issuer"     // an OIDC issuer: identity.IssuerConfig
	KindPolicy     = "Policy"     // what must be so: policy.Document
	KindRepository = "Repository" // how repositories of a pattern behave: Repository
)

// Kinds lists the kinds of document.
func Kinds() []string {
	return []string{KindContract, KindGrant, KindIssuer, KindObjectives, KindPolicy, KindReceiver, KindRepository, KindRetention, KindServices, KindSource, KindTeam, KindVendor, KindWebhook}
}

const kindNames = KindContract + ", " + KindGrant + ", " + KindIssuer + ", " + KindObjectives + ", " + KindPolicy + ", " + KindReceiver + ", " + KindRepository + ", " + KindRetention + ", " + KindServices + ", " + KindSource + ", " + KindTeam + ", " + KindVendor + " or " + KindWebhook

// Document is one document of `assay apply`, checked.
type Document struct {
	Kind string
	Name string
	Text []byte // as it was given, in one layout

	Grant      *identity.Grant        // of KindGrant
	Issuer     *identity.IssuerConfig // of KindIssuer
	Repository *RepositorySpec        // of KindRepository
	Policy     *policy.Policy         // of KindPolicy
	Team       *TeamSpec              // of KindTeam
	Source     *forge.Spec            // of KindSource
	Webhook    *webhook.Spec          // of KindWebhook
	Contract   *contract.Contract     // of KindContract
	Retention  *RetentionSpec         // of KindRetention
	Services   *inventory.Spec        // of KindServices
	Objectives *slo.Spec              // of KindObjectives
	Receiver   *alert.Spec            // of KindReceiver
	Vendor     *Vendor                // of KindVendor
}

type metadata struct {
	Name        string            `yaml:"name"`
	Description string            `yaml:"description"`
	Labels      map[string]string `yaml:"labels"`
}

type envelope[T any] struct {
	APIVersion string   `yaml:"apiVersion"`
	Kind       string   `yaml:"kind"`
	Metadata   metadata `yaml:"metadata"`
	Spec       T        `yaml:"spec"`
}

var nameRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)

// ParseDocuments reads a file of documents parted by "---". Every one must be
// whole and known; two of one kind and name are an error.
func ParseDocuments(b []byte) ([]Document, error) {
	parts, err := strictyaml.Split(b)
	if err != nil {
		return nil, err
	}
	seen := map[[2]string]bool{}
	docs := make([]Document, 0, len(parts))
	for _, p := range parts {
		d, err := parseDocument(p)
		if err != nil {
			return nil, fmt.Errorf("document at line %d: %w", p.Line, err)
		}
		if key := [2]string{d.Kind, d.Name}; seen[key] {
			return nil, fault.Newf(fault.Invalid, "document at line %d: %s %q stands twice", p.Line, d.Kind, d.Name)
		} else {
			seen[key] = true
		}
		docs = append(docs, d)
	}
	if len(docs) == 0 {
		// With prune, nothing would mean: delete everything.
		return nil, fault.Newf(fault.Invalid, "no document in it: want one of kind %s", kindNames)
	}
	return docs, nil
}

func parseDocument(p strictyaml.Document) (d Document, err error) {
	d = Document{Text: p.Text()}
	// The kind says how to read the rest, strictly, and is read again there.
	var head struct {
		Kind string `yaml:"kind"`
	}
	if err := yaml.Unmarshal(p.Text(), &head); err != nil {
		return d, fault.Newf(fault.Invalid, "want apiVersion, kind, metadata and spec: %w", err)
	}
	d.Kind = head.Kind
	switch d.Kind {
	case KindGrant:
		e, err := decode[identity.Grant](p, d.Kind)
		if err != nil {
			return d, err
		}
		d.Name, d.Grant = e.Metadata.Name, &e.Spec
		return d, e.Spec.Validate()
	case KindIssuer:
		e, err := decode[identity.IssuerConfig](p, d.Kind)
		if err != nil {
			return d, err
		}
		d.Name, d.Issuer = e.Metadata.Name, &e.Spec
		return d, e.Spec.Validate()
	case KindRepository:
		e, err := decode[RepositorySpec](p, d.Kind)
		if err != nil {
			return d, err
		}
		d.Name, d.Repository = e.Metadata.Name, &e.Spec
		return d, e.Spec.Validate()
	case KindTeam:
		e, err := decode[TeamSpec](p, d.Kind)
		if err != nil {
			return d, err
		}
		d.Name, d.Team = e.Metadata.Name, &e.Spec
		return d, e.Spec.validate(d.Name)
	case KindRetention:
		e, err := decode[RetentionSpec](p, d.Kind)
		if err != nil {
			return d, err
		}
		d.Name, d.Retention = e.Metadata.Name, &e.Spec
		return d, e.Spec.Validate()
	case KindVendor:
		d.Name, d.Vendor, err = parseVendor(p)
		return d, err
	case KindServices:
		d.Name, d.Services, err = parseServices(p)
		return d, err
	case KindSource:
		e, err := decode[forge.Spec](p, d.Kind)
		if err != nil {
			return d, err
		}
		d.Name, d.Source = e.Metadata.Name, &e.Spec
		return d, e.Spec.Validate()
	case KindWebhook:
		e, err := decode[webhook.Spec](p, d.Kind)
		if err != nil {
			return d, err
		}
		d.Name, d.Webhook = e.Metadata.Name, &e.Spec
		return d, e.Spec.Validate()
	case KindObjectives, KindReceiver:
		err := parseWatch(p, &d)
		return d, err
	case KindContract:
		e, err := decode[contract.Spec](p, d.Kind)
		if err != nil {
			return d, err
		}
		d.Name = e.Metadata.Name
		d.Contract, err = contract.Compile(d.Name, e.Spec)
		return d, err
	case KindPolicy:
		compiled, err := policy.ParseRequirements(p.Text())
		if err != nil {
			return d, err
		}
		if err := verify.CheckLayouts(compiled); err != nil {
			return d, err
		}
		d.Name, d.Policy = compiled.Name(), compiled
		return d, nil
	}
	if d.Kind == "Config" {
		return d, fault.Newf(fault.Invalid, "kind Config is the server's own file, for assay serve --config; here go documents of kind %s", kindNames)
	}
	return d, fault.Newf(fault.Invalid, "kind %.40q: want %s", d.Kind, kindNames)
}

func decode[T any](p strictyaml.Document, kind string) (envelope[T], error) {
	var e envelope[T]
	if err := p.Decode(&e); err != nil {
		return e, err
	}
	if e.APIVersion != APIVersion || e.Kind != kind {
		return e, fault.Newf(fault.Invalid, "want apiVersion %s and kind %s, found %q and %q", APIVersion, kind, e.APIVersion, e.Kind)
	}
	if !nameRE.MatchString(e.Metadata.Name) {
		return e, fault.Newf(fault.Invalid, "metadata.name %.80q: want lower-case letters, digits, - and ., at most 63", e.Metadata.Name)
	}
	return e, nil
}

// Desired is what a set of documents asks for.
type Desired struct {
	Grants   []identity.Grant
	Issuers  []identity.IssuerConfig
	Policies *policy.Set
	// Repositories says how each repository behaves.
	Repositories *Repositories
	// Webhooks are told of what happens.
	Webhooks []*webhook.Hook
	// Objectives are what the site wants of its indicators.
	Objectives *slo.Objectives
	// Receivers are told of alerts.
	Receivers []*alert.Receiver
	// Sources are repositories whose forges tell of their commits.
	Sources []*forge.Source
	// Contracts say what evidence is owed.
	Contracts *contract.Set
	// Inventory are the services, and whose they are.
	Inventory *inventory.Catalogue
	// Retention are the rules of what is kept for how long.
	Retention []RetentionRule
	// Vendors are those whose artifacts are kept here.
	Vendors []*Vendor
}

// Compile joins documents, and the site's own issuers and services, into what
// the server works by. A contradiction between two documents is an error.
func Compile(docs []Document, site []identity.IssuerConfig, services ...inventory.Spec) (*Desired, error) {
	d := &Desired{Issuers: append([]identity.IssuerConfig(nil), site...)}
	var policies []*policy.Policy
	patterns := map[string]string{}
	var repositories []RepositorySpec
	for _, doc := range docs {
		switch {
		case doc.Grant != nil:
			d.Grants = append(d.Grants, *doc.Grant)
		case doc.Issuer != nil:
			for _, have := range d.Issuers {
				if have.URL == doc.Issuer.URL {
					return nil, fault.Newf(fault.Conflict, "issuer %s is configured twice", doc.Issuer.URL)
				}
			}
			d.Issuers = append(d.Issuers, *doc.Issuer)
		case doc.Repository != nil:
			if other, twice := patterns[doc.Repository.Pattern]; twice {
				return nil, fault.Newf(fault.Conflict, "repositories %s and %s are about the same pattern %q: make them one", other, doc.Name, doc.Repository.Pattern)
			}
			patterns[doc.Repository.Pattern] = doc.Name
			repositories = append(repositories, *doc.Repository)
			if !doc.Repository.AnonymousPull {
				continue
			}
			d.Grants = append(d.Grants, identity.Grant{Anonymous: true, Role: identity.RoleViewer, Scope: doc.Repository.Pattern, Actions: []identity.Action{identity.ActPull}})
		case doc.Policy != nil:
			policies = append(policies, doc.Policy)
		case doc.Vendor != nil:
			d.Vendors = append(d.Vendors, doc.Vendor)
			policies = append(policies, doc.Vendor.Policy)
		}
	}
	var err error
	if d.Grants, err = expandTeams(docs, d.Grants); err != nil {
		return nil, err
	}
	d.Retention = retentionRules(docs)
	if d.Webhooks, err = hooks(docs); err != nil {
		return nil, err
	}
	if err = watchOf(docs, d); err != nil {
		return nil, err
	}
	if d.Contracts, err = contractsOf(docs); err != nil {
		return nil, err
	}
	if d.Inventory, err = servicesOf(docs, services); err != nil {
		return nil, err
	}
	if d.Sources, err = sources(docs); err != nil {
		return nil, err
	}
	if d.Repositories, err = NewRepositories(repositories...); err != nil {
		return nil, err
	}
	d.Policies, err = policy.NewSet(policies...)
	return d, err
}

// Change is one document's way from what is stored to what is wanted.
type Change struct {
	Kind, Name string
	Action     string // created, updated, deleted, unchanged, unmanaged
	Diff       string // lines with "-" and "+"
}

// Plan holds what is wanted against what is stored. What is stored and not
// among the wanted is deleted with prune, if the wanted have documents of its
// kind at all: a file of one policy does not take away everybody's roles.
func Plan(stored, wanted []Document, prune bool) []Change {
	type key struct{ kind, name string }
	held := map[string]bool{}
	for _, d := range wanted {
		held[d.Kind] = true
	}
	old := map[key]Document{}
	for _, d := range stored {
		old[key{d.Kind, d.Name}] = d
	}
	var out []Change
	for _, d := range wanted {
		k := key{d.Kind, d.Name}
		was, there := old[k]
		delete(old, k)
		switch {
		case !there:
			out = append(out, Change{d.Kind, d.Name, "created", diff(nil, d.Text)})
		case bytes.Equal(was.Text, d.Text):
			out = append(out, Change{d.Kind, d.Name, "unchanged", ""})
		default:
			out = append(out, Change{d.Kind, d.Name, "updated", diff(was.Text, d.Text)})
		}
	}
	for k, d := range old {
		if prune && held[k.kind] {
			out = append(out, Change{k.kind, k.name, "deleted", diff(d.Text, nil)})
		} else {
			out = append(out, Change{k.kind, k.name, "unmanaged", ""})
		}
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].Kind != out[j].Kind {
			return out[i].Kind < out[j].Kind
		}
		return out[i].Name < out[j].Name
	})
	return out
}

// After is what will be stored once a plan is carried out.
func After(stored, wanted []Document, plan []Change) []Document {
	gone := map[[2]string]bool{}
	for _, c := range plan {
		if c.Action != "unmanaged" {
			gone[[2]string{c.Kind, c.Name}] = true
		}
	}
	out := append([]Document(nil), wanted...)
	for _, d := range stored {
		if !gone[[2]string{d.Kind, d.Name}] {
			out = append(out, d)
		}
	}
	return out
}

// diff lists the lines that go and the lines that come, by the longest common
// subsequence; documents are small.
func diff(a, b []byte) string {
	x, y := lines(a), lines(b)
	if len(x)*len(y) > 4<<20 {
		return "(too long to compare)\n"
	}
	common := make([][]int, len(x)+1)
	for i := range common {
		common[i] = make([]int, len(y)+1)
	}
	for i := len(x) - 1; i >= 0; i-- {
		for j := len(y) - 1; j >= 0; j-- {
			if x[i] == y[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var out bytes.Buffer
	i, j := 0, 0
	for i < len(x) || j < len(y) {
		switch {
		case i < len(x) && j < len(y) && x[i] == y[j]:
			i, j = i+1, j+1
		case i < len(x) && (j == len(y) || common[i+1][j] >= common[i][j+1]):
			fmt.Fprintf(&out, "- %s\n", x[i])
			i++
		default:
			fmt.Fprintf(&out, "+ %s\n", y[j])
			j++
		}
	}
	return out.String()
}

func lines(b []byte) []string {
	var out []string
	for _, l := range bytes.Split(bytes.TrimRight(b, "\n"), []byte("\n")) {
		if len(b) > 0 {
			out = append(out, string(l))
		}
	}
	return out
}
