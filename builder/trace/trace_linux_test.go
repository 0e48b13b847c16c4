//go:build amd64 || arm64

package trace

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"assay/artifact"

	"golang.org/x/sys/unix"
)

// roles are what the test binary does as a traced program.
var roles = map[string]func([]string){
	"read":    func(a []string) { _, err := os.ReadFile(a[0]); end(err) },
	"threads": roleThreads,
	"connect": func(a []string) {
		c, err := net.DialTimeout(a[0], a[1], 5*time.Second)
		if err == nil {
			err = c.Close()
		}
		if len(a) == 2 {
			end(err)
		}
	},
	"sendto": func(a []string) {
		c, err := net.ListenPacket("udp4", "127.0.0.1:0")
		end2(err)
		to, err := net.ResolveUDPAddr("udp4", a[0])
		end2(err)
		_, err = c.WriteTo([]byte("x"), to)
		end(err)
	},
	"untraced": roleUntraced,
	"exec-untraced": func(a []string) {
		cmd := exec.Command(a[0])
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_UNTRACED}
		out, err := cmd.CombinedOutput()
		fmt.Printf("child: %v %s\n", err, out)
	},
	"listener": roleListener,
	"swap":     roleSwap,
	"nested": func(a []string) {
		_, err := Run(context.Background(), Options{Path: "/bin/true", Args: []string{"true"}, Env: os.Environ(), Files: [3]*os.File{os.Stdin, os.Stdout, os.Stderr}})
		if !errors.Is(err, ErrUnavailable) {
			end2(fmt.Errorf("nested: %w", err))
		}
		fmt.Println(err)
	},
	"uring": func([]string) {
		_, _, e := unix.RawSyscall(unix.SYS_IO_URING_SETUP, 1, 0, 0)
		fmt.Println(e)
	},
}

func end2(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(9)
	}
}

func end(err error) {
	end2(err)
	os.Exit(0)
}

// roleThreads opens files and starts programs from many threads at once.
func roleThreads(files []string) {
	var wg sync.WaitGroup
	for _, f := range files {
		wg.Go(func() {
			runtime.LockOSThread()
			for range 20 {
				if _, err := os.ReadFile(f); err != nil {
					end2(err)
				}
			}
			end2(exec.Command("/bin/cat", f).Run())
		})
	}
	wg.Wait()
}

// roleUntraced starts a child that asks not to be traced, which then opens a
// file; it prints what became of that.
func roleUntraced(a []string) {
	cmd := exec.Command("/proc/self/exe", "as", "read", a[0])
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_UNTRACED}
	out, err := cmd.CombinedOutput()
	fmt.Printf("child: %v %s\n", err, out)
}

// roleListener lays a filter of its own over one thread, which asks another to
// decide on openat, and has that let it go on.
func roleListener(a []string) {
	const userNotif, newListener, goOn = unix.SECCOMP_RET_USER_NOTIF, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
	p := []unix.SockFilter{load(dataNr), unless(unix.SYS_OPENAT, 1), answer(userNotif), answer(unix.SECCOMP_RET_ALLOW)}
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	path, err := unix.BytePtrFromString(a[0])
	end2(err)
	fds, read := make(chan uintptr), make(chan string)
	go func() {
		runtime.LockOSThread() // and never unlocked: it ends with the filter
		fd, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, newListener, uintptr(unsafe.Pointer(&prog)))
		if e != 0 {
			fmt.Println(e)
			os.Exit(0)
		}
		fds <- fd
		at := unix.AT_FDCWD
		got, _, e := unix.Syscall6(unix.SYS_OPENAT, uintptr(at), uintptr(unsafe.Pointer(path)), 0, 0, 0, 0)
		if e != 0 {
			read <- e.Error()
			return
		}
		b := make([]byte, 100)
		n, _ := unix.Read(int(got), b)
		read <- string(b[:max(n, 0)])
	}()
	fd := <-fds
	var ask [80]byte // struct seccomp_notif; its id comes first
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, fd, unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&ask))); e != 0 {
		end2(e)
	}
	var reply [24]byte // struct seccomp_notif_resp
	copy(reply[:8], ask[:8])
	reply[20] = goOn
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, fd, unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&reply))); e != 0 {
		end2(e)
	}
	fmt.Println(<-read)
}

