//go:build !linux

package lane

import "time"

// threadCPU is not known here.
func threadCPU() time.Duration { return -1 }
