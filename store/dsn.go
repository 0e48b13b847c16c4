package store

import (
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"assay/internal/fault"
)

// target is a parsed data source name.
type target struct {
	dialect Dialect
	path    string          // SQLite: the file
	pg      *pgx.ConnConfig // PostgreSQL
}

// pgParams are the parameters that a PostgreSQL URL may carry: where, who, how
// secured. Everything else about the session is this package's business.
var pgParams = []string{
	"host", "port", "user", "dbname", "passfile", "sslmode", "sslrootcert", "sslcert", "sslkey",
	"application_name", "connect_timeout", "target_session_attrs", "search_path",
}

func parseDSN(dsn string) (target, error) {
	switch scheme, rest, _ := strings.Cut(dsn, ":"); scheme {
	case "sqlite":
		return parseSQLite(rest)
	case "postgres", "postgresql":
		return parsePostgres(dsn)
	}
	// The text may hold a password, so only its beginning is shown.
	return target{}, fault.Newf(fault.Invalid, "database %.10q…: want sqlite:/absolute/path or postgres://user@host/name", dsn)
}

func parseSQLite(path string) (target, error) {
	// "///" is how URL writers spell an absolute path.
	if strings.HasPrefix(path, "///") {
		path = path[2:]
	}
	switch {
	case strings.ContainsAny(path, "\x00?"):
		return target{}, fault.Newf(fault.Invalid, "database sqlite:%s: want a plain path without parameters", path)
	case !filepath.IsAbs(path) || filepath.Clean(path) != path:
		return target{}, fault.Newf(fault.Invalid, "database sqlite:%s: want an absolute, clean path, for example sqlite:/var/lib/assay/assay.db", path)
	case filepath.Dir(path) == path:
		return target{}, fault.Newf(fault.Invalid, "database sqlite:%s: want a file, found the root folder", path)
	}
	return target{dialect: SQLite, path: path}, nil
}

func parsePostgres(dsn string) (target, error) {
	u, err := url.Parse(dsn)
	if err != nil {
		// The error of url.Parse repeats its input, password included.
		return target{}, fault.Newf(fault.Invalid, "database URL does not parse: want postgres://user@host:5432/name?sslmode=verify-full")
	}
	params := u.Query()
	for k, v := range params {
		if !slices.Contains(pgParams, k) || len(v) != 1 {
			return target{}, fault.Newf(fault.Invalid, "database URL: parameter %q: want each of %s at most once", k, strings.Join(pgParams, ", "))
		}
	}
	if u.Fragment != "" || u.Opaque != "" {
		return target{}, fault.Newf(fault.Invalid, "database URL: want postgres://user@host:5432/name, found a fragment or an opaque part")
	}
	if strings.Trim(u.Path, "/") == "" && params.Get("dbname") == "" {
		return target{}, fault.Newf(fault.Invalid, "database URL: it names no database: want postgres://user@host:5432/name")
	}
	host := u.Hostname()
	if h := params.Get("host"); h != "" {
		host = h
	}
	if params.Get("sslmode") == "" && !local(host) {
		// libpq's default (prefer) lets anyone on the path take the password.
		params.Set("sslmode", "verify-full")
		u.RawQuery = params.Encode()
	}
	cfg, err := pgx.ParseConfig(u.String())
	if err != nil {
		return target{}, fault.Wrap(fault.Invalid, err) // redacts the password
	}
	// What acknowledgements and the translation of texts rely on.
	cfg.RuntimeParams["synchronous_commit"] = "on"
	cfg.RuntimeParams["standard_conforming_strings"] = "on"
	cfg.RuntimeParams["client_encoding"] = "UTF8"
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = "assay"
	}
	return target{dialect: PostgreSQL, pg: cfg}, nil
}

// local says whether every host of a comma-separated list stays on this
// machine.
func local(hosts string) bool {
	for h := range strings.SplitSeq(hosts, ",") {
		ip := net.ParseIP(h)
		if h != "" && h != "localhost" && !strings.HasPrefix(h, "/") && (ip == nil || !ip.IsLoopback()) {
			return false
		}
	}
	return true
}
