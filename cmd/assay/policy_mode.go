package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"assay/client"
	"assay/policy"
	"assay/verify/replay"
)

func (a *app) policyModeCommand(mode policy.Mode) *cobra.Command {
	var q client.PolicyModeRequest
	var scope []string
	short := map[policy.Mode]string{
		policy.Enforce: "Have a policy refuse, if nothing is refused that was not accepted",
		policy.Warn:    "Have a policy warn in place of refusing",
		policy.Audit:   "Have a policy record alone",
	}[mode]
	cmd := &cobra.Command{
		Use:   string(mode) + " POLICY",
		Short: short,
		Long: short + `.

First, what was decided in the last days is judged again as it would be then.
With a cause of refusals that is new and was not accepted, or decisions of which
nobody can say what they would be, enforce changes nothing and ends in 1: mend
the cause, or accept it by name with --accept and a reason, which is on record.

With --rule or --scope the mode is that of some rules alone, or of some targets:
an entry in front of the policy's rollout.`,
		Example: "  assay policy " + string(mode) + " release --reason \"after two weeks of audit\"\n" +
			"  assay policy " + string(mode) + " release --rule 'vulnerabilities/*' --scope namespaces=prod,staging --reason \"feeds are complete\"",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if q.Reason == "" {
				return usagef("want --reason: it is on record with the change")
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			q.Mode = string(mode)
			if q.Scope, err = scopeLists(scope); err != nil {
				return err
			}
			var out struct {
				Policy  string            `json:"policy"`
				From    policy.Mode       `json:"from"`
				To      policy.Mode       `json:"to"`
				Changed bool              `json:"changed"`
				Why     string            `json:"why,omitempty"`
				Replay  replay.Comparison `json:"replay"`
			}
			if err := s.api().PolicyMode(cmd.Context(), args[0], q, &out); err != nil {
				return err
			}
			if err := a.print(out, func(w io.Writer) {
				printReplay(w, &out.Replay)
				switch {
				case out.Why != "":
					fmt.Fprintf(w, "\nnot changed: %s\n", line(out.Why))
				case out.Changed && len(q.Rules)+len(scope) > 0:
					fmt.Fprintf(w, "\npolicy %s: %s%s now %s\n", line(out.Policy), line(cmp.Or(strings.Join(q.Rules, ", "), "all rules")), line(in(scope)), modeVerb(out.To))
				case out.Changed:
					fmt.Fprintf(w, "\npolicy %s: mode %s is now %s\n", line(out.Policy), out.From, out.To)
				default:
					fmt.Fprintf(w, "\npolicy %s is in mode %s there already\n", line(out.Policy), out.To)
				}
			}); err != nil {
				return err
			}
			if out.Why != "" {
				return &exitError{1}
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&q.Rules, "rule", nil, "of this check alone, or of all below one (signatures/*), as explain names them; can be repeated")
	cmd.Flags().StringArrayVar(&scope, "scope", nil, "of these targets alone, as LIST=PATTERN[,PATTERN]: repositories, environments, clusters, namespaces, teams, services, tiers or kinds; can be repeated")
	cmd.Flags().StringVar(&q.Reason, "reason", "", "why, on record (required)")
	cmd.Flags().IntVar(&q.Days, "days", 30, "how far back decisions are judged again")
	cmd.Flags().StringArrayVar(&q.Accept, "accept", nil, `a cause of new refusals that is wanted, as the replay names it, or "unknown"; can be repeated`)
	return cmd
}

// scopeLists reads LIST=PATTERN[,PATTERN] of --scope.
func scopeLists(in []string) (map[string][]string, error) {
	var out map[string][]string
	for _, text := range in {
		name, list, ok := strings.Cut(text, "=")
		if !ok || name == "" || list == "" {
			return nil, usagef("--scope %q: want LIST=PATTERN[,PATTERN], such as namespaces=prod", text)
		}
		if out == nil {
			out = map[string][]string{}
		}
		out[name] = append(out[name], strings.Split(list, ",")...)
	}
	return out, nil
}

func in(scope []string) string {
	if len(scope) == 0 {
		return ""
	}
	return " in " + strings.Join(scope, " and ")
}

func modeVerb(m policy.Mode) string {
	switch m {
	case policy.Audit:
		return "record alone"
	case policy.Warn:
		return "warn"
	}
	return "refuse"
}

func modeText(m policy.RuleMode) string {
	text := string(m.Mode)
	if m.Share > 0 {
		text += fmt.Sprintf(" (%g %% of repositories)", m.Share)
	}
	if !m.Until.IsZero() {
		text += fmt.Sprintf(", %s from %s", m.Next, stamp(m.Until))
	}
	return text
}
