package server

import "assay/builder/buildlog"

// openBuildLogs makes what keeps the words of builds; legal holds keep them too.
func (s *Server) openBuildLogs() (err error) {
	s.buildLogs, err = buildlog.New(buildlog.Options{
		DB: s.db, Blobs: s.blobs, Max: s.cfg.BuildLogs.Max, Keep: s.cfg.BuildLogs.Keep, Held: s.legal.Held,
		Clock: s.clock, Logger: s.log, Registerer: s.reg,
	})
	return err
}
