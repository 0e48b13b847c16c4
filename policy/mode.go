package policy

import (
	"bytes"

	"assay/internal/fault"

	"go.yaml.in/yaml/v3"
)

// ParseMode reads audit, warn or enforce.
func ParseMode(s string) (Mode, error) {
	m := Mode(s)
	if m.strictness() == 0 {
		return "", fault.Newf(fault.Invalid, "mode %.40q; want audit, warn or enforce", s)
	}
	return m, nil
}

// SetMode is a policy's text in another mode, with its comments and its order.
func SetMode(text []byte, m Mode) ([]byte, error) {
	if _, err := ParseRequirements(text); err != nil {
		return nil, err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil || len(doc.Content) != 1 {
		return nil, fault.Newf(fault.Invalid, "policy: %w", err)
	}
	spec := member(doc.Content[0], "spec")
	if spec == nil || spec.Kind != yaml.MappingNode {
		return nil, fault.Newf(fault.Invalid, "policy: spec is wanted")
	}
	if mode := member(spec, "mode"); mode != nil {
		mode.SetString(string(m))
	} else {
		spec.Content = append([]*yaml.Node{{Kind: yaml.ScalarNode, Tag: "!!str", Value: "mode"}, {Kind: yaml.ScalarNode, Tag: "!!str", Value: string(m)}}, spec.Content...)
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return nil, err
	}
	p, err := ParseRequirements(out.Bytes())
	if err == nil && p.Mode() != m {
		err = fault.Newf(fault.Internal, "the mode of policy %s could not be set", p.Name())
	}
	return out.Bytes(), err
}

func member(n *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}
