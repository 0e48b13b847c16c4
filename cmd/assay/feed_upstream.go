package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"assay/client"
	"assay/vuln/feed/upstream"

	"github.com/spf13/cobra"
)

func blockedWord(why string) string {
	if why == "" {
		return ""
	}
	return "in doubt: " + why
}

func (a *app) feedAddCommand() *cobra.Command {
	var u client.FeedUpstream
	var as string
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "add NAME URL",
		Short: "Have a feed fetched from now on, or fetched in another way",
		Long: `Have the server fetch a feed. URL is https://HOST/PATH, s3://BUCKET/PREFIX or
file:///PATH on the server. Of type osv (the default) it is the folder above
ECOSYSTEM/all.zip, as the public bucket of OSV and its mirrors have it, or one
zip; the lists of type kev and epss are files, and are called so. What changed
is fetched alone where the upstream has modified_id.csv.

Nothing is fetched that was not added here or in the configuration (vuln.feeds).`,
		Example: `  assay feed add osv https://osv-vulnerabilities.storage.googleapis.com --ecosystem PyPI,npm,Go
  assay feed add kev https://www.cisa.gov/sites/default/files/feeds/known_exploited_vulnerabilities.json
  assay feed add epss https://epss.empiricalsecurity.com/epss_scores-current.csv.gz
  assay feed add mirror s3://advisories/osv --ecosystem Debian --s3-endpoint https://s3.example --credentials file:/run/secrets/aws`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			u.Name, u.URL, u.EverySeconds = args[0], args[1], int64(every.Seconds())
			if u.Type == "" && slices.Contains([]string{upstream.KEV, upstream.EPSS}, u.Name) {
				u.Type = u.Name
			}
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			got, err := s.api().AddUpstream(cmd.Context(), u)
			if err != nil {
				return err
			}
			return a.print(got, func(w io.Writer) {
				fmt.Fprintf(w, "feed %s is fetched from %s; assay feed status tells how that goes\n", line(got.Name), line(got.URL))
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&u.Type, "type", "", "osv, kev or epss; default: what NAME is, or osv")
	f.StringSliceVar(&u.Ecosystems, "ecosystem", nil, "of its records, as OSV names its folders; several by commas")
	f.DurationVar(&every, "every", 0, "how often it is asked, 1m to 168h; default 1h")
	f.Int64Var(&u.MaxBytes, "max-bytes", 0, "of one archive; default 4 GiB")
	f.StringVar(&u.CABundle, "ca-bundle", "", "PEM file of authorities for its TLS, on the server")
	f.StringVar(&u.Proxy, "proxy", "", "http://HOST:PORT, or none; default: the server's environment")
	f.BoolVar(&u.AllowPrivate, "allow-private", false, "it is on a private network; permits http")
	f.StringVar(&u.Credentials, "credentials", "", "file:PATH or credential:NAME on the server: a bearer token or username:password; of S3 as blob.s3.credentials")
	f.StringVar(&u.SHA256, "sha256", "", "the archive's digest, pinned")
	f.StringVar(&u.Identity, "identity", "", "who must have signed the archive (its Sigstore bundle lies beside it)")
	f.StringVar(&u.Issuer, "issuer", "", "of that identity")
	f.StringVar(&u.S3Endpoint, "s3-endpoint", "", "of s3://: the service's address")
	f.StringVar(&u.S3Region, "s3-region", "", "of s3://; default us-east-1")
	f.BoolVar(&u.S3PathStyle, "s3-path-style", false, "of s3://: ask for HOST/BUCKET/KEY")
	f.StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	_ = cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions(upstream.Types, cobra.ShellCompDirectiveNoFileComp)) // fails for flags that do not exist
	return cmd
}

func (a *app) feedRemoveCommand() *cobra.Command {
	var as string
	cmd := &cobra.Command{
		Use:     "remove NAME",
		Short:   "End the fetching of a feed; what is in force of it stays, and grows old",
		Example: "  assay feed remove mirror",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			return s.api().RemoveUpstream(cmd.Context(), args[0])
		},
	}
	cmd.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return cmd
}

