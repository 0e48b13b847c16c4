// sigstore-kms-gcpkms signs with keys of
// Google Cloud KMS: gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/V.
package main

import (
	"assay/tools/kms-plugins/internal/plugin"

	_ "github.com/sigstore/sigstore/pkg/signature/kms/gcp" // the provider
)

func main() { plugin.Main("gcpkms://") }
