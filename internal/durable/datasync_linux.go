package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Datasync makes the bytes of f durable. Where they lie in blocks that the file
// had already, it writes nothing else: times can wait (fdatasync(2)).
func Datasync(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
