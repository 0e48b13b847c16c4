package assess

import (
	"go.yaml.in/yaml/v3"

	"assay/internal/fault"
	"assay/policy"
	"assay/profile"
)

// Profile is the profile whose policy is asked where no other is given.
const Profile = "gate-enforced"

// anybody is every identity that verified under a root. It is asked about only where
// nobody is named, and reports say so.
var anybody = policy.IdentityMatch{IssuerRegexp: "(?s).*", SubjectRegexp: "(?s).*"}

// ProfilePolicy is the policy of profile gate-enforced with the signers that count in
// place of its example; none: everybody who verified, with one of these keys or by any
// root.
func ProfilePolicy(signers []policy.IdentityMatch, keys []string) (*policy.Policy, Judged, error) {
	files, err := profile.Write(Profile, profile.Options{Issuer: "https://issuer.invalid", CI: "ci@example.invalid", Release: "release@example.invalid", Teams: []string{"team"}, Domain: "example.invalid"})
	if err != nil {
		return nil, Judged{}, err
	}
	text, ok := files["site/policies.yaml"]
	if !ok {
		return nil, Judged{}, fault.Newf(fault.Internal, "profile %s has no policy", Profile)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, Judged{}, fault.Newf(fault.Internal, "profile %s: %w", Profile, err)
	}
	j := Judged{Anybody: len(signers) == 0}
	for _, s := range signers {
		j.Signers = append(j.Signers, s.Subject+s.SubjectRegexp+" (issuer "+s.Issuer+s.IssuerRegexp+")")
	}
	if j.Anybody {
		signers = append(signers, anybody)
		j.Signers = []string{"everybody whose signature verified"}
	}
	for _, k := range keys {
		signers = append(signers, policy.IdentityMatch{Key: k})
		if !j.Anybody {
			j.Signers = append(j.Signers, "key "+k)
		}
	}
	var with yaml.Node
	if err := with.Encode(signers); err != nil {
		return nil, j, err
	}
	if replace(&doc, "identities", &with) == 0 {
		return nil, j, fault.Newf(fault.Internal, "profile %s names no identities", Profile)
	}
	out, err := yaml.Marshal(&doc)
	if err != nil {
		return nil, j, err
	}
	p, err := policy.ParseRequirements(out)
	if err != nil {
		return nil, j, err
	}
	j.Name, j.Hash = Profile, p.Hash()
	return p, j, nil
}

// replace puts a value in place of every member of a name, and says how many.
func replace(n *yaml.Node, name string, with *yaml.Node) (done int) {
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == name {
				n.Content[i+1] = with
				done++
				continue
			}
			done += replace(n.Content[i+1], name, with)
		}
		return done
	}
	for _, c := range n.Content {
		done += replace(c, name, with)
	}
	return done
}
