package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"assay/client"
	"assay/config"
	"assay/internal/durable"
	"assay/internal/fault"
	"assay/internal/keyring"
	"assay/server"
	"assay/trust/tuf"

	"github.com/spf13/cobra"
)

// ceremonyCommands are the steps by which k of n people make and renew a TUF
// root whose keys never lie on the server.
func (a *app) ceremonyCommands() []*cobra.Command {
	return []*cobra.Command{a.trustInit(), a.trustOnlineKey(), a.trustNextRoot(), a.trustSignRoot(), a.trustCheckRoot(), a.trustImportRoot()}
}

// keyFlags open the keys of a ceremony.
type keyFlags struct{ passphrase string }

func (f *keyFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.passphrase, "key-passphrase", "", "where the passphrase of key files is: file:PATH or credential:NAME")
}

// open gives the key that text names: a public one without its signer, so that
// its owner can sign elsewhere; a private one with it. A file that is not there
// is made, sealed by the passphrase.
func (f *keyFlags) open(ctx context.Context, text string, create bool) (crypto.PublicKey, crypto.Signer, error) {
	passphrase, err := config.Secret(f.passphrase)
	if err != nil {
		return nil, nil, usagef("--key-passphrase: %w", err)
	}
	path := strings.TrimPrefix(text, "file:")
	if !keyring.IsKeyURI(text) {
		b, err := os.ReadFile(path)
		switch {
		case errors.Is(err, os.ErrNotExist) && create:
			if len(passphrase) == 0 {
				return nil, nil, usagef("%s is not there and would be made: a root key is sealed, give --key-passphrase file:PATH", line(text))
			}
			s, err := makeKey(path, passphrase)
			if err != nil {
				return nil, nil, err
			}
			return s.Public(), s, nil
		case err != nil:
			return nil, nil, usagef("key: %w", err)
		}
		if block, _ := pem.Decode(b); block != nil && block.Type == "PUBLIC KEY" {
			pub, err := keyring.ParsePublic(b)
			if err != nil {
				return nil, nil, usagef("%s: %w", line(text), err)
			}
			return pub, nil, nil
		}
	}
	s, err := keyring.OpenURI(ctx, text, passphrase)
	if err != nil {
		return nil, nil, usagef("key: %w", err)
	}
	return s.Public(), s, nil
}

// makeKey makes a sealed key file and the file of its public half beside it.
func makeKey(path string, passphrase []byte) (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	b, err := keyring.Marshal(key, passphrase)
	if err != nil {
		return nil, err
	}
	if err := durable.CreateFile(path, b, 0o600); err != nil {
		return nil, err
	}
	pub, err := keyring.MarshalPublic(key.Public())
	if err != nil {
		return nil, err
	}
	return key, durable.CreateFile(path+".pub", pub, 0o644)
}

// planFlags say what a root holds.
type planFlags struct {
	keyFlags
	keys      []string
	threshold int
	online    string
	life      time.Duration
	out       string
}

func (f *planFlags) register(cmd *cobra.Command) {
	f.keyFlags.register(cmd)
	fl := cmd.Flags()
	fl.StringArrayVar(&f.keys, "root-key", nil, "a root key: a private key (file or URI), which also signs; a public key (PEM), whose owner signs later; or a file to be made")
	fl.IntVar(&f.threshold, "threshold", 0, "how many root keys must sign")
	fl.StringVar(&f.online, "online-key", "", "PEM file of the server's online key (assay trust online-key writes it)")
	fl.DurationVar(&f.life, "expires", 365*24*time.Hour, "how long the root is valid; renew it long before")
	fl.StringVar(&f.out, "out", "", "the file to write")
}

// plan reads the flags; signers are the private keys among the root keys.
func (f *planFlags) plan(ctx context.Context) (p tuf.RootPlan, signers []crypto.Signer, err error) {
	if f.out == "" {
		return p, nil, usagef("want --out FILE")
	}
	if _, err := os.Stat(f.out); err == nil {
		return p, nil, usagef("%s is there already; a root that was handed out is never written over", line(f.out))
	}
	p.Threshold, p.Expires = f.threshold, time.Now().Add(f.life)
	if f.online != "" {
		b, err := os.ReadFile(f.online)
		if err != nil {
			return p, nil, usagef("--online-key: %w", err)
		}
		if p.Online, err = keyring.ParsePublic(b); err != nil {
			return p, nil, usagef("--online-key %s: %w", line(f.online), err)
		}
	}
	for _, text := range f.keys {
		pub, s, err := f.open(ctx, text, true)
		if err != nil {
			return p, nil, err
		}
		p.Root = append(p.Root, pub)
		if s != nil {
			signers = append(signers, s)
		}
	}
	return p, signers, nil
}

