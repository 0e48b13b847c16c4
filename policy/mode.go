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
	out, err := editSpec(text, func(*Document) (string, any, error) { return "mode", m, nil })
	if err != nil {
		return nil, err
	}
	if p, err := ParseRequirements(out); err != nil || p.Mode() != m {
		return nil, fault.Newf(fault.Internal, "the mode of the policy could not be set: %w", err)
	}
	return out, nil
}

// editSpec puts another value into a member of a policy's spec, and leaves the
// rest of the text with its comments and its order. What comes out is a policy.
func editSpec(text []byte, edit func(*Document) (name string, value any, err error)) ([]byte, error) {
	d, err := ParseDocument(text)
	if err == nil {
		_, err = Compile(d)
	}
	if err != nil {
		return nil, err
	}
	name, value, err := edit(d)
	if err != nil {
		return nil, err
	}
	var node yaml.Node
	if err := node.Encode(value); err != nil {
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
	if was := member(spec, name); was != nil {
		node.HeadComment, node.LineComment, node.FootComment = was.HeadComment, was.LineComment, was.FootComment
		*was = node
	} else {
		spec.Content = append([]*yaml.Node{{Kind: yaml.ScalarNode, Tag: "!!str", Value: name}, &node}, spec.Content...)
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return nil, err
	}
	if _, err := ParseRequirements(out.Bytes()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func member(n *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}
