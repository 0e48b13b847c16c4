package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/identity"
	"assay/internal/fault"

	"github.com/google/go-cmp/cmp"
)

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const head = "apiVersion: assay/v1\nkind: Config\n"

func TestLoad(t *testing.T) {
	path := writeFile(t, head+`
data: /srv/assay
server:
  listen: 127.0.0.1:9000
  shutdown_grace: 3s
identity:
  issuers:
    - {url: "https://ci.example.com", type: email, client_id: sigstore}
registry: {max_uploads: 5}
tlog: {public: true}
trust: {roots: [a.json], keys: [k.pem]}
verify: {max_validity: 1h}
log: {level: debug, format: text}
`)
	want := Default()
	want.Data = "/srv/assay"
	want.Server.Listen, want.Server.ShutdownGrace = "127.0.0.1:9000", 3*time.Second
	want.Identity.Issuers = []identity.IssuerConfig{{URL: "https://ci.example.com", Type: identity.TypeEmail, ClientID: "sigstore"}}
	want.Registry.MaxUploads = 5
	want.Tlog.Public = true
	want.Trust = Trust{Roots: []string{"a.json"}, Keys: []string{"k.pem"}}
	want.Verify.MaxValidity = time.Hour
	want.Log = Log{Level: "debug", Format: "text"}
	got, err := Load(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("file over defaults (-want +got):\n%s", d)
	}

	env := []string{
		"ASSAY_DATA=/elsewhere", "ASSAY_SERVER_LISTEN=127.0.0.1:1", "ASSAY_SERVER_SHUTDOWN_GRACE=1m", "ASSAY_SERVER_TLS_CERTIFICATE=c.pem",
		"ASSAY_REGISTRY_MAX_UPLOADS=7", "ASSAY_REGISTRY_MAX_MANIFEST=9", "ASSAY_TLOG_PUBLIC=false", "ASSAY_LOG_LEVEL=error",
		"ASSAY_KIND=Other", "ASSAY_APIVERSION=v9", "ASSAY_SERVER=https://a.client.setting", "UNRELATED=1", "=odd", "ASSAY_LOG_FORMAT=", "ASSAY_KEYS_PASSPHRASE=file:/x",
	}
	want.Data = "/elsewhere"
	want.Server.Listen, want.Server.ShutdownGrace, want.Server.TLS.Certificate = "127.0.0.1:1", time.Minute, "c.pem"
	want.Registry = Registry{MaxUploads: 7, MaxManifest: 9, ExchangeLife: 15 * time.Minute}
	want.Tlog.Public = false
	want.Log.Level = "error"
	want.Keys.Passphrase = "file:/x"
	if got, err = Load(path, env); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("environment over file (-want +got):\n%s", d)
	}
}

func TestLoadRefuses(t *testing.T) {
	for _, tt := range []struct{ name, text, env, says string }{
		{"an unknown section", head + "serverr: {}\n", "", "serverr"},
		{"an unknown field", head + "server: {lisen: x}\n", "", "lisen"},
		{"a field twice", head + "data: /a\ndata: /b\n", "", "line 4"},
		{"another kind", "apiVersion: assay/v1\nkind: Policy\n", "", "want apiVersion assay/v1 and kind Config"},
		{"another version", "apiVersion: assay/v2\nkind: Config\n", "", "want apiVersion assay/v1"},
		{"nothing", "", "", "want one YAML document, found 0"},
		{"two documents", head + "---\n" + head, "", "found 2"},
		{"an alias", head + "log: &a {level: info}\n", "", "anchors"},
		{"a list for a text", head + "data: [a]\n", "", "cannot unmarshal"},
		{"a bad duration", head + "server: {shutdown_grace: soon}\n", "", "cannot unmarshal"},
		{"a bad duration in the environment", head, "ASSAY_SERVER_SHUTDOWN_GRACE=soon", "ASSAY_SERVER_SHUTDOWN_GRACE"},
		{"a bad number in the environment", head, "ASSAY_REGISTRY_MAX_UPLOADS=many", "ASSAY_REGISTRY_MAX_UPLOADS"},
		{"a bad truth in the environment", head, "ASSAY_TLOG_PUBLIC=perhaps", "ASSAY_TLOG_PUBLIC"},
		{"a list in the environment", head, "ASSAY_TRUST_ROOTS=a,b", "set in the file only"},
	} {
		_, err := Load(writeFile(t, tt.text), []string{tt.env})
		if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want invalid saying %q", tt.name, err, tt.says)
		}
	}
	if _, err := Load(filepath.Join(t.TempDir(), "nosuch"), nil); !errors.Is(err, fault.Invalid) {
		t.Errorf("no such file: %v", err)
	}
	if _, err := Load(writeFile(t, head+"#"+strings.Repeat("x", 5<<20)), nil); !errors.Is(err, fault.TooLarge) {
		t.Errorf("5 MiB: %v", err)
	}
}

