package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"

	"assay/client"
	"assay/config"
	"assay/internal/resident"
	"assay/server"

	"github.com/spf13/cobra"
)

func (a *app) upCommand() *cobra.Command {
	var listen, publicURL, logLevel, unlock string
	cmd := &cobra.Command{
		Use:   "up [--data DIR] [--listen ADDR]",
		Short: "Start everything on this machine, with embedded storage",
		Long: `Start a certificate authority, transparency log, certificate log, timestamp
authority, TUF repository, OIDC issuer, registry and policy engine in this one
process, on a folder of files. It is ready within a second, prints where
everything is, and ends cleanly on Ctrl-C.

Whoever can open the admin socket in the data folder can get tokens and push
anything anywhere: it is for one machine and its owner. For a site with users
and TLS see "assay serve".`,
		Example: `  assay up --data ./data --listen 127.0.0.1:8484`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load("", os.Environ())
			if err != nil {
				return err
			}
			if a.data != "" {
				cfg.Data = a.data
			}
			if cfg.Data == "" {
				cfg.Data = "assay-data"
			}
			if listen != "" {
				cfg.Server.Listen = listen
			}
			if publicURL != "" {
				cfg.Server.PublicURL = publicURL
			}
			if unlock != "" {
				cfg.Keys.Unlock = unlock
			}
			if os.Getenv("ASSAY_LOG_LEVEL") == "" {
				cfg.Log.Level = "warn"
			}
			if logLevel != "" {
				cfg.Log.Level = logLevel
			}
			if terminal(a.stderr) && os.Getenv("ASSAY_LOG_FORMAT") == "" {
				cfg.Log.Format = "text"
			}
			return a.serve(cmd.Context(), cfg, true)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "", "address to listen on (default 127.0.0.1:8484; port 0 takes a free one)")
	cmd.Flags().StringVar(&publicURL, "public-url", "", "the address that clients use, when it is another")
	cmd.Flags().StringVar(&unlock, "unlock", "", "seal the key files, and what opens them: file:PATH outside the data folder, credential:NAME, env:NAME, prompt:, or a KMS key (assay keys unlock-methods)")
	cmd.Flags().StringVar(&logLevel, "log-level", "", "debug, info, warn or error (default warn)")
	return cmd
}

func (a *app) serveCommand() *cobra.Command {
	var file string
	var roles []string
	cmd := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Run a site from its configuration",
		Long: `Run Assay from one YAML file (apiVersion: assay/v1, kind: Config; see
docs/operate.md). Environment variables ASSAY_SECTION_FIELD override the file,
and flags override both. Off loopback it refuses to start without TLS. Nobody
may do anything until "assay apply" grants it.`,
		Example: `  assay serve --config /etc/assay/config.yaml
  ASSAY_SERVER_LISTEN=127.0.0.1:9000 assay serve --config config.yaml
  assay serve --config log.yaml --roles log`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return usagef("want --config FILE; assay up needs none")
			}
			cfg, err := config.Load(file, os.Environ())
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("data") {
				cfg.Data = a.data
			}
			if cmd.Flags().Changed("roles") {
				if len(roles) == 0 {
					return usagef("--roles: want some of %s", strings.Join(config.Roles(), ","))
				}
				cfg.Server.Roles = roles
			}
			return a.serve(cmd.Context(), cfg, false)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "the site's configuration file")
	cmd.Flags().StringSliceVar(&roles, "roles", nil, "what this process does of a split site's work: signer, log, registry, api, ui (default all; docs/split.md)")
	_ = cmd.RegisterFlagCompletionFunc("roles", cobra.FixedCompletions(config.Roles(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// ready is what up and serve print, with -o json as one line.
type ready struct {
	client.Status
	Ready bool `json:"ready"`
}

// servingGC is GOGC of a server: the heap grows by so many percent before the next
// collection. At Go's 100 a registry under load holds four megabytes more, and its
// pulls take no less processor time (docs/performance.md).
const servingGC = 60

func (a *app) serve(ctx context.Context, cfg config.Config, local bool) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Log.Level)); err != nil {
		return usagef("log level %q: want debug, info, warn or error", cfg.Log.Level)
	}
	opts := &slog.HandlerOptions{Level: level}
	var handler slog.Handler = slog.NewJSONHandler(a.stderr, opts)
	if cfg.Log.Format == "text" {
		handler = slog.NewTextHandler(a.stderr, opts)
	}
	log := slog.New(handler)
	s, err := server.New(ctx, cfg, server.Options{Version: version(), Logger: log, Local: local, Prompt: a.prompt("Passphrase of the keys: ")})
	if err != nil {
		return err
	}
	keeping, stop := context.WithCancel(ctx)
	defer stop()
	return s.Run(ctx, func(st client.Status) {
		switch a.output {
		case "json", "yaml":
			b, err := json.Marshal(ready{st, true})
			if err == nil {
				fmt.Fprintf(a.stdout, "%s\n", b)
			}
		default:
			a.welcome(cfg, st, local)
		}
		// After the start, which more garbage makes faster. GOGC, where set, is the
		// operator's word (runtime, "Environment Variables").
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(servingGC)
		}
		if err := resident.Trim(); err != nil {
			log.Debug("what the start needed of memory is kept", "error", err)
		}
		go func() {
			if err := resident.Keep(keeping); err != nil {
				log.Debug("pages of the program that are no longer used stay mapped", "error", err)
			}
		}()
	})
}

func (a *app) welcome(cfg config.Config, st client.Status, local bool) {
	a.printf("Assay %s is ready at %s (data in %s)\n", st.Version, st.PublicURL, line(cfg.Data))
	if !local {
		return
	}
	a.printf(`
  registry  %s
  sign      assay sign --data %s --subject you@example.com IMAGE
  cosign    assay trust root --data %s --out root.json && cosign initialize --mirror %s --root root.json
            cosign sign --yes --identity-token "$(assay token --data %s --subject you@example.com --audience sigstore)" IMAGE
  pages     %s/ui/ (log in with: assay token --data %s --subject you@example.com --audience assay-api)
  health    %s/readyz

`, st.Services.Registry, line(cfg.Data), line(cfg.Data), st.Services.TUF, line(cfg.Data), st.PublicURL, line(cfg.Data), st.PublicURL)
}
