package agent

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// watch sweeps, and listens to the kernel where that is permitted.
func (a *Agent) watch(ctx context.Context) error {
	var w *listener
	if !a.o.Sweep {
		var err error
		if w, err = a.listen(ctx); err != nil {
			a.o.Logger.Warn("the kernel tells of no execution (fanotify): programs that end between two looks at /proc are not seen", "error", err)
		} else {
			defer w.close()
			a.met.kernel.Set(1)
			a.o.Logger.Info("the kernel tells of each execution (fanotify)")
		}
	}
	for {
		if err := a.Sweep(ctx); err != nil {
			return err
		}
		if w != nil {
			w.mark()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(a.o.Interval):
		}
	}
}

// Sweep looks once at what runs.
func (a *Agent) Sweep(ctx context.Context) error {
	a.met.swept.Set(float64(a.o.Clock().Unix()))
	return a.sweep(func(pid, id string) {
		if ctx.Err() != nil {
			return
		}
		exe := filepath.Join(a.o.Proc, pid, "exe")
		f, err := os.Open(exe)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
				a.miss(1, "the program of a process of container "+id[:12]+" could not be opened: "+err.Error())
			}
			return // it ended, or is a thread of the kernel
		}
		defer f.Close()
		path, err := os.Readlink(exe)
		if err != nil {
			return
		}
		a.saw(ctx, id, f, a.inside(pid, path), a.command(pid))
	})
}

func keyOf(st fs.FileInfo) (fileKey, bool) {
	s, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return fileKey{}, false
	}
	return fileKey{s.Dev, s.Ino, s.Size, s.Mtim.Nano(), s.Ctim.Nano()}, true
}

// listener is told by the kernel of files that are opened to be executed.
type listener struct {
	a      *Agent
	fd     int
	marked map[string]bool      // file systems, by device
	byFS   map[unix.Fsid]string // containers by their root's file system
	done   chan struct{}
	turn   chan struct{} // holds one while marked and byFS are used
}

func (a *Agent) listen(ctx context.Context) (*listener, error) {
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_LARGEFILE|unix.O_CLOEXEC)
	if err != nil {
		return nil, err
	}
	l := &listener{a: a, fd: fd, marked: map[string]bool{}, byFS: map[unix.Fsid]string{}, done: make(chan struct{}), turn: make(chan struct{}, 1)}
	go func() {
		defer close(l.done)
		l.read(ctx)
	}()
	l.mark()
	return l, nil
}

func (l *listener) close() {
	<-l.done
	_ = unix.Close(l.fd)
}

// mark marks the file systems that containers see, each once. Those that hold no
// files that are executed are left out.
func (l *listener) mark() {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	seen, now := map[string]bool{}, map[string]bool{} // numbers of devices that are gone are given out again
	clear(l.byFS)
	err := l.a.sweep(func(pid, id string) {
		if seen[id] {
			return
		}
		seen[id] = true
		root := filepath.Join(l.a.o.Proc, pid, "root")
		var st unix.Statfs_t
		if unix.Statfs(root, &st) == nil && st.Type == unix.OVERLAYFS_SUPER_MAGIC {
			l.byFS[st.Fsid] = id
		}
		f, err := os.Open(filepath.Join(l.a.o.Proc, pid, "mountinfo"))
		if err != nil {
			return
		}
		defer f.Close()
		for sc := bufio.NewScanner(f); sc.Scan(); {
			w := strings.Fields(sc.Text())
			dash := slices.Index(w, "-")
			if len(w) < 7 || dash < 0 || dash+1 >= len(w) || slices.Contains(plainFS, w[dash+1]) || now[w[2]] {
				continue
			}
			if l.marked[w[2]] {
				now[w[2]] = true
				continue
			}
			at := root + unescape(w[4])
			if err := unix.FanotifyMark(l.fd, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, unix.FAN_OPEN_EXEC, unix.AT_FDCWD, at); err != nil {
				if !errors.Is(err, unix.ENOENT) {
					l.a.o.Logger.Warn("a file system that a container sees cannot be listened to", "container", id, "at", w[4], "type", w[dash+1], "error", err)
				}
				continue
			}
			now[w[2]] = true
		}
	})
	if err != nil {
		l.a.o.Logger.Warn("containers could not be listed", "error", err)
		return
	}
	l.marked = now
}

var plainFS = []string{"proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "securityfs", "debugfs", "tracefs", "bpf", "pstore", "configfs", "fusectl", "devtmpfs"}

// unescape reads a path of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// metadata is the length of fanotify's struct of an event.
const metadata = 24

func (l *listener) read(ctx context.Context) {
	buf := make([]byte, 64<<10)
	for ctx.Err() == nil {
		poll := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}} //nolint:gosec // a descriptor is small
		if n, err := unix.Poll(poll, 200); n <= 0 {
			if err != nil && !errors.Is(err, unix.EINTR) {
				l.a.miss(1, "fanotify: "+err.Error())
				return
			}
			continue
		}
		n, err := unix.Read(l.fd, buf)
		if err != nil {
			if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
				l.a.miss(1, "fanotify: "+err.Error())
				time.Sleep(100 * time.Millisecond)
			}
			continue
		}
		for b := buf[:n]; len(b) >= metadata; {
			size := int(binary.NativeEndian.Uint32(b))
			if size < metadata || size > len(b) {
				break
			}
			l.event(ctx, b[:size])
			b = b[size:]
		}
	}
}

func (l *listener) event(ctx context.Context, b []byte) {
	mask := binary.NativeEndian.Uint64(b[8:])
	fd, pid := int32(binary.NativeEndian.Uint32(b[16:])), int32(binary.NativeEndian.Uint32(b[20:])) //nolint:gosec // the kernel's own signed numbers
	if mask&unix.FAN_Q_OVERFLOW != 0 {
		l.a.miss(1, "the kernel dropped executions: more came than could be hashed")
		return
	}
	if fd < 0 {
		return
	}
	f := os.NewFile(uintptr(fd), "executed")
	defer f.Close()
	if int(pid) == os.Getpid() {
		return
	}
	p := strconv.Itoa(int(pid))
	id := l.a.idIn(p)
	if _, err := os.Stat(filepath.Join(l.a.o.Proc, p)); err != nil && id == "" {
		// It is over. Whose it was its file system may tell.
		var st unix.Statfs_t
		if unix.Fstatfs(int(fd), &st) == nil {
			l.turn <- struct{}{}
			id = l.byFS[st.Fsid]
			<-l.turn
		}
	}
	if id == "" {
		return
	}
	path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(fd)))
	if err != nil {
		path = "unknown"
	}
	l.a.saw(ctx, id, f, l.a.inside(p, path), l.a.command(p))
}
