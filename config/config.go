// Package config reads the site's configuration: one YAML file, its sections
// named after packages, with environment variables over the file and flags
// over both. It also holds the documents that `assay apply` brings in.
package config

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"assay/identity"
	"assay/internal/fault"
	"assay/internal/keyring"
	"assay/internal/strictyaml"
	"assay/policy"
	"assay/vuln/feed/upstream"
	"assay/vuln/tier"
)

// APIVersion is the version of every document that Assay reads.
const APIVersion = "assay/v1"

// Config is the site's configuration. Every field has a default that is safe
// on one machine; [Default] gives it.
type Config struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"` // Config

	// Data is the data folder, mode 0700: database, blobs, logs, keys.
	Data string `yaml:"data"`

	Server    Server    `yaml:"server"`
	Store     Store     `yaml:"store"`
	Blob      Blob      `yaml:"blob"`
	Backup    Backup    `yaml:"backup"`
	Keys      Keys      `yaml:"keys"`
	Identity  Identity  `yaml:"identity"`
	Registry  Registry  `yaml:"registry"`
	Tlog      Tlog      `yaml:"tlog"`
	Trust     Trust     `yaml:"trust"`
	Policy    Policy    `yaml:"policy"`
	Verify    Verify    `yaml:"verify"`
	Action    Action    `yaml:"action"`
	Runner    Runner    `yaml:"runner"`
	Vuln      Vuln      `yaml:"vuln"`
	Inventory Inventory `yaml:"inventory"`
	Admission Admission `yaml:"admission"`
	Gate      Gate      `yaml:"gate"`
	BuildLogs BuildLogs `yaml:"build_logs"`
	Telemetry Telemetry `yaml:"telemetry"`
	SIEM      SIEM      `yaml:"siem"`
	Log       Log       `yaml:"log"`
}

// Server says where Assay listens and what it is called.
type Server struct {
	// Listen is the main listener's address, host:port. Off loopback it needs TLS.
	Listen string `yaml:"listen"`
	// PublicURL is the address that clients use. Its host name becomes the
	// transparency log's origin at the first start and cannot change after.
	// Empty: made from Listen.
	PublicURL string `yaml:"public_url"`
	// Operations is the listener of /metrics, /healthz and /readyz. Empty: they
	// are on the main listener, for loopback addresses only.
	Operations string `yaml:"operations"`
	TLS        TLS    `yaml:"tls"`
	// TrustedProxies are addresses and networks of proxies in front of the main
	// listener. Of their requests the client's address is taken from
	// X-Forwarded-For, for the audit trail and for limits; of all others that
	// header means nothing.
	TrustedProxies []string `yaml:"trusted_proxies"`
	// Roles are what this process does of a site's work; empty: all of it.
	// --roles overrides it.
	Roles []string `yaml:"roles"`
	// Peers are the other processes of a split site.
	Peers Peers `yaml:"peers"`
	// ShutdownGrace is how long requests may finish after a signal.
	ShutdownGrace time.Duration `yaml:"shutdown_grace"`
}

// TLS names the certificate and key of a listener, PEM files.
type TLS struct {
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
}

// Store says which database holds the evidence.
type Store struct {
	// DSN is "sqlite:/path/assay.db" or "postgres://…"; empty: SQLite in the
	// data folder. A password stands in a file: "file:/run/secrets/dsn".
	DSN string `yaml:"dsn"`
}

// Keys says how private keys are opened.
type Keys struct {
	// Unlock says what opens the sealed key files: "file:PATH", "credential:NAME"
	// of a systemd credential, "env:NAME", "prompt:", or the URI of an RSA key of
	// a KMS or PKCS #11 token. Empty: keys lie in the clear under mode 0600.
	Unlock string `yaml:"unlock"`
	// Passphrase is Unlock's older name.
	Passphrase string `yaml:"passphrase"`
	// Places maps roles to the URIs of keys that do not lie in the data folder:
	// awskms://, gcpkms://, azurekms://, hashivault://, plugin+NAME://, pkcs11:.
	Places map[string]string `yaml:"places"`
	// Rotation says when keys are followed by others.
	Rotation KeyRotation `yaml:"rotation"`
}

