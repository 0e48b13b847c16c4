package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"assay/client"
	"assay/identity"
	"assay/internal/fault"
	"assay/internal/oidcflow"

	"github.com/spf13/cobra"
)

type loginFlags struct {
	issuer    string
	audiences []string
	device    bool
	noBrowser bool
	timeout   time.Duration
}

func (a *app) loginCommand() *cobra.Command {
	var f loginFlags
	cmd := &cobra.Command{
		Use:   "login --server URL",
		Short: "Log in as a person, with a browser or a device code",
		Long: `Log in at the site's OpenID Connect issuer: in a browser on this machine
(authorization code with PKCE, RFC 8252), or with --device anywhere else, where
the issuer has that flow (RFC 8628). The tokens are kept in a file of mode 0600
(ASSAY_CREDENTIALS; default CONFIG_DIR/assay/credentials.json), are renewed
where the issuer allows it, and go to this server alone. docker, crane, oras,
skopeo and cosign take them from docker-credential-assay; see assay
credential-helper --help.`,
		Example: `  assay login --server https://assay.example
  assay login --server https://assay.example --device`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
			defer cancel()
			return a.login(ctx, f)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.issuer, "issuer", "", "where to log in, if the site has several issuers")
	fl.StringSliceVar(&f.audiences, "audience", []string{string(identity.AudienceRegistry), string(identity.AudienceAPI)}, "what to log in for: assay-registry, assay-api")
	fl.BoolVar(&f.device, "device", false, "by a code that is typed into a browser anywhere")
	fl.BoolVar(&f.noBrowser, "no-browser", false, "print the address instead of opening a browser")
	fl.DurationVar(&f.timeout, "timeout", 5*time.Minute, "how long to wait for the person")
	complete(cmd, "audience", string(identity.AudienceRegistry), string(identity.AudienceAPI))
	return cmd
}

type loginResult struct {
	Server   string    `json:"server"`
	Audience string    `json:"audience"`
	Issuer   string    `json:"issuer"`
	Expires  time.Time `json:"expires"`
	Renewed  bool      `json:"renewed"` // it renews itself
}

func (a *app) login(ctx context.Context, f loginFlags) error {
	for _, aud := range f.audiences {
		if aud != string(identity.AudienceRegistry) && aud != string(identity.AudienceAPI) {
			return usagef("--audience %q: want assay-registry or assay-api", clean(aud))
		}
	}
	s, err := a.connect(ctx, "", "", true)
	if err != nil {
		return err
	}
	host, err := s.host()
	if err != nil {
		return err
	}
	o, err := (&client.Client{Base: s.base, HTTP: s.http}).Login(ctx)
	if err != nil {
		return err
	}
	issuer, err := chooseIssuer(o, f.issuer)
	if err != nil {
		return err
	}
	var results []loginResult
	for _, aud := range f.audiences {
		id, ok := issuer.Clients[aud]
		if !ok {
			a.notef("assay: issuer %s is not for %s at this site\n", line(issuer.URL), aud)
			continue
		}
		c := &oidcflow.Client{Issuer: issuer.URL, ID: id, HTTP: s.http}
		t, err := a.logInOnce(ctx, c, f)
		if err != nil {
			return err
		}
		if err := changeLogins(func(l savedLogins) {
			l.set(host, aud, savedLogin{Issuer: issuer.URL, Client: id, Token: t.IDToken, Refresh: t.Refresh, Expires: t.Expires})
		}); err != nil {
			return err
		}
		results = append(results, loginResult{host, aud, issuer.URL, t.Expires.UTC(), t.Refresh != ""})
	}
	if len(results) == 0 {
		return fault.Newf(fault.Invalid, "issuer %s gives tokens for nothing that was asked for", issuer.URL)
	}
	return a.print(results, func(w io.Writer) {
		for _, r := range results {
			renewed := ""
			if r.Renewed {
				renewed = ", and renews itself"
			}
			fmt.Fprintf(w, "logged in\t%s\tfor %s\tuntil %s%s\n", line(r.Server), r.Audience, stamp(r.Expires), renewed)
		}
	})
}

func chooseIssuer(o *client.LoginOptions, want string) (client.LoginIssuer, error) {
	var urls []string
	for _, i := range o.Issuers {
		if want == i.URL || want == "" && len(o.Issuers) == 1 {
			return i, nil
		}
		urls = append(urls, line(i.URL))
	}
	if len(urls) == 0 {
		return client.LoginIssuer{}, fault.Newf(fault.Invalid, "nobody logs in at this site as a person: an admin sets login: true at an issuer (assay apply)")
	}
	return client.LoginIssuer{}, usagef("want --issuer, one of %s", strings.Join(urls, ", "))
}

// logInOnce is one login for one client. Who is asked is told first: the server
// that was named says where to log in, and the person sees it.
func (a *app) logInOnce(ctx context.Context, c *oidcflow.Client, f loginFlags) (*oidcflow.Tokens, error) {
	a.notef("logging in at %s as client %s\n", line(c.Issuer), line(c.ID))
	if f.device {
		return c.Device(ctx, func(address, code, complete string) {
			a.notef("open %s on any machine and type the code %s\n", line(address), line(code))
			if complete != "" {
				a.notef("or open %s\n", line(complete))
			}
		})
	}
	return c.Browser(ctx, func(address string) error {
		if !f.noBrowser && openBrowser(ctx, address) == nil {
			a.notef("a browser was opened; if none came up, open this address in one:\n%s\n", line(address))
			return nil
		}
		a.notef("open this address in a browser on this machine:\n%s\n", line(address))
		return nil
	})
}

// openBrowser shows an address, which is https or loopback, with what the system
// has for it.
func openBrowser(ctx context.Context, address string) error {
	program, args := "xdg-open", []string{address}
	switch runtime.GOOS {
	case "darwin":
		program = "open"
	case "windows":
		program, args = "rundll32", []string{"url.dll,FileProtocolHandler", address}
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }()
	return nil
}

func (a *app) logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "logout [--server URL]",
		Short:   "Forget the logins at a server, or with --server left out at all",
		Example: "  assay logout --server https://assay.example",
		Args:    cobra.NoArgs,
		RunE: func(_ *cobra.Command, _ []string) error {
			host, ok := registryHost(a.server)
			if a.server != "" && !ok {
				return usagef("--server: want https://HOST[:PORT]")
			}
			var gone []string
			if err := changeLogins(func(l savedLogins) {
				for h := range l {
					if host == "" || h == host {
						gone = append(gone, h)
						delete(l, h)
					}
				}
			}); err != nil {
				return err
			}
			slices.Sort(gone)
			return a.print(gone, func(w io.Writer) {
				for _, h := range gone {
					fmt.Fprintf(w, "forgotten\t%s\n", line(h))
				}
			})
		},
	}
}

// host is the server's host[:port], under which logins are kept.
func (s *session) host() (string, error) {
	u, err := url.Parse(s.base)
	if err != nil || u.Host == "" {
		return "", fault.Newf(fault.Invalid, "server %q has no host", s.base)
	}
	return strings.ToLower(u.Host), nil
}

func notFound(kind, name string) error {
	return fault.Newf(fault.NotFound, "there is no %s %q; assay get %s lists them", kind, clean(name), kind)
}