// roleSwap puts another file in the place of a declared one before it is read.
func roleSwap(a []string) {
	end2(os.WriteFile(a[0]+".new", []byte("evil"), 0o644))
	end2(os.Rename(a[0]+".new", a[0]))
	_, err := os.ReadFile(a[0])
	end(err)
}

func TestMain(m *testing.M) {
	Launch()
	if len(os.Args) > 2 && os.Args[1] == "as" {
		roles[os.Args[2]](os.Args[3:])
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// traced runs a command line; skip says when the machine does not let us.
func traced(t *testing.T, dir string, change func(*Options), argv ...string) (*Result, string) {
	t.Helper()
	path, err := exec.LookPath(argv[0])
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	copied := make(chan error, 1)
	go func() { _, err := io.Copy(&out, r); copied <- err }()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	o := Options{Path: path, Args: argv, Dir: dir, Env: append(os.Environ(), "LC_ALL=C"), Files: [3]*os.File{null, w, w}, Grace: 50 * time.Millisecond}
	if change != nil {
		change(&o)
	}
	res, err := Run(t.Context(), o)
	_ = w.Close()
	<-copied
	if errors.Is(err, ErrUnavailable) && os.Getenv("ASSAY_REQUIRE_TRACE") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return res, out.String()
}

func as(role string, args ...string) []string {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return append([]string{exe, "as", role}, args...)
}

func put(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// folder is a temporary folder under its real name, as the kernel names files.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func (l *Log) file(path string) *File {
	for i := range l.Files {
		if l.Files[i].Path == path {
			return &l.Files[i]
		}
	}
	return nil
}

func (l *Log) ran(base string) *Program {
	for i := range l.Programs {
		if filepath.Base(l.Programs[i].Path) == base {
			return &l.Programs[i]
		}
	}
	return nil
}

func TestTraceFiles(t *testing.T) {
	dir := folder(t)
	in := put(t, dir, "in", "input")
	put(t, dir, "same", "unread")
	res, out := traced(t, dir, nil, "sh", "-c", `cat in > mid; cat mid > out; mv out moved; cat moved; echo more >> in; test -e same`)
	if res.ExitCode != 0 || out != "input" {
		t.Fatalf("exit %d, output %q", res.ExitCode, out)
	}
	l := &res.Log
	if !l.Complete || len(l.Gaps) > 0 {
		t.Errorf("not complete: %v", l.Gaps)
	}
	f := l.file(in)
	if f == nil || !f.Read || !f.Written || f.Digest != artifact.SHA256Of([]byte("input")) || f.Size != 5 {
		t.Errorf("in: %+v, want read with the digest of what it held, and written", f)
	}
	for _, name := range []string{"mid", "moved"} {
		if f := l.file(filepath.Join(dir, name)); f == nil || f.Read || !f.Written {
			t.Errorf("%s: %+v, want what the build made", name, f)
		}
	}
	if f := l.file(filepath.Join(dir, "same")); f != nil {
		t.Errorf("a file that was not opened: %+v", f)
	}
	cat, _ := filepath.EvalSymlinks("/bin/cat")
	b, err := os.ReadFile(cat)
	if err != nil {
		t.Fatal(err)
	}
	if p := l.ran(filepath.Base(cat)); p == nil || p.Digest != artifact.SHA256Of(b) || p.Count != 3 {
		t.Errorf("cat: %+v, want 3 runs with its digest", p)
	}
	if !slices.ContainsFunc(l.Files, func(f File) bool { return strings.Contains(f.Path, "/ld-") && f.Digest != "" }) {
		t.Error("the loader, which the kernel opens, is missing")
	}
}

func TestTraceExit(t *testing.T) {
	for script, want := range map[string][2]int{"exit 7": {7, 0}, "kill -9 $$": {137, 9}, "true": {0, 0}, "kill -STOP $$ & wait; kill -TERM $$": {143, 15}} {
		if script[0] == 'k' && strings.Contains(script, "STOP") {
			// A stopped process goes on when it is told to, and not before.
			script = `sh -c 'kill -STOP $$; exit 3' & p=$!; sleep 0.1; kill -CONT $p; wait $p; kill -TERM $$`
		}
		res, _ := traced(t, folder(t), nil, "sh", "-c", script)
		if res.ExitCode != want[0] || res.Signal != want[1] {
			t.Errorf("%s: exit %d, signal %d, want %v", script, res.ExitCode, res.Signal, want)
		}
	}
}

func TestTraceThreads(t *testing.T) {
	dir := folder(t)
	var files []string
	for i := range 12 {
		files = append(files, put(t, dir, fmt.Sprint("f", i), strings.Repeat("x", i)))
	}
	res, out := traced(t, dir, nil, as("threads", files...)...)
	if res.ExitCode != 0 || !res.Log.Complete {
		t.Fatalf("exit %d, gaps %v: %s", res.ExitCode, res.Log.Gaps, out)
	}
	for i, name := range files {
		if f := res.Log.file(name); f == nil || f.Digest != artifact.SHA256Of([]byte(strings.Repeat("x", i))) {
			t.Errorf("%s: %+v", name, f)
		}
	}
	if p := res.Log.ran("cat"); p == nil || p.Count != 12 {
		t.Errorf("cat: %+v, want 12 runs", p)
	}
}

func TestTraceNetwork(t *testing.T) {
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	dir := folder(t)
	sock, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	closed, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	port := func(a net.Addr) int {
		switch a := a.(type) {
		case *net.TCPAddr:
			return a.Port
		case *net.UDPAddr:
			return a.Port
		}
		return 0
	}
	for _, tt := range []struct {
		argv []string
		want Connection
	}{
		{as("connect", "tcp4", tcp.Addr().String()), Connection{Protocol: "tcp", Address: "127.0.0.1", Port: port(tcp.Addr())}},
		{as("connect", "udp4", udp.LocalAddr().String()), Connection{Protocol: "udp", Address: "127.0.0.1", Port: port(udp.LocalAddr())}},
		{as("connect", "unix", filepath.Join(dir, "s")), Connection{Protocol: "unix", Address: filepath.Join(dir, "s")}},
		{as("sendto", udp.LocalAddr().String()), Connection{Protocol: "udp", Address: "127.0.0.1", Port: port(udp.LocalAddr())}},
		{as("connect", "tcp4", closed.Addr().String(), "may fail"), Connection{Protocol: "tcp", Address: "127.0.0.1", Port: port(closed.Addr())}},
	} {
		res, out := traced(t, dir, nil, tt.argv...)
		if res.ExitCode != 0 {
			t.Fatalf("%v: exit %d: %s", tt.argv, res.ExitCode, out)
		}
		found := slices.ContainsFunc(res.Log.Connections, func(c Connection) bool {
			return c.Protocol == tt.want.Protocol && c.Address == tt.want.Address && c.Port == tt.want.Port && c.Count > 0
		})
		if !found {
			t.Errorf("%v: %+v, want %+v", tt.argv, res.Log.Connections, tt.want)
		}
	}
}

// A process that a build leaves behind ends with it; else it would work on
// without being watched.
func TestTraceLeftovers(t *testing.T) {
	dir := folder(t)
	began := time.Now()
	res, _ := traced(t, dir, nil, "sh", "-c", `setsid sh -c 'trap "" TERM; echo $$ > pid; sleep 60; cat in > late' & while ! test -s pid; do sleep 0.01; done`)
	if res.ExitCode != 0 || time.Since(began) > 20*time.Second {
		t.Fatalf("exit %d after %s", res.ExitCode, time.Since(began))
	}
	b, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.ReadFile("/proc/" + strings.TrimSpace(string(b)) + "/stat"); err == nil && !strings.Contains(string(st), ") Z ") {
		t.Errorf("it lives on: %s", st)
	}
}

func TestTraceBounds(t *testing.T) {
	dir := folder(t)
	for i := range 30 {
		put(t, dir, fmt.Sprint("f", i), "x")
	}
	res, _ := traced(t, dir, func(o *Options) { o.MaxFiles = 10 }, "sh", "-c", "cat f*")
	if l := &res.Log; !l.Truncated || l.Complete || len(l.Files) != 10 {
		t.Errorf("%d files, truncated %v, complete %v; want 10, cut", len(l.Files), l.Truncated, l.Complete)
	}
}

func TestTraceNotFound(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	bad := put(t, folder(t), "bad", "no program")
	_, err = Run(t.Context(), Options{Path: bad, Args: []string{"bad"}, Files: [3]*os.File{null, null, null}})
	if err == nil || errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("%v, want that the file may not be run", err)
	}
}

func TestTraceCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	res, err := Run(ctx, Options{
		Path: "/bin/sleep", Args: []string{"sleep", "60"}, Files: [3]*os.File{null, null, null},
		Started: func(int) { cancel() },
	})
	if errors.Is(err, ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil || res.Signal != 9 {
		t.Errorf("%+v, %v, want killed", res, err)
	}
}

// What a tracee might try in order not to be seen.

func TestThreat_Trace_UntracedChild(t *testing.T) {
	dir := folder(t)
	in := put(t, dir, "in", "x")
	res, out := traced(t, dir, nil, as("untraced", in)...)
	if f := res.Log.file(in); f == nil && strings.Contains(out, "child: <nil>") {
		t.Errorf("a child that is not traced read the file unseen: %s", out)
	}
}

// A program that needs no file of its own could work unseen, and undeclared.
func TestThreat_Trace_UntracedProgram(t *testing.T) {
	dir := folder(t)
	program := put(t, dir, "static", tinyELF(t))
	if err := os.Chmod(program, 0o700); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	res, out := traced(t, dir, nil, as("exec-untraced", program)...)
	if !strings.Contains(out, "child: ") {
		t.Errorf("the program did not get to start its child: %s", out)
	}
	if strings.Contains(out, "child: <nil>") && res.Log.ran("static") == nil {
		t.Errorf("a child that is not traced ran a program unseen, and the trace is complete (%v): %s", res.Log.Complete, out)
	}
}

// tinyELF is a program that opens nothing: it ends at once with 0.
func tinyELF(t *testing.T) string {
	if runtime.GOARCH != "amd64" {
		t.Skip("machine code of amd64")
	}
	code := []byte{0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05} // xor edi,edi; mov eax,60; syscall
	const at, size = 0x400000, 64 + 56
	b := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9)...)
	for _, v := range []struct {
		n int
		v uint64
	}{
		{2, 2}, {2, 62}, {4, 1}, {8, at + size}, {8, 64}, {8, 0}, {4, 0}, {2, 64}, {2, 56}, {2, 1}, {2, 0}, {2, 0}, {2, 0},
		{4, 1}, {4, 5}, {8, 0}, {8, at}, {8, at}, {8, uint64(size + len(code))}, {8, uint64(size + len(code))}, {8, 0x1000},
	} {
		b = append(b, binary.LittleEndian.AppendUint64(nil, v.v)[:v.n]...)
	}
	return string(append(b, code...))
}

