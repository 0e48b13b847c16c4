package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"

	"assay/internal/durable"
	"assay/internal/fault"
	"assay/internal/keyring"
	"assay/internal/keyring/kms"

	"github.com/spf13/cobra"
)

// generated is what keys generate prints.
type generated struct {
	Private     string `json:"private"` // file or URI
	Public      string `json:"public"`  // file
	Algorithm   string `json:"algorithm"`
	Fingerprint string `json:"fingerprint"`
}

func (a *app) keysGenerate() *cobra.Command {
	var out, passphrase, uri, algorithm, format string
	cmd := &cobra.Command{
		Use:   "generate [--out NAME | --kms URI]",
		Short: "Make a key pair to sign with, as cosign's generate-key-pair does",
		Long: `Make NAME.key and NAME.pub: an ECDSA P-256 key, encrypted in cosign's own form,
so that assay and cosign sign with it alike. The passphrase comes from
--passphrase-file, from COSIGN_PASSWORD, or from the terminal. Files that exist
are never replaced. --format pkcs8 writes encrypted PKCS #8 instead, which
openssl reads and cosign does not; it is the default in FIPS 140-3 mode, where
cosign's form (scrypt, NaCl) is not approved.

With --kms the key is made in a KMS by its plugin and never leaves it; NAME.pub
alone is written. --algorithm is the plugin's own name of one, for example
rsa-2048 of Vault; the default is the plugin's.`,
		Example: `  COSIGN_PASSWORD=… assay keys generate --out release
  assay keys generate --kms hashivault://release --out release
  assay keys generate --kms awskms:///alias/unlock --algorithm RSA_2048 --out unlock`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case format == "" && fips140.Enabled():
				format = "pkcs8"
			case format == "":
				format = "cosign"
			case format != "cosign" && format != "pkcs8":
				return usagef("--format %q: want cosign or pkcs8", clean(format))
			}
			if algorithm != "" && uri == "" {
				return usagef("--algorithm goes with --kms; key files are ECDSA P-256, which every verifier reads")
			}
			g := generated{Private: out + ".key", Public: out + ".pub"}
			// Before anything is made that could not be kept.
			for _, path := range []string{g.Private, g.Public} {
				if _, err := os.Lstat(path); (uri == "" || path == g.Public) && !errors.Is(err, os.ErrNotExist) {
					return fault.Newf(fault.Conflict, "%s exists already and is not replaced", path)
				}
			}
			var pub crypto.PublicKey
			if uri != "" {
				if err := kms.Check(uri); err != nil {
					return usagef("--kms: %w", err)
				}
				key, err := kms.Create(cmd.Context(), uri, algorithm)
				if err != nil {
					return err
				}
				pub, g.Private = key.Public(), uri
			} else {
				secret, err := a.newPassphrase(passphrase)
				if err != nil {
					return err
				}
				key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
				if err != nil {
					return err
				}
				marshal := keyring.MarshalCosign
				if format == "pkcs8" {
					marshal = keyring.MarshalEncrypted
				}
				b, err := marshal(key, secret)
				if err != nil {
					return err
				}
				if err := durable.CreateFile(g.Private, b, 0o600); err != nil {
					return err
				}
				pub = key.Public()
			}
			b, err := keyring.MarshalPublic(pub)
			if err != nil {
				return err
			}
			if err := durable.CreateFile(g.Public, b, 0o644); err != nil {
				return err
			}
			g.Algorithm = keyring.Algorithm(pub)
			if g.Fingerprint, err = keyring.Fingerprint(pub); err != nil {
				return err
			}
			return a.print(g, func(w io.Writer) {
				fmt.Fprintf(w, "private key\t%s\npublic key\t%s\nalgorithm\t%s\nfingerprint\t%s\n", line(g.Private), line(g.Public), g.Algorithm, g.Fingerprint)
			})
		},
	}
	cmd.Flags().StringVar(&out, "out", "assay", "name of the two files, without .key and .pub")
	cmd.Flags().StringVar(&passphrase, "passphrase-file", "", "file with the passphrase that encrypts the key")
	cmd.Flags().StringVar(&format, "format", "", "of the key file: cosign or pkcs8 (default cosign; pkcs8 in FIPS 140-3 mode)")
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"cosign", "pkcs8"}, cobra.ShellCompDirectiveNoFileComp)) // fails for flags that do not exist
	cmd.Flags().StringVar(&uri, "kms", "", "make the key in a KMS: awskms://…, gcpkms://…, azurekms://…, hashivault://…, plugin+NAME://…")
	cmd.Flags().StringVar(&algorithm, "algorithm", "", "with --kms: the plugin's name of an algorithm")
	return cmd
}

// newPassphrase finds the passphrase of a new key. An empty one is refused: a
// key that nothing protects is made by openssl, not by mistake.
func (a *app) newPassphrase(path string) ([]byte, error) {
	secret, err := passphraseFile("--passphrase-file", path)
	if err != nil || len(secret) > 0 {
		return secret, err
	}
	ask, again := a.prompt("Passphrase of the new key: "), a.prompt("The same again: ")
	if ask == nil {
		return nil, usagef("no passphrase for the new key: give --passphrase-file FILE or set COSIGN_PASSWORD")
	}
	if secret, err = ask(); err != nil {
		return nil, err
	}
	second, err := again()
	switch {
	case err != nil:
		return nil, err
	case string(second) != string(secret):
		return nil, usagef("the two passphrases differ")
	case len(secret) == 0:
		return nil, usagef("an empty passphrase protects nothing")
	}
	return secret, nil
}
