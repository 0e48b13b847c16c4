package resident

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
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
	return dropProgram()
}

// keepProgram is how much of files may stay mapped before [Keep] lets go of it.
// To look four times a second instead takes nothing more away that could be
// measured, and seems to cost pulls some percent of processor time.
const (
	keepProgram = 12 << 20
	keepEvery   = 2 * time.Second
)

// Keep looks every two seconds, until ctx ends, how much of the program's file is
// mapped, and lets go of it when it is much. Each page that is used once, by a
// policy that was compiled or a log that was rotated, brings fifteen neighbours
// with it (fault-around) and would count as resident for as long as the process
// lives. To map again what is in use costs some hundred minor faults.
func Keep(ctx context.Context) error {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		mapped, err := mappedFiles()
		if err != nil {
			return err
		}
		if mapped < keepProgram {
			continue
		}
		if err := dropProgram(); err != nil {
			return err
		}
	}
}

// mappedFiles reads how many bytes of files are resident, of all mappings (the
// third field of /proc/PID/statm, proc_pid_statm(5)).
func mappedFiles() (int64, error) {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(b))
	if len(f) < 3 {
		return 0, fmt.Errorf("/proc/self/statm: %q", b)
	}
	n, err := strconv.ParseInt(f[2], 10, 64)
	return n * int64(os.Getpagesize()), err
}

// dropProgram lets go of the program's pages.
func dropProgram() error {
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
