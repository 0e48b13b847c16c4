package api

import (
	"errors"
	"strings"
	"testing"

	"assay/internal/fault"
)

// A cursor is good for the list that gave it, and for no other text.
func TestCursors(t *testing.T) {
	c := writeCursor("robots", "ci\nx")
	if strings.Contains(c, "ci") {
		t.Errorf("cursor %q is not opaque", c)
	}
	if got, err := readCursor("robots", c); err != nil || got != "ci\nx" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := readCursor("robots", ""); err != nil || got != "" {
		t.Errorf("the first page: %q, %v", got, err)
	}
	for _, bad := range []string{writeCursor("revocations", "ci"), c + "=", "ci", "%", strings.Repeat("A", 4096), encodeCursor("robots"), encodeCursor("robotsx\n")} {
		if _, err := readCursor("robots", bad); !errors.Is(err, fault.Invalid) {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
	s := exportState{1, 9, 3, 20, 3}
	if got, err := readExportState(s.cursor()); err != nil || got != s {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"1 2 3 4", "1 2 3 4 5 6", "1 2 3 4 x", "-1 2 3 4 5", ""} {
		if _, err := readExportState(writeCursor("export", bad)); !errors.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzCursor(f *testing.F) {
	f.Add(writeCursor("export", "1 2 3 4 5"))
	f.Add("")
	f.Fuzz(func(t *testing.T, cursor string) {
		if s, err := readExportState(cursor); err == nil && s.cursor() != cursor && cursor != "" {
			// Another spelling of the same numbers does no harm; it must read again.
			if again, err := readExportState(s.cursor()); err != nil || again != s {
				t.Fatalf("%q: %+v, %+v, %v", cursor, s, again, err)
			}
		}
	})
}
