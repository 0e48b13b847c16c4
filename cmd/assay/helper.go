package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"assay/admission/imageverifier"
	"assay/client"
	"assay/identity"
	"assay/internal/fault"
	"assay/internal/strictjson"

	"github.com/spf13/cobra"
)

// helperName is what the binary is called when docker and its kin want
// credentials: docker-credential-assay, a link to assay.
const helperName = "docker-credential-assay"

// helperArgs turns a call by that name, or by that of containerd's image verifier,
// into the command.
func helperArgs(argv []string) []string {
	name := strings.TrimSuffix(filepath.Base(argv[0]), ".exe")
	if name == imageverifier.Name {
		return append([]string{"image-verifier", "verify"}, argv[1:]...)
	}
	if name != helperName {
		return argv[1:]
	}
	return append([]string{"credential-helper"}, argv[1:]...)
}

func (a *app) helperCommand() *cobra.Command {
	long := `Give credentials to docker, podman, crane, oras, skopeo and cosign, in the
protocol of docker's credential helpers. Make the link docker-credential-assay
to this binary on your PATH, and name it in ~/.docker/config.json:

  {"credHelpers": {"assay.example": "assay"}}

"get" answers for a server with, in this order: the token of
ASSAY_REGISTRY_TOKEN, if ASSAY_SERVER names that server; what assay login or
docker login obtained for it; a token of the local server, if ASSAY_DATA is its
data folder; and in GitHub Actions the job's own, if ASSAY_SERVER names that
server. Credentials of one server are never given for another.`
	cmd := group("credential-helper", "Credentials for docker, crane, oras, skopeo, cosign and the kubelet",
		a.helperVerb("get", "Give the credentials for the server on standard input", "  echo assay.example | assay credential-helper get", a.helperGet),
		a.helperVerb("store", "Keep the credentials on standard input", `  echo '{"ServerURL": "assay.example", "Username": "robot", "Secret": "assay_robot_…"}' | assay credential-helper store`, a.helperStore),
		a.helperVerb("erase", "Forget the credentials for the server on standard input", "  echo assay.example | assay credential-helper erase", a.helperErase),
		a.helperVerb("list", "List the servers that credentials are kept for", "  assay credential-helper list", a.helperList),
		a.helperVerb("kubelet", "Answer the kubelet's credential provider request on standard input", "  assay credential-helper kubelet < request.json", a.helperKubelet))
	cmd.Long = long
	cmd.Aliases = []string{"docker-credential"}
	return cmd
}

func (a *app) helperVerb(verb, short, example string, run func(ctx context.Context, in []byte) error) *cobra.Command {
	return &cobra.Command{
		Use: verb, Short: short, Example: example, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var in []byte
			if verb != "list" {
				b, err := io.ReadAll(io.LimitReader(a.stdin, 1<<20+1))
				if err != nil {
					return err
				}
				if len(b) > 1<<20 {
					return usagef("more than 1 MiB on standard input")
				}
				in = b
			}
			err := run(cmd.Context(), in)
			var silent *exitError
			if err != nil && !errors.As(err, &silent) && verb != "kubelet" {
				// Clients show what stands on standard output (docker-credential-helpers,
				// client/client.go).
				fmt.Fprintln(a.stdout, line(err.Error()))
			}
			return err
		},
	}
}

// helperCredentials is the protocol's one document.
type helperCredentials struct {
	ServerURL string `json:"ServerURL"`
	Username  string `json:"Username"`
	Secret    string `json:"Secret"`
}

// errNoCredentials is the text by which clients know that there are none and go
// on without (docker-credential-helpers, credentials/error.go).
const errNoCredentials = "credentials not found in native keychain"

func (a *app) noCredentials() error {
	fmt.Fprintln(a.stdout, errNoCredentials)
	return &exitError{1}
}

func (a *app) helperGet(ctx context.Context, in []byte) error {
	asked := strings.TrimSpace(string(in))
	host, ok := registryHost(asked)
	if !ok {
		return usagef("server %q: want HOST[:PORT] or https://HOST[:PORT] on standard input", clean(asked))
	}
	user, token, err := a.registryCredentials(ctx, host)
	if err != nil {
		return err
	}
	if token == "" {
		return a.noCredentials()
	}
	return json.NewEncoder(a.stdout).Encode(helperCredentials{asked, user, token})
}

// registryCredentials finds a token of audience assay-registry for one host.
func (a *app) registryCredentials(ctx context.Context, host string) (user, token string, err error) {
	const audience = string(identity.AudienceRegistry)
	named, isNamed := registryHost(a.server)
	isNamed = isNamed && a.server != "" && named == host
	if t := os.Getenv("ASSAY_REGISTRY_TOKEN"); t != "" && isNamed {
		return helperUser, t, nil
	}
	if user, token, err = savedToken(ctx, a, host, audience); err != nil || token != "" {
		if user == "" {
			user = helperUser
		}
		return user, token, err
	}
	if a.data != "" {
		if token, err := a.localToken(ctx, host); err != nil || token != "" {
			return helperUser, token, err
		}
	}
	if isNamed {
		token, err := githubToken(ctx, audience)
		return helperUser, token, err
	}
	return "", "", nil
}

