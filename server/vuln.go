package server

import (
	"os"

	"assay/api"
	"assay/vuln/exploit"
	"assay/vuln/feed"
	"assay/vuln/finding"
)

// openVulnerabilities opens what is known of advisories, and makes room for
// archives on their way in.
func (s *Server) openVulnerabilities() error {
	feeds, err := feed.NewStore(s.db, feed.DefaultLimits(), s.log)
	if err != nil {
		return err
	}
	temp := s.data.join("tmp")
	if err := os.MkdirAll(temp, 0o700); err != nil {
		return err
	}
	exploits := exploit.NewStore(s.db)
	s.vulnerabilities = api.Vulnerabilities{Feeds: feeds, Exploits: exploits, Findings: finding.New(s.db, feeds, exploits), MaxAge: s.cfg.Vuln.MaxAge, Temp: temp}
	return nil
}
