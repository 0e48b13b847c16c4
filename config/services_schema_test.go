package config_test

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"assay/config"
	"assay/inventory"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// TestServicesSchema: what the schema of services.yaml takes and refuses is what
// the reader takes and refuses, of the page's example and of each mistake.
func TestServicesSchema(t *testing.T) {
	text, err := jsonschema.UnmarshalJSON(bytes.NewReader(inventory.ServicesJSONSchema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("services.schema.json", text); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("services.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../docs/services.md")
	if err != nil {
		t.Fatal(err)
	}
	example := regexp.MustCompile("(?s)```yaml\n(apiVersion: assay/v1\nkind: Services\n.*?)```").FindSubmatch(page)
	if example == nil {
		t.Fatal("docs/services.md has no example")
	}
	const head = "apiVersion: assay/v1\nkind: Services\nmetadata: {name: x}\nspec:\n"
	service := func(s string) string { return head + "  services: {a: " + s + "}\n" }
	for name, tt := range map[string]struct {
		doc string
		ok  bool
	}{
		"the page's example":  {string(example[1]), true},
		"a service":           {service("{}"), true},
		"tier 4":              {service("{tier: 4}"), true},
		"tier 5":              {service("{tier: 5}"), false},
		"tier -1":             {service("{tier: -1}"), false},
		"a tier in words":     {service("{tier: high}"), false},
		"an exposure":         {service("{exposure: isolated}"), true},
		"another exposure":    {service("{exposure: world}"), false},
		"a word of its own":   {service("{owner: me}"), false},
		"a name of its own":   {head + "  services: {A_B: {}}\n", false},
		"a digest":            {service("{digests: [sha256:" + strings.Repeat("a", 64) + "]}"), true},
		"a digest of 10":      {service("{digests: [sha256:aaaaaaaaaa]}"), false},
		"a workload":          {service("{workloads: [{namespace: a, environment: test}]}"), true},
		"no workload":         {service("{workloads: [{environment: test}]}"), false},
		"an environment":      {service("{environment: Prod}"), false},
		"nothing":             {head + "  services: {}\n", false},
		"a group":             {head + "  teams: {a: {groups: [{issuer: \"https://x\", group: b}]}}\n", true},
		"a group of nobody":   {head + "  teams: {a: {groups: [{group: b}]}}\n", false},
		"an empty contact":    {head + "  teams: {a: {contacts: [\"\"]}}\n", false},
		"a long route":        {head + "  teams: {a: {routes: {page: " + strings.Repeat("x", 501) + "}}}\n", false},
		"a cluster":           {head + "  clusters: {lab: {environment: staging}}\n", true},
		"of another kind":     {strings.Replace(service("{}"), "kind: Services", "kind: Service", 1), false},
		"of another version":  {strings.Replace(service("{}"), "assay/v1", "assay/v2", 1), false},
		"without a name":      {strings.Replace(service("{}"), "metadata: {name: x}\n", "", 1), false},
		"501 repositories":    {service("{repositories: [" + strings.Repeat("a,", 500) + "a]}"), false},
		"a repository of ''":  {service("{repositories: ['']}"), false},
		"a long description":  {service("{description: " + strings.Repeat("x", 2001) + "}"), false},
		"a selector of ''":    {service("{workloads: [{name: x, kind: a/b}]}"), true},
		"platform by a word":  {head + "  teams: {a: {platform: perhaps}}\n", false},
		"labels by a number":  {service("{labels: {a: [1]}}"), false},
		"a team":              {head + "  teams: {b: {}}\n  services: {a: {team: b}}\n", true},
		"a team of its own":   {head + "  teams: {b: {}}\n  services: {a: {team: B}}\n", false},
		"a route of no name":  {service("{routes: {\"\": x}}"), false},
		"an empty exposure":   {service("{exposure: all}"), false},
		"a digest of another": {service("{digests: [md5:aaaaaaaaaa]}"), false},
	} {
		t.Run(name, func(t *testing.T) {
			var v any
			if err := yaml.Unmarshal([]byte(tt.doc), &v); err != nil {
				t.Fatal(err)
			}
			b, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			said := schema.Validate(doc)
			docs, read := config.ParseDocuments([]byte(tt.doc))
			if read == nil {
				_, read = config.Compile(docs, nil)
			}
			if (said == nil) != tt.ok || (read == nil) != tt.ok {
				t.Errorf("want %t; the schema says %v, the reader %v", tt.ok, said, read)
			}
		})
	}
}
