package blob

import (
	"io/fs"
	"syscall"
	"time"
)

// changed is when the file's bytes or what the system notes of it last changed.
// Whoever writes to a file can set its age back, and not this (inode(7), ctime).
func changed(i fs.FileInfo) time.Time {
	if st, ok := i.Sys().(*syscall.Stat_t); ok {
		return time.Unix(st.Ctim.Unix())
	}
	return i.ModTime()
}
