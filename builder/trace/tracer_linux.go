//go:build amd64 || arm64

package trace

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tracer is one run. All of it belongs to one thread: ptrace(2) obeys none but
// the thread that attached.
type tracer struct {
	o       Options
	ctx     context.Context
	root    int // process and group of the command
	own     int // our thread
	status  *bufio.Reader
	running bool // the command has replaced the launcher
	live    map[int]bool
	pending map[int]call // by thread: the call that it is in
	files   *files
	network *network
	gaps    map[string]bool
	result  Result
}

// call is a watched call between its stop and its end.
type call struct {
	nr   uint64
	args [6]uint64
	peer *peer // of connect and its like, as the program gave it
}

func run(ctx context.Context, o Options) (*Result, error) {
	type ended struct {
		r   *Result
		err error
	}
	done := make(chan ended, 1)
	onChildlessThread(func() {
		t := &tracer{o: o, ctx: ctx, own: unix.Gettid(), live: map[int]bool{}, pending: map[int]call{}, gaps: map[string]bool{}}
		t.files, t.network = newFiles(t), newNetwork(t)
		r, err := t.run()
		done <- ended{r, err}
	})
	e := <-done
	return e.r, e.err
}

// onChildlessThread runs fn on a thread of its own that has no children. A wait
// for all of a thread's children ends when there are none left; a process that
// this thread had started for somebody else before would keep it waiting, and its
// end would be taken from whoever waits for it.
func onChildlessThread(fn func()) {
	found := make(chan bool)
	release := make(chan struct{})
	defer close(release)
	for ok := false; !ok; ok = <-found {
		go func() {
			// Never unlocked where fn ran: the thread ends with this goroutine, and what
			// it still traces then is killed (PTRACE_O_EXITKILL).
			runtime.LockOSThread()
			err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WSTOPPED|unix.WNOHANG|unix.WNOWAIT|unix.WALL|unix.WNOTHREAD, nil)
			if !errors.Is(err, unix.ECHILD) {
				found <- false
				// Held, so that the next goroutine is on another thread.
				<-release
				runtime.UnlockOSThread()
				return
			}
			found <- true
			fn()
		}()
	}
}

func (t *tracer) gap(why string) { t.gaps[why] = true }

func (t *tracer) run() (*Result, error) {
	defer t.files.close()
	start, err := t.launch()
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(t.ctx, func() { _ = unix.Kill(-t.root, unix.SIGKILL) })
	defer stop()
	if _, err := start.Write([]byte{1}); err != nil {
		return nil, t.abandon(err)
	}
	_ = start.Close()
	if err := t.loop(); err != nil {
		return nil, err
	}
	if !t.running {
		return nil, t.notStarted()
	}
	t.finish()
	return &t.result, nil
}

// launch starts the launcher and attaches to it. What is written to the pipe
// then lets it go on.
func (t *tracer) launch() (start *os.File, err error) {
	goR, goW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	statusR, statusW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, goR.Close(), goW.Close())
	}
	attr := &syscall.ProcAttr{
		Dir: t.o.Dir, Env: t.o.Env,
		Files: []uintptr{t.o.Files[0].Fd(), t.o.Files[1].Fd(), t.o.Files[2].Fd(), goR.Fd(), statusW.Fd()},
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	}
	if t.o.Foreground != nil {
		attr.Sys.Foreground, attr.Sys.Ctty = true, int(t.o.Foreground.Fd())
	}
	argv := append([]string{LauncherName, t.o.Path}, t.o.Args...)
	t.root, err = syscall.ForkExec("/proc/self/exe", argv, attr)
	_, _ = goR.Close(), statusW.Close()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the trace launcher: %w", err), goW.Close(), statusR.Close())
	}
	t.status = bufio.NewReader(statusR)
	line, err := t.status.ReadString('\n')
	tid, err2 := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || err2 != nil {
		return nil, errors.Join(t.abandon(fmt.Errorf("the trace launcher does not answer: %q", line)), goW.Close())
	}
	if err := seize(tid); err != nil {
		why := fmt.Errorf("%w: ptrace(PTRACE_SEIZE): %w (kernel.yama.ptrace_scope, a container without ptrace, or a trace around this one)", ErrUnavailable, err)
		return nil, errors.Join(t.abandon(why), goW.Close())
	}
	var info syscallInfo
	if err := getInfo(tid, &info); errors.Is(err, unix.EIO) {
		return nil, errors.Join(t.abandon(fmt.Errorf("%w: the kernel is older than Linux 5.3 (PTRACE_GET_SYSCALL_INFO)", ErrUnavailable)), goW.Close())
	}
	t.live[tid] = true
	return goW, nil
}

// abandon ends the launcher.
func (t *tracer) abandon(err error) error {
	_ = unix.Kill(t.root, unix.SIGKILL)
	var ws unix.WaitStatus
	for {
		if _, werr := unix.Wait4(t.root, &ws, unix.WALL, nil); !errors.Is(werr, unix.EINTR) {
			return err
		}
	}
}

// notStarted says why the launcher ended before it became the command.
func (t *tracer) notStarted() error {
	line, _ := t.status.ReadString('\n')
	what, why, _ := strings.Cut(strings.TrimSpace(line), ": ")
	switch what {
	case "confine":
		return fmt.Errorf("%w: %s", ErrUnavailable, why)
	case "exec":
		return fmt.Errorf("run %s: %s", t.o.Path, why)
	}
	return fmt.Errorf("run %s: the launcher ended with %d", t.o.Path, t.result.ExitCode)
}

