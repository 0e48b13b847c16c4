package excerpt

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestText(t *testing.T) {
	for _, tt := range []struct {
		in   string
		most int
		want string
	}{
		{"", 5, ""},
		{"short", 5, "short"},
		{"longer", 5, "lo…"},
		{"two\nlines", 20, "two\nlines"},
		{"nul\x00nul", 20, "nulnul"},
		{"half\xe2\x82", 20, "half?"},
		{"aé€é€", 7, "aé…"},
		{strings.Repeat("é", 10), 7, "éé…"},
		{"€€", 3, "€"}, // too narrow for a letter and an ellipsis
	} {
		if got := Text(tt.in, tt.most); got != tt.want {
			t.Errorf("Text(%q, %d) = %q, want %q", tt.in, tt.most, got, tt.want)
		}
	}
}

func TestLine(t *testing.T) {
	in := "a\nb\x1b[31mc\u202ed\u200be\u0085f\xffg"
	if got, want := Line(in, 100, '?'), "a?b?[31mc?d?e?f?g"; got != want {
		t.Errorf("Line = %q, want %q", got, want)
	}
}

func FuzzLine(f *testing.F) {
	f.Add("a\x00\u202e€", 4)
	f.Fuzz(func(t *testing.T, s string, most int) {
		most = max(0, min(most, 1000))
		got := Line(s, most, ' ')
		if len(got) > most || !utf8.ValidString(got) || strings.ContainsAny(got, "\x00\n\x1b\u202e") {
			t.Fatalf("Line(%q, %d) = %q", s, most, got)
		}
	})
}
