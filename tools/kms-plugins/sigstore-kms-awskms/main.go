// sigstore-kms-awskms signs with keys of
// AWS KMS: awskms://[ENDPOINT]/ID, awskms:///alias/NAME.
package main

import (
	"assay/tools/kms-plugins/internal/plugin"

	_ "github.com/sigstore/sigstore/pkg/signature/kms/aws" // the provider
)

func main() { plugin.Main("awskms://") }
