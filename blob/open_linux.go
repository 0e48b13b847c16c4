package blob

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// open opens a file below the folder for reading. openat2(2) does in one call what
// os.Root does in three or more, a folder at a time; where it says no, for whatever
// reason (an old kernel, a sandbox, a link on the way), os.Root has the last word.
func (d *Dir) open(name string) (*os.File, error) {
	if d.beneath != nil {
		fd, err := -1, error(unix.EBADF)
		if conn, cerr := d.beneath.SyscallConn(); cerr == nil { // keeps the descriptor from being closed under it
			_ = conn.Control(func(dir uintptr) {
				fd, err = unix.Openat2(int(dir), name, &unix.OpenHow{
					Flags: unix.O_RDONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
				})
			})
		}
		if err == nil {
			return os.NewFile(uintptr(fd), name), nil
		}
		if errors.Is(err, unix.ENOENT) {
			return nil, &os.PathError{Op: "openat2", Path: name, Err: err}
		}
	}
	return d.root.Open(name)
}
