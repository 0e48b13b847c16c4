package main

import (
	"fmt"
	"io"
	"strings"

	"assay/client"

	"github.com/spf13/cobra"
)

func (a *app) inventoryIdentitiesCommand() *cobra.Command {
	var q client.IdentityQuery
	var as string
	var most int
	cmd := &cobra.Command{
		Use:   "identities",
		Short: "List the SPIFFE identities of workloads, and how strict their mesh is",
		Long: `List what clusters say of the workloads that run: which SPIFFE identities they have
and by whose word (spire, istio; claimed is an annotation of the workload itself, and
no proof), and whether who reaches them must show by mutual TLS who it is: strict on
every port, permissive, disabled, none (no proxy of a mesh) or unknown. Of kind
Namespace it is what comes to be there.`,
		Example: `  assay inventory identities --cluster prod-eu --mtls permissive
  assay inventory identities --spiffe-id spiffe://example.org/ns/shop/sa/checkout -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if most < 1 {
				return usagef("--limit %d: want at least 1", most)
			}
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			all := client.List[client.WorkloadIdentity]{Items: []client.WorkloadIdentity{}}
			for {
				q.Limit = min(1000, most-len(all.Items))
				page, err := s.api().Identities(cmd.Context(), q)
				if err != nil {
					return err
				}
				all.Items, all.Next = append(all.Items, page.Items...), page.Next
				if q.After = page.Next; page.Next == "" || len(all.Items) >= most {
					break
				}
			}
			return a.print(all, func(w io.Writer) { tableOfIdentities(w, all) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	f.StringVar(&q.Cluster, "cluster", "", "in this cluster")
	f.StringVar(&q.Namespace, "namespace", "", "in this namespace")
	f.StringVar(&q.MTLS, "mtls", "", "strict, permissive, disabled, none or unknown")
	f.StringVar(&q.SPIFFEID, "spiffe-id", "", "that have this identity")
	f.IntVar(&most, "limit", 1000, "at most so many")
	complete(cmd, "mtls", "strict", "permissive", "disabled", "none", "unknown")
	return cmd
}

func tableOfIdentities(w io.Writer, all client.List[client.WorkloadIdentity]) {
	if len(all.Items) == 0 {
		fmt.Fprintln(w, "nothing is known of identities; assay cluster watch tells them")
		return
	}
	fmt.Fprintln(w, "WORKLOAD\tMTLS\tMESH\tSPIFFE IDS\tSOURCE\tSINCE")
	for _, v := range all.Items {
		since := v.Since.Format("2006-01-02 15:04")
		if v.Silent {
			since += " (silent)"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", line(strings.Join([]string{v.Cluster, dash(v.Namespace), v.Kind, v.Name}, "/")), line(v.MTLS), dash(v.Mesh), dash(strings.Join(v.SPIFFEIDs, " ")), line(v.Source), since)
	}
	if all.Next != "" {
		fmt.Fprintln(w, "there is more; --limit")
	}
}
