package trace

import "golang.org/x/sys/unix"

const (
	auditArch  = unix.AUDIT_ARCH_AARCH64
	foreignBit = 0 // 32-bit calls have another arch word
)

// Calls that there are none of on arm64: no number is this.
const (
	sysOpen  = 1 << 20
	sysCreat = 1<<20 + 1
)
