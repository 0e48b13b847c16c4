package source

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// Format is the sort of a signature.
type Format string

// The formats that git writes (gitformat-signature(5)).
const (
	FormatNone Format = ""
	FormatPGP  Format = "gpg"
	FormatSSH  Format = "ssh"
	FormatX509 Format = "x509" // CMS, as gitsign and smimesign write it
)

var armours = []struct {
	format Format
	name   string
}{
	{FormatPGP, "PGP SIGNATURE"}, {FormatSSH, "SSH SIGNATURE"}, {FormatX509, "SIGNED MESSAGE"},
}

// beginsArmour says whether a line begins what git takes for a signature. PGP
// MESSAGE is one of these, and is refused later.
func beginsArmour(b []byte) bool {
	for _, name := range []string{"PGP SIGNATURE", "PGP MESSAGE", "SSH SIGNATURE", "SIGNED MESSAGE"} {
		if bytes.HasPrefix(b, []byte("-----BEGIN "+name+"-----")) {
			return true
		}
	}
	return false
}

// oneArmour gives the one armoured block that s is, with nothing before, after
// or beside it.
func oneArmour(s string) (string, error) {
	s = strings.TrimRight(s, "\n") + "\n"
	if strings.Count(s, "-----BEGIN ") != 1 || strings.Count(s, "-----END ") != 1 {
		return "", errors.New("the signature is not one armoured block; two signatures are none")
	}
	if formatOf(s) == FormatNone {
		return "", fmt.Errorf("the signature begins with %.40q, want an SSH or PGP SIGNATURE or a SIGNED MESSAGE", s)
	}
	return s, nil
}

// formatOf dispatches on the armour, whole.
func formatOf(s string) Format {
	for _, a := range armours {
		if strings.HasPrefix(s, "-----BEGIN "+a.name+"-----\n") && strings.HasSuffix(s, "\n-----END "+a.name+"-----\n") {
			return a.format
		}
	}
	return FormatNone
}