// keyRoles are the roles whose keys can lie elsewhere. The registry's is not
// among them: other keys are derived from its private half.
var keyRoles = []string{
	"ca", "ca-root", "tsa", "tsa-root", "oidc", "log", "ct", "audit", "decision", "delegation", "source", "tuf-root", "tuf-online",
}

// KeyRoles lists the roles that Keys.Places may name.
func KeyRoles() []string { return slices.Clone(keyRoles) }

// validate brings Passphrase into Unlock.
func (k *Keys) validate() error {
	if k.Unlock != "" && k.Passphrase != "" && k.Unlock != k.Passphrase {
		return fault.Newf(fault.Invalid, "keys.unlock and keys.passphrase: both are set; want keys.unlock alone")
	}
	if k.Unlock == "" {
		k.Unlock = k.Passphrase
	}
	k.Passphrase = ""
	if err := k.Rotation.validate(); err != nil {
		return err
	}
	for role, uri := range k.Places {
		if role == "registry" {
			return fault.Newf(fault.Invalid, "keys.places.registry: this key cannot lie elsewhere, since other keys are derived from it; it is sealed with the files (keys.unlock)")
		}
		if !slices.Contains(keyRoles, role) {
			return fault.Newf(fault.Invalid, "keys.places: %q is no role; want %s", role, strings.Join(keyRoles, ", "))
		}
		if err := keyring.CheckURI(uri); err != nil {
			return fmt.Errorf("keys.places.%s: %w", role, err)
		}
	}
	return nil
}

// Identity says whose tokens count, besides those of the embedded issuer.
type Identity struct {
	// Issuers are OIDC issuers; `assay apply` can add more.
	Issuers []identity.IssuerConfig `yaml:"issuers"`
	// RobotMaxLife is the longest life of a robot's token.
	RobotMaxLife time.Duration `yaml:"robot_max_life"`
	// NoBreakGlass refuses assay break-glass, which gives the rights of an
	// administrator to whoever may open the admin socket.
	NoBreakGlass bool `yaml:"no_break_glass"`
}

// Registry bounds the registry.
type Registry struct {
	// MaxUploads is how many blob uploads may write at once; 0: 64.
	MaxUploads int `yaml:"max_uploads"`
	// MaxManifest is the largest manifest in bytes; 0: 4 MiB.
	MaxManifest int64 `yaml:"max_manifest"`
	// RelaxedAudit lets a pull's answer go out before its audit record is
	// committed, at most 50 ms before: a server that is killed loses those.
	RelaxedAudit bool `yaml:"relaxed_audit"`
	// Redirect lets clients fetch blobs of 1 MiB and more from the S3 bucket
	// itself, at an address that lives so long, at most 1h. Default 0: blobs pass
	// through here. It is not for relaxed_audit: nothing sees those reads but the
	// record of the pull before them.
	Redirect time.Duration `yaml:"redirect"`
	// ExchangeLife is how long a token lives that a pipeline's token was
	// exchanged for, unless the pipeline asks for less; at most 1h.
	ExchangeLife time.Duration `yaml:"exchange_life"`
	// Scrub says how stored blobs are hashed again.
	Scrub Scrub `yaml:"scrub"`
	// GC says how what nothing needs is collected.
	GC GC `yaml:"gc"`
	// Replicas are registries with the same repositories, asked in this order for
	// what is damaged here.
	Replicas []Replica `yaml:"replicas"`
}

// Tlog configures the transparency log.
type Tlog struct {
	// Public lets anyone read log entries, identities included. Checkpoints and
	// hash tiles are always public.
	Public bool `yaml:"public"`
	// Witnesses cosign each checkpoint before it is published (C2SP
	// tlog-witness); see docs/log.md.
	Witnesses []Witness `yaml:"witnesses"`
	// WitnessQuorum is how many of them a checkpoint waits for; 0: none.
	WitnessQuorum int `yaml:"witness_quorum"`
	// WitnessWait bounds the wait.
	WitnessWait time.Duration `yaml:"witness_wait"`
	// WitnessOutage is what happens without the quorum: "degrade" publishes with
	// what there is and alerts, "refuse" holds entries back.
	WitnessOutage string `yaml:"witness_outage"`
}

