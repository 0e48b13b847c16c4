package trace

import (
	"context"
	"errors"
	"os"
	"time"

	"assay/artifact"
)

// ErrUnavailable is that this machine does not let us trace; the command was not
// started. The error's text says why.
var ErrUnavailable = errors.New("trace is not possible here")

// Options say what to run.
type Options struct {
	Path  string      // the program, absolute
	Args  []string    // its argv, argument zero included
	Dir   string      // where it runs
	Env   []string    // its whole environment
	Files [3]*os.File // its standard streams

	Foreground *os.File      // the terminal that the command's process group is to own; nil: none
	Started    func(pid int) // called once it runs; pid is also its process group
	Grace      time.Duration // for processes that outlive the command; then they are killed

	MaxFiles int // files that are recorded, distinct by name; 0: 20,000
	// Also asks for a second digest of every input's content beside its SHA-256;
	// nil: none. It must be safe for concurrent use.
	Also func(path string, size int64) Hash
}

// Hash takes content and gives its digest in hex.
type Hash interface {
	Write(b []byte) (int, error)
	Hex() string
}

// Limits of a record. What is beyond makes it truncated.
const (
	defaultMaxFiles = 20_000
	maxPrograms     = 2_000
	maxConnections  = 2_000
	maxNames        = 500
	maxWritten      = 1 << 20 // files that the build made, which are remembered to tell them from inputs
	maxPathBytes    = 2 << 20 // of all recorded names together
	maxHashed       = 4 << 30 // bytes of one file; a larger one has no digest
)

// Log is what was seen.
type Log struct {
	Complete  bool     // nothing of what is watched escaped, and nothing was cut
	Gaps      []string // why it is not complete; each once
	Truncated bool     // more was seen than is recorded

	Files       []File       // by name
	Programs    []Program    // by name
	Connections []Connection // by protocol, address and port
	Names       []string     // asked of a name server in calls that are watched; sorted
}

// File is a regular file that was opened. Files below /proc, /sys and /dev, and
// what is no regular file, are not listed.
type File struct {
	Path    string // absolute, as the kernel names the open file
	Read    bool   // an input: it was opened to read, and the build had not made it
	Written bool   // it was opened to write, or made
	// Of an input.
	Digest   artifact.Digest // of its content; "" when it could not be had
	Also     string          // hex by Options.Also
	Size     int64           // bytes
	Changing bool            // its content was not the same at each of its openings, or changed while it was read
}

// Program is a program that ran.
type Program struct {
	Path   string          // absolute, as the kernel names it
	Digest artifact.Digest // "" when it could not be had
	Made   bool            // the build itself had made it
	Count  int             // how often
}

// Connection is an address that was connected to, or sent to.
type Connection struct {
	Protocol string // "tcp", "udp", "unix", or another socket type's name
	Address  string // IP address; path of a Unix socket, with "@" first when it is abstract
	Port     int    // 0 for a Unix socket
	Failed   bool   // every attempt was refused at once
	Argument bool   // the address is what the program gave, and not read from a connected socket
	Count    int
}

// Result is how a traced command ended.
type Result struct {
	ExitCode int // 0 to 255; 128+n when signal n ended it
	Signal   int // 0 unless a signal ended it
	Log      Log
}

// Run runs the command to its end and gives what was seen. When ctx ends, the
// process group gets SIGINT, and SIGKILL after 10 s. The error wraps
// [ErrUnavailable] when nothing was started because tracing is not possible;
// any other error is that the command could not be run.
func Run(ctx context.Context, o Options) (*Result, error) {
	if o.MaxFiles <= 0 {
		o.MaxFiles = defaultMaxFiles
	}
	return run(ctx, o)
}
