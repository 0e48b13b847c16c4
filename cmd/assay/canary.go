package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"assay/client"

	"github.com/spf13/cobra"
)

func (a *app) canaryCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "canary",
		Short: "What is known to be vulnerable, and must be found by the feeds",
		Long: `A canary is a bill of materials with advisories that are known to affect it. All
are judged before each operation of a feed comes into force, and with each new
matcher; one that comes out clean holds the operation back (assay feed accept).`,
		Example: "  assay canary list\n  assay canary check",
	}
	cmd.AddCommand(a.canaryAddCommand(), a.canaryListCommand("list", false), a.canaryListCommand("check", true), a.canaryRemoveCommand())
	return cmd
}

func (a *app) canaryAddCommand() *cobra.Command {
	var c client.Canary
	var document, as string
	var expect []string
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a canary",
		Long: `Add a canary. --sbom is a bill of materials in JSON (CycloneDX or SPDX); --expect
names a component of it, by package URL, and after a "=" the advisory that
affects it, by any of its names. With --feed that feed must find it from now on;
without, each feed must that found it once.`,
		Example: `  assay canary add shop --feed osv --sbom shop.cdx.json --expect pkg:npm/lodash@4.17.10=CVE-2018-16487`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Name = args[0]
			for _, x := range expect {
				i := strings.LastIndexByte(x, '=')
				if i < 0 {
					return usagef("--expect %s: want PACKAGE-URL=ADVISORY", line(x))
				}
				c.Expect = append(c.Expect, client.CanaryExpect{Component: x[:i], Advisory: x[i+1:]})
			}
			if document == "" || len(c.Expect) == 0 {
				return usagef("want --sbom FILE and --expect PACKAGE-URL=ADVISORY")
			}
			st, err := os.Stat(document)
			if err != nil {
				return err
			}
			if st.Size() > 1<<20 {
				return usagef("%s has %d bytes: a canary's document has at most 1 MiB", line(document), st.Size())
			}
			if c.Document, err = os.ReadFile(document); err != nil {
				return err
			}
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			got, err := s.api().AddCanary(cmd.Context(), c)
			if err != nil {
				return err
			}
			return a.print(got, func(w io.Writer) {
				fmt.Fprintf(w, "canary %s is looked at with each change of a feed\n", line(got.Name))
			})
		},
	}
	cmd.Flags().StringVar(&document, "sbom", "", "bill of materials, JSON")
	cmd.Flags().StringArrayVar(&expect, "expect", nil, "PACKAGE-URL=ADVISORY; may be given several times")
	cmd.Flags().StringVar(&c.Feed, "feed", "", "that must find it")
	cmd.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return cmd
}

func (a *app) canaryListCommand(use string, check bool) *cobra.Command {
	var as string
	cmd := &cobra.Command{
		Use:     use,
		Short:   "List the canaries",
		Example: "  assay canary " + use + "\n  assay canary " + use + " -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			all, err := s.api().Canaries(cmd.Context(), check)
			if err != nil {
				return err
			}
			if err := a.print(all, func(w io.Writer) { tableOfCanaries(w, all.Items, check) }); err != nil || !check {
				return err
			}
			code := 0
			for _, c := range all.Items {
				switch {
				case c.Failed:
					return &exitError{1}
				case c.Uncovered && !c.Builtin:
					code = 2
				}
			}
			if code != 0 {
				return &exitError{code}
			}
			return nil
		},
	}
	if check {
		cmd.Short = "Judge all canaries by the feeds in force; exit code 1 when one comes out clean that must not, 2 when no feed finds one of yours"
	}
	cmd.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return cmd
}

func tableOfCanaries(w io.Writer, all []client.Canary, check bool) {
	if !check {
		fmt.Fprintln(w, "CANARY\tFEED\tORIGIN\tCOMPONENT\tADVISORY")
		for _, c := range all {
			for _, x := range c.Expect {
				origin := "yours"
				if c.Builtin {
					origin = "builtin"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", line(c.Name), dash(c.Feed), origin, line(x.Component), line(x.Advisory))
			}
		}
		return
	}
	fmt.Fprintln(w, "CANARY\tCOMPONENT\tADVISORY\tFEED\tRESULT")
	for _, c := range all {
		for _, r := range c.Results {
			result, by := "found", r.Feed+"/"+r.Ecosystem
			switch {
			case r.Feed == "":
				result, by = "no feed knows it", ""
			case !r.Found:
				result = "CLEAN: it must be found"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", line(c.Name), line(r.Component), line(r.Advisory), dash(by), result)
		}
	}
}

func (a *app) canaryRemoveCommand() *cobra.Command {
	var as string
	cmd := &cobra.Command{
		Use:     "remove NAME",
		Short:   "Remove a canary",
		Example: "  assay canary remove shop",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			return s.api().RemoveCanary(cmd.Context(), args[0])
		},
	}
	cmd.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return cmd
}
