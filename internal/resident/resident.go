// Package resident keeps the process's resident memory small: large buffers that
// the collector does not count, and the program's own pages.
package resident

import "sync"

// Pool has large buffers for copying, a bounded number of them. They lie outside
// the heap, where the system has such memory: on it each would count twice, since
// the collector lets the heap grow to a multiple of what lives. The zero value
// has none; fields are set before use.
type Pool struct {
	Size int // bytes of a buffer
	Max  int // buffers

	mu   sync.Mutex
	made int
	idle [][]byte
}

// Get gives a buffer, or nil when all are in use or there is no memory for one:
// the caller then does with less. The buffer's contents are anybody's.
func (p *Pool) Get() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.idle); n > 0 {
		b := p.idle[n-1] // the one that is warm
		p.idle = p.idle[:n-1]
		return b
	}
	if p.made >= p.Max {
		return nil
	}
	b := allocate(p.Size)
	if b != nil {
		p.made++
	}
	return b
}

// Put takes a buffer of Get back, whole.
func (p *Pool) Put(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, b)
}
