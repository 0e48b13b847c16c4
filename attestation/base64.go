package attestation

import (
	"encoding/base64"
	"strings"
)

// decodeBase64 reads RFC 4648 base64 of either alphabet, padded, as DSSE's
// protocol asks. White space, a mixture of the alphabets, and bits left over
// after the last byte are refused: readers differ on all three, and Go's own
// decoder skips newlines.
func decodeBase64(what, s string) ([]byte, error) {
	if i := strings.IndexAny(s, "\r\n\t "); i >= 0 {
		return nil, invalid("%s: base64 has white space at character %d: want one unbroken line", what, i)
	}
	enc := base64.StdEncoding
	if strings.ContainsAny(s, "-_") {
		if strings.ContainsAny(s, "+/") {
			return nil, invalid("%s: base64 mixes the standard and the URL-safe alphabet", what)
		}
		enc = base64.URLEncoding
	}
	b, err := enc.Strict().DecodeString(s)
	if err != nil {
		return nil, invalid("%s: want padded standard or URL-safe base64: %w", what, err)
	}
	return b, nil
}
