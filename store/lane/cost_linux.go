package lane

import (
	"time"

	"golang.org/x/sys/unix"
)

// threadCPU is the processor time of this thread; negative: not known. That of
// getrusage(2) is only as fine as the kernel's tick.
func threadCPU() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return -1
	}
	return time.Duration(ts.Nano())
}
