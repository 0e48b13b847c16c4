package builder

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"assay/builder/trace"
)

// ending is how the command ended.
type ending struct {
	code   int
	signal int    // 0: none
	what   string // the signal's name
	log    *trace.Log
	denied error // why it was not traced, when that was asked for
}

// grace is how long what the command leaves behind has to end on its own.
const grace = 500 * time.Millisecond

// execute runs the command, traced where that was asked for and is possible.
func execute(ctx context.Context, o *Options, program, dir string, env []string, expected *declared) (ending, error) {
	if !o.Trace {
		return runPlain(ctx, o, program, dir, env)
	}
	end, err := runTraced(ctx, o, program, dir, env, expected)
	if !errors.Is(err, trace.ErrUnavailable) {
		return end, err
	}
	denied := err
	end, err = runPlain(ctx, o, program, dir, env)
	end.denied = denied
	return end, err
}

func runPlain(ctx context.Context, o *Options, program, dir string, env []string) (ending, error) {
	cmd := exec.Command(program, o.Command[1:]...)
	cmd.Args[0] = o.Command[0]
	cmd.Dir, cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = dir, env, o.Stdin, o.Stdout, o.Stderr
	cmd.WaitDelay = 10 * time.Second
	terminal := ownGroup(cmd, o.Stdin)
	defer terminal.take()
	if err := cmd.Start(); err != nil {
		return ending{}, err
	}
	watch := supervise(ctx, cmd.Process.Pid)
	err := cmd.Wait()
	watch.stop()
	endGroup(cmd.Process.Pid)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return endingOf(exit.ProcessState), nil
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return ending{}, err
	}
	return ending{}, nil
}

func runTraced(ctx context.Context, o *Options, program, dir string, env []string, expected *declared) (ending, error) {
	streams, finish, err := files(o)
	if err != nil {
		return ending{}, err
	}
	defer finish()
	// Killed only when supervise has asked in vain.
	hard, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	var watch *supervision
	argv := append([]string{o.Command[0]}, o.Command[1:]...)
	terminal := terminalOf(o.Stdin)
	defer terminal.take()
	res, err := trace.Run(hard, trace.Options{
		Path: program, Args: argv, Dir: dir, Env: env, Files: streams, Foreground: terminal.file(), Grace: grace, Also: expected.hasher(),
		Started: func(pid int) { watch = supervise(ctx, pid) },
	})
	if watch != nil {
		watch.stop()
	}
	if err != nil {
		return ending{}, err
	}
	end := ending{code: res.ExitCode, signal: res.Signal, log: &res.Log}
	if res.Signal != 0 {
		end.what = signalName(res.Signal)
	}
	return end, nil
}

// files gives the standard streams as files: those that are none go through a
// pipe. finish waits until all has been copied.
func files(o *Options) (out [3]*os.File, finish func(), err error) {
	var ours []io.Closer
	var copies []chan struct{}
	finish = func() {
		for _, c := range ours {
			_ = c.Close()
		}
		for _, done := range copies {
			<-done
		}
	}
	fail := func(err error) ([3]*os.File, func(), error) { finish(); return out, nil, err }
	switch in := o.Stdin.(type) {
	case *os.File:
		out[0] = in
	default:
		// Nobody hands a build anything but a file or nothing; what is else is read
		// whole by the copy, which ends with its reader.
		if out[0], err = os.Open(os.DevNull); err != nil {
			return fail(err)
		}
		ours = append(ours, out[0])
		if o.Stdin != nil {
			r, w, err := os.Pipe()
			if err != nil {
				return fail(err)
			}
			out[0], ours = r, append(ours, r)
			go func() { _, _ = io.Copy(w, o.Stdin); _ = w.Close() }()
		}
	}
	for i, w := range []io.Writer{o.Stdout, o.Stderr} {
		if f, ok := w.(*os.File); ok {
			out[i+1] = f
			continue
		}
		if w == nil {
			w = io.Discard
		}
		if i == 1 && o.Stderr != nil && sameWriter(o.Stderr, o.Stdout) { // in the order in which it was written
			out[2] = out[1]
			continue
		}
		r, pw, err := os.Pipe()
		if err != nil {
			return fail(err)
		}
		done := make(chan struct{})
		go func() { _, _ = io.Copy(w, r); _ = r.Close(); close(done) }()
		out[i+1], ours, copies = pw, append(ours, pw), append(copies, done)
	}
	return out, finish, nil
}

// sameWriter is as os/exec compares them: what cannot be compared is not the
// same.
func sameWriter(a, b io.Writer) bool {
	defer func() { _ = recover() }()
	return a == b
}

// toolPath is the program's file behind links.
func toolPath(path string) string {
	if r, err := filepath.EvalSymlinks(path); err == nil {
		return r
	}
	return path
}
