//go:build amd64 || arm64

package trace

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"assay/artifact"

	"golang.org/x/sys/unix"
)

// files is what is known of opened files and of programs.
type files struct {
	t        *tracer
	byPath   map[string]*seen
	made     map[inode]bool // what the build wrote, by identity: names move and are reused
	programs map[program1]*Program
	digests  map[stamp]*content
	bytes    int // of recorded names
	cut      bool
	lastPath string // of the file that was opened last, and
	lastTime stamp  // its state: what is opened over and over is looked up once

	jobs chan *content
	done sync.WaitGroup
}

// inode is one file for as long as it lives. Numbers are used again; the time
// of birth tells the next one from the last.
type inode struct {
	major, minor uint32
	ino          uint64
	birth        int64
	birthNS      uint32
}

// stamp is one state of one file.
type stamp struct {
	inode
	size            uint64
	mtime, ctime    int64
	mtimeNS, ctimeN uint32
}

type seen struct {
	read, written, changing bool
	content                 *content
}

// program1 is a program by name and state.
type program1 struct {
	path string
	stamp
}

// content is one state of a file whose digest is worked out beside the build.
type content struct {
	path string
	stamp
	file *os.File
	// By the worker.
	hashed   chan struct{} // closed when all is known
	digest   artifact.Digest
	also     string
	changing bool
}

const statMask = unix.STATX_TYPE | unix.STATX_INO | unix.STATX_SIZE | unix.STATX_MTIME | unix.STATX_CTIME | unix.STATX_BTIME

func newFiles(t *tracer) *files {
	f := &files{
		t: t, byPath: map[string]*seen{}, made: map[inode]bool{}, programs: map[program1]*Program{}, digests: map[stamp]*content{},
		jobs: make(chan *content, 64),
	}
	for range 2 {
		f.done.Go(func() {
			buf := make([]byte, 128<<10)
			for c := range f.jobs {
				c.hash(f.t.o.Also, buf)
			}
		})
	}
	return f
}

// close ends the workers and waits for them.
func (f *files) close() {
	if f.jobs != nil {
		close(f.jobs)
		f.jobs = nil
	}
	f.done.Wait()
}

func stampOf(st *unix.Statx_t) stamp {
	s := stamp{size: st.Size, mtime: st.Mtime.Sec, mtimeNS: st.Mtime.Nsec, ctime: st.Ctime.Sec, ctimeN: st.Ctime.Nsec}
	s.inode = inode{major: st.Dev_major, minor: st.Dev_minor, ino: st.Ino}
	if st.Mask&unix.STATX_BTIME != 0 {
		s.birth, s.birthNS = st.Btime.Sec, st.Btime.Nsec
	}
	return s
}

func proc(tid int, rest string) string { return "/proc/" + strconv.Itoa(tid) + rest }

// opened looks at a descriptor that the kernel has just given out.
func (f *files) opened(tid int, c *call, fd int) {
	flags := 0
	switch c.nr {
	case unix.SYS_OPENAT:
		flags = int(c.args[2])
	case sysOpen:
		flags = int(c.args[1])
	case unix.SYS_OPEN_BY_HANDLE_AT:
		flags = int(c.args[2])
	case sysCreat:
		flags = unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC
	default:
		flags = descriptorFlags(tid, fd)
	}
	f.look(proc(tid, "/fd/"+strconv.Itoa(fd)), "", flags)
}

// descriptorFlags asks the kernel how a descriptor was opened.
func descriptorFlags(tid, fd int) int {
	b, err := os.ReadFile(proc(tid, "/fdinfo/"+strconv.Itoa(fd)))
	if err == nil {
		for l := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(l, "flags:"); ok {
				n, _ := strconv.ParseInt(strings.TrimSpace(v), 8, 64)
				return int(n)
			}
		}
	}
	return unix.O_RDWR // unknown: the more
}

// look enters an open file that is to be found at link, a name of /proc's; ""
// for path means that link tells it.
func (f *files) look(link, path string, flags int) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, link, 0, statMask, &st); err != nil {
		f.t.gap("an open file could not be looked at")
		return
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || flags&unix.O_PATH != 0 {
		return
	}
	state := stampOf(&st)
	if path == "" {
		var err error
		if path, err = os.Readlink(link); err != nil {
			f.t.gap("an open file could not be looked at")
			return
		}
	}
	if pseudo(path) {
		return
	}
	writes := flags&unix.O_ACCMODE != unix.O_RDONLY || flags&(unix.O_CREAT|unix.O_TRUNC) != 0 && state.size == 0
	reads := flags&unix.O_ACCMODE != unix.O_WRONLY
	if !writes && path == f.lastPath && state == f.lastTime {
		return
	}
	s := f.byPath[path]
	if s == nil {
		if len(f.byPath) >= f.t.o.MaxFiles || f.bytes+len(path) > maxPathBytes {
			f.cut = true
			if writes {
				f.wrote(state.inode)
			}
			return
		}
		s = &seen{}
		f.byPath[path], f.bytes = s, f.bytes+len(path)
	}
	made := f.made[state.inode]
	if reads && !made && !(writes && state.size == 0) {
		f.input(s, path, link, state)
		if c := s.content; writes && c != nil && c.stamp == state {
			<-c.hashed // before it goes on and writes
		}
	}
	if made && s.content != nil {
		s.changing = true // the input at this name has been replaced by what the build made
	}
	if writes {
		s.written = true
		f.wrote(state.inode)
		return
	}
	if made {
		s.written = true
	}
	f.lastPath, f.lastTime = path, state
}

