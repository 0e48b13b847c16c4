package trace

import "golang.org/x/sys/unix"

const (
	auditArch = unix.AUDIT_ARCH_X86_64
	// x32 calls have the same arch word and this bit in their number.
	foreignBit = 0x40000000
)

// The calls that arm64 does not have.
const (
	sysOpen  = unix.SYS_OPEN
	sysCreat = unix.SYS_CREAT
)
