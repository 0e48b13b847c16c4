package config

import (
	"net/url"
	"strings"

	"assay/internal/fault"
)

// Replica is another registry with the same repositories, to repair damaged
// blobs from.
type Replica struct {
	// URL is https://HOST or https://HOST/PREFIX: repository team/app is
	// HOST/PREFIX/team/app there. http is for private networks.
	URL string `yaml:"url"`
	// Credentials is where a name and password for the replica's host are kept,
	// as "username:password" or as a docker config.json: "file:PATH" or
	// "credential:NAME". Default: none are sent.
	Credentials string `yaml:"credentials"`
	// CABundle is a PEM file of authorities for the replica's TLS.
	CABundle string `yaml:"ca_bundle"`
	// AllowPrivate permits a replica on a private network.
	AllowPrivate bool `yaml:"allow_private"`
}

func (r Replica) validate() error {
	u, err := url.Parse(r.URL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return fault.Newf(fault.Invalid, "registry.replicas: url %.200q: want https://HOST or https://HOST/PREFIX", r.URL)
	}
	if u.Scheme == "http" && !r.AllowPrivate {
		return fault.Newf(fault.Invalid, "registry.replicas: url %.200q: http is for private networks, with allow_private; want https", r.URL)
	}
	if c := r.Credentials; c != "" && !strings.HasPrefix(c, "file:") && !strings.HasPrefix(c, "credential:") {
		return fault.Newf(fault.Invalid, "registry.replicas: credentials: want file:PATH or credential:NAME, never the password itself")
	}
	return nil
}

func (r *Registry) validate() error {
	if r.MaxUploads < 0 || r.MaxManifest < 0 {
		return fault.Newf(fault.Invalid, "registry.max_uploads %d, registry.max_manifest %d: want 0 (the default) or more", r.MaxUploads, r.MaxManifest)
	}
	for _, p := range r.Replicas {
		if err := p.validate(); err != nil {
			return err
		}
	}
	if err := r.GC.validate(); err != nil {
		return err
	}
	return r.Scrub.validate()
}
