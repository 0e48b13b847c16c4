package policy

import (
	_ "embed"
	"encoding/json"
	"slices"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
)

//go:embed facts.schema.json
var factsSchema []byte

//go:embed policy.schema.json
var policySchema []byte

// FactsJSONSchema is the JSON schema (draft 2020-12) of Facts.
func FactsJSONSchema() []byte { return slices.Clone(factsSchema) }

// DocumentJSONSchema is the JSON schema (draft 2020-12) of a policy document,
// for editors.
func DocumentJSONSchema() []byte { return slices.Clone(policySchema) }

// factsSchemaSet makes the Rego compiler check references to input against the
// facts' schema: a misspelt member is an error, and not undefined in silence.
var factsSchemaSet = sync.OnceValues(func() (*ast.SchemaSet, error) {
	var doc map[string]any
	if err := json.Unmarshal(factsSchema, &doc); err != nil {
		return nil, err
	}
	delete(doc, "$schema") // the checker knows earlier drafts only; what is used here is in both
	delete(doc, "$id")
	doc["properties"].(map[string]any)["now"] = map[string]any{"type": "string"}
	set := ast.NewSchemaSet()
	set.Put(ast.SchemaRootRef, any(doc))
	return set, nil
})
