// Package giturl names git remotes as others know them.
package giturl

import (
	"net/url"
	"strings"
)

// URI gives a remote as SPDX's git+ form, without user, password and
// query, which may hold a token. "" is the answer to what has no such form, and
// to whatever cannot be read for certain: it is published.
func URI(remote string) string {
	if strings.Contains(remote, "://") {
		u, err := url.Parse(remote)
		if err != nil || u.Host == "" || u.Scheme == "file" {
			return "" // unreadable, or a folder of this machine
		}
		u.User, u.RawQuery, u.Fragment = nil, "", ""
		return "git+" + u.String()
	}
	// scp-like: [user@]host:path (gitrepository-layout; git-clone(1), GIT URLS).
	// A slash before the colon makes it a local path, and so does one letter
	// before it: a drive.
	host, path, ok := strings.Cut(remote, ":")
	if strings.Contains(host, "[") { // [user@][IPv6]:path, or user@[IPv6]:path
		if i := strings.Index(remote, "]:"); i >= 0 {
			host, path = remote[:i+1], remote[i+2:]
		}
	}
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		host = host[i+1:]
	}
	u, err := url.Parse("ssh://" + host + "/" + strings.TrimPrefix(path, "/"))
	if !ok || strings.Contains(host, "/") || len(host) < 2 || path == "" || err != nil || u.User != nil {
		return "" // a local folder says nothing to others
	}
	u.RawQuery, u.Fragment = "", ""
	return "git+" + u.String()
}
