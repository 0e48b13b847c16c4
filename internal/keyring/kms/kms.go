// Package kms signs with keys of a key management service, by the executables
// that sigstore's clients use for it: sigstore-kms-NAME on PATH, called once for
// each operation (sigstore/sigstore, pkg/signature/kms/cliplugin, protocol v1).
// So no cloud's SDK is linked into this binary, and plugins of others work.
package kms

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"assay/internal/fault"

	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/common"
)

const (
	prefix = "sigstore-kms-"

	// callTimeout ends a plugin that hangs.
	callTimeout = 30 * time.Second
	// maxAnswer caps what a plugin may write to stdout, in bytes.
	maxAnswer = 1 << 20
	// maxNoise is how much of its stderr is kept, in bytes.
	maxNoise = 4 << 10
	// maxCalls is how many processes one key may have at once.
	maxCalls = 8
)

// uriForm is NAME://REFERENCE, where NAME may be written plugin+NAME.
var uriForm = regexp.MustCompile(`^(?:plugin\+)?([a-z][a-z0-9-]{0,40})://(.+)$`)

// IsURI says whether text has the form of a KMS key's URI.
func IsURI(text string) bool {
	m := uriForm.FindStringSubmatch(text)
	return m != nil && m[1] != "http" && m[1] != "https" && m[1] != "file"
}

// Check says what is wrong with a URI, without calling anything.
func Check(uri string) error {
	if !IsURI(uri) || len(uri) > 2048 {
		return fault.Newf(fault.Invalid, "KMS key: want NAME://REFERENCE, for example awskms:///alias/log")
	}
	return nil
}

// Key is a private key of a KMS. It implements [crypto.Signer]; any number of
// goroutines may use it.
type Key struct {
	uri, plugin string // plugin is the executable's path
	ref         string
	pub         crypto.PublicKey
	calls       chan struct{}
	timeout     time.Duration
}

// find looks the plugin of a URI up.
func find(uri string) (*Key, error) {
	if err := Check(uri); err != nil {
		return nil, err
	}
	m := uriForm.FindStringSubmatch(uri)
	path, err := exec.LookPath(prefix + m[1])
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "key %s needs the executable %s%s, and PATH has none: build it with make plugins and put it there, or install the vendor's (nothing is downloaded); see docs/keys.md", uri, prefix, m[1])
	}
	return &Key{uri: uri, plugin: path, ref: m[2], calls: make(chan struct{}, maxCalls), timeout: callTimeout}, nil
}

// Open asks the KMS for the public key of uri. Errors are [fault.Invalid] for
// what will not become better, else [fault.Unavailable].
func Open(ctx context.Context, uri string) (*Key, error) {
	k, err := find(uri)
	if err != nil {
		return nil, err
	}
	r, err := k.call(ctx, nil, &common.MethodArgs{
		MethodName: common.PublicKeyMethodName, PublicKey: &common.PublicKeyArgs{PublicKeyOptions: &common.PublicKeyOptions{}},
	})
	if err != nil {
		return nil, err
	}
	if r.PublicKey == nil {
		return nil, fault.Newf(fault.Unavailable, "key %s: the plugin's answer has no public key", uri)
	}
	k.pub, err = k.public(r.PublicKey.PublicKeyPEM)
	return k, err
}

// Create makes a key at uri, of an algorithm as the plugin calls it; "" is the
// plugin's default. Some services answer with the key that is there already.
func Create(ctx context.Context, uri, algorithm string) (*Key, error) {
	k, err := find(uri)
	if err != nil {
		return nil, err
	}
	if algorithm == "" {
		r, err := k.call(ctx, nil, &common.MethodArgs{MethodName: common.DefaultAlgorithmMethodName, DefaultAlgorithm: &common.DefaultAlgorithmArgs{}})
		if err != nil {
			return nil, err
		}
		if r.DefaultAlgorithm == nil {
			return nil, fault.Newf(fault.Unavailable, "key %s: the plugin's answer has no algorithm", uri)
		}
		algorithm = r.DefaultAlgorithm.DefaultAlgorithm
	}
	r, err := k.call(ctx, nil, &common.MethodArgs{MethodName: common.CreateKeyMethodName, CreateKey: &common.CreateKeyArgs{Algorithm: algorithm}})
	if err != nil {
		return nil, err
	}
	if r.CreateKey == nil {
		return nil, fault.Newf(fault.Unavailable, "key %s: the plugin's answer has no public key", uri)
	}
	k.pub, err = k.public(r.CreateKey.PublicKeyPEM)
	return k, err
}

// Algorithms lists what the plugin of uri can make.
func Algorithms(ctx context.Context, uri string) ([]string, error) {
	k, err := find(uri)
	if err != nil {
		return nil, err
	}
	r, err := k.call(ctx, nil, &common.MethodArgs{MethodName: common.SupportedAlgorithmsMethodName, SupportedAlgorithms: &common.SupportedAlgorithmsArgs{}})
	if err != nil {
		return nil, err
	}
	if r.SupportedAlgorithms == nil {
		return nil, fault.Newf(fault.Unavailable, "key %s: the plugin's answer has no algorithms", uri)
	}
	return r.SupportedAlgorithms.SupportedAlgorithms, nil
}

func (k *Key) public(text []byte) (crypto.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, fault.Newf(fault.Unavailable, "key %s: the plugin's public key is no PEM block of type \"PUBLIC KEY\"", k.uri)
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fault.Newf(fault.Unavailable, "key %s: public key: %w", k.uri, err)
	}
	return pub, nil
}

// Public implements [crypto.Signer].
func (k *Key) Public() crypto.PublicKey { return k.pub }

