//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// awsStandIn answers the five operations of AWS KMS that sigstore's provider
// calls (AWS JSON 1.1), for one P-256 key under one alias. It stands in for a
// service that nobody can run here: it shows that the executable, its URI and
// its credentials work end to end, and nothing about AWS.
func awsStandIn(t *testing.T, alias string) (server *httptest.Server, signed *atomic.Int32) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	var made atomic.Bool
	signed = &atomic.Int32{}
	const algorithm = "ECDSA_SHA_256"
	metadata := map[string]any{"KeyId": "1234", "KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY", "SigningAlgorithms": []string{algorithm}}
	server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := func(status int, v any) {
			w.Header().Set("Content-Type", "application/x-amz-json-1.1")
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(v)
		}
		var q struct {
			KeyID                 string `json:"KeyId"`
			MessageType           string
			SigningAlgorithm      string
			CustomerMasterKeySpec string
			AliasName             string
			Message               []byte
		}
		if !strings.Contains(r.Header.Get("Authorization"), "Credential=AKIDEXAMPLE/") {
			answer(400, map[string]string{"__type": "UnrecognizedClientException", "message": "The security token included in the request is invalid."})
			return
		}
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			answer(400, map[string]string{"__type": "SerializationException"})
			return
		}
		_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
		known := made.Load() && q.KeyID == alias
		switch {
		case operation == "CreateKey" && q.CustomerMasterKeySpec == "ECC_NIST_P256":
			answer(200, map[string]any{"KeyMetadata": metadata})
		case operation == "CreateAlias" && q.AliasName == alias:
			made.Store(true)
			answer(200, map[string]any{})
		case !known:
			answer(400, map[string]string{"__type": "NotFoundException", "message": "Alias is not found."})
		case operation == "DescribeKey":
			answer(200, map[string]any{"KeyMetadata": metadata})
		case operation == "GetPublicKey":
			answer(200, map[string]any{"KeyId": "1234", "PublicKey": der, "SigningAlgorithms": []string{algorithm}})
		case operation == "Sign" && q.MessageType == "DIGEST" && q.SigningAlgorithm == algorithm && len(q.Message) == 32:
			sig, err := ecdsa.SignASN1(rand.Reader, key, q.Message)
			if err != nil {
				t.Error(err)
			}
			signed.Add(1)
			answer(200, map[string]any{"KeyId": "1234", "Signature": sig, "SigningAlgorithm": algorithm})
		default:
			answer(400, map[string]string{"__type": "ValidationException", "message": operation})
		}
	}))
	t.Cleanup(server.Close)
	return server, signed
}

func TestKeysAWSPlugin(t *testing.T) {
	server, signed := awsStandIn(t, "alias/release")
	dir := t.TempDir()
	ca, blob, bundle := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "blob"), filepath.Join(dir, "b.json")
	for path, b := range map[string][]byte{
		ca: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), blob: []byte("hello"),
	} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const secret = "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY"
	env := cleanEnv("HOME="+dir, "AWS_CA_BUNDLE="+ca, "AWS_REGION=eu-central-1", "AWS_ACCESS_KEY_ID=AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY="+secret, "AWS_EC2_METADATA_DISABLED=true")
	uri := "awskms://" + strings.TrimPrefix(server.URL, "https://") + "/alias/release"
	refused(t, []string{"Alias is not found"}, env, assayBin(t), "sign", "--key", uri, "--upload=false", "--bundle", bundle, blob)
	must(t, env, assayBin(t), "keys", "generate", "--kms", uri, "--algorithm", "ECC_NIST_P256", "--out", filepath.Join(dir, "release"))
	must(t, env, assayBin(t), "sign", "--key", uri, "--upload=false", "--bundle", bundle, blob)
	must(t, env, "cosign", "verify-blob", "--key", filepath.Join(dir, "release.pub"), "--insecure-ignore-tlog=true", "--bundle", bundle, blob)
	if signed.Load() != 1 {
		t.Errorf("the service signed %d times, want once", signed.Load())
	}
	wrong := cleanEnv("HOME="+dir, "AWS_CA_BUNDLE="+ca, "AWS_REGION=eu-central-1", "AWS_ACCESS_KEY_ID=AKIDOTHER", "AWS_SECRET_ACCESS_KEY="+secret, "AWS_EC2_METADATA_DISABLED=true")
	r := run(t, wrong, assayBin(t), "sign", "--key", uri, "--upload=false", "--bundle", bundle, blob)
	if r.code == 0 || !strings.Contains(r.stderr, "security token") || strings.Contains(r.stdout+r.stderr, secret) {
		t.Errorf("other credentials: %d\n%s%s", r.code, r.stdout, r.stderr)
	}
}
