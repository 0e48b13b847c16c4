package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"assay/admission/rbac"
	"assay/identity"
	"assay/internal/durable"
	"assay/internal/fault"
	"assay/internal/kube"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

type rbacFlags struct {
	kubeconfig, context, expect, write, as string
	o                                      rbac.Options
	inCluster                              bool
}

// rbacReport is what the command prints.
type rbacReport struct {
	Server     string          `json:"server"`
	Namespace  string          `json:"namespace,omitempty"`
	Holders    []rbac.Holder   `json:"holders"`
	Unexpected int             `json:"unexpected"`
	Unused     []rbac.Expected `json:"unused,omitempty"`
}

func (a *app) admissionRBACCommand() *cobra.Command {
	var r rbacFlags
	cmd := &cobra.Command{
		Use:   "rbac-audit [--kube CONTEXT]",
		Short: "Who could open the door: change webhooks, exempt namespaces, grant exceptions",
		Long: `List the users, groups and service accounts of a cluster that could go around
admission, each with its paths: binding, role, rule. The powers:

` + powerWords() + `
"assume" follows Pods: who may run one in the namespace of a service account that is
listed has its powers. "exceptions" is read where a server is named (--server or
--data): the grants of Assay's own roles that hold the action approve or apply.

--expect names an allow list; --write makes one of what there is now, to be read and
shortened. What Kubernetes itself is made of (system:masters, its controllers) is
expected, and listed. Only RBAC is read: nobody can read from a cluster who is in a
group, or what another authorizer allows. It wants the verb list on RBAC's objects.

Exit codes: 0 all are expected, 1 somebody is not, 2 the cluster could not be read.`,
		Example: `  assay admission rbac-audit --kube prod-eu --namespace assay-system
  assay admission rbac-audit --kube prod-eu --namespace assay-system --write allowed.yaml
  assay admission rbac-audit --kube prod-eu --namespace assay-system --expect allowed.yaml -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.rbacAudit(cmd.Context(), &r) },
	}
	f := cmd.Flags()
	f.StringVar(&r.context, "kube", "", "context of the kubeconfig (default its current one)")
	f.StringVar(&r.kubeconfig, "kubeconfig", "", "the kubeconfig (default KUBECONFIG, or ~/.kube/config)")
	f.BoolVar(&r.inCluster, "in-cluster", false, "ask as the service account of the Pod that this runs in")
	f.StringVar(&r.o.Namespace, "namespace", "", "the namespace that Assay runs in")
	f.StringSliceVar(&r.o.Never, "never", nil, "further namespaces in which nothing is refused, besides kube-system")
	f.StringVar(&r.expect, "expect", "", "allow list: who is expected to have which powers")
	f.StringVar(&r.write, "write", "", "write an allow list of all who are there now")
	f.StringVar(&r.as, "subject", "", "with --data: the local identity to ask the server as")
	return cmd
}

func powerWords() string {
	var b strings.Builder
	for _, p := range rbac.Powers {
		fmt.Fprintf(&b, "  %-11s %s\n", p, rbac.Words[p])
	}
	return b.String()
}

func (r *rbacFlags) client() (*kube.Client, error) {
	if r.inCluster {
		return kube.InCluster()
	}
	file := r.kubeconfig
	if file == "" {
		file = os.Getenv("KUBECONFIG")
	}
	if file == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, usagef("want --kubeconfig FILE: %w", err)
		}
		file = filepath.Join(home, ".kube", "config")
	}
	return kube.FromFile(file, r.context)
}

func (a *app) rbacAudit(ctx context.Context, r *rbacFlags) error {
	var expected *rbac.Expectation
	if r.expect != "" {
		b, err := os.ReadFile(r.expect)
		if err != nil {
			return usagef("--expect: %w", err)
		}
		if expected, err = rbac.ParseExpectation(b); err != nil {
			return fault.Newf(fault.Invalid, "--expect %s: %w", r.expect, err)
		}
	}
	k, err := r.client()
	if err != nil {
		return err
	}
	c, err := rbac.Read(ctx, k)
	if err != nil {
		return err
	}
	all := rbac.Audit(c, r.o)
	if a.server != "" || a.data != "" {
		grants, err := a.exceptionGrants(ctx, r.as)
		if err != nil {
			return fault.Newf(fault.Unavailable, "the server's grants: %w", err)
		}
		all = append(all, grants...)
	}
	rep := rbacReport{Server: k.Server(), Namespace: r.o.Namespace, Holders: all}
	rep.Unexpected, rep.Unused = rbac.Judge(all, expected)
	if r.write != "" {
		b, err := rbac.Allow(all)
		if err != nil {
			return err
		}
		if err := durable.WriteFile(r.write, b, 0o600); err != nil {
			return err
		}
		a.notef("%s: read it, and take out who should not be there\n", r.write)
	}
	if err := a.print(&rep, func(w io.Writer) { rbacTable(w, &rep) }); err != nil {
		return err
	}
	if rep.Unexpected > 0 {
		return &exitError{1}
	}
	return nil
}

func rbacTable(w io.Writer, rep *rbacReport) {
	fmt.Fprintln(w, "WHO\tPOWER\tWHERE\tBY")
	for _, h := range rep.Holders {
		for _, p := range h.Paths {
			mark := ""
			switch {
			case h.Standard:
				mark = " (Kubernetes' own)"
			case !slices.Contains(h.Unexpected, p.Power):
				mark = " (expected)"
			}
			where := "everywhere"
			if len(p.Where) > 0 {
				where = strings.Join(p.Where, " ")
			}
			fmt.Fprintf(w, "%s\t%s%s\t%s\t%s -> %s -> %s\n", line(h.Subject.String()), p.Power, mark, line(where), line(p.Binding), line(p.Role), line(p.Why))
		}
	}
	for _, u := range rep.Unused {
		s := rbac.Subject{Kind: u.Kind, Name: u.Name, Namespace: u.Namespace}
		fmt.Fprintf(w, "%s\texpected, and has no power\t-\t-\n", line(s.String()))
	}
	fmt.Fprintf(w, "%d of %d are not expected\n", rep.Unexpected, len(rep.Holders))
}

// exceptionGrants are the grants at Assay's server that let somebody except an
// image from a policy, or change the policies.
func (a *app) exceptionGrants(ctx context.Context, as string) ([]rbac.Holder, error) {
	s, err := a.connect(ctx, as, "", true)
	if err != nil {
		return nil, err
	}
	docs, err := s.api().Documents(ctx, "Grant")
	if err != nil {
		return nil, err
	}
	var out []rbac.Holder
	for _, d := range docs {
		var doc struct {
			Spec identity.Grant `yaml:"spec"`
		}
		if err := yaml.Unmarshal([]byte(d.Text), &doc); err != nil {
			return nil, fault.Newf(fault.Unavailable, "grant %.80q: %w", d.Name, err)
		}
		g := &doc.Spec
		acts := g.Actions // they narrow the role
		if len(acts) == 0 {
			acts = g.Role.Actions()
		}
		i := slices.IndexFunc([]identity.Action{identity.ActApprove, identity.ActApply, identity.ActAdmin}, func(x identity.Action) bool { return slices.Contains(acts, x) })
		if i < 0 {
			continue
		}
		h := rbac.Holder{Subject: rbac.Subject{Kind: "Grant", Name: grantee(g)}, Powers: []rbac.Power{rbac.Exceptions}}
		path := rbac.Path{
			Power: rbac.Exceptions, Binding: "Grant " + d.Name, Role: "role " + string(g.Role), Where: []string{g.Scope},
			Why: "action " + []string{"approve", "apply", "admin"}[i] + " at Assay's server",
		}
		if at := slices.IndexFunc(out, func(o rbac.Holder) bool { return o.Subject == h.Subject }); at >= 0 {
			out[at].Paths = append(out[at].Paths, path)
			continue
		}
		h.Paths = []rbac.Path{path}
		out = append(out, h)
	}
	return out, nil
}

// grantee names whom a grant is for: exactly, since an allow list names it so.
func grantee(g *identity.Grant) string {
	var who []string
	for _, p := range [][2]string{{"subject ", g.Subject}, {"group ", g.Group}, {"team ", g.Team}} {
		if p[1] != "" {
			who = append(who, p[0]+p[1])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(g.Claims)) {
		who = append(who, "claim "+name+"="+g.Claims[name])
	}
	if g.Issuer != "" {
		who = append(who, "of "+g.Issuer)
	}
	return strings.Join(who, " ")
}
