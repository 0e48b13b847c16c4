package api

import "encoding/base64"

func encodeCursor(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

func decodeCursor(cursor string) (string, bool) {
	if len(cursor) > 2048 {
		return "", false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	return string(b), err == nil
}