// helperUser is the user name of those who log in by a token; the registry does
// not look at it.
const helperUser = "token"

// localToken asks the admin socket, if the server behind it is the one that is
// asked for.
func (a *app) localToken(ctx context.Context, host string) (string, error) {
	admin := client.Socket(filepath.Join(a.data, "run", "admin.sock"))
	st, err := admin.Status(ctx)
	if err != nil {
		return "", nil //nolint:nilerr // it is not up: there is nothing to be had from it
	}
	if strings.ToLower(st.Services.Registry) != host {
		return "", nil
	}
	s := &session{app: a, admin: admin, base: st.PublicURL, status: st}
	return s.mint(ctx, string(identity.AudienceRegistry))
}

func (a *app) helperStore(_ context.Context, in []byte) error {
	var c helperCredentials
	if err := strictjson.Unmarshal(in, &c); err != nil {
		return usagef("want ServerURL, Username and Secret as JSON: %w", err)
	}
	host, ok := registryHost(c.ServerURL)
	if !ok || c.Secret == "" || len(c.Secret) > maxToken || len(c.Username) > 256 {
		return usagef("want a ServerURL HOST[:PORT] and a Secret of at most %d bytes", maxToken)
	}
	return changeLogins(func(l savedLogins) {
		l.set(host, string(identity.AudienceRegistry), savedLogin{User: c.Username, Token: c.Secret, Expires: endOf(c.Secret)})
	})
}

// endOf reads when a JWT ends, for what is shown and renewed; zero for others.
func endOf(token string) time.Time {
	end, err := jwtEnd(token)
	if err != nil {
		return time.Time{}
	}
	return end
}

func (a *app) helperErase(_ context.Context, in []byte) error {
	host, ok := registryHost(string(in))
	if !ok {
		return usagef("want HOST[:PORT] on standard input")
	}
	return changeLogins(func(l savedLogins) {
		delete(l[host], string(identity.AudienceRegistry))
		if len(l[host]) == 0 {
			delete(l, host)
		}
	})
}

func (a *app) helperList(context.Context, []byte) error {
	l, err := readLogins()
	if err != nil {
		return err
	}
	out := map[string]string{}
	for _, host := range l.hosts(string(identity.AudienceRegistry)) {
		user := l[host][string(identity.AudienceRegistry)].User
		if user == "" {
			user = helperUser
		}
		out[host] = user
	}
	return json.NewEncoder(a.stdout).Encode(out)
}

// kubeletRequest is CredentialProviderRequest of credentialprovider.kubelet.k8s.io/v1
// with the service account's token (KEP-4412), which the kubelet gives when the
// provider's configuration asks for audience assay-registry.
type kubeletRequest struct {
	APIVersion  string            `json:"apiVersion"`
	Kind        string            `json:"kind"`
	Image       string            `json:"image"`
	Token       string            `json:"serviceAccountToken"`
	Annotations map[string]string `json:"serviceAccountAnnotations"`
}

const kubeletVersion = "credentialprovider.kubelet.k8s.io/v1"

func (a *app) helperKubelet(ctx context.Context, in []byte) error {
	var q kubeletRequest
	if err := strictjson.Unmarshal(in, &q); err != nil {
		return usagef("want a CredentialProviderRequest: %w", err)
	}
	if q.APIVersion != kubeletVersion || q.Kind != "CredentialProviderRequest" {
		return usagef("want apiVersion %s and kind CredentialProviderRequest, found %q and %q", kubeletVersion, clean(q.APIVersion), clean(q.Kind))
	}
	first, _, _ := strings.Cut(q.Image, "/")
	host, ok := registryHost(first)
	if !ok {
		return usagef("image %q names no registry", clean(q.Image))
	}
	token := q.Token
	if token == "" {
		var err error
		if _, token, err = a.registryCredentials(ctx, host); err != nil {
			return err
		}
	}
	auth := map[string]any{}
	if token != "" {
		auth[host] = map[string]string{"username": helperUser, "password": token}
	}
	// A pod's token is for its service account: it is cached for no other image,
	// and ends with the pod's.
	keep := "0s"
	if end := endOf(token); q.Token != "" && time.Until(end) > 2*time.Minute {
		keep = min(time.Until(end)-time.Minute, 10*time.Minute).Round(time.Second).String()
	}
	return json.NewEncoder(a.stdout).Encode(map[string]any{
		"apiVersion": kubeletVersion, "kind": "CredentialProviderResponse", "cacheKeyType": "Registry", "cacheDuration": keep, "auth": auth,
	})
}

// jwtEnd reads the exp claim of a JWT that is this user's own; the server checks
// the rest.
func jwtEnd(token string) (time.Time, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, fault.Newf(fault.Invalid, "no JWT")
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}, err
	}
	var claims struct {
		Expires float64 `json:"exp"`
	}
	if err := json.Unmarshal(b, &claims); err != nil {
		return time.Time{}, err
	}
	if claims.Expires <= 0 || claims.Expires > 1<<40 {
		return time.Time{}, fault.Newf(fault.Invalid, "no exp claim")
	}
	return time.Unix(int64(claims.Expires), 0), nil
}
