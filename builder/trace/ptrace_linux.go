//go:build amd64 || arm64

package trace

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// From linux/ptrace.h.
const (
	ptraceGetSyscallInfo = 0x420e // Linux 5.3
	infoExit             = 2
	infoSeccomp          = 3
	sysgood              = 0x80 // PTRACE_O_TRACESYSGOOD marks stops of calls with it
)

const traceOptions = unix.PTRACE_O_TRACESECCOMP | unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACEEXEC |
	unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_EXITKILL

// syscallInfo is struct ptrace_syscall_info, in the shape that it has at a
// seccomp stop; at an exit the first words of data are value and error flag.
type syscallInfo struct {
	op    uint8
	_     [3]uint8
	arch  uint32
	_, _  uint64 // instruction and stack pointer
	data  [7]uint64
	extra [2]uint64
}

// call is the number of the stopped call and its arguments.
func (i *syscallInfo) call() (nr uint64, args [6]uint64) {
	copy(args[:], i.data[1:])
	return i.data[0], args
}

// result is what a call gave, negative for an error.
func (i *syscallInfo) result() int64 { return int64(i.data[0]) }

func ptrace(request, tid int, addr, data uintptr) error {
	if _, _, e := unix.RawSyscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), addr, data, 0, 0); e != 0 {
		return e
	}
	return nil
}

func seize(tid int) error  { return ptrace(unix.PTRACE_SEIZE, tid, 0, traceOptions) }
func listen(tid int) error { return ptrace(unix.PTRACE_LISTEN, tid, 0, 0) }

// getInfo reads about the call that tid stands in.
func getInfo(tid int, i *syscallInfo) error {
	return ptrace(ptraceGetSyscallInfo, tid, unsafe.Sizeof(*i), uintptr(unsafe.Pointer(i)))
}

// read copies tracee memory; it may give less than was asked for.
func read(tid int, addr uint64, b []byte) []byte {
	if addr == 0 || len(b) == 0 {
		return nil
	}
	local := unix.Iovec{Base: &b[0]}
	local.SetLen(len(b))
	remote := unix.RemoteIovec{Base: uintptr(addr), Len: len(b)}
	n, err := unix.ProcessVMReadv(tid, []unix.Iovec{local}, []unix.RemoteIovec{remote}, 0)
	runtime.KeepAlive(b)
	if err != nil {
		return nil
	}
	return b[:n]
}