func TestThreat_Trace_OwnFilterWithListener(t *testing.T) {
	dir := folder(t)
	in := put(t, dir, "in", "secret poison")
	res, out := traced(t, dir, nil, as("listener", in)...)
	if res.Log.file(in) == nil && strings.Contains(out, "secret poison") && res.Log.Complete {
		t.Errorf("a build that answers for the kernel read a file unseen, in a complete trace: %s", out)
	}
	if !strings.Contains(out, "secret poison") && !strings.Contains(out, "invalid argument") {
		t.Errorf("the program did neither read nor was it refused: %s", out)
	}
}

func TestThreat_Trace_IOUring(t *testing.T) {
	if _, out := traced(t, folder(t), nil, as("uring")...); strings.TrimSpace(out) != "function not implemented" {
		t.Errorf("io_uring_setup: %q, want that the machine has none", out)
	}
}

func TestThreat_Trace_WithinTrace(t *testing.T) {
	res, out := traced(t, folder(t), nil, as("nested")...)
	if res.ExitCode != 0 || !strings.Contains(out, "trace is not possible here: ptrace(PTRACE_SEIZE)") {
		t.Errorf("exit %d: %s", res.ExitCode, out)
	}
}

// A declared file that the build replaces before it reads it is not the declared
// one any more.
func TestThreat_Trace_SwappedFile(t *testing.T) {
	dir := folder(t)
	in := put(t, dir, "in", "good")
	res, out := traced(t, dir, nil, as("swap", in)...)
	f := res.Log.file(in)
	if f == nil || f.Read || !f.Written {
		t.Errorf("%+v, want a file of the build's own: %s", f, out)
	}
}

