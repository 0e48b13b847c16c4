package suite

import (
	"fmt"
	"path"
	"regexp"

	"assay/internal/fault"

	"go.yaml.in/yaml/v3"
)

// sibling reads a file that another one names, beside or below it.
func sibling[T any](files map[string][]byte, from, name string, read func([]byte) (T, error)) (T, error) {
	var none T
	if name == "" {
		return none, fault.Newf(fault.Invalid, "%s: names no file", from)
	}
	full := path.Join(path.Dir(from), name)
	b, ok := files[full]
	if !ok {
		return none, fault.Newf(fault.Invalid, "%s: there is no %s among the files that were given", from, full)
	}
	v, err := read(b)
	if err != nil {
		return none, fmt.Errorf("%s: %w", full, err)
	}
	return v, nil
}

func matcher(filter string) (func(string) bool, error) {
	if filter == "" {
		return func(string) bool { return true }, nil
	}
	re, err := regexp.Compile(filter)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "filter: %w", err)
	}
	return re.MatchString, nil
}

// looseKind reads the kind alone: what else stands there is read strictly later.
func looseKind(b []byte, kind *string) error {
	var head struct {
		Kind string `yaml:"kind"`
	}
	if err := yaml.Unmarshal(b, &head); err != nil {
		return fault.Newf(fault.Invalid, "want apiVersion, kind, metadata and spec: %w", err)
	}
	*kind = head.Kind
	return nil
}
