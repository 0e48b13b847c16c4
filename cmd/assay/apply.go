package main

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"assay/config"
	"assay/internal/fault"

	"github.com/spf13/cobra"
)

func (a *app) applyCommand() *cobra.Command {
	var from []string
	var dryRun, prune bool
	cmd := &cobra.Command{
		Use:   "apply -f PATH",
		Short: "Bring issuers, roles, repositories and policies to what files say",
		Long: `Apply reads YAML documents (kinds Issuer, Grant, Repository, Policy) from a
file or a folder, shows how the server differs, and changes it: all documents
or none, without a restart. What the server has and the files do not is shown
as unmanaged; with --prune it is deleted, if the files hold documents of its
kind at all.

With --dry-run nothing changes, and the exit code is 1 when there is a drift:
when an apply with the same flags would change something.`,
		Example: `  assay apply --data ./data -f site/
  assay apply --server https://assay.example -f site/ --dry-run`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(from) == 0 {
				return usagef("want -f PATH: a file, a folder, or - for standard input; it can be repeated")
			}
			docs, err := a.readAll(from)
			if err != nil {
				return err
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			answer, err := s.api().Apply(cmd.Context(), docs, dryRun, prune)
			if err != nil {
				return err
			}
			if err := a.print(answer, func(w io.Writer) {
				for _, c := range answer.Changes {
					if dryRun && c.Action != "unchanged" && c.Action != "unmanaged" {
						c.Action = "would be " + c.Action
					}
					fmt.Fprintf(w, "%s\t%s/%s\n", line(c.Action), line(strings.ToLower(c.Kind)), line(c.Name))
				}
				for _, c := range answer.Changes {
					if c.Diff != "" && (dryRun || c.Action == "updated") {
						fmt.Fprintf(w, "\n%s/%s\n%s", line(strings.ToLower(c.Kind)), line(c.Name), clean(c.Diff))
					}
				}
			}); err != nil {
				return err
			}
			if dryRun {
				for _, c := range answer.Changes {
					if c.Action != "unchanged" && c.Action != "unmanaged" {
						return &exitError{1}
					}
				}
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVarP(&from, "filename", "f", nil, "a YAML file, a folder of them, or - for standard input; can be repeated")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would change, change nothing")
	cmd.Flags().BoolVar(&prune, "prune", false, "delete what the server has and the files do not, of the kinds that the files hold")
	return cmd
}

// readAll joins what all paths hold, and says here already which file holds a
// document that another one holds too.
func (a *app) readAll(paths []string) ([]byte, error) {
	var all bytes.Buffer
	seen := map[string]string{}
	for _, path := range paths {
		b, err := a.readDocuments(path)
		if err != nil {
			return nil, err
		}
		docs, err := config.ParseDocuments(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		for _, d := range docs {
			key := d.Kind + "/" + d.Name
			if first, twice := seen[key]; twice {
				return nil, fault.Newf(fault.Invalid, "%s stands in %s and in %s", key, first, path)
			}
			seen[key] = path
		}
		all.Write(b)
	}
	return all.Bytes(), nil
}

// readDocuments joins the YAML files of a folder, in the order of their names,
// and checks each here already, so that an error names its file.
func (a *app) readDocuments(from string) ([]byte, error) {
	if from == "-" {
		return a.readInput(from, 4<<20)
	}
	st, err := os.Stat(from)
	if err != nil {
		return nil, usagef("%w", err)
	}
	files := []string{from}
	if st.IsDir() {
		files = nil
		err := filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && (strings.HasSuffix(p, ".yaml") || strings.HasSuffix(p, ".yml")) {
				files = append(files, p)
			}
			return err
		})
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, err)
		}
		sort.Strings(files)
	}
	if len(files) == 0 {
		return nil, usagef("%s holds no .yaml file", from)
	}
	var all bytes.Buffer
	for _, f := range files {
		b, err := a.readInput(f, 4<<20)
		if err != nil {
			return nil, err
		}
		if _, err := config.ParseDocuments(b); err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		all.WriteString("---\n")
		all.Write(b)
		all.WriteString("\n")
	}
	return all.Bytes(), nil
}
