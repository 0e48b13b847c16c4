// sigstore-kms-hashivault signs with keys of
// HashiCorp Vault's and OpenBao's transit engine: hashivault://KEY.
package main

import (
	"assay/tools/kms-plugins/internal/plugin"

	_ "github.com/sigstore/sigstore/pkg/signature/kms/hashivault" // the provider
)

func main() { plugin.Main("hashivault://") }
