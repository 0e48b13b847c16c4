package resident

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
)

func allocate(size int) []byte {
	b, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return nil
	}
	return b
}

// Trim lets go of what only the start needed: free pages of the heap, and the
// pages of the program that were read for it. The latter are clean and mapped
// from its file, so that MADV_DONTNEED (madvise(2)) loses nothing: what is used
// again is mapped again from the page cache. Errors mean that memory stays as it
// was.
func Trim() error {
	debug.FreeOSMemory()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	var from, to uintptr
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// What cannot be written now may have been once: the dynamic linker writes
		// addresses into a part of the program and then protects it (RELRO). Such
		// pages are no longer the file's, and letting go of them loses them.
		if kB, is := strings.CutPrefix(lines.Text(), "Anonymous:"); is {
			if from < to && strings.TrimSpace(kB) == "0 kB" {
				if _, _, errno := syscall.Syscall(syscall.SYS_MADVISE, from, to-from, syscall.MADV_DONTNEED); errno != 0 {
					return fmt.Errorf("madvise: %w", errno)
				}
			}
			from, to = 0, 0
			continue
		}
		if a, b, ok := readOnlyPart(lines.Text(), program); ok {
			from, to = a, b
		}
	}
	return nil
}

// readOnlyPart reads the head of a mapping in /proc/PID/smaps (proc_pid_maps(5)):
// its addresses, if it is of the program's file and cannot be written.
func readOnlyPart(line, program string) (from, to uintptr, ok bool) {
	f := strings.Fields(line)
	if len(f) < 6 || f[5] != program || f[1] != "r--p" && f[1] != "r-xp" {
		return 0, 0, false
	}
	_, err := fmt.Sscanf(f[0], "%x-%x", &from, &to)
	return from, to, err == nil && from < to
}
