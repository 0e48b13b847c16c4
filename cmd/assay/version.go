package main

import (
	"crypto/fips140"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"

	"assay/internal/fault"
	"assay/internal/keyring/pkcs11"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// release is set by the linker: -X main.release=v1.2.3.
var release string

func version() string {
	if release != "" {
		return release
	}
	if bi, ok := debug.ReadBuildInfo(); ok && bi.Main.Version != "" && bi.Main.Version != "(devel)" {
		return bi.Main.Version
	}
	return "devel"
}

type versionInfo struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	FIPS     *fips  `json:"fips140,omitempty"` // nil in builds without the module
	PKCS11   bool   `json:"pkcs11,omitempty"`
}

// fips says what a build with Go's FIPS 140-3 module does here.
type fips struct {
	Module   string `json:"module"`   // its version, or "latest"
	Enabled  bool   `json:"enabled"`  // its self-tests ran, and algorithms come from it
	Enforced bool   `json:"enforced"` // GODEBUG=fips140=only: anything else fails
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  assay version\n  assay version -o json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := versionInfo{Version: version(), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, PKCS11: pkcs11.Available}
			// "latest" without GOFIPS140 is what every build has, and says nothing.
			if module := fips140.Version(); fips140.Enabled() || module != "latest" {
				v.FIPS = &fips{Module: module, Enabled: fips140.Enabled(), Enforced: fips140.Enforced()}
			}
			if bi, ok := debug.ReadBuildInfo(); ok {
				for _, s := range bi.Settings {
					switch s.Key {
					case "vcs.revision":
						v.Commit = s.Value
					case "vcs.modified":
						v.Modified = s.Value == "true"
					}
				}
			}
			return a.print(v, func(w io.Writer) {
				more := ""
				switch {
				case v.FIPS != nil && v.FIPS.Enforced:
					more = ", FIPS 140-3 module " + v.FIPS.Module + " and nothing else"
				case v.FIPS != nil && v.FIPS.Enabled:
					more = ", FIPS 140-3 module " + v.FIPS.Module
				case v.FIPS != nil:
					more = ", FIPS 140-3 module " + v.FIPS.Module + " switched off"
				}
				if v.PKCS11 {
					more += ", PKCS #11"
				}
				fmt.Fprintf(w, "assay %s (%s, %s%s)\n", v.Version, v.Go, v.Platform, more)
			})
		},
	}
}

func (a *app) manCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "man DIR",
		Short:   "Write the manual pages into a folder",
		Example: "  assay man /usr/local/share/man/man1",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fault.Wrap(fault.Invalid, err)
			}
			return doc.GenManTree(cmd.Root(), &doc.GenManHeader{Title: "ASSAY", Section: "1", Source: "assay " + version()}, args[0])
		},
	}
}
