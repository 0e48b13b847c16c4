package runner

import "syscall"

// disk gives the free and total bytes of the file system that holds dir; zeros
// when it cannot be asked.
func disk(dir string) (free, total int64) {
	var st syscall.Statfs_t
	if syscall.Statfs(dir, &st) != nil {
		return 0, 0
	}
	size := st.Bsize
	return int64(st.Bavail) * size, int64(st.Blocks) * size //nolint:gosec // sizes of real disks
}
