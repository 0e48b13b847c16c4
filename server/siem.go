package server

import (
	"crypto/rand"
	"os"

	"assay/config"
	"assay/siem"
)

// openSIEM makes what tells other systems of everything.
func (s *Server) openSIEM() (err error) {
	hostname, _ := os.Hostname()
	s.siem, err = siem.New(siem.Options{
		DB: s.db, Events: s.events, Sinks: s.cfg.SIEM.Sinks, Secret: config.Secret, Hostname: hostname, Holder: rand.Text(),
		Product: siem.Product{Version: s.opts.Version, Site: s.public}, Logger: s.log, Registerer: s.reg,
	})
	return err
}
