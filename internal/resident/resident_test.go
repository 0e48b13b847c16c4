package resident_test

import (
	"fmt"
	"sync"
	"testing"

	"assay/internal/resident"
)

// As many buffers as were allowed, each of its size and nobody else's meanwhile.
func TestPool(t *testing.T) {
	p := resident.Pool{Size: 1 << 16, Max: 3}
	var held [][]byte
	for i := range 3 {
		b := p.Get()
		if len(b) != 1<<16 {
			t.Fatalf("%d bytes", len(b))
		}
		b[0], b[len(b)-1] = byte(i), byte(i)
		held = append(held, b)
	}
	if p.Get() != nil {
		t.Error("a fourth buffer")
	}
	for i, b := range held {
		if b[0] != byte(i) || b[len(b)-1] != byte(i) {
			t.Errorf("buffer %d was written by another", i)
		}
	}
	p.Put(held[1])
	if p.Get() == nil || p.Get() != nil {
		t.Error("want the one that came back, and no other")
	}
	var none resident.Pool
	if none.Get() != nil {
		t.Error("the zero pool has a buffer")
	}
}

// The program works as before, its code and its constants too, while others run.
func TestTrim(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 1000 {
				if s := fmt.Sprintf("%d-%s", i, "constant"); s[1:] != "-constant" {
					t.Errorf("%d: %q", j, s)
				}
			}
		})
	}
	for range 5 {
		if err := resident.Trim(); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
}
