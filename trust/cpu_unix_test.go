//go:build unix

package trust_test

import (
	"syscall"
	"time"
)

// cpuTime is what this process has used of all processors, which other
// processes on a busy machine do not change.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