// Witness is another party that watches the log only grow.
type Witness struct {
	// URL is the prefix of its add-checkpoint.
	URL string `yaml:"url"`
	// VKey is its verifier key, of type cosignature/v1, as it prints it.
	VKey string `yaml:"vkey"`
}

// Trust names whose evidence counts besides what this site itself certifies.
type Trust struct {
	// Roots are files with foreign Sigstore trusted roots (trusted_root.json).
	Roots []string `yaml:"roots"`
	// OfflineRoot is a TUF root that was signed elsewhere (assay trust init
	// --offline-root): this server then holds no root key and makes no root.
	OfflineRoot string `yaml:"offline_root"`
	// Keys are PEM files of public keys whose signatures count.
	Keys []string `yaml:"keys"`
	// Policies says who may sign bundles of policies.
	Policies PolicySigners `yaml:"policies"`
}

// Verify bounds decisions.
type Verify struct {
	// MaxValidity is how long a decision holds without being made anew.
	MaxValidity time.Duration `yaml:"max_validity"`
	// Builders grant SLSA build levels: who signs provenance of which builder
	// has which level. All other provenance has level 1, whatever it says.
	Builders []policy.Builder `yaml:"builders"`
	// Exceptions bound how long an exception may hold that two persons agree on.
	Exceptions Exceptions `yaml:"exceptions"`
}

// Exceptions are the bounds of exceptions.
type Exceptions struct {
	MaxValidity        time.Duration `yaml:"max_validity"`
	BreakGlassValidity time.Duration `yaml:"break_glass_validity"`
}

// Action says when what the site would do by itself waits for a person.
type Action struct {
	// Share is the most of the running workloads, in percent, that automatic actions
	// may touch within Window.
	Share int `yaml:"share"`
	// Least is how many workloads have to be touched for anything to wait.
	Least int `yaml:"least"`
	// Window is for how long what was touched counts.
	Window time.Duration `yaml:"window"`
	// Answer is after how long without an answer it is told again.
	Answer time.Duration `yaml:"answer"`
}

// Runner says how builds are compared with earlier ones of the same source.
type Runner struct {
	// TrustedRefs are patterns over refs whose builds count as protected: only
	// caches that such builds wrote may they read. A run of a pull request never
	// counts as one.
	TrustedRefs []string `yaml:"trusted_refs"`
}

// Vuln configures what is known of vulnerabilities.
type Vuln struct {
	// MaxAge is how long after it was last looked at an advisory feed counts as
	// fresh. A stale one is unknown, and never clean.
	MaxAge time.Duration `yaml:"max_age"`
	// Feeds are fetched from elsewhere. None by default: nothing is asked of
	// anybody that is not named here, or by `assay feed add`.
	Feeds []upstream.Spec `yaml:"feeds"`
	// Tiers say what is done when, by how critical an artifact is.
	Tiers tier.Rules `yaml:"tiers"`
	// SecondPerson has a statement that takes findings away wait until another
	// person approves it.
	SecondPerson bool `yaml:"second_person"`
}

func (v *Vuln) validate() error {
	names := map[string]bool{}
	for i := range v.Feeds {
		if err := v.Feeds[i].Validate(); err != nil {
			return fmt.Errorf("vuln.feeds: %w", err)
		}
		if names[v.Feeds[i].Name] {
			return fault.Newf(fault.Invalid, "vuln.feeds: two are called %s", v.Feeds[i].Name)
		}
		names[v.Feeds[i].Name] = true
	}
	if err := v.Tiers.Validate(); err != nil {
		return fmt.Errorf("vuln.tiers: %w", err)
	}
	return nil
}

// Log configures Assay's own log lines.
type Log struct {
	Level  string `yaml:"level"`  // debug, info, warn, error
	Format string `yaml:"format"` // json, text
}

