package policy

import "strings"

// PackageOf is the package of a module, such as "assay.policy". Errors are
// fault.Invalid.
func PackageOf(m Module) (string, error) {
	mod, err := parseModule(m)
	if err != nil {
		return "", err
	}
	return strings.TrimPrefix(mod.Package.Path.String(), "data."), nil
}
