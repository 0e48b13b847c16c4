package attestation

import "bytes"

// Notary Project signatures in a registry: a referrer of ArtifactTypeNotation
// with one layer, a JWS in JSON or a COSE_Sign1.
const (
	ArtifactTypeNotation = "application/vnd.cncf.notary.signature"
	MediaTypeJWS         = "application/jose+json"
	MediaTypeCOSE        = "application/cose"
)

// IsNotation says whether bytes look like a signature of the Notary Project, by
// their first ones: COSE's tag 18 (RFC 9052, section 4.2), or a JSON object with
// the members of a JWS (RFC 7515, section 7.2.2), which no bundle has. It
// decides who reads them and proves nothing.
func IsNotation(b []byte) bool {
	if len(b) > 2 && b[0] == 0xd2 {
		return true
	}
	return len(b) > 0 && b[0] == '{' && bytes.Contains(b, []byte(`"protected"`)) && bytes.Contains(b, []byte(`"payload"`)) && !bytes.Contains(b, []byte(`"mediaType"`))
}