func (a *app) trustInit() *cobra.Command {
	var f planFlags
	var offline bool
	cmd := &cobra.Command{
		Use:   "init --offline-root --threshold K --root-key KEY … --online-key PUB --out 1.root.json",
		Short: "Make the first root of a site, whose keys stay off the server",
		Long: `Make TUF root 1 on another machine than the server: n root keys, of which K must
sign, and the server's online key, which signs what changes from day to day.
Root keys that are not there are made, sealed by the passphrase, with their
public half beside them (KEY.pub). Keys given as public ones sign later, each
on its owner's machine, with assay trust sign-root.

The server starts with the finished file as trust.offline_root.`,
		Example: `  assay trust init --offline-root --threshold 2 --root-key alice.key --root-key bob.key --root-key carol.pub \
    --key-passphrase file:passphrase --online-key online.pub --out 1.root.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !offline {
				return usagef("want --offline-root; a server without trust.offline_root makes its own root at its first start")
			}
			if f.online == "" || len(f.keys) == 0 || f.threshold == 0 {
				return usagef("want --threshold, --root-key and --online-key")
			}
			p, signers, err := f.plan(cmd.Context())
			if err != nil {
				return err
			}
			return a.planned(nil, p, signers, f.out)
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&offline, "offline-root", false, "keep the root's keys off the server")
	return cmd
}

// planned makes a root, has the keys at hand sign it, and says what is missing.
func (a *app) planned(before []byte, p tuf.RootPlan, signers []crypto.Signer, out string) error {
	root, err := tuf.PlanRoot(before, p, time.Now())
	if err != nil {
		return usageOf(err)
	}
	for _, s := range signers {
		if root, err = tuf.SignRoot(root, before, s); err != nil {
			return usageOf(err)
		}
	}
	if err := writeFile(out, root); err != nil {
		return err
	}
	return a.rootStatus(root, before, out, false)
}

// usageOf makes what is wrong with arguments a usage error.
func usageOf(err error) error {
	if errors.Is(err, fault.Invalid) {
		return usagef("%w", err)
	}
	return err
}

func (a *app) trustNextRoot() *cobra.Command {
	var f planFlags
	var before string
	cmd := &cobra.Command{
		Use:   "next-root --before ROOT --out FILE",
		Short: "Make the root that follows one: renewed, or with other keys",
		Long: `Make the next version of a root, unsigned: with a later expiry and, where given,
other root keys (all of them), another threshold or another online key; what is
not given stays. It is valid once a threshold of the old root's keys and of its
own have signed it (assay trust sign-root), and takes force by assay trust
import-root.`,
		Example: `  assay trust next-root --before 1.root.json --out 2.root.json
  assay trust next-root --before 1.root.json --online-key online-2.pub --out 2.root.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			old, err := readFileCapped(before, "--before")
			if err != nil {
				return err
			}
			p, signers, err := f.plan(cmd.Context())
			if err != nil {
				return err
			}
			return a.planned(old, p, signers, f.out)
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&before, "before", "", "the root that is in force")
	return cmd
}

func readFileCapped(path, what string) ([]byte, error) {
	if path == "" {
		return nil, usagef("want %s FILE", what)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, usagef("%s: %w", what, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 1<<20+1))
	if err == nil && len(b) > 1<<20 {
		err = fault.Newf(fault.TooLarge, "more than a MiB")
	}
	if err != nil {
		return nil, usagef("%s %s: %w", what, line(path), err)
	}
	return b, nil
}

func (a *app) trustSignRoot() *cobra.Command {
	var f keyFlags
	var keys []string
	var before, out string
	cmd := &cobra.Command{
		Use:   "sign-root FILE --key KEY",
		Short: "Add a root key's signature to a root",
		Long: `Show what a root says and add the signature of one root key, on the machine
where that key is. FILE then goes to the next signer. A key of the root before
that the new one drops signs too: give --before.`,
		Example: `  assay trust check-root 2.root.json --before 1.root.json
  assay trust sign-root 2.root.json --before 1.root.json --key alice.key --key-passphrase file:passphrase`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			root, err := readFileCapped(args[0], "FILE")
			if err != nil {
				return err
			}
			var old []byte
			if before != "" {
				if old, err = readFileCapped(before, "--before"); err != nil {
					return err
				}
			}
			if len(keys) == 0 {
				return usagef("want --key KEY: the root key that signs")
			}
			if _, err := tuf.CheckRoot(root, old); err != nil {
				return err
			}
			for _, text := range keys {
				_, s, err := f.open(cmd.Context(), text, false)
				if err != nil {
					return err
				}
				if s == nil {
					return usagef("%s is a public key: signing wants the private one", line(text))
				}
				if root, err = tuf.SignRoot(root, old, s); err != nil {
					return err
				}
			}
			if out == "" {
				out = args[0]
			}
			if err := writeFile(out, root); err != nil {
				return err
			}
			return a.rootStatus(root, old, out, false)
		},
	}
	f.register(cmd)
	cmd.Flags().StringArrayVar(&keys, "key", nil, "the private key: a file or a URI")
	cmd.Flags().StringVar(&before, "before", "", "the root before, where its keys must sign too")
	cmd.Flags().StringVar(&out, "out", "", "write to another file than FILE")
	return cmd
}

