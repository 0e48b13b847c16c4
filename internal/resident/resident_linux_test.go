package resident

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

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

// Keep goes on for as long as its context, look after look, and then ends.
func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- Keep(ctx) }()
		time.Sleep(2*keepEvery + 1)
		synctest.Wait()
		select {
		case err := <-ended:
			t.Fatalf("ended before its context: %v", err)
		default:
		}
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	})
}

func TestDropProgram(t *testing.T) {
	before, err := mappedFiles()
	if err != nil {
		t.Fatal(err)
	}
	if err := dropProgram(); err != nil {
		t.Fatal(err)
	}
	after, err := mappedFiles()
	if err != nil {
		t.Fatal(err)
	}
	if before <= 0 || after <= 0 || after >= before {
		t.Errorf("%d bytes of files are mapped, %d before: want less", after, before)
	}
}
