// Package trace runs a command and watches, from outside of it, which files it
// opens, which programs it runs and which addresses it connects to: by ptrace on
// Linux (amd64, arm64), without root and without a change of what is watched.
//
// A seccomp filter (seccomp(2)) lets every system call but the watched ones run
// at full speed. It is laid by a launcher, our own binary started again, which
// then becomes the command; descendants inherit it and are followed through
// fork, vfork, clone and exec. A descendant cannot leave: one that the tracer
// does not follow (CLONE_UNTRACED) has its watched calls refused with ENOSYS,
// which is what SECCOMP_RET_TRACE does without a tracer.
//
// What is recorded is looked at after the call, by the file descriptor that the
// kernel gave out: name, inode and content are those of the open file, and not
// what a path in the program's memory said before or after. An address is that
// of the connected socket where there is one by then, else as the program gave
// it. docs/build.md says what a trace can show and what it cannot.
package trace

// LauncherName is the argument zero under which our own binary is the launcher.
const LauncherName = "assay-trace-launcher"
