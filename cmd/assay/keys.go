package main

import (
	"fmt"
	"io"
	"time"

	"assay/client"

	"github.com/spf13/cobra"
)

func (a *app) keysCommand() *cobra.Command {
	return group("keys", "The site's own keys, and keys to sign with", a.keysList(), a.keysRotate(), a.keysGenerate(), a.keysEncrypt(), a.keysReencrypt(), a.keysUnlockMethods())
}

func (a *app) keysList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the site's own keys: role, algorithm, place, fingerprint, age, window",
		Long: `List the keys of the running site by their public halves. WHERE is file (in the
clear, under the folder's mode alone), "file, sealed", offline, retired, or the
URI of a KMS or token. WINDOW is the time in which what the key signs counts.
STATE is pending (published, signs nothing yet), active, retiring (signs no more,
its window is still open) or retired; NEXT is when a pending key takes over, when
the schedule makes the key that follows, or when a certificate ends.`,
		Example: `  assay keys list --data ./data
  assay keys list --server https://assay.example -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			keys, err := s.api().Keys(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(keys.Items, func(w io.Writer) {
				fmt.Fprintf(w, "NAME\tROLE\tALGORITHM\tWHERE\tFINGERPRINT\tCREATED\tAGE\tWINDOW\tSTATE\tNEXT\n")
				for _, k := range keys.Items {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.23s…\t%s\t%s\t%s\t%s\t%s\n", line(k.Name), line(k.Role), line(k.Algorithm), line(k.Where),
						line(k.Fingerprint), stamp(k.Created), age(k.Age), window(k.Window), dash(line(k.State)), nextStep(k))
				}
			})
		},
	}
}

// age is a number of seconds as people say it.
func age(seconds int64) string {
	switch d := time.Duration(seconds) * time.Second; {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	case d >= time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return d.String()
	}
}

func window(w client.KeyWindow) string {
	if w.End.IsZero() {
		return "from " + stamp(w.Start)
	}
	return stamp(w.Start) + " to " + stamp(w.End)
}
