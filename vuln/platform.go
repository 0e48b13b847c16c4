package vuln

import (
	"slices"
	"strings"
)

// For says whether any of the packages that are affected is built for a platform
// ("linux/amd64", either part may be empty). It is, unless the advisory names the
// systems of each of its packages and the platform is none of them.
func (a *Affected) For(platform string) bool {
	os, arch, _ := strings.Cut(platform, "/")
	if platform == "" || len(a.Specific.Imports) == 0 {
		return true
	}
	return slices.ContainsFunc(a.Specific.Imports, func(i Import) bool {
		return (os == "" || len(i.GOOS) == 0 || slices.Contains(i.GOOS, os)) && (arch == "" || len(i.GOARCH) == 0 || slices.Contains(i.GOARCH, arch))
	})
}
