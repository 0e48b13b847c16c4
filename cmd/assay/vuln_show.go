package main

import (
	"fmt"
	"io"
	"strings"

	"assay/vuln"

	"github.com/spf13/cobra"
)

func (a *app) vulnShowCommand() *cobra.Command {
	var as string
	cmd := &cobra.Command{
		Use:   "show ADVISORY",
		Short: "Show what the feeds in force say of a flaw, by any of its names",
		Example: `  assay vuln show CVE-2021-44228
  assay vuln show GHSA-jfh8-c2jp-5v3q -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			got, err := s.api().Advisory(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			var all []*vuln.Advisory
			for _, one := range got.Items {
				record, err := vuln.ParseAdvisory(one.Record)
				if err != nil {
					return err
				}
				all = append(all, record)
			}
			return a.print(got, func(w io.Writer) {
				fmt.Fprintln(w, "RECORD\tFEED\tSEVERITY\tALIASES\tPACKAGES\tSUMMARY")
				for i, r := range all {
					severity, score := r.Rating()
					if severity == "" {
						severity = "unknown"
					}
					if score > 0 {
						severity = fmt.Sprintf("%s %.1f", severity, score)
					}
					if r.IsWithdrawn() {
						severity = "withdrawn"
					}
					var packages []string
					for n, f := range r.Affected {
						if n == 3 {
							packages = append(packages, fmt.Sprintf("%d more", len(r.Affected)-n))
							break
						}
						packages = append(packages, f.Package.Ecosystem+" "+f.Package.Name)
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", line(r.ID), line(got.Items[i].Feed), line(severity), dash(line(strings.Join(r.Aliases, " "))), line(strings.Join(packages, ", ")), line(r.Summary))
				}
			})
		},
	}
	cmd.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return cmd
}
