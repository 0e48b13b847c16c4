//go:build !linux || !(amd64 || arm64)

package trace

import (
	"context"
	"fmt"
	"runtime"
)

// Launch is the launcher's entry; there is none here.
func Launch() {}

func run(context.Context, Options) (*Result, error) {
	return nil, fmt.Errorf("%w: it wants Linux on amd64 or arm64, this is %s on %s", ErrUnavailable, runtime.GOOS, runtime.GOARCH)
}
