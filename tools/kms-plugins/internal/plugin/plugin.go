// Package plugin makes a sigstore-kms-NAME executable of a KMS provider of
// sigstore's, for whoever speaks the protocol of
// github.com/sigstore/sigstore/pkg/signature/kms/cliplugin.
package plugin

import (
	"context"
	"crypto"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/sigstore/sigstore/pkg/signature/kms"
	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/common"
	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/handler"
)

// Main is the executable for keys whose URIs begin with scheme, "awskms://".
func Main(scheme string) {
	if len(os.Args) < 3 {
		fmt.Fprintf(os.Stderr, "This is a plugin for keys of the form %sREFERENCE: it is called by assay, cosign and others, with\n  %s PROTOCOL-VERSION JSON\nand reads its credentials from the environment, as the service's own tools do.\n", scheme, os.Args[0])
		os.Exit(64)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := Run(ctx, scheme, os.Args, os.Stdin, os.Stdout); err != nil {
		// The caller reads the error from stdout; the exit status means nothing to it.
		_ = handler.WriteErrorResponse(os.Stdout, err)
		os.Exit(1)
	}
}

// Run answers one call.
func Run(ctx context.Context, scheme string, osArgs []string, stdin io.Reader, stdout io.Writer) error {
	args, err := handler.GetPluginArgs(osArgs)
	if err != nil {
		return err
	}
	if osArgs[1] != common.ProtocolVersion || args.MethodArgs == nil || args.InitOptions == nil {
		return fmt.Errorf("want protocol %s with options and a method, found version %.20q", common.ProtocolVersion, osArgs[1])
	}
	if d := args.InitOptions.CtxDeadline; d != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, *d)
		defer cancel()
	}
	hash := args.InitOptions.HashFunc
	if hash == 0 {
		hash = crypto.SHA256
	}
	// The protocol takes the scheme off, and the providers want it.
	key, err := kms.Get(ctx, scheme+args.InitOptions.KeyResourceID, hash)
	if err != nil {
		return err
	}
	_, err = handler.Dispatch(stdout, stdin, args, key)
	return err
}