// Default is the configuration of a site that says nothing.
func Default() Config {
	return Config{
		APIVersion: APIVersion,
		Kind:       "Config",
		Server:     Server{Listen: "127.0.0.1:8484", ShutdownGrace: 15 * time.Second},
		Keys:       Keys{Rotation: defaultRotation()},
		Inventory:  Inventory{TicketAfter: time.Minute},
		Vuln:       Vuln{MaxAge: 48 * time.Hour, Tiers: tier.Default()},
		Admission:  Admission{Cluster: "default"},
		Gate:       defaultGate(),
		Registry:   Registry{MaxUploads: 64, MaxManifest: 4 << 20, ExchangeLife: 15 * time.Minute},
		Identity:   Identity{RobotMaxLife: 90 * 24 * time.Hour},
		Tlog:       Tlog{WitnessWait: 2 * time.Second, WitnessOutage: "degrade"},
		Action:     Action{Share: 10, Least: 10, Window: time.Hour, Answer: 4 * time.Hour},
		Verify:     Verify{MaxValidity: 24 * time.Hour, Exceptions: Exceptions{MaxValidity: 30 * 24 * time.Hour, BreakGlassValidity: 8 * time.Hour}},
		Runner:     Runner{TrustedRefs: []string{"refs/heads/main", "refs/heads/master", "refs/heads/release/**", "refs/tags/**"}},
		BuildLogs:  BuildLogs{Max: 64 << 20, Keep: 90 * 24 * time.Hour},
		Telemetry:  Telemetry{Protocol: "http/protobuf", Sample: 1, Interval: time.Minute},
		Log:        Log{Level: "info", Format: "json"},
	}
}

// Load reads path (empty: none) over the defaults, and the environment over
// the file. environ is as os.Environ gives it.
func Load(path string, environ []string) (Config, error) {
	c := Default()
	if path != "" {
		b, err := readCapped(path)
		if err != nil {
			return c, err
		}
		if err := strictyaml.Unmarshal(b, &c); err != nil {
			return c, fmt.Errorf("configuration %s: %w", path, err)
		}
		if c.APIVersion != APIVersion || c.Kind != "Config" {
			return c, fault.Newf(fault.Invalid, "configuration %s: want apiVersion %s and kind Config, found %q and %q", path, APIVersion, c.APIVersion, c.Kind)
		}
	}
	if err := applyEnv(reflect.ValueOf(&c).Elem(), "ASSAY", envMap(environ)); err != nil {
		return c, err
	}
	return c, nil
}

func readCapped(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "configuration: %w", err)
	}
	if st.Size() > strictyaml.MaxBytes {
		return nil, fault.Newf(fault.TooLarge, "configuration %s: %d bytes are too many", path, st.Size())
	}
	return os.ReadFile(path)
}

func envMap(environ []string) map[string]string {
	m := map[string]string{}
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok && strings.HasPrefix(k, "ASSAY_") {
			m[k] = v
		}
	}
	return m
}

// applyEnv sets every scalar field that has a variable ASSAY_SECTION_FIELD. An
// empty one counts as none, as everywhere in Assay.
func applyEnv(v reflect.Value, prefix string, env map[string]string) error {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		tag, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		name := prefix + "_" + strings.ToUpper(tag)
		if field.Type.Kind() == reflect.Struct {
			if err := applyEnv(v.Field(i), name, env); err != nil {
				return err
			}
			continue
		}
		text, set := env[name]
		if !set || text == "" || tag == "apiVersion" || tag == "kind" {
			continue
		}
		if err := setScalar(v.Field(i), text); err != nil {
			return fault.Newf(fault.Invalid, "environment variable %s: %w", name, err)
		}
	}
	return nil
}

func setScalar(v reflect.Value, text string) error {
	switch {
	case v.Type() == reflect.TypeFor[time.Duration]():
		d, err := time.ParseDuration(text)
		if err != nil {
			return err
		}
		v.SetInt(int64(d))
	case v.Kind() == reflect.String:
		v.SetString(text)
	case v.Kind() == reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return err
		}
		v.SetBool(b)
	case v.CanInt():
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return err
		}
		v.SetInt(n)
	case v.CanFloat():
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return err
		}
		v.SetFloat(f)
	case v.Type() == reflect.TypeFor[map[string]string]():
		m := map[string]string{}
		for _, pair := range strings.Fields(text) {
			name, value, ok := strings.Cut(pair, "=")
			if _, twice := m[name]; !ok || name == "" || value == "" || twice {
				return fmt.Errorf("want NAME=VALUE pairs with spaces between, each name once")
			}
			m[name] = value
		}
		v.Set(reflect.ValueOf(m))
	case v.Type() == reflect.TypeFor[map[int]float64]():
		m := map[int]float64{}
		for _, pair := range strings.Fields(text) {
			name, value, _ := strings.Cut(pair, "=")
			n, err := strconv.Atoi(name)
			f, err2 := strconv.ParseFloat(value, 64)
			if _, twice := m[n]; err != nil || err2 != nil || twice {
				return fmt.Errorf("want NUMBER=NUMBER pairs with spaces between, each once, such as 2=0.25 3=0.1")
			}
			m[n] = f
		}
		v.Set(reflect.ValueOf(m))
	default:
		return fmt.Errorf("lists are set in the file only")
	}
	return nil
}

