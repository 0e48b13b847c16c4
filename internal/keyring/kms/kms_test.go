package kms

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/internal/fault"

	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/common"
	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/handler"
)

// TestMain lets this binary be a plugin too: a real process behind the real
// protocol, called by a link named sigstore-kms-test.
func TestMain(m *testing.M) {
	if strings.HasPrefix(filepath.Base(os.Args[0]), prefix) {
		os.Exit(plugin())
	}
	os.Exit(m.Run())
}

// plugin signs with the key file that the reference names, or misbehaves as it
// says: BEHAVIOUR or BEHAVIOUR@KEYFILE.
func plugin() int {
	args, err := handler.GetPluginArgs(os.Args)
	if err != nil || os.Args[1] != "v1" || args.InitOptions.ProtocolVersion != "v1" || args.InitOptions.CtxDeadline == nil {
		fmt.Fprintf(os.Stderr, "bad call: %v %q", err, os.Args)
		return 3
	}
	behaviour, file, _ := strings.Cut(args.InitOptions.KeyResourceID, "@")
	switch behaviour {
	case "hang":
		time.Sleep(time.Minute)
	case "huge":
		for range 64 {
			_, _ = os.Stdout.Write(make([]byte, 64<<10))
		}
		return 0
	case "garbage":
		fmt.Fprint(os.Stderr, "panic: token ", os.Getenv("TEST_VAULT_TOKEN"))
		fmt.Fprint(os.Stdout, "<html>")
		return 2
	case "silent":
		return 0
	case "empty":
		fmt.Fprint(os.Stdout, "{}")
		return 0
	case "refuse":
		_ = handler.WriteErrorResponse(os.Stdout, fmt.Errorf("403 for\ntoken %s", os.Getenv("TEST_VAULT_TOKEN")))
		return 1
	}
	b, err := os.ReadFile(file)
	if err != nil {
		_ = handler.WriteErrorResponse(os.Stdout, err)
		return 1
	}
	block, _ := pem.Decode(b)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return 4
	}
	return answer(args, behaviour, key.(crypto.Signer))
}

func answer(args *common.PluginArgs, behaviour string, key crypto.Signer) int {
	der, _ := x509.MarshalPKIXPublicKey(key.Public())
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	var resp common.PluginResp
	switch args.MethodName {
	case common.PublicKeyMethodName:
		resp.PublicKey = &common.PublicKeyResp{PublicKeyPEM: public}
	case common.DefaultAlgorithmMethodName:
		resp.DefaultAlgorithm = &common.DefaultAlgorithmResp{DefaultAlgorithm: "p256"}
	case common.SupportedAlgorithmsMethodName:
		resp.SupportedAlgorithms = &common.SupportedAlgorithmsResp{SupportedAlgorithms: []string{"p256"}}
	case common.CreateKeyMethodName:
		if args.CreateKey.Algorithm != "p256" {
			resp.ErrorMessage = "no such algorithm"
			break
		}
		resp.CreateKey = &common.CreateKeyResp{PublicKeyPEM: public}
	case common.SignMessageMethodName:
		o := args.SignMessage.SignOptions.MessageOptions
		if behaviour == "exchanged" {
			key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		}
		sig, err := key.Sign(rand.Reader, *o.Digest, *o.HashFunc)
		if err != nil {
			resp.ErrorMessage = err.Error()
			break
		}
		resp.SignMessage = &common.SignMessageResp{Signature: sig}
	}
	_ = json.NewEncoder(os.Stdout).Encode(resp)
	return 1 // the exit status means nothing
}

// install puts the plugin on PATH, and gives URIs of keys behind it.
func install(t *testing.T) (ec, rsaKey string) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("links to executables")
	}
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(dir, prefix+"test")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	t.Setenv("TEST_VAULT_TOKEN", "hvs.verysecret")
	write := func(name string, key any, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ec = write("ec", k, err)
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	return ec, write("rsa", r, err)
}

