package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"assay/config"
	"assay/internal/durable"
	"assay/internal/fault"
	"assay/internal/keyring"
	"assay/server"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// prompt asks for a secret on the terminal; nil when there is none.
func (a *app) prompt(question string) func() ([]byte, error) {
	f, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return func() ([]byte, error) {
		a.notef("%s", question)
		secret, err := term.ReadPassword(int(f.Fd()))
		a.notef("\n")
		return secret, fault.Wrap(fault.Invalid, err)
	}
}

// stopped takes the lock of the data folder, which a running server holds, and
// says where its keys are.
func (a *app) stopped() (keyring.Options, io.Closer, error) {
	if a.data == "" {
		return keyring.Options{}, nil, usagef("want --data DIR (ASSAY_DATA): the data folder of a stopped server")
	}
	if _, err := os.Stat(filepath.Join(a.data, "site.json")); err != nil {
		return keyring.Options{}, nil, usagef("--data %s is no data folder: %w", a.data, err)
	}
	lock, err := durable.Lock(filepath.Join(a.data, "lock"))
	if errors.Is(err, fault.Conflict) {
		return keyring.Options{}, nil, fault.Newf(fault.Conflict, "a server runs on %s: stop it first, since it has the keys open", a.data)
	}
	if err != nil {
		return keyring.Options{}, nil, err
	}
	cfg := config.Default()
	cfg.Data = a.data
	return server.KeyFolder(cfg, nil, keyring.Options{}), lock, nil
}

// unlockers resolves the places of secrets. question is asked for prompt:.
func (a *app) unlockers(ctx context.Context, question string, places ...string) ([]*keyring.Unlocker, error) {
	var out []*keyring.Unlocker
	for _, place := range places {
		u, err := keyring.UnlockFrom(ctx, place, keyring.UnlockOptions{DataDir: a.data, Prompt: a.prompt(question)})
		if err != nil {
			return nil, err
		}
		out = append(out, u)
	}
	return out, nil
}

// sealReport is what encrypt and reencrypt print.
type sealReport struct {
	Folder string `json:"folder"`
	Keys   int    `json:"keys"` // key files that are sealed now
	Unlock string `json:"unlock"`
}

func (a *app) reportSealed(f *keyring.Folder, dir, unlock string) error {
	files := 0
	for _, e := range f.List() {
		if e.Where == "file" {
			files++
		}
	}
	r := sealReport{Folder: dir, Keys: files, Unlock: keyring.Redact(unlock)}
	return a.print(r, func(w io.Writer) {
		fmt.Fprintf(w, "%d key files are sealed; start the server with keys.unlock: %s (ASSAY_KEYS_UNLOCK)\n", r.Keys, line(r.Unlock))
	})
}

func (a *app) keysEncrypt() *cobra.Command {
	var unlock string
	var recovery []string
	cmd := &cobra.Command{
		Use:   "encrypt --data DIR --unlock PLACE",
		Short: "Seal the key files of a stopped server that lie in the clear",
		Long: `Seal the key files of a stopped server: each under a random data key, and that
one under what PLACE gives (assay keys unlock-methods lists the forms). The keys
themselves stay what they are. An interrupted call is called again. Backups that
were made before still hold the keys in the clear.`,
		Example: `  (umask 077; openssl rand -base64 32 > /etc/assay/unlock)
  assay keys encrypt --data ./data --unlock file:/etc/assay/unlock
  assay keys encrypt --data ./data --unlock awskms:///alias/assay-unlock --recovery file:/mnt/safe/recovery`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if unlock == "" {
				return usagef("want --unlock PLACE; assay keys unlock-methods lists the forms")
			}
			o, lock, err := a.stopped()
			if err != nil {
				return err
			}
			defer lock.Close()
			ways, err := a.unlockers(cmd.Context(), "New passphrase of the keys: ", append([]string{unlock}, recovery...)...)
			if err != nil {
				return err
			}
			f, err := keyring.Encrypt(cmd.Context(), o, ways...)
			if err != nil {
				return err
			}
			return a.reportSealed(f, o.Dir, unlock)
		},
	}
	cmd.Flags().StringVar(&unlock, "unlock", "", "what shall open the keys")
	cmd.Flags().StringArrayVar(&recovery, "recovery", nil, "another way to open them, for the day when the first is lost; may be given several times")
	return cmd
}

func (a *app) keysReencrypt() *cobra.Command {
	var unlock, next string
	var recovery []string
	cmd := &cobra.Command{
		Use:   "reencrypt --data DIR --unlock OLD --new PLACE",
		Short: "Change what opens the sealed key files, without changing the keys",
		Long: `Seal the key files of a stopped server under a new data key, which PLACE opens
and OLD does not. The keys themselves stay what they are, so nobody who verifies
notices. A crash anywhere leaves a folder that one of the two opens; the next
start, or this command called again, goes on. To take a key out of use because
somebody may have it, see assay keys rotate.`,
		Example: `  assay keys reencrypt --data ./data --unlock file:/etc/assay/unlock --new credential:assay-unlock
  assay keys reencrypt --data ./data --unlock prompt: --new hashivault://assay-unlock`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if unlock == "" || next == "" {
				return usagef("want --unlock OLD and --new PLACE; assay keys unlock-methods lists the forms")
			}
			o, lock, err := a.stopped()
			if err != nil {
				return err
			}
			defer lock.Close()
			old, err := a.unlockers(cmd.Context(), "Old passphrase of the keys: ", unlock)
			if err != nil {
				return err
			}
			ways, err := a.unlockers(cmd.Context(), "New passphrase of the keys: ", append([]string{next}, recovery...)...)
			if err != nil {
				return err
			}
			o.Unlock = old[0]
			f, err := keyring.Reencrypt(cmd.Context(), o, ways...)
			if err != nil {
				return err
			}
			return a.reportSealed(f, o.Dir, next)
		},
	}
	cmd.Flags().StringVar(&unlock, "unlock", "", "what opens the keys now")
	cmd.Flags().StringVar(&next, "new", "", "what shall open them")
	cmd.Flags().StringArrayVar(&recovery, "recovery", nil, "another way to open them; may be given several times. Ways that are not given end")
	return cmd
}

// unlockMethod is a row of keys unlock-methods.
type unlockMethod struct {
	Place   string `json:"place"`
	Meaning string `json:"meaning"`
}

func (a *app) keysUnlockMethods() *cobra.Command {
	return &cobra.Command{
		Use:     "unlock-methods",
		Short:   "List what can open sealed key files: the forms of keys.unlock",
		Example: "  assay keys unlock-methods",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			var out []unlockMethod
			for _, m := range keyring.UnlockMethods() {
				out = append(out, unlockMethod{m[0], m[1]})
			}
			return a.print(out, func(w io.Writer) {
				for _, m := range out {
					fmt.Fprintf(w, "%s\t%s\n", m.Place, m.Meaning)
				}
			})
		},
	}
}
