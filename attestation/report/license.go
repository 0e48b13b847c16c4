package report

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"

	"assay/internal/fault"
)

// Licenses is under what the packages stand.
type Licenses struct {
	Packages int            `json:"packages"`
	Unknown  int            `json:"unknown"` // packages whose licence the tool could not tell
	Counts   []LicenseCount `json:"licenses"`
}

// LicenseCount says how many packages stand under one expression.
type LicenseCount struct {
	License  string `json:"license"` // as it is written: an SPDX expression, or a tool's own word
	Packages int    `json:"packages"`
	Example  string `json:"example,omitempty"`
}

type licensePredicate struct {
	head
	Licenses
}

func (l *Licenses) validate() error {
	if l.Packages <= 0 || l.Unknown < 0 || l.Unknown > l.Packages || len(l.Counts) > maxListed {
		return fault.Newf(fault.Invalid, "licences of %d packages, %d of them unknown, %d expressions (at most %d)", l.Packages, l.Unknown, len(l.Counts), maxListed)
	}
	sum := l.Unknown
	for _, c := range l.Counts {
		if c.License == "" || len(c.License) > maxName || c.Packages <= 0 || len(c.Example) > maxName {
			return fault.Newf(fault.Invalid, "licence %.60q of %d packages", c.License, c.Packages)
		}
		sum += c.Packages
	}
	if sum != l.Packages {
		return fault.Newf(fault.Invalid, "licences of %d packages, %d are listed", l.Packages, sum)
	}
	return nil
}

// readLicenses reads go-licenses' CSV (PACKAGE,URL,LICENSE), JSON as
// license-checker (npm), pip-licenses and cargo-license write it, and the licences
// in a bill of materials (CycloneDX or SPDX 2 in JSON).
func readLicenses(doc []byte, h *head) (any, error) {
	t := licenseTally{counts: map[string]int{}, example: map[string]string{}}
	var err error
	b := bytes.TrimSpace(doc)
	bom, isBOM := isBOM(b)
	switch {
	case isBOM:
		h.Format, h.Report.MediaType = bom, "application/json"
		err = t.bom(b)
	case bytes.HasPrefix(b, []byte("{")):
		h.Format, h.Report.MediaType = "license-checker", "application/json"
		err = t.checker(b)
	case bytes.HasPrefix(b, []byte("[")):
		h.Format, h.Report.MediaType = "license-list", "application/json"
		err = t.list(b)
	default:
		h.Format, h.Report.MediaType = "go-licenses", "text/csv"
		err = t.csv(b)
	}
	if err != nil {
		return nil, err
	}
	p := &licensePredicate{head: *h, Licenses: Licenses{Packages: t.packages, Unknown: t.unknown, Counts: []LicenseCount{}}}
	if t.packages == 0 {
		return nil, fault.Newf(fault.Invalid, "no package is in it: licences of nothing are not attested")
	}
	if len(t.counts) > maxListed {
		return nil, fault.Newf(fault.TooLarge, "%d different licences, at most %d: are they SPDX expressions?", len(t.counts), maxListed)
	}
	for _, license := range counted(t.counts) {
		p.Counts = append(p.Counts, LicenseCount{license, t.counts[license], t.example[license]})
	}
	return p, nil
}

type licenseTally struct {
	packages, unknown int
	counts            map[string]int
	example           map[string]string
}

func (t *licenseTally) add(pkg, license string) error {
	if pkg = clean(strings.TrimSpace(pkg), maxName); pkg == "" {
		return fault.Newf(fault.Invalid, "entry %d has no package", t.packages+1)
	}
	t.packages++
	license = strings.TrimSpace(license)
	switch strings.ToLower(license) {
	case "", "unknown", "noassertion", "none", "n/a", "null", "undefined":
		t.unknown++
		return nil
	}
	if len(license) > maxName || clean(license, maxName) != license {
		return fault.Newf(fault.Invalid, "licence of %s: want at most %d printable bytes", pkg, maxName)
	}
	t.counts[license]++
	if t.example[license] == "" {
		t.example[license] = pkg
	}
	return nil
}

func (t *licenseTally) csv(b []byte) error {
	r := csv.NewReader(bytes.NewReader(b))
	r.FieldsPerRecord = 3
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fault.Newf(fault.Invalid, "want lines PACKAGE,URL,LICENSE: %w", err)
		}
		if err := t.add(row[0], row[2]); err != nil {
			return err
		}
	}
}

// checker reads {"NAME@VERSION": {"licenses": "MIT"}}; a list means any of them.
func (t *licenseTally) checker(b []byte) error {
	var in map[string]struct {
		Licenses json.RawMessage `json:"licenses"`
	}
	if err := unmarshal(b, &in); err != nil {
		return fault.Newf(fault.Invalid, `want {"NAME@VERSION": {"licenses": …}} as license-checker writes it, a list of packages with their licences, go-licenses' CSV, or a bill of materials: %w`, err)
	}
	names := make([]string, 0, len(in))
	for name := range in {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		license, err := oneLicense(in[name].Licenses)
		if err != nil {
			return fault.Newf(fault.Invalid, "%.80q: %w", name, err)
		}
		if err := t.add(name, license); err != nil {
			return err
		}
	}
	return nil
}

// oneLicense is the expression that a member holds. license-checker marks a
// guess with a star, which is no knowledge.
func oneLicense(raw json.RawMessage) (string, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return "", nil
	}
	var one string
	if err := unmarshal(raw, &one); err == nil {
		if strings.HasSuffix(one, "*") {
			return "", nil
		}
		return one, nil
	}
	var many []string
	if err := unmarshal(raw, &many); err != nil {
		return "", fault.Newf(fault.Invalid, "licenses: want a text or a list of texts")
	}
	for _, l := range many {
		if l == "" || strings.HasSuffix(l, "*") {
			return "", nil
		}
	}
	return strings.Join(many, " OR "), nil
}

// list reads [{"name": …, "license": …}], with the names in either case.
func (t *licenseTally) list(b []byte) error {
	var in []map[string]json.RawMessage
	if err := unmarshal(b, &in); err != nil {
		return err
	}
	for i, e := range in {
		name, err := either(e, "name", "Name")
		if err != nil {
			return fault.Newf(fault.Invalid, "[%d]: %w", i, err)
		}
		license, err := either(e, "license", "License")
		if err != nil {
			return fault.Newf(fault.Invalid, "[%d]: %w", i, err)
		}
		if err := t.add(name, license); err != nil {
			return err
		}
	}
	return nil
}

func either(e map[string]json.RawMessage, names ...string) (string, error) {
	for _, n := range names {
		if raw, there := e[n]; there && string(raw) != "null" {
			var s string
			if err := unmarshal(raw, &s); err != nil {
				return "", fault.Newf(fault.Invalid, "%s: want a text", n)
			}
			return s, nil
		}
	}
	return "", nil
}
