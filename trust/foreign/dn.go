package foreign

import (
	"encoding/hex"
	"slices"
	"strings"

	"assay/internal/fault"
)

// dnNames maps attribute types to the names of RFC 4514 and of X.520.
var dnNames = map[string]string{
	"2.5.4.6": "C", "2.5.4.8": "ST", "2.5.4.7": "L", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.3": "CN",
	"2.5.4.9": "STREET", "2.5.4.17": "POSTALCODE", "2.5.4.5": "SERIALNUMBER",
}

// parseDN reads a distinguished name (RFC 4514) of the attributes above, each at
// most once; "S" stands for ST, as in Notation.
func parseDN(text string) (map[string]string, error) {
	out := map[string]string{}
	bad := func(why string) error {
		return fault.Newf(fault.Invalid, "distinguished name %.200q: %s", strings.TrimSpace(text), why)
	}
	var parts []string
	start := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '+':
			return nil, bad("an RDN of several attributes is not read")
		case ',':
			parts = append(parts, text[start:i])
			start = i + 1
		}
	}
	for _, part := range append(parts, text[start:]) {
		name, value, ok := strings.Cut(strings.TrimLeft(part, " "), "=")
		name = strings.ToUpper(strings.TrimSpace(name))
		if name == "S" {
			name = "ST"
		}
		known := slices.Contains([]string{"C", "ST", "L", "O", "OU", "CN", "STREET", "POSTALCODE", "SERIALNUMBER"}, name)
		if !ok || !known || out[name] != "" {
			return nil, bad("attribute " + name + " is unknown, without a value, or there twice")
		}
		v, err := unescape(value)
		if err != nil || v == "" {
			return nil, bad("the value of " + name + " is empty or wrongly escaped")
		}
		out[name] = v
	}
	return out, nil
}

func unescape(s string) (string, error) {
	s = strings.TrimLeft(s, " ")
	for strings.HasSuffix(s, " ") && !strings.HasSuffix(s, `\ `) {
		s = s[:len(s)-1]
	}
	if strings.HasPrefix(s, "#") {
		return "", fault.Newf(fault.Invalid, "a value in hex is not read")
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			if strings.IndexByte(`"<>;`, s[i]) >= 0 {
				return "", fault.Newf(fault.Invalid, "a character that wants escaping")
			}
			b.WriteByte(s[i])
			continue
		}
		if i++; i == len(s) {
			return "", fault.Newf(fault.Invalid, "a backslash at the end")
		}
		if strings.IndexByte(` "#+,;<=>\`, s[i]) >= 0 {
			b.WriteByte(s[i])
			continue
		}
		raw, err := hex.DecodeString(s[i:min(i+2, len(s))])
		if err != nil || len(raw) != 1 {
			return "", fault.Newf(fault.Invalid, "a wrong escape")
		}
		b.WriteByte(raw[0])
		i++
	}
	return b.String(), nil
}
