package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/client"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/sbom"
)

// vulnsPredicate is the result of a scan as in-toto's vulns predicate has it,
// version 0.2.
type vulnsPredicate struct {
	Scanner  vulnsScanner  `json:"scanner"`
	Metadata vulnsMetadata `json:"metadata"`
}

type vulnsScanner struct {
	URI     string        `json:"uri"`
	Version string        `json:"version"`
	DB      vulnsDatabase `json:"db"`
	Result  []vulnsResult `json:"result"`
}

type vulnsDatabase struct {
	URI        string `json:"uri,omitempty"`
	LastUpdate string `json:"lastUpdate"` // when the oldest of the feeds was last looked at
}

type vulnsResult struct {
	ID          string              `json:"id"`
	Severity    []vulnsSeverity     `json:"severity"`
	Annotations []map[string]string `json:"annotations"`
}

type vulnsSeverity struct {
	Method string `json:"method"`
	Score  string `json:"score"`
}

type vulnsMetadata struct {
	Started  string `json:"scanStartedOn"`
	Finished string `json:"scanFinishedOn"`
	// Unknown is what was not known: an empty result beside it is not a clean one.
	Unknown []string `json:"urn:assay:unknown,omitempty"`
}

// vulnsOf makes the predicate of a scan's result.
func vulnsOf(got *client.Findings, db vulnsDatabase, started, finished time.Time) vulnsPredicate {
	out := vulnsPredicate{
		Scanner:  vulnsScanner{URI: "urn:assay:scanner", Version: version(), DB: db, Result: []vulnsResult{}},
		Metadata: vulnsMetadata{Started: started.UTC().Format(time.RFC3339), Finished: finished.UTC().Format(time.RFC3339), Unknown: unknowns(got.Coverage)},
	}
	for _, f := range got.Items {
		one := vulnsResult{ID: f.Name, Severity: []vulnsSeverity{{"assay", f.Severity}}}
		if f.Score > 0 {
			one.Severity = append(one.Severity, vulnsSeverity{"CVSS", strconv.FormatFloat(f.Score, 'f', 1, 64)})
		}
		if f.EPSS > 0 {
			one.Severity = append(one.Severity, vulnsSeverity{"EPSS", strconv.FormatFloat(f.EPSS, 'f', -1, 64)})
		}
		add := func(name, value string) {
			if value != "" {
				one.Annotations = append(one.Annotations, map[string]string{name: value})
			}
		}
		add("component", f.Component)
		add("status", f.Status)
		add("reason", f.Reason)
		add("fixed", f.Fixed)
		add("dependency", f.Direct)
		add("via", f.Via)
		add("kev", f.KEV)
		if f.Malicious {
			add("malicious", "true")
		}
		add("reachability", f.Reachability)
		if f.Statement != nil {
			add("statement", f.Statement.ID)
		}
		for _, r := range f.Records {
			add("record", r.ID)
		}
		out.Scanner.Result = append(out.Scanner.Result, one)
	}
	return out
}

// cosignVuln is the result of a scan in cosign's own form
// (https://cosign.sigstore.dev/attestation/vuln/v1), in which a result is whatever
// its scanner says.
type cosignVuln struct {
	Invocation struct {
		Parameters any    `json:"parameters"`
		URI        string `json:"uri"`
		EventID    string `json:"event_id"`
		Builder    string `json:"builder.id"`
	} `json:"invocation"`
	Scanner struct {
		URI     string `json:"uri"`
		Version string `json:"version"`
		DB      struct {
			URI     string `json:"uri"`
			Version string `json:"version"`
		} `json:"db"`
		Result struct {
			Findings []vulnsResult `json:"findings"`
			Unknown  []string      `json:"unknown"` // what was not known: no findings beside it are not a clean result
		} `json:"result"`
	} `json:"scanner"`
	Metadata struct {
		Started  string `json:"scanStartedOn"`
		Finished string `json:"scanFinishedOn"`
	} `json:"metadata"`
}

func cosignVulnOf(p *vulnsPredicate) *cosignVuln {
	out := &cosignVuln{}
	out.Scanner.URI, out.Scanner.Version, out.Scanner.DB.URI, out.Scanner.DB.Version = p.Scanner.URI, p.Scanner.Version, p.Scanner.DB.URI, p.Scanner.DB.LastUpdate
	out.Scanner.Result.Findings, out.Scanner.Result.Unknown = p.Scanner.Result, append([]string{}, p.Metadata.Unknown...)
	out.Metadata.Started, out.Metadata.Finished = p.Metadata.Started, p.Metadata.Finished
	return out
}

// attestURI is the type of what --attest signs.
func (f *gateFlags) attestURI() (string, error) {
	switch f.attestType {
	case "", "vulns":
		return attestation.PredicateVulns, nil
	case "vuln":
		return predicateURI("vuln")
	}
	return "", usagef("--attest-type %q: want vulns (in-toto's predicate) or vuln (cosign's)", clean(f.attestType))
}

// attestScan signs a scan's result about the digest of what was scanned.
func (s *session) attestScan(ctx context.Context, f *gateFlags, d *sbom.Document, t *target, got *client.Findings, started time.Time) error {
	feeds, err := s.api().Feeds(ctx)
	if err != nil {
		return err
	}
	var oldest time.Time
	for _, one := range feeds.Items {
		if one.Operation != 0 && one.Checked != nil && (oldest.IsZero() || one.Checked.Before(oldest)) {
			oldest = *one.Checked
		}
	}
	if oldest.IsZero() {
		return fault.Newf(fault.Undecided, "no feed is in force on the server: there is nothing that a scan could be attested by; see assay feed import")
	}
	if err := describedDigest(d, t); err != nil {
		return err
	}
	uri, err := f.attestURI()
	if err != nil {
		return err
	}
	result := vulnsOf(got, vulnsDatabase{URI: s.status.PublicURL, LastUpdate: oldest.UTC().Format(time.RFC3339)}, started, time.Now())
	var predicate any = result
	if uri != attestation.PredicateVulns {
		predicate = cosignVulnOf(&result)
	}
	doc, err := strictjson.Marshal(predicate)
	if err != nil {
		return err
	}
	f.scan.sign.aside = true
	signer, err := s.signing(ctx, &f.scan.sign)
	if err != nil {
		return err
	}
	statement, err := statementOf([]subject{{Name: t.name(), Digest: t.digest.Set()}}, uri, doc)
	if err != nil {
		return err
	}
	b, err := signStatement(ctx, signer, statement)
	if err != nil {
		return err
	}
	return s.keep(ctx, &f.scan.sign, t, b, uri)
}

// describedDigest settles the digest that an attestation about a document's
// subject is about.
func describedDigest(d *sbom.Document, t *target) error {
	digest := artifact.Digest("")
	if len(d.Roots) > 0 {
		if root := d.Component(d.Roots[0]); root != nil && root.Digests["sha256"] != "" {
			digest = artifact.Digest("sha256:" + root.Digests["sha256"])
		}
	}
	if err := digest.Validate(); err != nil {
		return usagef("%s has no digest that an attestation could be about: attest an image, an archive or a file", clean(t.text))
	}
	t.digest = digest
	if t.image != nil {
		ref := *t.image
		ref.Digest = digest
		t.image = &ref
	}
	return nil
}

// errNoSigner says why a scan of a data folder is not attested.
func errNoSigner() error {
	return fmt.Errorf("--attest: %w", usagef("no server runs on this folder: one signs, logs and keeps the attestation"))
}
