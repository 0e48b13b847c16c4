package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"assay/admission/imageverifier"
	"assay/internal/fault"

	"github.com/spf13/cobra"
)

// envVerifierConfig names the configuration of the image verifier, which containerd
// calls with arguments of its own.
const envVerifierConfig = "ASSAY_IMAGE_VERIFIER_CONFIG"

func (a *app) imageVerifierCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image-verifier",
		Short: "Answer containerd before it pulls an image",
		Long: `containerd asks a program before it pulls an image: through its transfer service,
for whatever it pulls, static Pods and pulls by hand among them, which no webhook
sees. This binary is that program when it is called assay-image-verifier.

It reads /etc/assay/image-verifier.yaml, or what ASSAY_IMAGE_VERIFIER_CONFIG names;
asks the server; and while that does not answer goes on with the last bundle that it
signed. What is not known is refused. See docs/image-verifier.md.`,
		Example: `  assay image-verifier install --print
  assay image-verifier install`,
	}
	cmd.AddCommand(a.verifierVerify(), a.verifierRefresh(), a.verifierInstall())
	return cmd
}

func verifierConfig() (*imageverifier.Config, error) {
	path := os.Getenv(envVerifierConfig)
	if path == "" {
		path = imageverifier.DefaultConfig
	}
	return imageverifier.Load(path)
}

func (a *app) verifierVerify() *cobra.Command {
	return &cobra.Command{
		Use:   "verify -name REFERENCE -digest DIGEST -stdin-media-type " + imageverifier.MediaTypeDescriptor,
		Short: "Answer one call of containerd, with the descriptor on standard input",
		Long: `What containerd calls, under the name assay-image-verifier. The reason stands on
standard output; the exit code is 0 if the image may be pulled, and another one if
not, or if that could not be found out.`,
		Example: `  assay image-verifier verify -name assay.example/shop/app:v1 -digest sha256:… \
    -stdin-media-type application/vnd.oci.descriptor.v1+json < descriptor.json`,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if slices.ContainsFunc(args, func(s string) bool { return s == "-h" || s == "-help" || s == "--help" }) {
				return cmd.Help()
			}
			j := a.verifyPull(cmd.Context(), args)
			a.printf("%s\n", j.Reason)
			if j.OK {
				return nil
			}
			return &exitError{1}
		},
	}
}

// verifyPull answers a call: whatever goes wrong is a refusal with its reason.
func (a *app) verifyPull(ctx context.Context, args []string) imageverifier.Judgement {
	refuse := func(err error) imageverifier.Judgement {
		return imageverifier.Judgement{Reason: line("assay: refused: " + err.Error())}
	}
	c, err := verifierConfig()
	if err != nil {
		return refuse(err)
	}
	call, err := imageverifier.ParseCall(args, a.stdin)
	if err != nil {
		return refuse(err)
	}
	v, err := imageverifier.New(c, nil, slog.New(slog.NewTextHandler(a.stderr, nil)))
	if err != nil {
		return refuse(err)
	}
	return v.Verify(ctx, call)
}

func (a *app) verifierRefresh() *cobra.Command {
	return &cobra.Command{
		Use:   "refresh",
		Short: "Fetch the newest signed bundle, and hand on what the server was not told yet",
		Long: `What each call does by itself once the last bundle is older than "refresh" of the
configuration. By a timer it is there also on nodes that seldom pull.`,
		Example: `  assay image-verifier refresh`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := verifierConfig()
			if err != nil {
				return err
			}
			v, err := imageverifier.New(c, nil, slog.New(slog.NewTextHandler(a.stderr, nil)))
			if err != nil {
				return err
			}
			n, err := v.Refresh(cmd.Context())
			if err != nil {
				return err
			}
			a.printf("bundle %d of cluster %s\n", n, c.Cluster)
			return nil
		},
	}
}

func (a *app) verifierInstall() *cobra.Command {
	var show bool
	var bin string
	cmd := &cobra.Command{
		Use:   "install [--print] [--bin-dir DIR]",
		Short: "Link this binary where containerd looks for verifiers, or show what is to be set",
		Long: `Make the link assay-image-verifier to this binary in containerd's bin_dir. The
configuration must be there and right: from then on every pull asks it.

With --print nothing is changed: what belongs into containerd's config.toml and into
/etc/assay/image-verifier.yaml is printed.`,
		Example: `  assay image-verifier install --print
  assay image-verifier install --bin-dir /opt/containerd/image-verifier/bin`,
		Args: cobra.NoArgs,
		RunE: func(_ *cobra.Command, _ []string) error {
			if show {
				a.printf("%s", verifierSettings(bin))
				return nil
			}
			return a.linkVerifier(bin)
		},
	}
	cmd.Flags().BoolVar(&show, "print", false, "change nothing: print what is to be set")
	cmd.Flags().StringVar(&bin, "bin-dir", "/opt/containerd/image-verifier/bin", "containerd's folder of verifiers")
	return cmd
}

func (a *app) linkVerifier(bin string) error {
	c, err := verifierConfig()
	if err != nil {
		return err
	}
	if _, err := imageverifier.New(c, nil, nil); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	link := filepath.Join(bin, imageverifier.Name)
	if have, err := os.Readlink(link); err == nil && have == self {
		a.printf("%s -> %s\n", link, self)
		return nil
	} else if _, err := os.Lstat(link); !errors.Is(err, fs.ErrNotExist) {
		return fault.Newf(fault.Conflict, "%s is there already and is no link to %s: remove it first", link, self)
	}
	if err := os.Symlink(self, link); err != nil {
		return err
	}
	a.printf("%s -> %s\n", link, self)
	others, err := os.ReadDir(bin)
	if err != nil {
		return err
	}
	var names []string
	for _, e := range others {
		if e.Name() != imageverifier.Name {
			names = append(names, e.Name())
		}
	}
	if len(names) > 0 {
		fmt.Fprintf(a.stderr, "assay: containerd calls these too, in order of their names, and only the first max_verifiers: %s\n", clean(strings.Join(names, ", ")))
	}
	return nil
}

// verifierSettings are what is to be set on a node.
func verifierSettings(bin string) string {
	return fmt.Sprintf(`# /etc/containerd/config.toml (containerd 2.1 and newer; 1.7 has no verifiers)
version = 3

[plugins."io.containerd.image-verifier.v1.bindir"]
  bin_dir = %q
  max_verifiers = -1
  per_verifier_timeout = "10s"

# The kubelet's pulls are verified only through the transfer service. containerd falls
# back to pulls of its own, unverified, with registry.mirrors, registry.configs or
# registry.auths, discard_unpacked_layers, image_pull_with_sync_fs, and
# max_concurrent_downloads other than 3: leave those out, and name mirrors in hosts.toml.
[plugins."io.containerd.cri.v1.images"]
  use_local_image_pull = false
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = "/etc/containerd/certs.d"

# /etc/assay/image-verifier.yaml
# apiVersion: assay/v1
# kind: ImageVerifier
# server: https://assay.example
# ca_file: /etc/assay/server-ca.pem        # where the system's authorities do not do
# token_file: /etc/assay/image-verifier.token   # a robot's, role deployer on clusters/NAME
# authority: /etc/assay/admission.pem      # ca/admission.pem of the server's data folder
# cluster: prod-eu
# bootstrap:                               # what the node needs before it can ask
# - {digest: "sha256:…", reason: "pause 3.10"}
`, bin)
}
