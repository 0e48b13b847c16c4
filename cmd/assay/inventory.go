package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"assay/client"
	"assay/internal/durable"
	"assay/internal/fault"
	"assay/inventory/supply"

	"github.com/spf13/cobra"
)

// inventoryFlags are those of assay inventory scan.
type inventoryFlags struct {
	o         supply.Options
	provider  string
	tokenFile string
	templates []string
	days      int
	baseline  string
	accept    bool
	reason    string
	local     bool
	as        string
}

// inventoryReport is what assay inventory scan prints.
type inventoryReport struct {
	*supply.Inventory
	Baseline string             `json:"baseline,omitempty"` // digest of the file compared with
	Changes  []supply.Change    `json:"changes"`
	Server   *client.SupplyScan `json:"server,omitempty"` // what the server says of it
}

func (a *app) inventoryCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "inventory",
		Short:   "Services and what runs; what a forge holds that reaches into builds",
		Example: "  assay inventory services list\n  assay inventory workloads --at 2026-03-03\n  assay inventory scan --provider github --url https://github.com --token-file token --org example",
	}
	c.AddCommand(a.inventoryScanCommand(), a.inventoryApplyCommand(), a.inventorySchemaCommand(), a.inventoryServicesCommand(), a.inventoryWorkloadsCommand(), a.inventoryIdentitiesCommand(), a.inventoryReportCommand(),
		a.inventoryListCommand(), a.inventoryShowCommand(), a.inventoryDriftCommand(), a.inventoryAcceptCommand())
	return c
}

