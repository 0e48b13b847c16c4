//go:build unix

package builder

import (
	"context"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is the one that the build's process group owns while it runs, so that
// its programs may read from it; nil where standard input is none, or not ours.
type terminal struct{ f *os.File }

func terminalOf(stdin io.Reader) *terminal {
	f, ok := stdin.(*os.File)
	if !ok {
		return nil
	}
	owner, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGPGRP)
	if err != nil || owner != unix.Getpgrp() {
		return nil
	}
	return &terminal{f}
}

func (t *terminal) file() *os.File {
	if t == nil {
		return nil
	}
	return t.f
}

// take makes the terminal ours again.
func (t *terminal) take() {
	if t == nil {
		return
	}
	signal.Ignore(syscall.SIGTTOU) // who asks from the background is stopped else
	defer signal.Reset(syscall.SIGTTOU)
	_ = unix.IoctlSetPointerInt(int(t.f.Fd()), unix.TIOCSPGRP, unix.Getpgrp())
}

// ownGroup gives the command a process group of its own, which can be signalled
// and ended as a whole.
func ownGroup(cmd *exec.Cmd, stdin io.Reader) *terminal {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	t := terminalOf(stdin)
	if t != nil {
		cmd.SysProcAttr.Foreground, cmd.SysProcAttr.Ctty = true, int(t.f.Fd())
	}
	return t
}

// forwarded are the signals that the build gets when we get them.
var forwarded = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2}

// supervision passes signals on to a process group.
type supervision struct {
	end  chan struct{}
	done sync.WaitGroup
	once sync.Once
}

// supervise passes signals on, and ends the group when ctx ends: politely, and
// after 10 s, or when asked a second time, by SIGKILL.
func supervise(ctx context.Context, group int) *supervision {
	s := &supervision{end: make(chan struct{})}
	got := make(chan os.Signal, 8)
	signal.Notify(got, forwarded...)
	s.done.Go(func() {
		defer signal.Stop(got)
		asked := 0
		ended := ctx.Done()
		var soon, late <-chan time.Time
		for {
			select {
			case <-s.end:
				return
			case sig := <-got:
				n, _ := sig.(syscall.Signal)
				if n == syscall.SIGINT || n == syscall.SIGTERM {
					if asked++; asked > 1 {
						n = syscall.SIGKILL
					}
				}
				_ = syscall.Kill(-group, n)
			case <-ended:
				// Mostly by a signal, which is passed on as the one that it is, and which
				// may be seen after the end that it brought about.
				ended, soon, late = nil, time.After(50*time.Millisecond), time.After(10*time.Second)
			case <-soon:
				if asked == 0 {
					_ = syscall.Kill(-group, syscall.SIGINT)
				}
			case <-late:
				_ = syscall.Kill(-group, syscall.SIGKILL)
			}
		}
	})
	return s
}

func (s *supervision) stop() {
	s.once.Do(func() { close(s.end) })
	s.done.Wait()
}

// endGroup ends what the command left in its group.
func endGroup(group int) {
	if syscall.Kill(-group, syscall.SIGTERM) != nil {
		return // nobody there
	}
	for late := time.Now().Add(grace); time.Now().Before(late); time.Sleep(5 * time.Millisecond) {
		if syscall.Kill(-group, 0) != nil {
			return
		}
	}
	_ = syscall.Kill(-group, syscall.SIGKILL)
}

func endingOf(p *os.ProcessState) ending {
	if ws, ok := p.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return ending{code: 128 + int(ws.Signal()), signal: int(ws.Signal()), what: signalName(int(ws.Signal()))}
	}
	return ending{code: p.ExitCode()}
}

func signalName(n int) string { return unix.SignalName(syscall.Signal(n)) }