func TestSign(t *testing.T) {
	ec, rsaKey := install(t)
	for _, uri := range []string{"test://ok@" + ec, "plugin+test://ok@" + rsaKey} {
		k, err := Open(t.Context(), uri)
		if err != nil {
			t.Fatal(err)
		}
		for hash, sum := range map[crypto.Hash]func([]byte) []byte{
			crypto.SHA256: func(b []byte) []byte { s := sha256.Sum256(b); return s[:] },
			crypto.SHA512: func(b []byte) []byte { s := sha512.Sum512(b); return s[:] },
		} {
			digest := sum([]byte("hello"))
			sig, err := k.Sign(rand.Reader, digest, hash)
			if err != nil || !valid(k.Public(), hash, digest, sig) {
				t.Errorf("%s %v: %v", uri, hash, err)
			}
		}
		if _, err := k.Sign(rand.Reader, []byte("short"), crypto.SHA256); !errors.Is(err, fault.Invalid) {
			t.Errorf("5 bytes for a digest: %v", err)
		}
		if _, err := k.Sign(rand.Reader, make([]byte, 32), &rsa.PSSOptions{Hash: crypto.SHA256}); !errors.Is(err, fault.Invalid) {
			t.Errorf("PSS: %v", err)
		}
	}
	if k, err := Create(t.Context(), "test://ok@"+ec, ""); err != nil || k.Public() == nil {
		t.Errorf("create: %v", err)
	}
	if _, err := Create(t.Context(), "test://ok@"+ec, "rsa"); err == nil || !strings.Contains(err.Error(), "no such algorithm") {
		t.Errorf("create with an unknown algorithm: %v", err)
	}
	if a, err := Algorithms(t.Context(), "test://ok@"+ec); err != nil || len(a) != 1 {
		t.Errorf("algorithms %v, %v", a, err)
	}
}

// Many signatures at once are many processes, and never more than the cap.
func TestConcurrentSign(t *testing.T) {
	ec, _ := install(t)
	k, err := Open(t.Context(), "test://ok@"+ec)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 3 * maxCalls {
		wg.Go(func() {
			if _, err := k.Sign(rand.Reader, make([]byte, 32), crypto.SHA256); err != nil {
				t.Error(err)
			}
			if n := len(k.calls); n > maxCalls {
				t.Errorf("%d processes", n)
			}
		})
	}
	wg.Wait()
}

func TestMisbehavingPlugins(t *testing.T) {
	ec, _ := install(t)
	for uri, says := range map[string]string{
		"test://huge":                "wrote more than",
		"test://garbage":             "answered no JSON",
		"test://silent":              "it said nothing",
		"test://empty":               "no public key",
		"test://refuse":              "403 for token xxxxx",
		"test://ok@" + ec + "absent": "no such file",
	} {
		_, err := Open(t.Context(), uri)
		if !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want it unavailable, saying %q", uri, err, says)
		}
		if err != nil && (strings.Contains(err.Error(), "verysecret") || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: the error has a secret or a second line: %v", uri, err)
		}
	}
	k, err := find("test://hang")
	if err != nil {
		t.Fatal(err)
	}
	k.timeout = 200 * time.Millisecond
	if _, err := k.call(t.Context(), nil, &common.MethodArgs{MethodName: common.PublicKeyMethodName}); !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "did not answer within") {
		t.Errorf("a plugin that hangs: %v", err)
	}
}

// A key that was exchanged behind its name does not sign.
func TestThreat_Keys_ExchangedBehindItsName(t *testing.T) {
	ec, _ := install(t)
	k, err := Open(t.Context(), "test://exchanged@"+ec)
	if err != nil {
		t.Fatal(err)
	}
	if sig, err := k.Sign(rand.Reader, make([]byte, 32), crypto.SHA256); !errors.Is(err, fault.Unverified) || sig != nil {
		t.Errorf("signature %x, %v: want it refused", sig, err)
	}
}

func TestURIs(t *testing.T) {
	for uri, want := range map[string]bool{
		"awskms:///alias/x": true, "gcpkms://projects/p": true, "plugin+my-hsm://slot 3": true, "openbao://k": true,
		"": false, "key.pem": false, "file:/x": false, "file:///x": false, "https://a.example": false, "://x": false,
		"../../evil://x": false, "a/b://x": false, "AWSKMS://x": false, "awskms://": false, "C:\\key.pem": false,
		"pkcs11:token=x": false, "a://" + strings.Repeat("x", 3000): false,
	} {
		if got := Check(uri) == nil; got != want {
			t.Errorf("%.40q: %v, want %v", uri, got, want)
		}
	}
	t.Setenv("PATH", t.TempDir())
	_, err := Open(t.Context(), "awskms:///alias/x")
	if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "sigstore-kms-awskms") || !strings.Contains(err.Error(), "nothing is downloaded") {
		t.Errorf("no plugin: %v", err)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n"), "x\ny")
	f.Fuzz(func(t *testing.T, text []byte, message string) {
		k := &Key{uri: "test://x"}
		if pub, err := k.public(text); err == nil && pub == nil {
			t.Error("no key and no error")
		}
		if s := said(message); len(s) > 600 || strings.ContainsAny(s, "\n\r") {
			t.Errorf("%q", s)
		}
	})
}
