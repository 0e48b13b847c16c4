package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"

	"assay/internal/durable"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// dataFolder is the site's folder, locked by this process:
//
//	assay.db  the database, with the embedded store
//	journal/  records on their way into it
//	blobs/    content of the registry, by digest
//	log/ ct/  the transparency log and the certificate log: tiles
//	tuf/      the published TUF repository
//	keys/     private keys
//	ca/       certificates of the CA and the timestamp authority
//	run/      the admin socket
//	keys.json which keys there are, by public fingerprint
//	site.json what was fixed at the first start
type dataFolder struct {
	path string
	lock io.Closer
	site site
	held string // why the logs take no entries; "": they do
}

// site is what the first start fixes: the log's origin is signed into every
// checkpoint, so the host name cannot change after.
type site struct {
	Version int    `json:"version"`
	Host    string `json:"host"` // host name of the public URL, without port
	// Complete is set after the first start that opened everything: from then on
	// there is a database and a log, and their absence is a loss.
	Complete bool `json:"complete,omitempty"`
}

const siteVersion = 1

// openData opens or makes the folder. A second server on it is refused, as are
// modes that let others in and a public URL with another host name.
func openData(path, publicURL string) (*dataFolder, error) {
	u, err := url.Parse(publicURL)
	if err != nil || u.Hostname() == "" {
		return nil, fault.Newf(fault.Invalid, "public URL %q: want http(s)://HOST[:PORT]", publicURL)
	}
	if err := durable.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	if err := durable.CheckPrivate(path); err != nil {
		return nil, err
	}
	for _, sub := range []string{"keys", "ca", "run", "log", "ct", "tuf", "blobs"} {
		if err := durable.MkdirAll(filepath.Join(path, sub), 0o700); err != nil {
			return nil, err
		}
		if err := durable.CheckPrivate(filepath.Join(path, sub)); err != nil {
			return nil, err
		}
	}
	d := &dataFolder{path: path}
	if d.lock, err = durable.Lock(filepath.Join(path, "lock")); err != nil {
		return nil, err
	}
	if d.held, err = restored(path); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if err := d.fixSite(u.Hostname()); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *dataFolder) fixSite(host string) error {
	path := filepath.Join(d.path, "site.json")
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		d.site = site{Version: siteVersion, Host: host}
		b, err := json.Marshal(d.site)
		if err != nil {
			return err
		}
		return durable.WriteFile(path, append(b, '\n'), 0o600)
	}
	if err != nil {
		return err
	}
	if err := strictjson.Unmarshal(b, &d.site); err != nil {
		return fault.Newf(fault.Tampered, "%s: %w", path, err)
	}
	if d.site.Version > siteVersion {
		return fault.Newf(fault.Conflict, "%s was written by a newer Assay (version %d, this one knows %d): use that one", path, d.site.Version, siteVersion)
	}
	if d.site.Host != host {
		return fault.Newf(fault.Conflict, "this data folder belongs to host %s and the public URL now names %s: the name is signed into every checkpoint of the log and cannot change (a port can); set server.public_url back, or start with an empty folder", d.site.Host, host)
	}
	return nil
}

// complete notes that everything was opened.
func (d *dataFolder) complete() error {
	if d.site.Complete {
		return nil
	}
	d.site.Complete = true
	b, err := json.Marshal(d.site)
	if err != nil {
		return err
	}
	return durable.WriteFile(d.join("site.json"), append(b, '\n'), 0o600)
}

func (d *dataFolder) join(parts ...string) string {
	return filepath.Join(append([]string{d.path}, parts...)...)
}

// Close gives the folder free.
func (d *dataFolder) Close() error {
	if err := d.lock.Close(); err != nil {
		return fmt.Errorf("unlock data folder: %w", err)
	}
	return nil
}
