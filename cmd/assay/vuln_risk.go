package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"assay/artifact"
	"assay/client"

	"github.com/spf13/cobra"
)

// listByRisk is assay vuln list --sort risk: without a target all artifacts, with
// one its findings.
func (a *app) listByRisk(cmd *cobra.Command, as, service string, most int, args []string) error {
	s, err := a.connect(cmd.Context(), as, "", true)
	if err != nil {
		return err
	}
	if len(args) == 1 {
		return a.riskOfArtifact(cmd, s, args[0])
	}
	got, err := s.api().Risk(cmd.Context(), service, most)
	if err != nil {
		return err
	}
	if err := a.print(got, func(w io.Writer) { tableOfRisk(w, got) }); err != nil {
		return err
	}
	switch {
	case got.Findings > 0:
		return &exitError{1}
	case slices.ContainsFunc(got.Items, func(x client.ArtifactRisk) bool { return !x.Coverage.Complete() }):
		return &exitError{2}
	}
	return nil
}

// riskText is a sum, as far as it is known.
func riskText(x client.ArtifactRisk) string {
	switch {
	case x.Coverage.Complete():
		return fmt.Sprintf("%.1f", x.Risk)
	case x.Findings == 0:
		return "unknown"
	}
	return fmt.Sprintf("%.1f or more", x.Risk)
}

func tableOfRisk(w io.Writer, got *client.RiskList) {
	fmt.Fprintf(w, "risk %.1f of %d findings in %d artifacts\n", got.Risk, got.Findings, got.Count)
	if len(got.Items) == 0 {
		return
	}
	fmt.Fprintln(w, "RISK\tWORST\tFINDINGS\tARTIFACT\tTIER\tEXPOSURE\tRUNNING\tSERVICES\tTEAM")
	for _, x := range got.Items {
		tier, running, team := fmt.Sprint(x.Tier), "no", dash(x.Team)
		switch {
		case x.Production:
			running = "production"
		case x.Running:
			running = "yes"
		}
		if !x.Classified {
			tier += " (not classified)"
		}
		if x.Unowned {
			team += " (unowned)"
		}
		fmt.Fprintf(w, "%s\t%.1f\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", riskText(x), x.Worst, x.Findings, line(string(x.Digest)), tier, line(x.Exposure), running, dash(strings.Join(x.Services, " ")), line(team))
	}
}

func (a *app) riskOfArtifact(cmd *cobra.Command, s *session, target string) error {
	t, err := s.resolve(cmd.Context(), target)
	if err != nil {
		return err
	}
	repository := ""
	if t.image != nil {
		repository = t.image.Repository
	}
	got, err := s.api().RiskOfArtifact(cmd.Context(), t.digest, repository)
	if err != nil {
		return err
	}
	if err := a.print(got, func(w io.Writer) {
		fmt.Fprintf(w, "risk %s of %d findings; services %s; team %s\n", riskText(got.Artifact), got.Artifact.Findings, dash(strings.Join(got.Artifact.Services, " ")), dash(got.Artifact.Team))
		fmt.Fprintln(w, "for all findings\t"+partsText(got.Artifact.Parts))
		if len(got.Items) > 0 {
			fmt.Fprintln(w, "RISK\tFLAW\tCOMPONENT\tFIXED\tWHY")
		}
		for _, f := range got.Items {
			fmt.Fprintf(w, "%.1f\t%s\t%s\t%s\t%s\n", f.Risk, line(f.Name), line(f.Component), dash(f.Fixed), partsText(f.Parts[:max(0, len(f.Parts)-len(got.Artifact.Parts))]))
		}
		for _, u := range unknowns(got.Artifact.Coverage) {
			fmt.Fprintf(w, "unknown: %s\n", line(u))
		}
	}); err != nil {
		return err
	}
	switch {
	case got.Artifact.Findings > 0:
		return &exitError{1}
	case !got.Artifact.Coverage.Complete():
		return &exitError{2}
	}
	return nil
}

// partsText names each factor of a score.
func partsText(all []client.RiskPart) string {
	var out []string
	for _, p := range all {
		out = append(out, fmt.Sprintf("%s %.2f (%s)", p.Name, p.Factor, p.Why))
	}
	return line(strings.Join(out, " × "))
}