// A 32-bit program's calls have other numbers: the trace says that it has a gap.
func TestThreat_Trace_OtherInstructionSet(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("i386 programs run on amd64 alone")
	}
	// ELF32, one segment: mov eax,1; mov ebx,5; int 0x80 (exit 5).
	code := "\xb8\x01\x00\x00\x00\xbb\x05\x00\x00\x00\xcd\x80"
	elf := "\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00" + "\x02\x00\x03\x00\x01\x00\x00\x00" + "\x54\x80\x04\x08" + "\x34\x00\x00\x00" +
		"\x00\x00\x00\x00\x00\x00\x00\x00\x34\x00\x20\x00\x01\x00\x28\x00\x00\x00\x00\x00" +
		"\x01\x00\x00\x00\x00\x00\x00\x00\x00\x80\x04\x08\x00\x80\x04\x08" + "\x60\x00\x00\x00\x60\x00\x00\x00\x05\x00\x00\x00\x00\x10\x00\x00" + code
	prog := put(t, folder(t), "p32", elf)
	if err := os.Chmod(prog, 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	if err := exec.Command(prog).Run(); err == nil || !strings.Contains(err.Error(), "exit status 5") {
		t.Skipf("this kernel runs no 32-bit programs: %v", err)
	}
	res, _ := traced(t, folder(t), nil, prog)
	if res.ExitCode != 5 || res.Log.Complete || len(res.Log.Gaps) != 1 || !strings.Contains(res.Log.Gaps[0], "another instruction set") {
		t.Errorf("exit %d, %+v", res.ExitCode, res.Log.Gaps)
	}
}