// Validate completes c and says what is wrong with it.
func (c *Config) Validate() error {
	if c.Data == "" {
		return fault.Newf(fault.Invalid, "no data folder: give --data DIR, ASSAY_DATA, or data: in the file")
	}
	abs, err := filepath.Abs(c.Data)
	if err != nil {
		return fault.Wrap(fault.Invalid, err)
	}
	c.Data = abs
	host, _, err := net.SplitHostPort(c.Server.Listen)
	if err != nil {
		return fault.Newf(fault.Invalid, "server.listen %q: want HOST:PORT, for example 127.0.0.1:8484", c.Server.Listen)
	}
	if (c.Server.TLS.Certificate == "") != (c.Server.TLS.Key == "") {
		return fault.Newf(fault.Invalid, "server.tls: want both certificate and key, or neither")
	}
	if !loopback(host) && c.Server.TLS.Certificate == "" {
		return fault.Newf(fault.Invalid, "server.listen %s is not loopback, and there is no TLS: tokens would cross the network in the clear; set server.tls.certificate and server.tls.key, or listen on 127.0.0.1 behind a proxy that has TLS", c.Server.Listen)
	}
	if err := c.validatePublicURL(host); err != nil {
		return err
	}
	if err := c.validateRoles(); err != nil {
		return err
	}
	if err := c.Tlog.validate(); err != nil {
		return err
	}
	if c.Server.Operations != "" {
		if _, _, err := net.SplitHostPort(c.Server.Operations); err != nil {
			return fault.Newf(fault.Invalid, "server.operations %q: want HOST:PORT, for example 127.0.0.1:9090", c.Server.Operations)
		}
	}
	if c.Server.ShutdownGrace < 0 {
		return fault.Newf(fault.Invalid, "server.shutdown_grace %s: want 0s or more", c.Server.ShutdownGrace)
	}
	if u, err := url.Parse(c.Store.DSN); c.Store.DSN != "" {
		if err != nil {
			return fault.Newf(fault.Invalid, "store.dsn does not read as a URL (it is not repeated here, since it may hold a password)")
		}
		if _, has := u.User.Password(); has || u.Query().Has("password") {
			return fault.Newf(fault.Invalid, "store.dsn holds a password: write the whole DSN into a file of mode 0600 and name that, store.dsn: file:/run/secrets/dsn")
		}
	}
	if c.Backup.S3.Enabled() {
		if err := c.Backup.S3.Options().Validate(); err != nil {
			return fmt.Errorf("backup.s3: %w", err)
		}
	}
	if c.Blob.S3.Enabled() {
		if err := c.Blob.S3.Options().Validate(); err != nil {
			return fmt.Errorf("blob.s3: %w", err)
		}
	}
	if err := c.Registry.validate(); err != nil {
		return err
	}
	if err := c.Keys.validate(); err != nil {
		return err
	}
	if err := c.Admission.validate(); err != nil {
		return err
	}
	if err := c.Inventory.validate(); err != nil {
		return err
	}
	for _, i := range c.Identity.Issuers {
		if err := i.Validate(); err != nil {
			return fmt.Errorf("identity.issuers: %w", err)
		}
	}
	if err := c.Vuln.validate(); err != nil {
		return err
	}
	if err := c.Gate.validate(); err != nil {
		return err
	}
	if err := c.BuildLogs.validate(); err != nil {
		return err
	}
	if err := c.SIEM.validate(); err != nil {
		return err
	}
	if err := c.Telemetry.validate(); err != nil {
		return err
	}
	if err := c.validatePolicy(); err != nil {
		return err
	}
	switch c.Log.Level {
	case "debug", "info", "warn", "error":
	default:
		return fault.Newf(fault.Invalid, "log.level %q: want debug, info, warn or error", c.Log.Level)
	}
	if err := c.validateAccess(); err != nil {
		return err
	}
	if c.Log.Format != "json" && c.Log.Format != "text" {
		return fault.Newf(fault.Invalid, "log.format %q: want json or text", c.Log.Format)
	}
	if c.Verify.MaxValidity <= 0 {
		return fault.Newf(fault.Invalid, "verify.max_validity %s: want more than nothing", c.Verify.MaxValidity)
	}
	if x := c.Verify.Exceptions; x.MaxValidity <= 0 || x.BreakGlassValidity <= 0 || x.MaxValidity > 366*24*time.Hour || x.BreakGlassValidity > 7*24*time.Hour {
		return fault.Newf(fault.Invalid, "verify.exceptions: want max_validity of at most a year, and break_glass_validity of at most a week")
	}
	if x := c.Action; x.Share < 1 || x.Share > 100 || x.Least < 1 || x.Window < time.Minute || x.Window > 30*24*time.Hour || x.Answer < time.Minute || x.Answer > 30*24*time.Hour {
		return fault.Newf(fault.Invalid, "action: want share of 1 to 100, least of 1 or more, and window and answer of 1m to 720h")
	}
	return nil
}

