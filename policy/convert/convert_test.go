package convert_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/policy"
	"assay/policy/convert"
	"assay/trust"

	"github.com/google/go-cmp/cmp"
)

func key(t *testing.T) (text, indented, fingerprint string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	if fingerprint, err = trust.KeyFingerprint(k.Public()); err != nil {
		t.Fatal(err)
	}
	text = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	return text, strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n                      "), fingerprint
}

func run(t *testing.T, system, text string, o convert.Options) *convert.Result {
	t.Helper()
	r, err := convert.Convert(system, []byte(text), o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range r.Policies {
		if _, err := policy.Compile(&r.Policies[i]); err != nil {
			t.Errorf("policy %s: %v", r.Policies[i].Metadata.Name, err)
		}
	}
	return r
}

func places(in []convert.Item) (out []string) {
	for _, it := range in {
		out = append(out, strings.TrimSpace(it.Document+" "+it.Place))
	}
	slices.Sort(out)
	return out
}

func find(t *testing.T, r *convert.Result, name string) *policy.Document {
	t.Helper()
	for i := range r.Policies {
		if r.Policies[i].Metadata.Name == name {
			return &r.Policies[i]
		}
	}
	t.Fatalf("no policy %s among %d", name, len(r.Policies))
	return nil
}

const kyvernoDoc = `apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata:
  name: check-image
spec:
  validationFailureAction: Enforce
  webhookTimeoutSeconds: 30
  rules:
    - name: by-key
      match:
        any:
          - resources: {kinds: [Pod], namespaces: [prod-*], selector: {matchLabels: {app: web}}}
      exclude:
        any: [{resources: {namespaces: [kube-system]}}]
      verifyImages:
        - imageReferences: ["ghcr.io/org/app*", "ghcr.io/org/team/*:*", "ghcr.io/org/old:v1"]
          mutateDigest: true
          required: true
          attestors:
            - count: 1
              entries:
                - keys:
                    publicKeys: |-
                      INLINEKEY
                    rekor: {ignoreTlog: true}
                - keyless:
                    issuer: https://token.actions.githubusercontent.com
                    subject: "https://github.com/org/*/.github/workflows/release.yml@refs/tags/*"
                    rekor: {url: https://rekor.sigstore.dev}
                - keys: {secret: {namespace: kyverno, name: cosign}}
            - entries:
                - keyless: {issuer: https://accounts.example.com, subject: lead@example.com}
    - name: attested
      match: {any: [{resources: {kinds: [Pod]}}]}
      verifyImages:
        - imageReferences: ["registry.example/base/*"]
          failureAction: Audit
          skipImageReferences: ["registry.example/base/debug*"]
          attestations:
            - type: https://slsa.dev/provenance/v1
              attestors:
                - entries: [{keyless: {issuerRegExp: '^https://issuer\.example$', subjectRegExp: 'org/.*'}}]
              conditions:
                - all:
                    - {key: "{{ buildDefinition.buildType }}", operator: Equals, value: "https://build.example/v1"}
                    - {key: "{{ runDetails.builder.id }}", operator: NotEquals, value: "https://bad.example"}
                    - {key: "{{ resolvedDependencies[?uri=='x'] | length(@) }}", operator: Equals, value: 0}
                - any:
                    - {key: "{{ meta.stage }}", operator: Equals, value: prod}
                    - {key: "{{ meta.stage }}", operator: In, value: [canary, stage]}
    - name: labels
      match: {any: [{resources: {kinds: [Pod]}}]}
      validate: {message: labels, pattern: {metadata: {labels: {team: "?*"}}}}
---
apiVersion: policies.kyverno.io/v1alpha1
kind: ImageValidatingPolicy
metadata: {name: ivp}
spec:
  validationActions: [Deny]
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]}
  matchImageReferences: [{glob: "quay.io/acme/*"}, {expression: "ref.registry == 'x'"}]
  attestors:
    - name: release
      cosign:
        keyless: {identities: [{issuer: "https://issuer.example", subject: "ci@acme.example"}]}
  attestations: [{name: sbom, intoto: {type: cyclonedx}}]
  validations:
    - expression: "images.containers.map(image, verifyImageSignatures(image, [attestors.release])).all(e, e > 0)"
    - expression: "images.containers.map(image, verifyAttestationSignatures(image, attestations.sbom, [attestors.release])).all(e, e > 0)"
    - expression: "images.containers.map(image, extractPayload(image, attestations.sbom).bomFormat == 'CycloneDX').all(e, e)"
    - expression: "images.containers.all(image, image.startsWith('quay.io'))"
---
apiVersion: kyverno.io/v2
kind: PolicyException
metadata: {name: old}
spec: {}
`

func TestKyverno(t *testing.T) {
	_, indented, fp := key(t)
	text := strings.Replace(kyvernoDoc, "INLINEKEY", indented, 1)
	r := run(t, "kyverno", text, convert.Options{})
	d := find(t, r, "check-image-by-key")
	one := 1
	want := policy.Spec{
		Mode:  policy.Enforce,
		Scope: &policy.Selector{Repositories: []string{"ghcr.io/org/app*/**", "ghcr.io/org/team/**"}, Namespaces: []string{"prod-*"}},
		Requirements: &policy.Requirements{Signatures: []policy.SignatureRequirement{
			{Name: "attestors-0", Threshold: &one, Identities: []policy.IdentityMatch{
				{Key: fp},
				{Issuer: "https://token.actions.githubusercontent.com", SubjectRegexp: `https://github\.com/org/.*/\.github/workflows/release\.yml@refs/tags/.*`},
			}},
			{Name: "attestors-1", Identities: []policy.IdentityMatch{{Issuer: "https://accounts.example.com", Subject: "lead@example.com"}}},
		}},
	}
	if diff := cmp.Diff(want, d.Spec); diff != "" {
		t.Error(diff)
	}
	a := find(t, r, "check-image-attested")
	if a.Spec.Mode != policy.Audit || len(a.Spec.Requirements.Attestations) != 1 {
		t.Fatalf("%+v", a.Spec)
	}
	got := a.Spec.Requirements.Attestations[0]
	if diff := cmp.Diff([]policy.FieldMatch{
		{Path: "buildDefinition.buildType", Equals: &policy.Value{JSON: "https://build.example/v1"}},
		{Path: "meta.stage", In: []policy.Value{{JSON: "prod"}, {JSON: "canary"}, {JSON: "stage"}}},
	}, got.Fields); diff != "" {
		t.Error(diff)
	}
	if id := got.Identities[0]; id.IssuerRegexp != `^https://issuer\.example$` || id.SubjectRegexp != `.*(?:org/.*).*` {
		t.Errorf("%+v", id)
	}
	i := find(t, r, "ivp")
	if q := i.Spec.Requirements; len(q.Signatures) != 1 || len(q.Attestations) != 1 || len(q.Attestations[0].Fields) != 1 || q.Attestations[0].PredicateType != "https://cyclonedx.org/bom" {
		t.Errorf("%+v", q)
	}
	if diff := cmp.Diff([]string{
		"ClusterPolicy/check-image spec.rules[0].exclude",
		"ClusterPolicy/check-image spec.rules[0].match[0].resources.selector",
		"ClusterPolicy/check-image spec.rules[0].verifyImages[0].attestors[0].entries[2].keys.secret",
		"ClusterPolicy/check-image spec.rules[0].verifyImages[0].imageReferences[2]",
		"ClusterPolicy/check-image spec.rules[1].verifyImages[0].attestations[0].conditions[0].all[1].operator",
		"ClusterPolicy/check-image spec.rules[1].verifyImages[0].attestations[0].conditions[0].all[2].key",
		"ClusterPolicy/check-image spec.rules[1].verifyImages[0].skipImageReferences[0]",
		"ClusterPolicy/check-image spec.rules[2]",
		"ImageValidatingPolicy/ivp spec.matchImageReferences[1]",
		"ImageValidatingPolicy/ivp spec.validations[3].expression",
		"PolicyException/old spec",
	}, places(r.Left)); diff != "" {
		t.Error(diff)
	}
	// A key that was given is no longer missing.
	other, _, fp2 := key(t)
	r = run(t, "kyverno", text, convert.Options{Keys: map[string]string{"k8s://kyverno/cosign": other}})
	if ids := find(t, r, "check-image-by-key").Spec.Requirements.Signatures[0].Identities; len(ids) != 3 || ids[2].Key != fp2 {
		t.Errorf("%+v", ids)
	}
	if len(r.Roots) != 2 || !strings.Contains(r.Roots[1].Import, "--min-log 0") {
		t.Errorf("%+v", r.Roots)
	}
}

const cipDoc = `apiVersion: policy.sigstore.dev/v1beta1
kind: ClusterImagePolicy
metadata: {name: everything}
spec:
  images: [{glob: "**"}]
  authorities:
    - keyless:
        url: https://fulcio.sigstore.dev
        identities: [{issuerRegExp: ".*", subject: "release@example.com"}]
      ctlog: {url: https://rekor.sigstore.dev}
---
apiVersion: policy.sigstore.dev/v1beta1
kind: ClusterImagePolicy
metadata: {name: app}
spec:
  mode: enforce
  match: [{group: apps, version: v1, resource: deployments, selector: {matchLabels: {tier: one}}}]
  images: [{glob: "ghcr.io/org/app"}, {glob: "org/*"}]
  authorities:
    - name: ci
      keyless:
        identities: [{issuer: "https://token.actions.githubusercontent.com", subjectRegExp: "^https://github.com/org/.*$"}]
      attestations:
        - name: vuln
          predicateType: vuln
          policy:
            type: rego
            data: |
              package sigstore
              default isCompliant = false
              isCompliant {
                input.predicateType == "https://cosign.sigstore.dev/attestation/vuln/v1"
                input.predicate.scanner.uri == "pkg:github/org/scanner"
                input.predicate.score >= 7.5
              }
        - name: free
          predicateType: custom
          policy: {type: cue, data: 'predicate: {ok: true}'}
        - name: deep
          predicateType: spdxjson
          policy:
            type: rego
            data: |
              package sigstore
              isCompliant { count(input.predicate.packages) > 3 }
---
apiVersion: policy.sigstore.dev/v1beta1
kind: ClusterImagePolicy
metadata: {name: warned}
spec:
  mode: warn
  images: [{glob: "registry.example/lab/**"}]
  authorities: [{static: {action: pass}}]
---
apiVersion: policy.sigstore.dev/v1alpha1
kind: TrustRoot
metadata: {name: mine}
spec: {}
`

func TestPolicyController(t *testing.T) {
	r := run(t, "policy-controller", cipDoc, convert.Options{})
	app := find(t, r, "app")
	if diff := cmp.Diff([]string{"docker.io/org/*", "ghcr.io/org/app"}, app.Spec.Scope.Repositories); diff != "" {
		t.Error(diff)
	}
	q := app.Spec.Requirements
	// What the wider policy asks for holds here as well.
	if len(q.Signatures) != 1 || q.Signatures[0].Identities[0].Subject != "release@example.com" {
		t.Errorf("%+v", q.Signatures)
	}
	n := 7.5
	if diff := cmp.Diff([]policy.FieldMatch{
		{Path: "scanner.uri", Equals: &policy.Value{JSON: "pkg:github/org/scanner"}}, {Path: "score", AtLeast: &n},
	}, q.Attestations[0].Fields); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{
		"ClusterImagePolicy/app spec.authorities[0].attestations[1].policy",
		"ClusterImagePolicy/app spec.authorities[0].attestations[2].policy.data",
		"ClusterImagePolicy/app spec.match[0].selector",
		"TrustRoot/mine spec",
		"policy/warned", // the wider one is in another mode
	}, places(r.Left)); diff != "" {
		t.Error(diff)
	}
	p, err := policy.Compile(find(t, r, "warned"))
	if err != nil {
		t.Fatal(err)
	}
	f := &policy.Facts{Schema: policy.FactsSchema, Subject: policy.Subject{Digest: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", Kind: policy.Image, Registry: "registry.example", Repository: "lab/x"}}
	if res, err := p.Evaluate(t.Context(), f, time.Unix(1_800_000_000, 0)); err != nil || res.Verdict != policy.Allow || p.Mode() != policy.Warn {
		t.Errorf("%+v, %v", res, err)
	}
}

const gatekeeperDoc = `apiVersion: templates.gatekeeper.sh/v1
kind: ConstraintTemplate
metadata: {name: k8sallowedrepos}
spec:
  crd: {spec: {names: {kind: K8sAllowedRepos}}}
  targets:
    - target: admission.k8s.gatekeeper.sh
      rego: |
        package k8sallowedrepos
        violation[{"msg": msg}] {
          container := input.review.object.spec.containers[_]
          not strings.any_prefix_match(container.image, input.parameters.repos)
          msg := sprintf("container <%v>", [container.name])
        }
---
apiVersion: constraints.gatekeeper.sh/v1beta1
kind: K8sAllowedRepos
metadata: {name: repo-is-ours}
spec:
  enforcementAction: warn
  match: {kinds: [{apiGroups: [""], kinds: [Pod]}], namespaces: [prod], excludedNamespaces: [lab]}
  parameters: {repos: ["registry.example/org/", "ghcr.io/org/"]}
---
apiVersion: constraints.gatekeeper.sh/v1beta1
kind: K8sRequiredLabels
metadata: {name: owner}
spec: {}
---
apiVersion: templates.gatekeeper.sh/v1beta1
kind: ConstraintTemplate
metadata: {name: ratifyverification}
spec:
  crd: {spec: {names: {kind: RatifyVerification}}}
  targets: [{target: admission.k8s.gatekeeper.sh, rego: 'package r { external_data({"provider": "ratify-provider", "keys": images}) }'}]
---
apiVersion: constraints.gatekeeper.sh/v1beta1
kind: RatifyVerification
metadata: {name: ratify}
spec: {enforcementAction: deny, match: {namespaces: [default]}}
---
apiVersion: config.ratify.deislabs.io/v1beta1
kind: KeyManagementProvider
metadata: {name: keys}
spec:
  type: inline
  parameters:
    contentType: key
    value: |
                      INLINEKEY
---
apiVersion: config.ratify.deislabs.io/v1beta1
kind: Verifier
metadata: {name: verifier-cosign}
spec:
  name: cosign
  artifactTypes: application/vnd.dev.cosign.artifact.sig.v1+json
  parameters:
    trustPolicies:
      - {name: ours, scopes: ["registry.example/org/*"], keys: [{provider: keys}], tLogVerify: false}
      - {name: theirs, scopes: ["ghcr.io/org/"], keyless: {certificateIdentity: a@b.example, certificateOIDCIssuer: "https://issuer.example"}}
---
apiVersion: config.ratify.deislabs.io/v1beta1
kind: Verifier
metadata: {name: verifier-notation}
spec: {name: notation}
`

func TestGatekeeper(t *testing.T) {
	_, indented, fp := key(t)
	r := run(t, "gatekeeper", strings.Replace(gatekeeperDoc, "INLINEKEY", indented, 1), convert.Options{Own: "registry.example"})
	d := find(t, r, "repo-is-ours")
	if d.Spec.Mode != policy.Warn {
		t.Errorf("mode %s", d.Spec.Mode)
	}
	p, err := policy.Compile(d)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[[2]string]policy.Verdict{
		{"", "org/app"}: policy.Allow, {"ghcr.io", "org/app"}: policy.Allow, {"docker.io", "org/app"}: policy.Deny, {"", "organisation/app"}: policy.Deny,
	} {
		f := &policy.Facts{Schema: policy.FactsSchema, Subject: policy.Subject{Digest: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", Kind: policy.Image, Registry: name[0], Repository: name[1]}}
		if res, err := p.Evaluate(t.Context(), f, time.Unix(1_800_000_000, 0)); err != nil || res.Verdict != want {
			t.Errorf("%v: %v, %v; want %s", name, res.Verdict, err, want)
		}
	}
	ours := find(t, r, "verifier-cosign-ours")
	if diff := cmp.Diff(&policy.Selector{Repositories: []string{"org/**"}, Namespaces: []string{"default"}}, ours.Spec.Scope); diff != "" {
		t.Error(diff)
	}
	if ours.Spec.Requirements.Signatures[0].Identities[0].Key != fp {
		t.Errorf("%+v", ours.Spec.Requirements)
	}
	if diff := cmp.Diff([]string{
		"K8sAllowedRepos/repo-is-ours spec.match.excludedNamespaces",
		"K8sRequiredLabels/owner spec",
		"Verifier/verifier-cosign spec.parameters.trustPolicies[1]",
		"Verifier/verifier-cosign spec.parameters.trustPolicies[1].scopes[0]",
		"Verifier/verifier-notation spec",
	}, places(r.Left)); diff != "" {
		t.Error(diff)
	}
}

func TestRecords(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		want []convert.Recorded
	}{
		"lines": {"registry.example/a:1 allow\n# a comment\nregistry.example/b:1 deny\n", []convert.Recorded{{Image: "registry.example/a:1", Allowed: true}, {Image: "registry.example/b:1"}}},
		"AdmissionReview": {`{"kind":"AdmissionReview","request":{"namespace":"n","object":{"kind":"Pod","spec":{"containers":[{"name":"c","image":"registry.example/a:1"}]}}},"response":{"allowed":false,"status":{"message":"no signatures"}}}
{"kind":"AdmissionReview","request":{"namespace":"n","object":{"kind":"Pod","spec":{"containers":[{"name":"c","image":"registry.example/a:2"}]}}},"response":{"allowed":true}}`,
			[]convert.Recorded{{Image: "registry.example/a:1", Namespace: "n", Message: "no signatures"}, {Image: "registry.example/a:2", Namespace: "n", Allowed: true}}},
		"PolicyReport and Pods": {`{"kind":"List","items":[
			{"kind":"PolicyReport","results":[{"policy":"check","result":"pass","resources":[{"kind":"Pod","namespace":"n","name":"p"}]},{"policy":"other","result":"fail","message":"m","resources":[{"kind":"Pod","namespace":"n","name":"p"}]},{"policy":"x","result":"skip","resources":[{"kind":"Pod","namespace":"n","name":"p"}]}]},
			{"kind":"Pod","metadata":{"namespace":"n","name":"p"},"spec":{"containers":[{"name":"c","image":"registry.example/a:1"}]},"status":{"containerStatuses":[{"name":"c","imageID":"registry.example/a@sha256:aa"}]}}]}`,
			[]convert.Recorded{{Image: "registry.example/a@sha256:aa", Namespace: "n", Policy: "other", Message: "m"}}},
	} {
		got, err := convert.Records([]byte(tt.text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	for _, bad := range []string{"", "a maybe", "{}", `{"kind":"PolicyReport","results":[{"result":"pass","resources":[{"kind":"Pod","name":"p"}]}]}`, "{"} {
		if _, err := convert.Records([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func FuzzConvert(f *testing.F) {
	for _, doc := range []string{kyvernoDoc, cipDoc, gatekeeperDoc, "kind: 3\n", "spec: {rules: [1, null]}\nkind: ClusterPolicy\n", "kind: ClusterImagePolicy\nspec: {images: [{glob: {}}], authorities: [null]}\n"} {
		f.Add(doc)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, system := range convert.Systems() {
			r, err := convert.Convert(system, []byte(text), convert.Options{})
			if err != nil {
				continue
			}
			for i := range r.Policies {
				if _, err := policy.Compile(&r.Policies[i]); err != nil && len(r.Left) == 0 {
					t.Fatalf("a policy that does not compile, and nothing is listed: %v", err)
				}
			}
		}
	})
}