func (a *app) inventoryScanCommand() *cobra.Command {
	var f inventoryFlags
	c := &cobra.Command{
		Use:   "scan --provider PROVIDER --url URL --token-file FILE (--org ORG | --repository OWNER/NAME …)",
		Short: "Take stock of a forge: admins, keys, secrets' names, runners, pipelines",
		Long: `Read a forge's API, with a read-only token that goes to its host alone, and list
repositories, admins, deploy keys, names and ages of secrets, self-hosted runners,
permissions of workflows, pipelines, robots and registries. Names what lets an
attacker in, and what changed since a baseline.

When a server is set (--server, --data) the scan is handed in there, and held against
the run that somebody accepted before: see assay inventory drift. --local keeps it
here, and --baseline FILE compares with a file.

Ends with 0 when nothing was found and everything could be asked, with 1 when there
are findings or changes, with 2 when there are none but some part is unknown, or the
server has no accepted run to compare with. --skip PART leaves a part out on purpose.`,
		Example: `  assay inventory scan --provider github --url https://github.com --token-file token --org example
  assay inventory scan --provider gitlab --url https://gitlab.example --token-file token \
    --repository group/app --baseline app.json --accept
  assay inventory scan --provider gitlab --url https://gitlab.example --token-file token \
    --repository group/app --baseline app.json --template .gitlab-ci.yml=want.yml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.takeStock(cmd.Context(), &f) },
	}
	fl := c.Flags()
	fl.StringVar(&f.provider, "provider", "", "github, gitlab or gitea")
	fl.StringVar(&f.o.URL, "url", "", "the forge, as a browser has it")
	fl.StringVar(&f.tokenFile, "token-file", "", "a file with a read-only token")
	fl.StringVar(&f.o.Org, "org", "", "all repositories of an organisation, or of a GitLab group")
	fl.StringSliceVar(&f.o.Repositories, "repository", nil, "a repository, OWNER/NAME; may be repeated")
	fl.StringSliceVar(&f.o.CIUsers, "ci-user", nil, "a user that pipelines act as; * is any run of characters")
	fl.StringSliceVar(&f.templates, "template", nil, "PATH=FILE: in each repository PATH must be what FILE is")
	fl.IntVar(&f.days, "max-secret-age", 180, "days after which a secret is old; 0 for any age")
	fl.StringSliceVar(&f.o.Skip, "skip", nil, "a part that is not asked for: "+strings.Join(supply.Parts(), ", "))
	fl.StringVar(&f.baseline, "baseline", "", "a file to compare with")
	fl.BoolVar(&f.accept, "accept", false, "what is found is as it should be: write it to --baseline, or accept it on the server")
	fl.StringVar(&f.reason, "reason", "", "with --accept on a server: why")
	fl.BoolVar(&f.local, "local", false, "do not hand the scan in, though a server is set")
	fl.StringVar(&f.as, "subject", "", "with --data: the local identity to hand it in as")
	fl.BoolVar(&f.o.AllowPrivate, "allow-private", false, "the forge may be at a private address, and at http://")
	complete(c, "provider", "github", "gitlab", "gitea")
	complete(c, "skip", supply.Parts()...)
	return c
}

func (f *inventoryFlags) read() error {
	f.o.Provider = supply.Provider(f.provider)
	switch {
	case f.provider == "" || f.o.URL == "" || f.tokenFile == "":
		return usagef("want --provider, --url and --token-file")
	case (f.o.Org == "") == (len(f.o.Repositories) == 0):
		return usagef("want either --org or --repository")
	case f.accept && f.baseline == "" && f.local:
		return usagef("--accept: want --baseline FILE, where it is written to, or a server")
	case f.accept && f.baseline == "" && strings.TrimSpace(f.reason) == "":
		return usagef("--accept: want --baseline FILE, where it is written to, or --reason TEXT to accept it on the server")
	case f.days < 0 || f.days > 36500:
		return usagef("--max-secret-age %d: want days from 0 to 36500", f.days)
	}
	f.o.MaxSecretAge = time.Duration(f.days) * 24 * time.Hour
	token, err := os.ReadFile(f.tokenFile)
	if err != nil {
		return err
	}
	f.o.Token = bytes.TrimSpace(token)
	if n := len(f.o.Token); n == 0 || n > 4096 || bytes.ContainsAny(f.o.Token, " \t\r\n\x00") {
		return usagef("--token-file: want one token and nothing else")
	}
	f.o.Templates = map[string][]byte{}
	for _, t := range f.templates {
		path, file, ok := strings.Cut(t, "=")
		if !ok || path == "" || file == "" {
			return usagef("--template %q: want PATH=FILE", line(t))
		}
		if f.o.Templates[path], err = os.ReadFile(file); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) takeStock(ctx context.Context, f *inventoryFlags) error {
	if err := f.read(); err != nil {
		return err
	}
	var before *supply.Inventory
	var digest string
	if f.baseline != "" {
		b, err := os.ReadFile(f.baseline)
		switch {
		case err == nil:
			if before, digest, err = supply.ReadBaseline(b); err != nil {
				return fmt.Errorf("baseline %s: %w", line(f.baseline), err)
			}
		case !errors.Is(err, os.ErrNotExist) || !f.accept:
			return fmt.Errorf("baseline: %w (--accept makes it)", err)
		}
	}
	var s *session
	if !f.local {
		var err error
		if s, err = a.connect(ctx, f.as, "", f.accept && f.baseline == ""); err != nil { // before the forge is asked for long
			return err
		}
	}
	got, err := supply.Scan(ctx, f.o)
	if err != nil {
		if fault.ExitCode(err) == 1 { // a token that may not look decides nothing
			err = fault.Newf(fault.Unavailable, "%w", errors.New(err.Error()))
		}
		return err
	}
	r := inventoryReport{Inventory: got, Baseline: digest, Changes: []supply.Change{}}
	if before != nil {
		if r.Changes, err = supply.Compare(before, got); err != nil {
			return err
		}
	}
	if s != nil && (s.admin != nil || s.base != "") {
		if r.Server, err = handIn(ctx, s, f, got); err != nil {
			return err
		}
	}
	if f.accept && f.baseline != "" {
		b, err := json.MarshalIndent(got, "", "  ")
		if err != nil {
			return err
		}
		if err := durable.WriteFile(f.baseline, append(b, '\n'), 0o600); err != nil {
			return err
		}
	}
	if err := a.print(&r, func(w io.Writer) { tableOfInventory(w, &r) }); err != nil {
		return err
	}
	state := supply.StateSame
	if r.Server != nil && !r.Server.Baseline {
		state = r.Server.Drift.State
	}
	switch {
	case len(got.Findings)+len(r.Changes) > 0 || state == supply.StateDrifted:
		return &exitError{1}
	case len(got.Unknown) > 0 || state != supply.StateSame:
		return &exitError{2}
	}
	return nil
}

func tableOfInventory(w io.Writer, r *inventoryReport) {
	fmt.Fprintln(w, "SCOPE\tKIND\tNAME\tVALUE\tSINCE")
	for _, i := range r.Items {
		since := "-"
		if i.Since != nil {
			since = stamp(*i.Since)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", line(i.Scope), i.Kind, dash(i.Name), dash(i.Value), since)
	}
	for _, f := range r.Findings {
		fmt.Fprintf(w, "finding\t%s\t%s\t%s\t%s\n", f.Rule, line(f.Scope), dash(f.Name), line(f.Text))
	}
	for _, c := range r.Changes {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s -> %s\n", c.What, line(c.Kind), line(c.Scope), dash(c.Name), dash(c.Before), dash(c.After))
	}
	if r.Server != nil {
		tableOfDrift(w, r.Server)
	}
	for _, u := range r.Unknown {
		fmt.Fprintf(w, "unknown\t%s\t%s\t%s\t\n", u.Part, line(u.Scope), line(u.Why))
	}
}
