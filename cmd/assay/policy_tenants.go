package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"assay/policy"

	"github.com/spf13/cobra"
)

// tenantList is an allow list as it is shown.
type tenantList struct {
	Tenant       string      `json:"tenant"`
	Policy       string      `json:"policy"`
	Mode         policy.Mode `json:"mode"`
	Scope        string      `json:"scope"`
	Repositories []string    `json:"repositories"`
	Signers      []string    `json:"signers"`
}

func (a *app) policyTenantsCommand() *cobra.Command {
	var at policy.Scope
	cmd := &cobra.Command{
		Use:   "tenants [PATH...]",
		Short: "List the tenants' allow lists: whose images may run where, and who signs for them",
		Long: `Tenants lists the allow lists that are in force on the server, or of policies in
files and folders. With --namespace, --cluster or --environment it lists those
that hold there; exit code 1 says that none does.`,
		Example: `  assay policy tenants
  assay policy tenants --cluster prod-eu --namespace payments
  assay policy tenants site/ -o json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			docs, err := a.tenantDocuments(cmd.Context(), args)
			if err != nil {
				return err
			}
			asked := at != (policy.Scope{})
			lists := []tenantList{}
			for _, d := range docs {
				if d.Spec.Tenant == nil {
					continue
				}
				p, err := policy.Compile(d)
				if err != nil {
					return err
				}
				if asked && !p.Concerns(policy.Subject{Kind: policy.Image}, at) {
					continue
				}
				lists = append(lists, tenantList{
					d.Spec.Tenant.Name, p.Name(), p.Mode(), p.ScopeText(),
					append([]string{}, d.Spec.Tenant.Repositories...), d.Spec.Tenant.SignersText(),
				})
			}
			if err := a.print(lists, func(w io.Writer) {
				if len(lists) == 0 {
					fmt.Fprintln(w, "no allow list of a tenant holds there")
					return
				}
				fmt.Fprintln(w, "TENANT\tPOLICY\tMODE\tWHERE\tREPOSITORIES\tSIGNERS")
				for _, l := range lists {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", line(l.Tenant), line(l.Policy), l.Mode, line(l.Scope), orNobody(l.Repositories), orNobody(l.Signers))
				}
			}); err != nil {
				return err
			}
			if asked && len(lists) == 0 {
				return &exitError{1}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&at.Namespace, "namespace", "", "those that hold in this namespace")
	f.StringVar(&at.Cluster, "cluster", "", "and in this cluster")
	f.StringVar(&at.Environment, "environment", "", "and in this environment")
	return cmd
}

// tenantDocuments are the policies of files, else those that are in force.
func (a *app) tenantDocuments(ctx context.Context, paths []string) ([]*policy.Document, error) {
	if len(paths) > 0 {
		docs, _, err := a.policyDocuments(paths)
		return docs, err
	}
	s, err := a.connect(ctx, "", "", true)
	if err != nil {
		return nil, err
	}
	stored, err := s.api().Documents(ctx, policy.KindPolicy)
	if err != nil {
		return nil, err
	}
	var docs []*policy.Document
	for _, d := range stored {
		doc, err := policy.ParseDocument([]byte(d.Text))
		if err != nil {
			return nil, fmt.Errorf("policy %s: %w", d.Name, err)
		}
		docs = append(docs, doc)
	}
	slices.SortFunc(docs, func(a, b *policy.Document) int { return strings.Compare(a.Metadata.Name, b.Metadata.Name) })
	return docs, nil
}

func orNobody(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return line(strings.Join(list, ", "))
}