func (a *app) vulnRiskCommand() *cobra.Command {
	var as string
	var most int
	c := &cobra.Command{Use: "risk", Short: "How much hangs on the findings of a service or an artifact, in parts", Example: "  assay vuln risk service checkout\n  assay vuln risk artifact 127.0.0.1:8484/team/app:v1"}
	service := &cobra.Command{
		Use:   "service [NAME]",
		Short: "What the artifacts of a service add up to, and what takes most of it away; without a name, of all services",
		Example: `  assay vuln risk service
  assay vuln risk service checkout`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				got, err := s.api().RiskOfServices(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(got, func(w io.Writer) {
					fmt.Fprintln(w, "RISK\tSERVICE\tARTIFACTS\tFINDINGS")
					for _, v := range got.Items {
						name := v.Service
						if name == "" {
							name = "(of no service)"
						}
						fmt.Fprintf(w, "%.1f\t%s\t%d\t%d\n", v.Risk, line(name), v.Artifacts, v.Findings)
					}
				})
			}
			got, err := s.api().Risk(cmd.Context(), args[0], most)
			if err != nil {
				return err
			}
			return a.print(got, func(w io.Writer) {
				tableOfRisk(w, got)
				if len(got.Upgrades) > 0 {
					fmt.Fprintln(w)
					tableOfUpgrades(w, got.Upgrades)
				}
			})
		},
	}
	service.Flags().IntVar(&most, "limit", 20, "at most so many artifacts")
	one := &cobra.Command{
		Use:   "artifact TARGET",
		Short: "The risk of an artifact, finding by finding, each in its parts",
		Long: `Explain what each finding of an artifact counts for: 100 times the product of its
parts, each from 0 to 1, and 1 where nothing is known. docs/risk.md has the formula.

Ends with 1 when there are findings, with 2 when nothing is known of the artifact.`,
		Example: "  assay vuln risk artifact 127.0.0.1:8484/team/app:v1",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			return a.riskOfArtifact(cmd, s, args[0])
		},
	}
	for _, sub := range []*cobra.Command{service, one} {
		sub.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
		c.AddCommand(sub)
	}
	return c
}

func tableOfUpgrades(w io.Writer, all []client.Upgrade) {
	fmt.Fprintln(w, "RISK\tCOMPONENT\tUPGRADE TO\tMENDS\tLEAVES\tARTIFACTS\tDIRECT\tSERVICES")
	for _, u := range all {
		fmt.Fprintf(w, "%.1f\t%s\t%s\t%s\t%s\t%d\t%d\t%s\n", u.Risk, line(u.Component), line(u.To), someOf(u.Flaws), someOf(u.Left), u.Artifacts, u.Direct, dash(strings.Join(u.Services, " ")))
	}
}

// someOf names the first of many.
func someOf(all []string) string {
	if len(all) > 4 {
		return line(strings.Join(all[:4], " ")) + fmt.Sprintf(" and %d more", len(all)-4)
	}
	return dash(strings.Join(all, " "))
}

func (a *app) fixFirstCommand() *cobra.Command {
	var as, service, target string
	var most int
	cmd := &cobra.Command{
		Use:   "fix-first",
		Short: "Rank upgrades of components by how much risk each takes away",
		Long: `Rank what is to be upgraded first: for each component the smallest version that
mends what can be mended, and how much of all artifacts' risk that takes away. A
version that has flaws of its own is passed over for a later one, or they are told.

Ends with 1 when there is something to upgrade.`,
		Example: `  assay vuln fix-first
  assay vuln fix-first --service checkout --limit 5
  assay vuln fix-first --artifact 127.0.0.1:8484/team/app:v1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			var digest artifact.Digest
			if target != "" {
				t, err := s.resolve(cmd.Context(), target)
				if err != nil {
					return err
				}
				digest = t.digest
			}
			got, err := s.api().FixFirst(cmd.Context(), service, digest, most)
			if err != nil {
				return err
			}
			if err := a.print(got, func(w io.Writer) {
				if len(got.Items) == 0 {
					fmt.Fprintln(w, "no finding can be mended by an upgrade")
					return
				}
				tableOfUpgrades(w, got.Items)
			}); err != nil {
				return err
			}
			if len(got.Items) > 0 {
				return &exitError{1}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	f.StringVar(&service, "service", "", "of this service's artifacts alone")
	f.StringVar(&target, "artifact", "", "of this artifact alone")
	f.IntVar(&most, "limit", 20, "at most so many")
	cmd.MarkFlagsMutuallyExclusive("service", "artifact")
	return cmd
}
