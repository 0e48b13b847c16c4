package store_test

import (
	"fmt"
	"os"
	"testing"
)

// childEnv makes the test binary one of the children below instead of a test
// run: processes that are killed, starved of disk, or that share a file.
const childEnv = "ASSAY_STORE_TEST_CHILD"

var children = map[string]func(args []string) error{
	"write":  childWrite,
	"share":  childShare,
	"full":   childFull,
	"limits": childLimits,
}

func TestMain(m *testing.M) {
	if name := os.Getenv(childEnv); name != "" {
		if err := children[name](os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}