// input records content that was there without the build.
func (f *files) input(s *seen, path, link string, state stamp) {
	s.read = true
	if s.content != nil {
		s.changing = s.changing || s.content.stamp != state
		return
	}
	s.content = f.content(path, link, state)
}

// content gives the digest of a file's state, or has it worked out.
func (f *files) content(path, link string, state stamp) *content {
	if c := f.digests[state]; c != nil && c.path == path {
		return c
	}
	c := &content{path: path, stamp: state, hashed: make(chan struct{})}
	f.digests[state] = c
	// The same open file's inode, whatever the name leads to by now.
	file, err := os.Open(link)
	if err != nil || state.size > maxHashed {
		if err == nil {
			_ = file.Close()
		}
		close(c.hashed)
		return c
	}
	c.file = file
	f.jobs <- c
	return c
}

func (f *files) wrote(i inode) {
	if len(f.made) >= maxWritten {
		f.cut = true
		return
	}
	f.made[i] = true
	f.lastPath = ""
}

// pseudo are the kernel's own files: what is in them is no build's input that
// could be had again.
func pseudo(path string) bool {
	return strings.HasPrefix(path, "/proc/") || strings.HasPrefix(path, "/sys/") || strings.HasPrefix(path, "/dev/") && !strings.HasPrefix(path, "/dev/shm/")
}

// hash reads the content and looks whether it stayed what it was meanwhile.
func (c *content) hash(also func(string, int64) Hash, buf []byte) {
	defer close(c.hashed)
	defer c.file.Close()
	sum := sha256.New()
	var w io.Writer = sum
	var other Hash
	if also != nil {
		if other = also(c.path, int64(c.size)); other != nil {
			w = io.MultiWriter(sum, other)
		}
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{io.LimitReader(c.file, maxHashed)}, buf)
	if err != nil {
		return
	}
	var st unix.Statx_t
	if err := unix.Statx(int(c.file.Fd()), "", unix.AT_EMPTY_PATH, statMask, &st); err != nil {
		return
	}
	after := stampOf(&st)
	// A change of the inode's own data, such as another link to it, is none of its
	// content.
	if after.ctime, after.ctimeN = c.ctime, c.ctimeN; after != c.stamp || uint64(n) != c.size {
		c.changing = true
		return
	}
	c.digest = artifact.Digest(artifact.SHA256 + ":" + hex.EncodeToString(sum.Sum(nil)))
	if other != nil {
		c.also = other.Hex()
	}
}

// inherited looks at what the command has open from the beginning.
func (f *files) inherited(tid int) {
	f.look(proc(tid, "/fd/0"), "", descriptorFlags(tid, 0))
}

// executed records the program that a process has become, and the loader that
// the kernel mapped with it.
func (f *files) executed(tid int) {
	link := proc(tid, "/exe")
	var st unix.Statx_t
	path, err := os.Readlink(link)
	if err == nil {
		err = unix.Statx(unix.AT_FDCWD, link, 0, statMask, &st)
	}
	if err != nil {
		f.t.gap("a program could not be looked at")
		return
	}
	state := stampOf(&st)
	key := program1{path, state}
	if p := f.programs[key]; p != nil {
		p.Count++
		return
	}
	if len(f.programs) >= maxPrograms {
		f.cut = true
		return
	}
	f.programs[key] = &Program{Path: path, Made: f.made[state.inode], Count: 1}
	f.content(path, link, state)
	f.loader(tid, path)
}

// loader records what else the kernel has mapped: the program's interpreter
// (ld.so), which no call opened.
func (f *files) loader(tid int, exe string) {
	m, err := os.Open(proc(tid, "/maps"))
	if err != nil {
		return
	}
	defer m.Close()
	for lines := bufio.NewScanner(m); lines.Scan(); {
		// address perms offset dev inode path
		i := strings.IndexByte(lines.Text(), '/')
		if i < 0 {
			continue
		}
		path := lines.Text()[i:]
		if path == exe || f.byPath[path] != nil {
			continue
		}
		f.look(proc(tid, "/root")+path, path, unix.O_RDONLY)
	}
}

// report waits for the digests and lists everything.
func (f *files) report(l *Log) {
	f.close()
	for _, path := range slices.Sorted(maps.Keys(f.byPath)) {
		s := f.byPath[path]
		file := File{Path: path, Read: s.read, Written: s.written, Changing: s.changing}
		if c := s.content; s.read && c != nil {
			file.Digest, file.Also, file.Size = c.digest, c.also, int64(c.size)
			file.Changing = file.Changing || c.changing
		}
		l.Files = append(l.Files, file)
	}
	for k, p := range f.programs {
		if c := f.digests[k.stamp]; c != nil {
			p.Digest = c.digest
		}
		l.Programs = append(l.Programs, *p)
	}
	slices.SortFunc(l.Programs, func(a, b Program) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Digest, b.Digest))
	})
	l.Truncated = l.Truncated || f.cut
}

func sortStrings(s []string) { slices.Sort(s) }