func (a *app) feedSyncCommand() *cobra.Command {
	var as string
	var wait time.Duration
	var back downgrade
	cmd := &cobra.Command{
		Use:   "sync NAME",
		Short: "Have a feed looked at now, and wait for what comes of it",
		Example: `  assay feed sync osv
  assay feed sync osv --allow-downgrade --reason "upstream rebuilt its export, ticket 1234"`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			why, err := back.why()
			if err != nil {
				return err
			}
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			asked, err := s.api().SyncUpstream(cmd.Context(), args[0], why)
			if err != nil || wait == 0 {
				return err
			}
			until := time.Now().Add(wait)
			for {
				all, err := s.api().Upstreams(cmd.Context())
				if err != nil {
					return err
				}
				i := slices.IndexFunc(all.Items, func(u client.FeedUpstream) bool { return u.Name == args[0] })
				if i < 0 {
					return errors.New("the feed was removed meanwhile")
				}
				all.Items = all.Items[i : i+1]
				if done(all.Items[0], asked.Asked) {
					return a.tellUpstreams(all)
				}
				if time.Now().After(until) {
					return fmt.Errorf("it goes on; assay feed status tells of it: nothing came of it within %s", wait)
				}
				select {
				case <-cmd.Context().Done():
					return cmd.Context().Err()
				case <-time.After(200 * time.Millisecond):
				}
			}
		},
	}
	cmd.Flags().DurationVar(&wait, "wait", 10*time.Minute, "for how long; 0: not at all")
	back.flags(cmd)
	cmd.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return cmd
}

// done says that everything of an upstream was looked at since an instant.
func done(u client.FeedUpstream, since time.Time) bool {
	return len(u.Status) > 0 && !slices.ContainsFunc(u.Status, func(s client.FeedUpstatus) bool { return s.Tried == nil || s.Tried.Before(since) })
}

func (a *app) feedStatusCommand() *cobra.Command {
	var as string
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Where feeds are fetched, when next, and what came of it; exit code 1 when one fails",
		Example: "  assay feed status\n  assay feed status -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			all, err := s.api().Upstreams(cmd.Context())
			if err != nil {
				return err
			}
			return a.tellUpstreams(all)
		},
	}
	cmd.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return cmd
}

func (a *app) tellUpstreams(all *client.List[client.FeedUpstream]) error {
	failing := false
	for _, u := range all.Items {
		failing = failing || slices.ContainsFunc(u.Status, func(s client.FeedUpstatus) bool { return s.Problem != "" })
	}
	if err := a.print(all, func(w io.Writer) {
		if len(all.Items) == 0 {
			fmt.Fprintln(w, "no feed is fetched: assay feed add has one fetched, assay feed import brings one by hand")
			return
		}
		fmt.Fprintln(w, "FEED\tECOSYSTEM\tURL\tSUCCEEDED\tOUTCOME\tNEXT\tFAILURES\tPROBLEM")
		for _, u := range all.Items {
			for _, s := range u.Status {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", line(u.Name), dash(s.Ecosystem), line(u.URL), dashed(s.Succeeded), dash(s.Outcome), dashed(s.Due), s.Failures, dash(s.Problem))
			}
		}
	}); err != nil {
		return err
	}
	if failing {
		return &exitError{1}
	}
	return nil
}

func (a *app) feedAcceptCommand() *cobra.Command {
	var reason, as string
	cmd := &cobra.Command{
		Use:   "accept OPERATION",
		Short: "Bring a blocked operation of a feed into force",
		Long: `Bring an operation into force that was held back because a canary came out clean,
or because the feed would find less than half of what it found. What it does not
find need not be found by that feed any longer. For administrators.`,
		Example: `  assay feed accept 12 --reason "GHSA-35jh-r3h4-6jhm was withdrawn by its author"`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil {
				return usagef("%s: want the number of an operation, as assay feed list has it", line(args[0]))
			}
			if strings.TrimSpace(reason) == "" {
				return usagef("want --reason WHY, which stands in the events")
			}
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			op, err := s.api().AcceptFeed(cmd.Context(), id, reason)
			if err != nil {
				return err
			}
			return a.tellImports(client.List[client.FeedOperation]{Items: []client.FeedOperation{*op}})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why it is right")
	cmd.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return cmd
}