func (a *app) trustCheckRoot() *cobra.Command {
	var before string
	cmd := &cobra.Command{
		Use:   "check-root FILE",
		Short: "Show what a root says and who has signed it",
		Long: `Show a TUF root's version, expiry, keys and signatures, each checked. Exit code
1: signatures are missing or not valid.`,
		Example: "  assay trust check-root 2.root.json --before 1.root.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			root, err := readFileCapped(args[0], "FILE")
			if err != nil {
				return err
			}
			var old []byte
			if before != "" {
				if old, err = readFileCapped(before, "--before"); err != nil {
					return err
				}
			}
			return a.rootStatus(root, old, args[0], true)
		},
	}
	cmd.Flags().StringVar(&before, "before", "", "the root before, whose keys must have signed too")
	return cmd
}

// rootStatus prints how far a root is signed; with strict an unfinished one
// ends in exit code 1.
func (a *app) rootStatus(root, before []byte, path string, strict bool) error {
	st, err := tuf.CheckRoot(root, before)
	if err != nil {
		return err
	}
	if err := a.print(st, func(w io.Writer) {
		fmt.Fprintf(w, "file\t%s\n", line(path))
		fmt.Fprintf(w, "root\tversion %d, expires %s\n", st.Version, stamp(st.Expires))
		fmt.Fprintf(w, "signatures\t%d of %d, by %d keys\n", st.Signed, st.Threshold, len(st.Keys))
		if st.OldThreshold > 0 {
			fmt.Fprintf(w, "of the root before\t%d of %d\n", st.OldSigned, st.OldThreshold)
		}
		fmt.Fprintf(w, "online key\t%s\n", st.OnlineKey)
		for _, id := range st.Missing {
			fmt.Fprintf(w, "has not signed\t%s\n", id)
		}
		switch {
		case !st.Complete:
			fmt.Fprintf(w, "complete\tno: assay trust sign-root %s on the machine of another key\n", line(path))
		case before == nil && st.Version > 1:
			fmt.Fprintf(w, "complete\tof its own keys; check the old root's with --before\n")
		default:
			fmt.Fprintf(w, "complete\tyes\n")
		}
	}); err != nil {
		return err
	}
	if strict && !st.Complete {
		return &exitError{1}
	}
	return nil
}

func (a *app) trustImportRoot() *cobra.Command {
	return &cobra.Command{
		Use:   "import-root FILE",
		Short: "Publish a root that was signed offline",
		Long: `Hand a finished root to the running server, by its admin socket. It is published
when a threshold of the old root's keys and of its own have signed it, and it
names an online key that the server holds. Clients follow by themselves.`,
		Example: "  assay trust import-root 2.root.json --data ./data",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			root, err := readFileCapped(args[0], "FILE")
			if err != nil {
				return err
			}
			c, err := a.socket()
			if err != nil {
				return err
			}
			b, err := c.ImportTUFRoot(cmd.Context(), root)
			if err != nil {
				return err
			}
			var st tuf.RootStatus
			if err := json.Unmarshal(b, &st); err != nil {
				return fault.Wrap(fault.Unavailable, err)
			}
			return a.print(st, func(w io.Writer) {
				fmt.Fprintf(w, "in force\tTUF root %d, expires %s, %d signatures\n", st.Version, stamp(st.Expires), st.Signed)
			})
		},
	}
}

// socket is the admin socket of --data.
func (a *app) socket() (*client.Client, error) {
	if a.data == "" {
		return nil, usagef("want --data DIR: this goes by the admin socket, on the server's machine")
	}
	return client.Socket(filepath.Join(a.data, "run", "admin.sock")), nil
}

func (a *app) trustOnlineKey() *cobra.Command {
	var fresh bool
	var file, out string
	cmd := &cobra.Command{
		Use:   "online-key",
		Short: "Write the public half of the server's online TUF key",
		Long: `Write the key that signs the TUF repository from day to day, for a root to name
it. Before the first start of a site with an offline root, --config FILE makes
the key in the data folder. With a running server --data DIR asks it, and --new
makes one more, which takes over when a root that names it is imported.`,
		Example: `  assay trust online-key --config config.yaml --out online.pub
  assay trust online-key --data ./data --new --out online-2.pub`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file != "" {
				pub, err := a.folderOnlineKey(cmd.Context(), file, fresh)
				if err != nil {
					return err
				}
				b, err := keyring.MarshalPublic(pub)
				if err != nil {
					return err
				}
				return a.writeOut(out, b)
			}
			c, err := a.socket()
			if err != nil {
				return err
			}
			k, err := c.OnlineKey(cmd.Context(), fresh)
			if err != nil {
				return err
			}
			return a.writeOut(out, []byte(k.PEM))
		},
	}
	cmd.Flags().BoolVar(&fresh, "new", false, "make one more")
	cmd.Flags().StringVar(&file, "config", "", "the configuration of a site that does not run")
	cmd.Flags().StringVar(&out, "out", "", "the file; default is standard output")
	return cmd
}

// folderOnlineKey opens the data folder of a site that does not run.
func (a *app) folderOnlineKey(ctx context.Context, file string, fresh bool) (crypto.PublicKey, error) {
	cfg, err := config.Load(file, os.Environ())
	if err != nil {
		return nil, err
	}
	if a.data != "" {
		cfg.Data = a.data
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return server.FolderOnlineKey(ctx, cfg, nil, fresh)
}