func TestQuestionName(t *testing.T) {
	query := "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x07Example\x03com\x00\x00\x01\x00\x01"
	for in, want := range map[string]string{
		query:      "www.example.com",
		query[:20]: "",
		strings.Replace(query, "\x01\x00\x00\x01", "\x81\x00\x00\x01", 1): "", // an answer
		strings.Replace(query, "www", "w\nw", 1):                          "",
		"":                                                                "",
	} {
		if got := questionName([]byte(in)); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func FuzzSockaddr(f *testing.F) {
	f.Add("\x02\x00\x00\x50\x7f\x00\x00\x01")
	f.Add("\x01\x00/run/x\x00")
	f.Add("\x0a\x00")
	f.Fuzz(func(t *testing.T, s string) {
		address, port, _ := sockaddr(s)
		if port < 0 || port > 65535 || len(address) > len(s)+64 {
			t.Errorf("%q: %q %d", s, address, port)
		}
		questionName([]byte(s))
	})
}

// TestOtherChildren: processes that were started from any thread before, and run
// on, neither keep a trace from ending nor lose their end to it.
func TestOtherChildren(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	// From so many threads that the tracer's would be one of them.
	var others []*exec.Cmd
	hold := make(chan struct{})
	started := make(chan *exec.Cmd)
	for range 16 {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			cmd := exec.Command("sleep", "60")
			if err := cmd.Start(); err != nil {
				t.Error(err)
			}
			started <- cmd
			<-hold
		}()
	}
	for range 16 {
		others = append(others, <-started)
	}
	close(hold)
	defer func() {
		for _, cmd := range others {
			_ = cmd.Process.Kill()
			if err := cmd.Wait(); err == nil || errors.Is(err, syscall.ECHILD) {
				t.Errorf("a process that was killed ended with %v", err)
			}
		}
	}()
	for range 8 {
		ended := make(chan error, 1)
		go func() {
			_, err := Run(context.Background(), Options{Path: "/bin/sh", Args: []string{"sh", "-c", ":"}, Files: [3]*os.File{null, null, null}})
			ended <- err
		}()
		select {
		case err := <-ended:
			if errors.Is(err, ErrUnavailable) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("the trace did not end")
		}
	}
}
