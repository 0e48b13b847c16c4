package s3test

import (
	"os/exec"
	"syscall"
)

// dieWithParent has the server killed with the test process, however that ends.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
