package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"assay/internal/fault"
	"assay/policy"
	"assay/policy/bundle"
	"assay/policy/convert"
	"assay/trust"
	"assay/trust/revocation"
	"assay/verify"

	"github.com/spf13/cobra"
)

// importPolicyFlags are those of `assay policy import`.
type importPolicyFlags struct {
	to      string
	own     string
	keys    []string
	compare []string
	force   bool
	vf      verifyFlags
}

func (a *app) policyImportCommand() *cobra.Command {
	var f importPolicyFlags
	cmd := &cobra.Command{
		Use:   "import SYSTEM FILE...",
		Short: "Convert the policies of kyverno, policy-controller or gatekeeper",
		Long: `Import converts what asks for evidence: Kyverno's verifyImages and
ImageValidatingPolicy, policy-controller's ClusterImagePolicy, Gatekeeper's
constraints on repositories and Ratify's verifiers. It writes policies and the
keys that they trust to the folder --to, or shows them, and changes no server.

What cannot be said, or would mean something else, is listed with its place and
the reason, and the exit code is then 1.

With --compare, what the other system decided is read from its own records
(AdmissionReview, PolicyReport with Pods, or lines IMAGE allow|deny), each image
is judged by the converted policies from the evidence in its registry, and the
verdicts stand side by side. The exit code is 1 too when they differ.`,
		Example: `  assay policy import kyverno clusterpolicies.yaml --to site/
  kubectl get cip -o yaml | assay policy import policy-controller - --key k8s://cosign-system/release=release.pub
  assay policy import kyverno policies.yaml --to site/ --compare reports-and-pods.json`,
		ValidArgs: convert.Systems(),
		Args:      cobra.MinimumNArgs(2),
		RunE:      func(cmd *cobra.Command, args []string) error { return a.importPolicies(cmd.Context(), &f, args) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.to, "to", "", "folder to write policies.yaml and keys to")
	fl.BoolVar(&f.force, "force", false, "replace files that are there")
	fl.StringVar(&f.own, "own-registry", "", "HOST of this site's registry: its repositories have no host in policies")
	fl.StringArrayVar(&f.keys, "key", nil, "NAME=FILE: the public half of a key that a document names (k8s://NAMESPACE/SECRET, awskms://…); can be repeated")
	fl.StringArrayVar(&f.compare, "compare", nil, "records of the other system's verdicts to compare with; can be repeated")
	fl.StringArrayVar(&f.vf.roots, "trusted-root", nil, "with --compare: Sigstore trusted_root.json to verify under (default: the server's)")
	fl.StringVar(&f.vf.subject, "subject", "", "with --compare and --data: the local identity to read the registry as")
	return cmd
}

// imported is what is told of a conversion.
type imported struct {
	*convert.Result
	Written  []string   `json:"written,omitempty"`
	Compared []compared `json:"compared,omitempty"`
}

type compared struct {
	convert.Recorded
	Verdict policy.Verdict `json:"verdict,omitempty"` // of the converted policies
	By      string         `json:"by,omitempty"`
	Same    bool           `json:"same"`
	Why     string         `json:"why,omitempty"`
}

func (a *app) importPolicies(ctx context.Context, f *importPolicyFlags, args []string) error {
	o := convert.Options{Own: f.own, Keys: map[string]string{}}
	for _, kv := range f.keys {
		i := strings.LastIndexByte(kv, '=')
		if i < 1 {
			return usagef("--key %s: want NAME=FILE", line(kv))
		}
		b, err := os.ReadFile(kv[i+1:])
		if err != nil {
			return usagef("--key: %w", err)
		}
		o.Keys[kv[:i]] = string(b)
	}
	var text bytes.Buffer
	for _, path := range args[1:] {
		b, err := a.readInput(path, 16<<20)
		if err != nil {
			return err
		}
		text.WriteString("---\n")
		text.Write(b)
		text.WriteString("\n")
	}
	got, err := convert.Convert(args[0], text.Bytes(), o)
	if err != nil {
		return err
	}
	out := &imported{Result: got}
	yaml, err := bundle.YAML(got.Policies)
	if err != nil {
		return err
	}
	if f.to != "" {
		if err := f.write(out, yaml); err != nil {
			return err
		}
	}
	differ := false
	if len(f.compare) > 0 {
		if differ, err = a.compareVerdicts(ctx, f, out); err != nil {
			return err
		}
	}
	if err := a.print(out, func(w io.Writer) { printImportedPolicies(w, out, yaml, f.to == "") }); err != nil {
		return err
	}
	if len(got.Left) > 0 || differ {
		return &exitError{1}
	}
	return nil
}

func (f *importPolicyFlags) write(out *imported, yaml []byte) error {
	files := map[string][]byte{}
	if len(out.Policies) > 0 {
		files["policies.yaml"] = yaml
	}
	for i := range out.Roots {
		files[out.Roots[i].File()] = out.Roots[i].PEM()
	}
	for name, b := range files {
		path := filepath.Join(f.to, name)
		if err := create(path, b, f.force); err != nil {
			return err
		}
		out.Written = append(out.Written, path)
	}
	return nil
}

func printImportedPolicies(w io.Writer, out *imported, yaml []byte, show bool) {
	if show {
		fmt.Fprint(w, clean(string(yaml)))
	}
	for _, d := range out.Policies {
		mode := d.Spec.Mode
		if mode == "" {
			mode = policy.Enforce
		}
		fmt.Fprintf(w, "policy\t%s\tmode %s\t%s\n", line(d.Metadata.Name), mode, line(d.Metadata.Description))
	}
	for i := range out.Roots {
		fmt.Fprintf(w, "trust\t%s\t%d keys\t%s\n", line(out.Roots[i].Name), len(out.Roots[i].PublicKeys), line(out.Roots[i].Import))
	}
	for _, it := range out.Notes {
		fmt.Fprintf(w, "note\t%s\t%s\t%s\n", line(it.Document), dash(line(it.Place)), line(it.Reason))
	}
	for _, it := range out.Left {
		fmt.Fprintf(w, "NOT CONVERTED\t%s\t%s\t%s\n", line(it.Document), dash(line(it.Place)), line(it.Reason))
	}
	if len(out.Compared) > 0 {
		fmt.Fprintln(w, "\nIMAGE\tNAMESPACE\tBEFORE\tNOW\tBY\tWHY")
	}
	same := 0
	for _, c := range out.Compared {
		before := "deny"
		if c.Allowed {
			before = "allow"
		}
		if c.Same {
			same++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", line(c.Image), dash(line(c.Namespace)), before, orUnknown(string(c.Verdict)), dash(line(c.By)), dash(line(c.Why)))
	}
	fmt.Fprintf(w, "\n%d policies, %d not converted", len(out.Policies), len(out.Left))
	if len(out.Compared) > 0 {
		fmt.Fprintf(w, "; %d of %d verdicts as before", same, len(out.Compared))
	}
	fmt.Fprintln(w)
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// compareVerdicts judges each recorded image by the converted policies.
func (a *app) compareVerdicts(ctx context.Context, f *importPolicyFlags, out *imported) (differ bool, err error) {
	var all []convert.Recorded
	for _, path := range f.compare {
		b, err := a.readInput(path, 256<<20)
		if err != nil {
			return false, err
		}
		got, err := convert.Records(b)
		if err != nil {
			return false, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, got...)
	}
	var ps []*policy.Policy
	for i := range out.Policies {
		p, err := policy.Compile(&out.Policies[i])
		if err != nil {
			return false, err
		}
		ps = append(ps, p)
	}
	set, err := policy.NewSet(ps...)
	if err != nil {
		return false, err
	}
	s, err := a.connect(ctx, f.vf.subject, "", false)
	if err != nil {
		return false, err
	}
	o := verify.VerifierOptions{Lists: map[string]*revocation.Signed{}}
	for i := range out.Roots {
		for _, pem := range out.Roots[i].PublicKeys {
			pub, err := trust.ParsePublicKey([]byte(pem))
			if err != nil {
				return false, err
			}
			o.Keys = append(o.Keys, trust.Key{Public: pub})
		}
		if out.Roots[i].Thresholds != nil {
			o.KeyThresholds = &trust.Thresholds{} // of the keys alone
		}
	}
	var vt verify.Target
	if err := s.trustHere(ctx, &f.vf, &o, &vt); err != nil {
		return false, err
	}
	v, err := verify.NewVerifier(o)
	if err != nil {
		return false, err
	}
	for _, r := range all {
		c := a.compareOne(ctx, s, v, set, r)
		differ = differ || !c.Same
		out.Compared = append(out.Compared, c)
	}
	return differ, nil
}

func (a *app) compareOne(ctx context.Context, s *session, v *verify.Verifier, set *policy.Set, r convert.Recorded) compared {
	c := compared{Recorded: r}
	t, rt, err := s.verifyTarget(ctx, r.Image)
	if err == nil && rt.image == nil {
		err = fault.Newf(fault.Invalid, "%s is no image with its registry's host", r.Image)
	}
	var rep *verify.Report
	if err == nil {
		scope := policy.Scope{ID: "moving-in", Namespace: r.Namespace}
		rep, err = verify.Offline(ctx, t, verify.Registry{Client: s.registry(), Repository: *rt.image}, verify.OfflineOptions{Verifier: v, Policy: set.For(t.Subject(), scope), Scope: scope})
	}
	if err != nil {
		c.Why = err.Error() // unknown, and so not the same
		return c
	}
	c.Verdict, c.By = rep.Verdict, rep.Policy
	c.Same = rep.Allowed() == r.Allowed
	if e := rep.Err(); e != nil {
		c.Why = e.Error()
	}
	return c
}
