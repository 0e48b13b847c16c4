package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"assay/artifact"
	"assay/store"
	"assay/vuln"
)

// partsOfSBOM is how many components each made bill of materials has.
const partsOfSBOM = 100

// part is a component that bills of materials are made of.
type part struct {
	id int64
	vuln.Candidate
}

// makeParts makes components of the packages that real advisories name, in
// versions about the bounds of what they say, and as many that nothing is known
// of. Seeded: every run has the same.
func makeParts(all []*vuln.Advisory) []part {
	versions := map[vuln.Package]map[string]bool{}
	for _, a := range all {
		for i := range a.Affected {
			f := &a.Affected[i]
			key := f.Key()
			if versions[key] == nil {
				versions[key] = map[string]bool{}
			}
			add := func(v string) {
				if v != "" && v != "0" && len(versions[key]) < 8 {
					versions[key][v] = true
				}
			}
			for _, r := range f.Ranges {
				for _, e := range r.Events {
					if r.Type != "GIT" {
						add(e.Introduced)
						add(e.Fixed)
						add(e.LastAffected)
					}
				}
			}
			for _, v := range f.Versions {
				add(v)
			}
		}
	}
	keys := slices.SortedFunc(maps.Keys(versions), func(a, b vuln.Package) int {
		return strings.Compare(a.Ecosystem+"\x00"+a.Name, b.Ecosystem+"\x00"+b.Name)
	})
	var parts []part
	for _, key := range keys {
		for _, v := range slices.Sorted(maps.Keys(versions[key])) {
			parts = append(parts, part{Candidate: vuln.Candidate{Package: key, Version: v}})
		}
	}
	for i := range parts {
		key := vuln.Package{Ecosystem: parts[i].Ecosystem, Name: fmt.Sprintf("unheard-of-%d", i)}
		parts = append(parts, part{Candidate: vuln.Candidate{Package: key, Version: parts[i].Version}})
	}
	rnd := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a benchmark's
	rnd.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	for i := range parts {
		parts[i].id = rnd.Int64()>>1 | 1 // as large as those that are made of keys
	}
	return parts
}

// picker chooses components as bills of materials have them: few stand in very
// many, most in few.
func picker(parts []part) func(chosen []int) []int {
	rnd := rand.New(rand.NewPCG(3, 4)) //nolint:gosec // a benchmark's
	zipf := rand.NewZipf(rnd, 1.1, 50, uint64(len(parts)-1))
	seen := map[int]bool{}
	return func(chosen []int) []int {
		clear(seen)
		for len(seen) < partsOfSBOM {
			if i := int(zipf.Uint64()); !seen[i] { //nolint:gosec // below len(parts)
				seen[i] = true
				chosen = append(chosen, i)
			}
		}
		return chosen
	}
}

// fillSBOMs writes bills of materials as they stand when they were read and
// looked up.
func fillSBOMs(ctx context.Context, db *store.DB, parts []part, documents int) error {
	const chunk = 5000
	for list := range slices.Chunk(parts, chunk) {
		if err := db.Update(ctx, func(tx *store.Tx) error {
			for _, p := range list {
				key := "pkg:generic/" + p.Name + "@" + p.Version + "?" + p.Ecosystem
				if _, err := tx.Exec(ctx, `INSERT INTO sbom_component (id, key, package, name, version, type, source_name, source_version) VALUES (?, ?, ?, ?, ?, 'library', '', '')`, p.id, key, key, p.Name, p.Version); err != nil {
					return err
				}
				if _, err := tx.Exec(ctx, `INSERT INTO finding_component (component, ecosystem, package, version, state) VALUES (?, ?, ?, ?, 0)`, p.id, p.Ecosystem, p.Name, p.Version); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	pick, chosen := picker(parts), []int{}
	for from := 0; from < documents; from += 100 {
		if err := db.Update(ctx, func(tx *store.Tx) error {
			for d := from; d < min(from+100, documents); d++ {
				id, subject := int64(d+1), string(artifact.SHA256Of(fmt.Append(nil, "artifact ", d)))
				if _, err := tx.Exec(ctx, `INSERT INTO sbom_document (id, attestation, subject, state, problem, format, spec_version, document, name, created, ingested, packages, quality, parts, incomplete, issuer, identity)
					VALUES (?, ?, ?, 1, '', 'cyclonedx', '1.6', '', 'app', 0, 1, ?, 100, '', '', '', 'bench')`, id, fmt.Sprintf("att_%d", d), subject, partsOfSBOM); err != nil {
					return err
				}
				if _, err := tx.Exec(ctx, `INSERT INTO finding_scan (document, subject, scanned, components) VALUES (?, ?, 1, ?)`, id, subject, partsOfSBOM); err != nil {
					return err
				}
				chosen = pick(chosen[:0])
				for part := range slices.Chunk(chosen, 50) {
					args := make([]any, 0, 2*len(part))
					for _, i := range part {
						args = append(args, id, parts[i].id)
					}
					if _, err := tx.Exec(ctx, `INSERT INTO sbom_occurrence (document, component, direct, via, license) VALUES `+strings.TrimSuffix(strings.Repeat("(?, ?, 1, 0, ''),", len(part)), ","), args...); err != nil {
						return err
					}
				}
			}
			return ctx.Err()
		}); err != nil {
			return err
		}
	}
	return nil
}

// loadLarge fills an index as [finding.Matcher.Load] does, component by component.
func loadLarge(x *vuln.Index, parts []part, documents int) {
	for _, p := range parts {
		x.Add(vuln.Component{ID: p.id, Candidate: p.Candidate})
	}
	in := make([][]int64, len(parts))
	pick, chosen := picker(parts), []int{}
	for d := range documents {
		chosen = pick(chosen[:0])
		for _, i := range chosen {
			in[i] = append(in[i], int64(d+1))
		}
	}
	for i, list := range in {
		if len(list) > 0 {
			x.Load(parts[i].id, list)
			in[i] = nil
		}
	}
}

// pypiSBOM writes a document of 1,000 Python packages that advisories name.
func pypiSBOM(archive, dir string) (path string, err error) {
	const most = 1000
	type component struct {
		Type    string `json:"type"`
		Ref     string `json:"bom-ref"`
		Name    string `json:"name"`
		Version string `json:"version"`
		PURL    string `json:"purl"`
	}
	var all []component
	seen := map[string]bool{}
	errEnough := errors.New("enough")
	err = eachRecord(archive, func(raw []byte) error {
		a, err := vuln.ParseAdvisory(raw)
		if err != nil {
			return err
		}
		for i := range a.Affected {
			f := &a.Affected[i]
			if name := f.Key().Name; len(f.Versions) > 0 && !seen[name] {
				seen[name] = true
				v := f.Versions[len(f.Versions)/2]
				p := "pkg:pypi/" + name + "@" + v
				all = append(all, component{"library", p, name, v, p})
			}
		}
		if len(all) >= most {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return "", err
	}
	doc, err := json.Marshal(map[string]any{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": all[:min(len(all), most)]})
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, "pypi.cdx.json")
	return path, os.WriteFile(path, doc, 0o600)
}