func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(c *Config)
		says   string // "" is allowed
	}{
		{"the default", func(*Config) {}, ""},
		{"no data folder", func(c *Config) { c.Data = "" }, "no data folder"},
		{"no port", func(c *Config) { c.Server.Listen = "127.0.0.1" }, "HOST:PORT"},
		{"IPv6 loopback", func(c *Config) { c.Server.Listen = "[::1]:0" }, ""},
		{"localhost", func(c *Config) { c.Server.Listen = "localhost:0" }, ""},
		{"off loopback without TLS", func(c *Config) { c.Server.Listen = "192.0.2.1:443" }, "there is no TLS"},
		{"everywhere without TLS", func(c *Config) { c.Server.Listen = ":443" }, "there is no TLS"},
		{"IPv6 everywhere without TLS", func(c *Config) { c.Server.Listen = "[::]:443" }, "there is no TLS"},
		{"a name without TLS", func(c *Config) { c.Server.Listen = "assay.example:443" }, "there is no TLS"},
		{"off loopback with TLS", func(c *Config) { c.Server.Listen, c.Server.TLS = "192.0.2.1:443", TLS{"c", "k"} }, ""},
		{"everywhere with TLS and no name", func(c *Config) { c.Server.Listen, c.Server.TLS = ":443", TLS{"c", "k"} }, "set server.public_url"},
		{"IPv6 everywhere with TLS and no name", func(c *Config) { c.Server.Listen, c.Server.TLS = "[::]:443", TLS{"c", "k"} }, "set server.public_url"},
		{"everywhere with TLS and a name", func(c *Config) {
			c.Server.Listen, c.Server.TLS, c.Server.PublicURL = ":443", TLS{"c", "k"}, "https://assay.example"
		}, ""},
		{"a certificate without key", func(c *Config) { c.Server.TLS.Certificate = "c" }, "both certificate and key"},
		{"a key without certificate", func(c *Config) { c.Server.TLS.Key = "k" }, "both certificate and key"},
		{"a public URL with a path", func(c *Config) { c.Server.PublicURL = "https://a.example/x" }, "public_url"},
		{"a public URL with a query", func(c *Config) { c.Server.PublicURL = "https://a.example?x" }, "public_url"},
		{"a public URL without scheme", func(c *Config) { c.Server.PublicURL = "a.example" }, "public_url"},
		{"a public URL without host", func(c *Config) { c.Server.PublicURL = "https://:443" }, "public_url"},
		{"a public URL in the clear", func(c *Config) { c.Server.PublicURL = "http://a.example" }, "loopback only"},
		{"a bad operations address", func(c *Config) { c.Server.Operations = "9090" }, "server.operations"},
		{"a negative grace", func(c *Config) { c.Server.ShutdownGrace = -1 }, "shutdown_grace"},
		{"a bad issuer", func(c *Config) { c.Identity.Issuers = []identity.IssuerConfig{{URL: "http://x.example"}} }, "identity.issuers"},
		{"a bad level", func(c *Config) { c.Log.Level = "loud" }, "log.level"},
		{"a bad format", func(c *Config) { c.Log.Format = "xml" }, "log.format"},
		{"no validity", func(c *Config) { c.Verify.MaxValidity = 0 }, "max_validity"},
		{"negative uploads", func(c *Config) { c.Registry.MaxUploads = -1 }, "max_uploads"},
		{"a DSN without password", func(c *Config) { c.Store.DSN = "postgres://assay@db/assay?sslmode=verify-full" }, ""},
		{"a DSN in a file", func(c *Config) { c.Store.DSN = "file:/run/secrets/dsn" }, ""},
	} {
		c := Default()
		c.Data = "data"
		tt.change(&c)
		err := c.Validate()
		if tt.says == "" {
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
			} else if !filepath.IsAbs(c.Data) {
				t.Errorf("%s: data folder %s is not absolute", tt.name, c.Data)
			}
			continue
		}
		if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want invalid saying %q", tt.name, err, tt.says)
		}
	}
	c := Default()
	c.Data, c.Server.PublicURL = "data", "https://a.example:8443/"
	if err := c.Validate(); err != nil || c.Server.PublicURL != "https://a.example:8443" {
		t.Errorf("public URL becomes %q, %v", c.Server.PublicURL, err)
	}
}

func TestThreat_MetricsLogs_SecretsInConfiguration(t *testing.T) {
	for _, change := range []func(c *Config){
		func(c *Config) { c.Store.DSN = "postgres://assay:hunter2@db/assay" },
		func(c *Config) { c.Store.DSN = "postgres://db/assay?password=hunter2" },
		func(c *Config) { c.Store.DSN = "postgres://assay:hunter2%zz@db/assay" },
		func(c *Config) { c.Server.PublicURL = "https://me:hunter2@a.example" },
	} {
		c := Default()
		c.Data = "data"
		change(&c)
		if err := c.Validate(); !errors.Is(err, fault.Invalid) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v, want a refusal that does not repeat the password", err)
		}
	}
}

func TestSecret(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	good := put("good", "correct horse \r\n")
	for place, want := range map[string]string{"": "", "file:" + good: "correct horse ", "credential:good": "correct horse "} {
		if b, err := Secret(place); err != nil || string(b) != want {
			t.Errorf("%q: %q, %v, want %q", place, b, err, want)
		}
	}
	for _, place := range []string{
		"hunter2", "file:" + put("empty", ""), "file:" + put("newline", "\n"), "file:" + put("endless", strings.Repeat("x", 1<<20)),
		"file:" + dir + "/nosuch", "credential:../good", "credential:/etc/passwd", "credential:nosuch", "env:PASSWORD",
	} {
		if _, err := Secret(place); !errors.Is(err, fault.Invalid) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v, want invalid without the text itself", place, err)
		}
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if _, err := Secret("credential:good"); !errors.Is(err, fault.Invalid) {
		t.Errorf("no credentials folder: %v", err)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(head + "server: {listen: 127.0.0.1:0}\n"))
	f.Add([]byte("a: &x [*x]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(path, nil)
		if err == nil && (c.APIVersion != APIVersion || c.Kind != "Config") {
			t.Fatalf("loaded %q %q", c.APIVersion, c.Kind)
		}
	})
}
