package resident

import "testing"

func TestReadOnlyPart(t *testing.T) {
	const program = "/usr/bin/assay"
	for line, want := range map[string]bool{
		"00400000-0195e000 r-xp 00000000 fd:00 42                                 /usr/bin/assay":           true,
		"0195e000-033ab000 r--p 0155e000 fd:00 42                                 /usr/bin/assay":           true,
		"033ab000-034a0000 rw-p 02fab000 fd:00 42                                 /usr/bin/assay":           false, // data: what was written would be lost
		"7f0000000000-7f0000001000 r--p 00000000 fd:00 43                         /usr/lib/libc.so":         false,
		"7f0000000000-7f0000001000 rw-p 00000000 00:00 0":                                                   false,
		"0195e000-0195e000 r--p 0155e000 fd:00 42                                 /usr/bin/assay":           false,
		"zz-0195e000 r--p 0155e000 fd:00 42                                       /usr/bin/assay":           false,
		"00400000-0195e000 r-xp 00000000 fd:00 42                                 /usr/bin/assay (deleted)": true,
	} {
		from, to, ok := readOnlyPart(line, program)
		if ok != want || ok && from >= to {
			t.Errorf("%s: %x-%x %t, want %t", line, from, to, ok, want)
		}
	}
}
