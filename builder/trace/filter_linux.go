//go:build amd64 || arm64

package trace

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// watched are the calls that stop for the tracer. Of exec the kernel tells by
// PTRACE_O_TRACEEXEC once it has happened; it stands here so that it is refused to
// who is not traced (CLONE_UNTRACED), as the others are.
var watched = []uint32{
	sysOpen, sysCreat, unix.SYS_OPENAT2, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_PIDFD_GETFD,
	unix.SYS_CONNECT, unix.SYS_SENDMSG, unix.SYS_SENDMMSG,
	unix.SYS_EXECVE, unix.SYS_EXECVEAT,
}

// Offsets in struct seccomp_data (linux/seccomp.h); both machines are
// little-endian, so that the low word of an argument comes first.
const (
	dataNr   = 0
	dataArch = 4
	dataArgs = 16
)

func load(off uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: off}
}

// unless jumps over n instructions when the value is not k.
func unless(k uint32, n uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jf: n}
}

func answer(k uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k}
}

func argument(i uint32) uint32 { return dataArgs + 8*i }

// program is the filter.
func program() []unix.SockFilter {
	const stop = unix.SECCOMP_RET_TRACE
	tmpfile := uint32(unix.O_TMPFILE &^ unix.O_DIRECTORY)
	p := []unix.SockFilter{
		// A call of another instruction set (i386 on amd64, 32-bit ARM on arm64) has
		// other numbers: it stops whatever it is, and the trace says that it has a gap.
		load(dataArch), {Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: auditArch, Jt: 1}, answer(stop),
		load(dataNr),
	}
	if foreignBit != 0 {
		p = append(p, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: foreignBit, Jf: 1}, answer(stop))
	}
	// openat: not for a directory, which has no content, nor for a name alone
	// (O_PATH), which must be opened again before anything can be read.
	p = append(
		p,
		unless(unix.SYS_OPENAT, 6),
		load(argument(2)),
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: unix.O_PATH, Jt: 2},
		unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: unix.O_DIRECTORY | tmpfile},
		unless(unix.O_DIRECTORY, 1),
		answer(unix.SECCOMP_RET_ALLOW),
		answer(stop),
	)
	// sendto with an address; without one it is send, on a connected socket.
	p = append(
		p,
		unless(unix.SYS_SENDTO, 5),
		load(argument(4)), unless(0, 2),
		load(argument(4)+4), unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jt: 1},
		answer(stop),
	)
	// After sendto the value is no number any more.
	p = append(p, load(dataNr))
	for _, nr := range watched {
		if nr < 1<<20 {
			p = append(p, unless(nr, 1), answer(stop))
		}
	}
	// io_uring opens and connects without a call of its own. Programs know
	// machines that do not have it.
	p = append(p, unless(unix.SYS_IO_URING_SETUP, 1), answer(unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS)))
	// A filter of the build's own with a listener comes before this one: what its
	// listener lets go on would be made without a stop (seccomp_unotify(2)). Kernels
	// before 5.0 do not have it, and say so in these words.
	p = append(
		p,
		unless(unix.SYS_SECCOMP, 3),
		load(argument(1)),
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, Jf: 1},
		answer(unix.SECCOMP_RET_ERRNO|uint32(unix.EINVAL)),
	)
	return append(p, answer(unix.SECCOMP_RET_ALLOW))
}

// confine lays the filter over this thread and all that it starts.
func confine() error {
	// Without this, a filter could mislead a set-user-id program (seccomp(2)).
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_NO_NEW_PRIVS): %w", err)
	}
	p := program()
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	if _, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); e != 0 {
		return fmt.Errorf("seccomp(SECCOMP_SET_MODE_FILTER): %w", e)
	}
	return nil
}
