// sigstore-kms-azurekms signs with keys of
// Azure Key Vault: azurekms://VAULT.vault.azure.net/KEY.
package main

import (
	"assay/tools/kms-plugins/internal/plugin"

	_ "github.com/sigstore/sigstore/pkg/signature/kms/azure" // the provider
)

func main() { plugin.Main("azurekms://") }
