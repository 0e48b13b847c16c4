package server

import (
	"os"

	"assay/api"
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
	s.vulnerabilities = api.Vulnerabilities{Feeds: feeds, Findings: finding.New(s.db, feeds), MaxAge: s.cfg.Vuln.MaxAge, Temp: temp}
	return nil
}
