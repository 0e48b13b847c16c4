//go:build !unix

package builder

import (
	"context"
	"io"
	"os"
	"os/exec"
	"strconv"
)

// Elsewhere a build has no process group of its own.
type terminal struct{}

func terminalOf(io.Reader) *terminal          { return nil }
func (*terminal) file() *os.File              { return nil }
func (*terminal) take()                       {}
func ownGroup(*exec.Cmd, io.Reader) *terminal { return nil }
func endGroup(int)                            {}
func endingOf(p *os.ProcessState) ending      { return ending{code: p.ExitCode()} }
func signalName(n int) string                 { return "signal " + strconv.Itoa(n) }

type supervision struct{ stopped func() bool }

// supervise kills the command when ctx ends.
func supervise(ctx context.Context, pid int) *supervision {
	return &supervision{context.AfterFunc(ctx, func() {
		if p, err := os.FindProcess(pid); err == nil {
			_ = p.Kill()
		}
	})}
}

func (s *supervision) stop() { s.stopped() }
