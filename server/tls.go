package server

import (
	"crypto/tls"
	"log/slog"
	"os"
	"sync"
	"time"

	"assay/internal/fault"
)

// certificates keeps a listener's certificate as its files have it, so that a
// renewed one is served without a restart.
type certificates struct {
	cert, key string // PEM files
	log       *slog.Logger

	mu      sync.Mutex
	current *tls.Certificate
	changed time.Time // the later of the files' times
	looked  time.Time
}

// lookEvery bounds how often the files are looked at.
const lookEvery = 10 * time.Second

// newTLS is the configuration of a listener with this certificate. What is
// wrong with the files is [fault.Invalid].
func newTLS(cert, key string, log *slog.Logger) (*tls.Config, error) {
	c := &certificates{cert: cert, key: key, log: log}
	if err := c.load(); err != nil {
		return nil, fault.Newf(fault.Invalid, "server.tls (certificate %s, key %s): %w", cert, key, err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get}, nil
}

// load reads both files; what was there stays when they do not read or do not
// belong together, as in the middle of a renewal.
func (c *certificates) load() error {
	var changed time.Time
	for _, path := range []string{c.cert, c.key} {
		st, err := os.Stat(path)
		if err != nil {
			return err
		}
		if st.ModTime().After(changed) {
			changed = st.ModTime()
		}
	}
	if c.current != nil && changed.Equal(c.changed) {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return err
	}
	c.current, c.changed = &pair, changed
	return nil
}

func (c *certificates) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.looked) >= lookEvery {
		c.looked = now
		if err := c.load(); err != nil {
			c.log.Warn("the renewed certificate is not taken over, the old one stays", "error", err)
		}
	}
	return c.current, nil
}
