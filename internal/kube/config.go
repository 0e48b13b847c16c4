// Package kube speaks to Kubernetes API servers: by a kubeconfig or from within a
// Pod, in JSON, with lists in pages and watches that go on where they broke off.
//
// It is small on purpose: k8s.io/client-go with its informers is 522 packages
// besides the standard library.
package kube

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"assay/internal/fault"
)

// Client speaks to one API server as one identity. It is safe for concurrent use.
type Client struct {
	base  *url.URL
	http  *http.Client
	token func() (string, error) // nil: a client certificate, or nobody
}

// kubeconfig is what is read of one. What else stands in it is left alone.
type kubeconfig struct {
	Current  string `yaml:"current-context"`
	Contexts []struct {
		Name    string `yaml:"name"`
		Context struct {
			Cluster string `yaml:"cluster"`
			User    string `yaml:"user"`
		} `yaml:"context"`
	} `yaml:"contexts"`
	Clusters []struct {
		Name    string `yaml:"name"`
		Cluster struct {
			Server        string `yaml:"server"`
			CA            string `yaml:"certificate-authority"`
			CAData        string `yaml:"certificate-authority-data"`
			TLSServerName string `yaml:"tls-server-name"`
			Insecure      bool   `yaml:"insecure-skip-tls-verify"`
			ProxyURL      string `yaml:"proxy-url"`
		} `yaml:"cluster"`
	} `yaml:"clusters"`
	Users []struct {
		Name string `yaml:"name"`
		User user   `yaml:"user"`
	} `yaml:"users"`
}

type user struct {
	Cert      string    `yaml:"client-certificate"`
	CertData  string    `yaml:"client-certificate-data"`
	Key       string    `yaml:"client-key"`
	KeyData   string    `yaml:"client-key-data"`
	Token     string    `yaml:"token"`
	TokenFile string    `yaml:"tokenFile"`
	Username  string    `yaml:"username"`
	Exec      yaml.Node `yaml:"exec"`
	Provider  yaml.Node `yaml:"auth-provider"`
}

const maxConfig = 4 << 20

// FromFile makes a client of a context of a kubeconfig; "": the current one.
// Errors are fault.Invalid.
func FromFile(path, context string) (*Client, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "kubeconfig: %w", err)
	}
	if len(b) > maxConfig {
		return nil, fault.Newf(fault.Invalid, "kubeconfig %s: over %d bytes", path, maxConfig)
	}
	c, err := fromConfig(b, filepath.Dir(path), context)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "kubeconfig %s: %w", path, err)
	}
	return c, nil
}

func fromConfig(b []byte, dir, context string) (*Client, error) {
	var k kubeconfig
	if err := yaml.NewDecoder(bytes.NewReader(b)).Decode(&k); err != nil {
		return nil, fault.Newf(fault.Invalid, "%w", err)
	}
	if context == "" {
		context = k.Current
	}
	cluster, name := "", ""
	for _, c := range k.Contexts {
		if c.Name == context {
			cluster, name = c.Context.Cluster, c.Context.User
		}
	}
	if cluster == "" {
		return nil, fault.Newf(fault.Invalid, "there is no context %q in it", context)
	}
	file := func(path, data string) ([]byte, error) {
		if data != "" {
			return base64.StdEncoding.DecodeString(data)
		}
		if path == "" {
			return nil, nil
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		return os.ReadFile(path)
	}
	for _, c := range k.Clusters {
		if c.Name != cluster {
			continue
		}
		if c.Cluster.Insecure {
			return nil, fault.Newf(fault.Invalid, "cluster %s has insecure-skip-tls-verify: give its certificate-authority instead", cluster)
		}
		ca, err := file(c.Cluster.CA, c.Cluster.CAData)
		if err != nil {
			return nil, err
		}
		for _, u := range k.Users {
			if u.Name == name {
				return u.User.client(c.Cluster.Server, ca, c.Cluster.TLSServerName, c.Cluster.ProxyURL, file)
			}
		}
		return (&user{}).client(c.Cluster.Server, ca, c.Cluster.TLSServerName, c.Cluster.ProxyURL, file)
	}
	return nil, fault.Newf(fault.Invalid, "there is no cluster %q in it", cluster)
}

func (u *user) client(server string, ca []byte, serverName, proxy string, file func(path, data string) ([]byte, error)) (*Client, error) {
	if !u.Exec.IsZero() || !u.Provider.IsZero() || u.Username != "" {
		return nil, fault.Newf(fault.Invalid, "its user logs in by a program, a provider or a password; want a token, tokenFile or client certificate, as a service account has")
	}
	cert, err := file(u.Cert, u.CertData)
	if err != nil {
		return nil, err
	}
	key, err := file(u.Key, u.KeyData)
	if err != nil {
		return nil, err
	}
	o := Options{Server: server, CA: ca, ServerName: serverName, Proxy: proxy}
	if cert != nil {
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "client certificate: %w", err)
		}
		o.Certificate = &pair
	}
	switch {
	case u.TokenFile != "":
		o.Token = func() (string, error) { b, err := file(u.TokenFile, ""); return strings.TrimSpace(string(b)), err }
	case u.Token != "":
		o.Token = func() (string, error) { return u.Token, nil }
	}
	return New(o)
}

// InCluster makes a client of the Pod's own service account.
func InCluster() (*Client, error) {
	const dir = "/var/run/secrets/kubernetes.io/serviceaccount/"
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	ca, err := os.ReadFile(dir + "ca.crt")
	if host == "" || port == "" || err != nil {
		return nil, fault.Newf(fault.Invalid, "this is no Pod with a service account: give a kubeconfig")
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return New(Options{Server: "https://" + host + ":" + port, CA: ca, Token: func() (string, error) {
		b, err := os.ReadFile(dir + "token") // it is renewed while the Pod runs
		return strings.TrimSpace(string(b)), err
	}})
}

// Options of a [Client]. Server is required, and https.
type Options struct {
	Server      string
	CA          []byte // PEM; nil: the system's
	ServerName  string
	Proxy       string
	Certificate *tls.Certificate
	Token       func() (string, error)
}

// New makes a client. Errors are fault.Invalid.
func New(o Options) (*Client, error) {
	u, err := url.Parse(o.Server)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fault.Newf(fault.Invalid, "API server %.100q: want https://HOST[:PORT]", o.Server)
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: o.ServerName}
	if o.CA != nil {
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(o.CA) {
			return nil, fault.Newf(fault.Invalid, "the API server's authority is no certificate in PEM")
		}
	}
	if o.Certificate != nil {
		t.Certificates = []tls.Certificate{*o.Certificate}
	}
	proxy := http.ProxyFromEnvironment
	if o.Proxy != "" {
		p, err := url.Parse(o.Proxy)
		if err != nil {
			return nil, fault.Newf(fault.Invalid, "proxy-url: %w", err)
		}
		proxy = http.ProxyURL(p)
	}
	return &Client{base: u, token: o.Token, http: &http.Client{
		Transport: &http.Transport{Proxy: proxy, TLSClientConfig: t, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 90 * time.Second, MaxIdleConnsPerHost: 8},
		// Credentials go to the API server and nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Server is the API server's address.
func (c *Client) Server() string { return c.base.String() }