// Sign implements [crypto.Signer]; rand is not used, since the KMS has its own.
// Each signature is verified, so that a key which was exchanged behind its name
// shows at once. RSA signatures are PKCS #1 v1.5.
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if _, pss := opts.(*rsa.PSSOptions); pss {
		return nil, fault.Newf(fault.Invalid, "key %s: RSA-PSS is not part of the plugins' protocol", k.uri)
	}
	hash := opts.HashFunc()
	if hash == 0 || len(digest) != hash.Size() {
		return nil, fault.Newf(fault.Invalid, "key %s: want a digest of %v, found %d bytes", k.uri, hash, len(digest))
	}
	r, err := k.call(context.Background(), nil, &common.MethodArgs{
		MethodName: common.SignMessageMethodName,
		SignMessage: &common.SignMessageArgs{SignOptions: &common.SignOptions{
			MessageOptions: common.MessageOptions{Digest: &digest, HashFunc: &hash},
		}},
	})
	if err != nil {
		return nil, err
	}
	if r.SignMessage == nil || len(r.SignMessage.Signature) == 0 {
		return nil, fault.Newf(fault.Unavailable, "key %s: the plugin's answer has no signature", k.uri)
	}
	if !valid(k.pub, hash, digest, r.SignMessage.Signature) {
		return nil, fault.Newf(fault.Unverified, "key %s: the signature that came back is not by this key in the form that is wanted (ECDSA in ASN.1, RSA in PKCS #1 v1.5): was the key behind that name exchanged?", k.uri)
	}
	return r.SignMessage.Signature, nil
}

func valid(pub crypto.PublicKey, hash crypto.Hash, digest, sig []byte) bool {
	switch p := pub.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(p, digest, sig)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(p, hash, digest, sig) == nil
	case ed25519.PublicKey:
		return ed25519.VerifyWithOptions(p, digest, sig, &ed25519.Options{Hash: hash}) == nil
	}
	return false
}

// call runs the plugin once: argument 1 the protocol's version, argument 2 the
// call as JSON, the answer as JSON on stdout. Its exit status means nothing.
func (k *Key) call(ctx context.Context, stdin io.Reader, args *common.MethodArgs) (*common.PluginResp, error) {
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	select {
	case k.calls <- struct{}{}:
		defer func() { <-k.calls }()
	case <-ctx.Done():
		return nil, fault.Newf(fault.Unavailable, "key %s: %d calls of its plugin are under way and none ended in time", k.uri, maxCalls)
	}
	deadline, _ := ctx.Deadline()
	text, err := json.Marshal(common.PluginArgs{
		InitOptions: &common.InitOptions{
			CtxDeadline: &deadline, ProtocolVersion: common.ProtocolVersion, KeyResourceID: k.ref,
			HashFunc: crypto.SHA256, RPCOptions: &common.RPCOptions{},
		},
		MethodArgs: args,
	})
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, k.plugin, common.ProtocolVersion, string(text))
	out, noise := &capped{limit: maxAnswer, full: cancel}, &capped{limit: maxNoise}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, out, noise
	// Children that a plugin leaves behind hold its pipes open.
	cmd.WaitDelay = 2 * time.Second
	runErr := cmd.Run()
	var exit *exec.ExitError
	switch {
	case out.over:
		return nil, fault.Newf(fault.Unavailable, "key %s: the plugin %s wrote more than %d bytes", k.uri, k.plugin, maxAnswer)
	case ctx.Err() != nil:
		return nil, fault.Newf(fault.Unavailable, "key %s: the plugin %s did not answer within %s", k.uri, k.plugin, k.timeout)
	case runErr != nil && !errors.As(runErr, &exit):
		return nil, fault.Newf(fault.Unavailable, "key %s: run %s: %w", k.uri, k.plugin, runErr)
	}
	var resp common.PluginResp
	if err := json.Unmarshal(out.b.Bytes(), &resp); err != nil {
		return nil, fault.Newf(fault.Unavailable, "key %s: the plugin %s answered no JSON of protocol %s (%s)", k.uri, k.plugin, common.ProtocolVersion, said(noise.b.String()))
	}
	if resp.ErrorMessage != "" {
		return nil, fault.Newf(fault.Unavailable, "key %s: %s", k.uri, said(resp.ErrorMessage))
	}
	return &resp, nil
}

// capped keeps the first bytes that are written to it. The buffer is no embedded
// one, whose ReadFrom would go past the cap.
type capped struct {
	b     bytes.Buffer
	limit int
	over  bool
	full  func()
}

func (c *capped) Write(p []byte) (int, error) {
	if room := c.limit - c.b.Len(); len(p) > room {
		c.over = true
		if c.full != nil {
			c.full()
		}
		_, _ = c.b.Write(p[:room])
		return len(p), nil
	}
	return c.b.Write(p)
}

// secretName is what variables with secrets are called: VAULT_TOKEN,
// AWS_SECRET_ACCESS_KEY, AZURE_CLIENT_SECRET and so on.
var secretName = regexp.MustCompile(`(?i)(TOKEN|SECRET|PASS|CREDENTIAL|PRIVATE|PIN|AUTH|ACCESS_KEY)`)

// said is what a plugin said, in one line of bounded length, without the
// values of variables that hold secrets.
func said(text string) string {
	for _, kv := range os.Environ() {
		name, value, _ := strings.Cut(kv, "=")
		if len(value) >= 4 && secretName.MatchString(name) {
			text = strings.ReplaceAll(text, value, "xxxxx")
		}
	}
	text = strings.Join(strings.Fields(text), " ")
	if text == "" {
		return "it said nothing"
	}
	if len(text) > 500 {
		text = text[:500] + "…"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
