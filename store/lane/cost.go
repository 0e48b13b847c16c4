package lane

import (
	"runtime"
	"time"
)

// Cost is what a piece of work took.
type Cost struct {
	// CPU is processor time of the thread that did it: reading, comparing, and with
	// the embedded database its queries. What the database's own writer and the
	// collector of garbage took is not in it.
	CPU  time.Duration
	Wall time.Duration
}

// Measure begins to measure. The goroutine stays on its thread until the function
// that it gives is called, by the same goroutine, once.
func Measure() (done func() Cost) {
	runtime.LockOSThread()
	cpu, start := threadCPU(), time.Now()
	return func() Cost {
		c := Cost{Wall: time.Since(start)}
		if now := threadCPU(); now >= cpu && cpu >= 0 {
			c.CPU = now - cpu
		} else {
			c.CPU = c.Wall // nobody tells: the most that one thread can have taken
		}
		runtime.UnlockOSThread()
		return c
	}
}
