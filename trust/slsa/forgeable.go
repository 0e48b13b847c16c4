package slsa

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"assay/attestation"
	"assay/trust"
)

// matchCertificate wants every claim of provenance that the built job wrote
// itself to stand in the certificate, which it could not write. Claims that no
// certificate confirms must be absent.
func (s *subject) matchCertificate(v *trust.Verified) error {
	w := s.w
	run, attempt := w.run()
	env := map[string]string{
		"GITHUB_EVENT_NAME":          w.first("build_trigger", "github_workflow_trigger"),
		"GITHUB_REF":                 w.first("source_repository_ref", "github_workflow_ref"),
		"GITHUB_REPOSITORY":          w.repository(),
		"GITHUB_REPOSITORY_ID":       w.ext["source_repository_identifier"],
		"GITHUB_REPOSITORY_OWNER_ID": w.ext["source_repository_owner_identifier"],
		"GITHUB_SHA":                 w.first("source_repository_digest", "github_workflow_sha"),
		"GITHUB_WORKFLOW_REF":        strings.TrimPrefix(w.name, "https://github.com/") + "@" + w.ref,
		"GITHUB_WORKFLOW_SHA":        w.ext["build_signer_digest"],
		"GITHUB_RUN_ID":              run,
		"GITHUB_RUN_ATTEMPT":         attempt,
	}
	if s.prov.PredicateType == attestation.PredicateProvenanceV02 {
		if err := confirm("environment", s.prov.InternalParameters, env); err != nil {
			return err
		}
	} else {
		github, _ := s.prov.InternalParameters["github"].(map[string]any)
		if err := confirm("internalParameters.github", github, map[string]string{
			"event_name": env["GITHUB_EVENT_NAME"], "repository_id": env["GITHUB_REPOSITORY_ID"], "repository_owner_id": env["GITHUB_REPOSITORY_OWNER_ID"],
			"runner_environment": w.ext["runner_environment"],
		}); err != nil {
			return err
		}
		for name := range s.prov.InternalParameters {
			if name != "github" {
				return trust.Refuse(CodeCertificate, "provenance claims internal parameter %.80q, which no certificate confirms", name)
			}
		}
	}
	if err := s.confirmRun(run, attempt); err != nil {
		return err
	}
	return s.confirmRest(v)
}

// confirm compares claims with what the certificate says, member by member.
func confirm(where string, claims map[string]any, cert map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(claims)) {
		want, known := cert[name]
		if got := fmt.Sprint(claims[name]); !known || want == "" || got != want {
			return trust.Refuse(CodeCertificate, "provenance claims %s %.60q = %.120q, the certificate says %q", where, name, got, want)
		}
	}
	return nil
}

// run is the run's number and attempt: …/actions/runs/123/attempts/1.
func (w *workflow) run() (id, attempt string) {
	_, rest, _ := strings.Cut(w.ext["run_invocation_uri"], "/actions/runs/")
	id, attempt, _ = strings.Cut(rest, "/attempts/")
	return id, attempt
}

func (s *subject) confirmRun(run, attempt string) error {
	got := s.prov.InvocationID
	if got == "" {
		return nil
	}
	if got != run+"-"+attempt && got != s.w.ext["run_invocation_uri"] {
		return trust.Refuse(CodeCertificate, "provenance claims invocation %.160q, the certificate says run %s, attempt %s", got, run, attempt)
	}
	return nil
}

func (s *subject) confirmRest(v *trust.Verified) error {
	p := s.prov
	more, err := predicate(v)
	if err != nil {
		return trust.Refuse(CodeProvenance, "provenance: %w", err)
	}
	c := more.Metadata.Completeness
	path, _, _ := strings.Cut(s.w.ext["build_config_uri"], "@")
	path = strings.TrimPrefix(path, "https://github.com/"+s.w.repository()+"/")
	switch {
	case !p.StartedOn.IsZero() || !p.FinishedOn.IsZero():
		return trust.Refuse(CodeCertificate, "provenance claims build times, which no certificate confirms")
	case c.Parameters || c.Environment || c.Materials || more.Metadata.Reproducible:
		return trust.Refuse(CodeCertificate, "provenance claims to be complete or reproducible, which no certificate confirms")
	case len(more.BuildConfig) > 0 && string(more.BuildConfig) != "null" && string(more.BuildConfig) != "{}":
		return trust.Refuse(CodeCertificate, "provenance claims build steps, which no certificate confirms")
	case p.PredicateType == attestation.PredicateProvenanceV02 && len(p.ExternalParameters) > 0:
		return trust.Refuse(CodeCertificate, "provenance claims parameters, which no certificate confirms")
	case len(p.ResolvedDependencies) != 1:
		return trust.Refuse(CodeCertificate, "provenance claims %d dependencies, want the source alone", len(p.ResolvedDependencies))
	case p.EntryPoint != "" && p.EntryPoint != path:
		return trust.Refuse(CodeCertificate, "provenance claims workflow %.160q, the certificate says %q", p.EntryPoint, path)
	case len(v.Subjects) != 1 || v.Subjects[0].Digest["sha512"] == "":
		return trust.Refuse(CodeCertificate, "provenance has %d subjects, want one package by sha512", len(v.Subjects))
	}
	return nil
}