// validatePublicURL checks the address that clients use and brings it into one
// form. listen is the host that the main listener binds to.
func (c *Config) validatePublicURL(listen string) error {
	u := c.Server.PublicURL
	if u == "" {
		// The name is signed into every checkpoint of the log and can never
		// change: "everywhere" is none.
		if ip := net.ParseIP(listen); listen == "" || ip != nil && ip.IsUnspecified() {
			return fault.Newf(fault.Invalid, "server.listen %s is every address of this machine: set server.public_url to the one name that clients use, for example https://assay.example", c.Server.Listen)
		}
		return nil
	}
	p, err := url.Parse(u)
	if err != nil || p.Hostname() == "" || p.User != nil || (p.Scheme != "http" && p.Scheme != "https") || strings.Trim(p.Path, "/") != "" || p.RawQuery != "" || p.Fragment != "" {
		return fault.Newf(fault.Invalid, "server.public_url %q: want http(s)://HOST[:PORT]", redacted(p, u))
	}
	if p.Scheme == "http" && !loopback(p.Hostname()) {
		return fault.Newf(fault.Invalid, "server.public_url %q: http is for loopback only", u)
	}
	c.Server.PublicURL = p.Scheme + "://" + p.Host
	return nil
}

func redacted(u *url.URL, text string) string {
	if u != nil && u.User != nil {
		return u.Redacted()
	}
	return text
}

// maxSecret is more than any passphrase or DSN needs, in bytes.
const maxSecret = 64 << 10

// Secret resolves a secret's place: "file:PATH" or "credential:NAME" (a systemd
// credential). Secrets never stand in the configuration itself. "" is no secret;
// a place that is named and holds nothing is an error, since an empty passphrase
// would leave keys in the clear without a word.
func Secret(place string) ([]byte, error) {
	scheme, rest, _ := strings.Cut(place, ":")
	path := rest
	switch {
	case place == "":
		return nil, nil
	case scheme == "file":
	case scheme == "credential":
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" || !filepath.IsLocal(rest) {
			return nil, fault.Newf(fault.Invalid, "secret %s: systemd gave no such credential", place)
		}
		path = filepath.Join(dir, rest)
	default:
		return nil, fault.Newf(fault.Invalid, "a secret's place starts with file: or credential:")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "secret: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "secret: %w", err)
	}
	b = bytes.TrimRight(b, "\r\n")
	if len(b) == 0 || len(b) > maxSecret {
		return nil, fault.Newf(fault.Invalid, "secret %s: want from 1 to %d bytes", place, maxSecret)
	}
	return b, nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
