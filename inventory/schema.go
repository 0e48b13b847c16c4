package inventory

import (
	_ "embed"
	"slices"
)

//go:embed services.schema.json
var servicesSchema []byte

// ServicesJSONSchema is the JSON schema (draft 2020-12) of a document of kind
// Services, for editors and for those who write catalogues by program. What it
// takes may still be refused: whether teams are known, and patterns read, only
// [NewCatalogue] says.
func ServicesJSONSchema() []byte { return slices.Clone(servicesSchema) }
