package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// app is what every command shares: the streams and the global flags.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	output     string // -o: table, json, yaml
	server     string // --server
	data       string // --data
	caFile     string // --ca-file
	configFile string // --client-config

	hint string // what to do, should the server ask for credentials
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "assay",
		Short: "May this artifact run here, and how do we know?",
		Long: `Assay signs, logs, stores and verifies software artifacts, and answers one
question about each from the evidence: may it run here, and how do we know?

Start everything on this machine with "assay up", sign with "assay sign" or an
unmodified cosign, and ask with "assay verify".`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
		Version:           version(),
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.settle(cmd) },
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w; see %s --help", err, cmd.CommandPath())
	})
	f := root.PersistentFlags()
	f.StringVarP(&a.output, "output", "o", "", "how to print: table, json or yaml (default table)")
	f.StringVar(&a.server, "server", "", "the server's address, https://HOST[:PORT] (ASSAY_SERVER)")
	f.StringVar(&a.data, "data", "", "a local server's data folder; its admin socket gives address and tokens (ASSAY_DATA)")
	f.StringVar(&a.caFile, "ca-file", "", "PEM file of authorities for the server's TLS, besides the system's (ASSAY_CA_FILE)")
	f.StringVar(&a.configFile, "client-config", "", "the command line's own settings (ASSAY_CLIENT_CONFIG; default CONFIG_DIR/assay/client.yaml)")

	for _, g := range []struct{ id, title string }{
		{"build", "Source and build:"},
		{"artifact", "Artifacts and evidence:"},
		{"registry", "Registry:"},
		{"server", "Server:"},
		{"access", "Access:"},
		{"trust", "Trust and log:"},
	} {
		root.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
	}
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("build",
		a.initCommand(),
		a.sourceCommand(),
		a.inventoryCommand(),
		a.runCommand(),
		a.buildCommand(),
		a.runnerCommand(),
		a.buildLogCommand(),
		a.rebuildCommand(),
	)
	add("artifact",
		a.signCommand(),
		a.attestCommand(),
		a.verifyCommand(),
		a.policyCommand(),
		a.evidenceCommand(),
		a.contractCommand(),
		a.sbomCommand(),
		a.scanCommand(),
		a.vulnCommand(),
		a.vexCommand(),
		a.exceptionCommand(),
		a.actionCommand(),
		a.reportCommand(),
		a.ticketCommand(),
	)
	add("registry",
		a.pushCommand(),
		a.gateCommand(),
		a.registryCommand(),
		a.retentionCommand(),
		a.holdCommand(),
		a.importCommand(),
		a.vendorCommand(), a.assessCommand(),
	)
	add("server",
		a.upCommand(),
		a.serveCommand(),
		a.admissionCommand(),
		a.clusterCommand(),
		a.runtimeCommand(),
		a.agentCommand(),
		a.imageVerifierCommand(),
		a.applyCommand(),
		a.getCommand(),
		a.deleteCommand(),
		a.tokenCommand(),
		a.doctorCommand(),
		a.backupCommand(),
		a.restoreCommand(),
		a.webhookCommand(), a.sloCommand(), a.alertCommand(),
		a.feedCommand(), a.canaryCommand(),
	)
	add("access",
		a.loginCommand(),
		a.logoutCommand(),
		a.robotCommand(),
		a.accessCommand(),
		a.auditCommand(),
		a.breakGlassCommand(),
		a.helperCommand(),
	)
	add("trust",
		a.logCommand(),
		a.trustCommand(),
		a.keysCommand(),
		a.revokeCommand(),
		a.revocationsCommand(),
		a.bundleCommand(),
	)
	root.AddCommand(a.versionCommand(), a.manCommand())
	strictBuiltins(root)
	walk(root, func(c *cobra.Command) {
		if c.HasSubCommands() && !c.Runnable() {
			c.Args, c.RunE = cobra.ArbitraryArgs, onlyHolds // cobra's own way is help and 0 for a command that is not there
		}
		c.Args = usageArgs(c.Args)
	})
	complete(root, "output", "table", "json", "yaml")
	return root
}

// strictBuiltins mends cobra's own commands: a shell or a topic that is not
// known ends in 64, not in help and 0.
func strictBuiltins(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "completion":
			c.Args = cobra.ArbitraryArgs
			c.RunE = func(cmd *cobra.Command, args []string) error {
				if len(args) > 0 {
					return usagef("no completion for %q: want bash, zsh, fish or powershell", line(args[0]))
				}
				return cmd.Help()
			}
			c.Example = "  source <(assay completion bash)\n  assay completion zsh > \"${fpath[1]}/_assay\"\n  assay completion fish > ~/.config/fish/completions/assay.fish"
			for _, shell := range c.Commands() {
				shell.Example = "  assay completion " + shell.Name()
			}
		case "help":
			c.Example = "  assay help verify"
			c.Run = nil
			c.RunE = func(_ *cobra.Command, args []string) error {
				topic, rest, err := root.Find(args)
				if err != nil || len(rest) > 0 {
					return usagef("no help about %q; see assay --help", line(strings.Join(args, " ")))
				}
				return topic.Help()
			}
		}
	}
}

func walk(c *cobra.Command, fn func(*cobra.Command)) {
	fn(c)
	for _, child := range c.Commands() {
		walk(child, fn)
	}
}

// usageArgs makes a wrong number of arguments a usage error, which ends in 64.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	if check == nil {
		return nil
	}
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usagef("%w; see %s --help", err, cmd.CommandPath())
		}
		return nil
	}
}

// group makes a command that only holds others.
func group(use, short string, parts ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ArbitraryArgs,
		RunE:  onlyHolds,
	}
	c.AddCommand(parts...)
	return c
}

// onlyHolds is what a command does that only holds others.
func onlyHolds(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s has no command %q; see %s --help", cmd.CommandPath(), clean(args[0]), cmd.CommandPath())
	}
	return cmd.Help()
}

func (a *app) printf(format string, args ...any) { fmt.Fprintf(a.stdout, format, args...) }
func (a *app) notef(format string, args ...any)  { fmt.Fprintf(a.stderr, format, args...) }
