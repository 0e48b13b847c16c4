package main

import (
	"assay/inventory"

	"github.com/spf13/cobra"
)

// inventorySchemaCommand prints what editors check services.yaml by.
func (a *app) inventorySchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON schema of services.yaml, for editors",
		Long: `Print the JSON schema (draft 2020-12) of documents of kind Services. It is asked
of no server. Whether a team is known, and a pattern reads, only apply says.`,
		Example: `  assay inventory schema > services.schema.json
  # then, as the first line of services.yaml:
  # yaml-language-server: $schema=services.schema.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(inventory.ServicesJSONSchema())
			return err
		},
	}
}
