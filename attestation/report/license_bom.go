package report

import (
	"encoding/json"
	"strings"

	"assay/internal/fault"
)

// bomLicenses are the members of a bill of materials that name licences:
// CycloneDX's components, with those inside them, and SPDX 2's packages.
type bomLicenses struct {
	Format     string         `json:"bomFormat"`
	Version    string         `json:"spdxVersion"`
	Components []bomComponent `json:"components"`
	Packages   []spdxLicensed `json:"packages"`
}

type bomComponent struct {
	Type     string `json:"type"`
	Group    string `json:"group"`
	Name     string `json:"name"`
	Version  string `json:"version"`
	Licenses []struct {
		License struct {
			ID   string `json:"id"`
			Name string `json:"name"`
		} `json:"license"`
		Expression string `json:"expression"`
	} `json:"licenses"`
	Components []bomComponent `json:"components"`
}

type spdxLicensed struct {
	Name      string `json:"name"`
	Version   string `json:"versionInfo"`
	Declared  string `json:"licenseDeclared"`
	Concluded string `json:"licenseConcluded"`
}

// isBOM says whether a JSON object is a bill of materials.
func isBOM(b []byte) (string, bool) {
	var in struct {
		Format  string `json:"bomFormat"`
		Version string `json:"spdxVersion"`
	}
	switch {
	case json.Unmarshal(b, &in) != nil:
	case in.Format == "CycloneDX":
		return "cyclonedx", true
	case strings.HasPrefix(in.Version, "SPDX-2."):
		return "spdx", true
	}
	return "", false
}

// bom tallies the licences of a bill of materials. Files are no packages.
func (t *licenseTally) bom(b []byte) error {
	var in bomLicenses
	if err := unmarshal(b, &in); err != nil {
		return err
	}
	for i := range in.Components {
		if err := t.component(&in.Components[i], 0); err != nil {
			return err
		}
	}
	for _, p := range in.Packages {
		license := p.Concluded
		if license == "" || license == "NOASSERTION" || license == "NONE" {
			license = p.Declared
		}
		if err := t.add(versioned(p.Name, p.Version), license); err != nil {
			return err
		}
	}
	return nil
}

func (t *licenseTally) component(c *bomComponent, depth int) error {
	if depth > 32 {
		return fault.Newf(fault.TooLarge, "components are nested more than 32 deep")
	}
	if c.Type != "file" {
		var all []string
		for _, l := range c.Licenses {
			text := l.Expression
			if text == "" {
				text = l.License.ID
			}
			if text == "" {
				text = l.License.Name
			}
			if len(c.Licenses) > 1 && strings.Contains(text, " ") {
				text = "(" + text + ")"
			}
			all = append(all, text)
		}
		// ECMA-424 does not say how several licences are meant; all of them is the
		// careful reading.
		name := c.Name
		if c.Group != "" && name != "" {
			name = c.Group + "/" + name
		}
		if err := t.add(versioned(name, c.Version), strings.Join(all, " AND ")); err != nil {
			return err
		}
	}
	for i := range c.Components {
		if err := t.component(&c.Components[i], depth+1); err != nil {
			return err
		}
	}
	return nil
}

func versioned(name, version string) string {
	if name == "" || version == "" {
		return name
	}
	return name + "@" + version
}