// loop serves stops until nothing is left to be traced.
func (t *tracer) loop() error {
	var ws unix.WaitStatus
	var deadline time.Time // set once the command has ended
	for {
		flags := unix.WALL | unix.WNOTHREAD
		if !deadline.IsZero() {
			flags |= unix.WNOHANG
		}
		tid, err := unix.Wait4(-1, &ws, flags, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD):
			return nil
		case err != nil:
			return fmt.Errorf("wait4: %w", err)
		case tid == 0: // WNOHANG: what outlives the command has not ended yet
			if time.Now().After(deadline) {
				t.killRest()
				deadline = time.Now().Add(time.Second)
			}
			time.Sleep(2 * time.Millisecond)
			continue
		}
		if !ws.Exited() && !ws.Signaled() {
			t.stopped(tid, ws)
			continue
		}
		delete(t.live, tid)
		delete(t.pending, tid)
		if tid == t.root {
			t.ended(ws)
			_ = unix.Kill(-t.root, unix.SIGTERM)
			deadline = time.Now().Add(t.o.Grace)
		}
	}
}

func (t *tracer) ended(ws unix.WaitStatus) {
	if ws.Signaled() {
		t.result.Signal = int(ws.Signal())
		t.result.ExitCode = 128 + t.result.Signal
		return
	}
	t.result.ExitCode = ws.ExitStatus()
}

// killRest kills what outlives the command: with the filter and without us it
// could not open a file any more. The kernel says of each whether it is ours,
// since a number may be somebody else's by now.
func (t *tracer) killRest() {
	ours := "TracerPid:\t" + strconv.Itoa(t.own) + "\n"
	for tid := range t.live {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/status")
		if err == nil && strings.Contains(string(b), ours) {
			_ = unix.Kill(tid, unix.SIGKILL)
		} else {
			delete(t.live, tid)
		}
	}
}

// stopped serves one stop of one thread and lets it go on.
func (t *tracer) stopped(tid int, ws unix.WaitStatus) {
	sig := ws.StopSignal()
	if t.live[tid] = true; sig == unix.SIGTRAP|sysgood {
		t.left(tid)
		_ = unix.PtraceCont(tid, 0)
		return
	}
	switch event := int(ws) >> 16; event {
	case unix.PTRACE_EVENT_SECCOMP:
		if t.entered(tid) {
			_ = unix.PtraceSyscall(tid, 0) // stops again at the call's end
			return
		}
	case unix.PTRACE_EVENT_EXEC:
		t.executed(tid)
	case unix.PTRACE_EVENT_STOP:
		switch sig {
		case unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
			_ = listen(tid) // a group stop: it stays until SIGCONT
			return
		}
	case 0:
		_ = unix.PtraceCont(tid, int(sig)) // a signal on its way
		return
	}
	_ = unix.PtraceCont(tid, 0)
}

// entered looks at a call before it is made, and says whether its end matters.
func (t *tracer) entered(tid int) bool {
	var info syscallInfo
	if err := getInfo(tid, &info); err != nil {
		return false // killed meanwhile
	}
	nr, args := info.call()
	if info.op != infoSeccomp {
		t.gap("a call could not be read")
		return false
	}
	if info.arch != auditArch || foreignBit != 0 && nr&foreignBit != 0 {
		t.gap("a program made system calls of another instruction set (32-bit), which are not watched")
		return false
	}
	c := call{nr: nr, args: args}
	switch nr {
	case unix.SYS_EXECVE, unix.SYS_EXECVEAT:
		return false // told of once it has happened
	case unix.SYS_CONNECT, unix.SYS_SENDTO, unix.SYS_SENDMSG, unix.SYS_SENDMMSG:
		if c.peer = t.network.given(tid, &c); c.peer == nil {
			return false
		}
	}
	t.pending[tid] = c
	return true
}

// left looks at a call that has been made.
func (t *tracer) left(tid int) {
	c, ok := t.pending[tid]
	if !ok {
		return
	}
	delete(t.pending, tid)
	var info syscallInfo
	if err := getInfo(tid, &info); err != nil || info.op != infoExit {
		return
	}
	result := info.result()
	switch c.nr {
	case unix.SYS_CONNECT, unix.SYS_SENDTO, unix.SYS_SENDMSG, unix.SYS_SENDMMSG:
		t.network.reached(tid, &c, result)
	default:
		if result >= 0 {
			t.files.opened(tid, &c, int(result))
		}
	}
}

// executed looks at a process that has become another program.
func (t *tracer) executed(tid int) {
	// Any thread may execute; it then has the process's number, and its own is gone.
	if old, err := unix.PtraceGetEventMsg(tid); err == nil && int(old) != tid {
		delete(t.live, int(old))
		delete(t.pending, int(old))
	}
	delete(t.pending, tid)
	if tid == t.root && !t.running {
		t.running = true
		t.files.inherited(tid)
		if t.o.Started != nil {
			t.o.Started(t.root)
		}
	}
	t.files.executed(tid)
}

func (t *tracer) finish() {
	l := &t.result.Log
	t.files.report(l)
	t.network.report(l)
	for g := range t.gaps {
		l.Gaps = append(l.Gaps, g)
	}
	sortStrings(l.Gaps)
	l.Complete = len(l.Gaps) == 0 && !l.Truncated
}
