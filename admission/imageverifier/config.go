package imageverifier

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"assay/admission"
	"assay/artifact"
	"assay/internal/durable"
	"assay/internal/fault"
	"assay/internal/strictyaml"
)

// Where the files are when nobody says otherwise.
const (
	DefaultConfig = "/etc/assay/image-verifier.yaml"
	DefaultState  = "/var/lib/assay/image-verifier"
	// Name is what containerd finds in its bin_dir: a link to assay.
	Name = "assay-image-verifier"
)

// Config is the verifier's file, read strictly.
type Config struct {
	APIVersion string `yaml:"apiVersion"` // assay/v1
	Kind       string `yaml:"kind"`       // ImageVerifier
	// Server is asked first: https://HOST[:PORT]. CAFile is its authority, PEM;
	// without it the system's count. TokenFile holds a robot's token.
	Server    string `yaml:"server"`
	CAFile    string `yaml:"ca_file"`
	TokenFile string `yaml:"token_file"`
	// Authority is the file of the certificate that bundles are signed under:
	// ca/admission.pem of the server's data folder.
	Authority string `yaml:"authority"`
	// Cluster, Namespace and Environment are the node's place. What was decided for
	// no Pod of the cluster is decided as of the namespace, default kube-system.
	Cluster     string `yaml:"cluster"`
	Namespace   string `yaml:"namespace"`
	Environment string `yaml:"environment"`
	Node        string `yaml:"node"` // default: the host's name
	// State is a folder of the verifier's own, mode 0700.
	State string `yaml:"state"`
	// Timeout of one answer, less than containerd's per_verifier_timeout of 10 s.
	Timeout time.Duration `yaml:"timeout"`
	// Refresh is how old a bundle may be before the next call fetches another.
	Refresh time.Duration `yaml:"refresh"`
	// Bootstrap are images that a node needs before it can ask: pause, and Assay's.
	Bootstrap []Bootstrap `yaml:"bootstrap"`
	// Audit refuses nothing.
	Audit bool `yaml:"audit"`
}

// Bootstrap is one image that passes by its digest alone.
type Bootstrap struct {
	Digest artifact.Digest `yaml:"digest"`
	Reason string          `yaml:"reason"`
}

const (
	defaultTimeout = 8 * time.Second
	defaultRefresh = 10 * time.Minute
	maxBootstrap   = 256
	maxSmallFile   = 1 << 20
)

// Load reads a configuration; errors are fault.Invalid.
func Load(path string) (*Config, error) {
	b, err := readBounded(path)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "configuration of the image verifier: %w", err)
	}
	if st, err := os.Stat(path); err == nil && st.Mode().Perm()&0o022 != 0 {
		return nil, fault.Newf(fault.Invalid, "%s has mode %04o: others could change what may run: chmod go-w %s", path, st.Mode().Perm(), path)
	}
	c, err := Parse(b)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "%s: %w", path, err)
	}
	return c, nil
}

// Parse reads a configuration's text; errors are fault.Invalid.
func Parse(b []byte) (*Config, error) {
	var c Config
	if err := strictyaml.Unmarshal(b, &c); err != nil {
		return nil, err
	}
	return &c, c.settle()
}

func (c *Config) settle() error {
	if c.APIVersion != "assay/v1" || c.Kind != "ImageVerifier" {
		return fault.Newf(fault.Invalid, "apiVersion %.40q, kind %.40q: want assay/v1 and ImageVerifier", c.APIVersion, c.Kind)
	}
	u, err := url.Parse(c.Server)
	if err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())) {
		return fault.Newf(fault.Invalid, "server %.200q: want https://HOST[:PORT]; http is for loopback only", c.Server)
	}
	c.Server = u.Scheme + "://" + u.Host
	if c.Namespace == "" {
		c.Namespace = "kube-system"
	}
	if c.Node == "" {
		if c.Node, err = os.Hostname(); err != nil {
			return fault.Newf(fault.Invalid, "node: the host has no name: %w", err)
		}
	}
	if c.State == "" {
		c.State = DefaultState
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.Refresh == 0 {
		c.Refresh = defaultRefresh
	}
	switch {
	case !admission.ValidName(c.Cluster) || !admission.ValidName(c.Namespace) || c.Environment != "" && !admission.ValidName(c.Environment):
		return fault.Newf(fault.Invalid, "cluster %.80q, namespace %.80q, environment %.80q: want letters, digits, . _ and -, at most 63", c.Cluster, c.Namespace, c.Environment)
	case len(c.Node) > 253:
		return fault.Newf(fault.Invalid, "node: want a name of at most 253 bytes")
	case c.Authority == "":
		return fault.Newf(fault.Invalid, "authority: want the file of the certificate that bundles are signed under, ca/admission.pem of the server")
	case !filepath.IsAbs(c.State):
		return fault.Newf(fault.Invalid, "state %.200q: want an absolute path", c.State)
	case c.Timeout < 500*time.Millisecond || c.Timeout > time.Minute:
		return fault.Newf(fault.Invalid, "timeout %s: want 500ms to 1m, and less than containerd's per_verifier_timeout", c.Timeout)
	case c.Refresh < time.Second || c.Refresh > admission.BundleLife:
		return fault.Newf(fault.Invalid, "refresh %s: want 1s to %s", c.Refresh, admission.BundleLife)
	case len(c.Bootstrap) > maxBootstrap:
		return fault.Newf(fault.Invalid, "bootstrap: %d images, at most %d", len(c.Bootstrap), maxBootstrap)
	}
	for i, x := range c.Bootstrap {
		if err := x.Digest.Validate(); err != nil || x.Reason == "" {
			return fault.Newf(fault.Invalid, "bootstrap[%d]: want a digest, sha256:…, and a reason", i)
		}
	}
	return nil
}

func loopback(host string) bool { return host == "localhost" || host == "127.0.0.1" || host == "::1" }

// readBounded reads a file of at most 1 MiB.
func readBounded(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Size() > maxSmallFile || !st.Mode().IsRegular() {
		return nil, fault.Newf(fault.Invalid, "%s: want a file of at most %d bytes", path, maxSmallFile)
	}
	return os.ReadFile(path)
}

// token reads the robot's token anew each time: it is replaced when it ends.
func (c *Config) token() (string, error) {
	if c.TokenFile == "" {
		return "", nil
	}
	if err := durable.CheckPrivate(c.TokenFile); err != nil {
		return "", err
	}
	b, err := readBounded(c.TokenFile)
	if err != nil {
		return "", err
	}
	t := strings.TrimSpace(string(b))
	if t == "" || len(t) > 16<<10 {
		return "", fault.Newf(fault.Invalid, "%s: want a token of at most %d bytes", c.TokenFile, 16<<10)
	}
	return t, nil
}
