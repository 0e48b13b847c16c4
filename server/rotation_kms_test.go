package server

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"assay/authority/rotation"
	"assay/client"
	"assay/config"
	"assay/internal/fault"

	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/common"
	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/handler"
)

const pluginName = "sigstore-kms-vault"

// TestMain lets this binary be a KMS too: a process of its own behind the real
// protocol, whose keys are files that nothing else reads.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == pluginName {
		os.Exit(kmsPlugin())
	}
	os.Exit(m.Run())
}

func kmsPlugin() int {
	args, err := handler.GetPluginArgs(os.Args)
	if err != nil {
		return 3
	}
	resp, err := kmsAnswer(args)
	if err != nil {
		_ = handler.WriteErrorResponse(os.Stdout, err)
		return 1
	}
	if json.NewEncoder(os.Stdout).Encode(resp) != nil {
		return 4
	}
	return 0
}

func kmsAnswer(args *common.PluginArgs) (resp common.PluginResp, err error) {
	path := filepath.Join(os.Getenv("TEST_KMS"), args.InitOptions.KeyResourceID)
	switch args.MethodName {
	case common.SupportedAlgorithmsMethodName:
		resp.SupportedAlgorithms = &common.SupportedAlgorithmsResp{SupportedAlgorithms: []string{"ed25519", "ecdsa-p384", "ecdsa-p256", "rsa-2048"}}
		return resp, nil
	case common.CreateKeyMethodName:
		var key any
		switch args.CreateKey.Algorithm {
		case "ecdsa-p256":
			key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		case "rsa-2048":
			key, err = rsa.GenerateKey(rand.Reader, 2048)
		default:
			err = fmt.Errorf("algorithm %s", args.CreateKey.Algorithm)
		}
		if err != nil {
			return resp, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return resp, err
		}
		if err := os.WriteFile(path, der, 0o600); err != nil {
			return resp, err
		}
	}
	der, err := os.ReadFile(path)
	if err != nil {
		return resp, errors.New("404 no such key")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return resp, err
	}
	key := parsed.(crypto.Signer)
	pub, err := x509.MarshalPKIXPublicKey(key.Public())
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pub})
	switch args.MethodName {
	case common.CreateKeyMethodName:
		resp.CreateKey = &common.CreateKeyResp{PublicKeyPEM: text}
	case common.PublicKeyMethodName:
		resp.PublicKey = &common.PublicKeyResp{PublicKeyPEM: text}
	case common.SignMessageMethodName:
		o := args.SignMessage.SignOptions.MessageOptions
		sig, serr := key.Sign(rand.Reader, *o.Digest, *o.HashFunc)
		resp.SignMessage, err = &common.SignMessageResp{Signature: sig}, errors.Join(err, serr)
	default:
		err = fmt.Errorf("method %s", args.MethodName)
	}
	return resp, err
}

// Keys of a file are followed by keys of a KMS, made by its API, and these by the
// next ones there, by the place of the configuration; no key leaves the KMS for a
// file in silence, and the site starts again with them.
func TestRotationThroughKMS(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("links to executables")
	}
	dir, vault := t.TempDir(), t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(dir, pluginName)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	t.Setenv("TEST_KMS", vault)
	places := map[string]config.RoleRotation{}
	for _, r := range []rotation.Role{rotation.TSA, rotation.OIDC} {
		places[string(r)] = config.RoleRotation{Place: "plugin+vault://" + string(r) + "-{n}"}
	}
	clk := daysAgo(3)
	s := newSiteAt(t, clk.now, func(c *config.Config) { c.Keys.Rotation.Roles = places })
	ctx := t.Context()
	first, err := s.firstRoot()
	if err != nil {
		t.Fatal(err)
	}
	all := []signed{}
	sign := func(content string) {
		t.Helper()
		b, err := s.signs(ctx, content)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	sign("files")
	clk.pass(time.Hour)
	for role, place := range map[rotation.Role]string{rotation.TSA: "", rotation.OIDC: "", rotation.Log: "plugin+vault://log-2", rotation.CA: "plugin+vault://ca-2"} {
		k := s.rotates(role, client.RotateKeyRequest{Now: true, Place: place})
		if !strings.HasPrefix(k.Where, "plugin+vault://") || k.State != "active" {
			t.Errorf("%s: %+v", role, k)
		}
	}
	sign("KMS")
	if _, err := s.admin.RotateKey(ctx, "log", client.RotateKeyRequest{Now: true}); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "keys.rotation.roles.log.place") {
		t.Errorf("out of the KMS, without a word: %v", err)
	}
	s.rotates(rotation.TSA, client.RotateKeyRequest{Now: true})
	for _, name := range []string{"tsa-2", "tsa-3", "oidc-2", "log-2", "ca-2"} {
		if _, err := os.Stat(filepath.Join(vault, name)); err != nil {
			t.Errorf("the KMS made no key: %v", err)
		}
	}
	for _, name := range []string{"log.2.pem", "ca.2.pem", "tsa.2.pem", "oidc.2.pem"} {
		if _, err := os.Stat(s.data.join("keys", name)); err == nil {
			t.Errorf("%s lies in the key folder as well", name)
		}
	}
	clk.pass(26 * time.Hour)
	s.settle()
	s.restart()
	sign("after a restart")
	root, err := s.updates(context.WithoutCancel(ctx), first, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range all {
		if err := b.under(ctx, root, clk.now); err != nil {
			t.Errorf("bundle %d: %v", i, err)
		}
	}
	if _, err := s.admin.RotateKey(ctx, "ct", client.RotateKeyRequest{Now: true, Place: "nothing://x"}); err == nil {
		t.Error("a place of no plugin was taken")
	}
}
