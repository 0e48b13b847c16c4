package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"assay/artifact"
	"assay/client"
	"assay/internal/fault"
	"assay/policy"
	"assay/registry"
	"assay/registry/gate"

	"github.com/spf13/cobra"
)

func (a *app) registryCommand() *cobra.Command {
	return group("registry", "States, tags and digests of the registry",
		a.registryStatus(), a.registryHistory(), a.registryPromote(),
		a.registryBlock("quarantine", "Serve a digest to nobody, in any repository, until it is released", `Quarantine takes effect for every pull that begins after it, within a second on
every replica, for the digest and, where it is an index, for all that it is made
of. Who had it by then is listed. Nothing is deleted, and release undoes it.`),
		a.registryBlock("release", "Lift a quarantine", "Release serves a digest again, as its state and its policy say."),
		a.registryBlock("revoke", "Serve a digest to nobody, in any repository, for good", `Revoke is a quarantine that is not lifted: build again what should replace it. To
revoke a key, an identity or a digest wherever it is verified, see assay revoke.`),
		a.registryBlocks(), a.registryPulls(), a.registryCopy(), a.registryScrub(), a.registryGC(), a.registryRepair())
}

// place is REPOSITORY:TAG or REPOSITORY@DIGEST of the own registry.
type place struct {
	repository, tag string
	digest          artifact.Digest
}

func (p *place) reference() string {
	if p.digest != "" {
		return string(p.digest)
	}
	return p.tag
}

// place reads an argument that names something in the server's registry, with
// or without its host.
func (s *session) place(text string) (*place, error) {
	host := ""
	if s.status != nil {
		host = s.status.Services.Registry
	}
	name := strings.TrimPrefix(text, host+"/")
	p := &place{repository: name}
	if repository, digest, ok := strings.Cut(name, "@"); ok {
		d, err := artifact.ParseDigest(digest)
		if err != nil {
			return nil, usagef("%q: %w", clean(text), err)
		}
		p.repository, p.digest = repository, d
	}
	if i := strings.LastIndexByte(p.repository, ':'); i > strings.LastIndexByte(p.repository, '/') {
		p.repository, p.tag = p.repository[:i], p.repository[i+1:]
	}
	if first, _, _ := strings.Cut(p.repository, "/"); strings.ContainsAny(first, ".:") && strings.Contains(p.repository, "/") {
		return nil, usagef("%q is of another registry; this server's is %s", clean(text), line(host))
	}
	if !registry.ValidName(p.repository) || p.tag != "" && !registry.ValidTag(p.tag) {
		return nil, usagef("%q: want REPOSITORY:TAG or REPOSITORY@DIGEST", clean(text))
	}
	if p.tag == "" && p.digest == "" {
		p.tag = "latest"
	}
	return p, nil
}

func (a *app) registryStatus() *cobra.Command {
	return &cobra.Command{
		Use:   "status REPOSITORY:TAG|REPOSITORY@DIGEST",
		Short: "What a pushed image is (staged, active, …), and why",
		Long: `Status shows the state of a manifest in its repository, the checks of the policy
with what was expected, found, and what would mend it, the tags that wait for
it, and how the tag has moved. Of a tag it shows the newest push, public or not.

Exit code 0: it is for all who may pull. 1: it is not. 2: not decided.`,
		Example: `  assay registry status --data ./data team/app:v1
  assay registry status --server https://assay.example team/app@sha256:3f… -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			p, err := s.place(args[0])
			if err != nil {
				return err
			}
			var st gate.ManifestStatus
			if err := s.api().RegistryStatus(cmd.Context(), p.repository, p.reference(), &st); err != nil {
				return err
			}
			if err := a.print(st, func(w io.Writer) { writeStatus(w, &st) }); err != nil {
				return err
			}
			switch st.State {
			case gate.Active, gate.Open:
				return nil
			}
			return &exitError{1}
		},
	}
}

func writeStatus(w io.Writer, st *gate.ManifestStatus) {
	row := func(name, format string, args ...any) { fmt.Fprintf(w, name+"\t"+format+"\n", args...) }
	row("state", "%s", strings.ToUpper(string(st.State)))
	row("repository", "%s", line(st.Repository))
	row("digest", "%s", line(string(st.Digest)))
	mode := string(st.Mode)
	if st.Profile != "" {
		mode += ", profile " + st.Profile
	}
	row("mode", "%s", line(mode))
	if st.Reason != "" {
		row("reason", "%s", line(st.Reason))
	}
	if st.Basis != "" {
		row("rests on", "%s", line(st.Basis))
	}
	if !st.Since.IsZero() {
		row("since", "%s", stamp(st.Since))
	}
	if !st.Expires.IsZero() {
		row("ends", "%s", stamp(st.Expires))
	}
	if st.Tag != "" {
		row("tag "+line(st.Tag), "names %s", dash(string(st.Public)))
	}
	if st.Immutable != "" {
		row("immutable", "by %s", line(st.Immutable))
	}
	for _, h := range st.Held {
		row("waiting", "tag %s, pushed by %s at %s", line(h.Tag), line(h.Actor), stamp(h.Time))
	}
	for _, b := range st.Blocks {
		row(string(b.State), "by %s at %s: %s", line(b.Actor), stamp(b.Since), line(b.Reason))
	}
	if st.Decision != "" {
		row("decision", "%s by policy %s (%s), %s", line(string(st.Verdict)), line(st.Policy), line(string(st.PolicyIn)), line(st.Decision))
	}
	for _, c := range st.Checks {
		row("  "+line(string(c.Status)), "%s: expected %s, found %s", line(c.Name), line(c.Expected), line(c.Found))
		if c.Status == policy.Fail && c.Mend != "" {
			row("", "mend: %s", line(c.Mend))
		}
	}
	if len(st.History) > 0 {
		fmt.Fprintln(w)
		writeHistory(w, st.History)
	}
}

func writeHistory(w io.Writer, list []gate.TagMove) {
	fmt.Fprintln(w, "TIME\tPUSH\tFROM\tTO\tBY\tLOG INDEX\tWHY")
	for _, h := range list {
		index := "not logged yet"
		if h.LogIndex != nil {
			index = fmt.Sprint(*h.LogIndex)
			if h.Proof != nil {
				index += ", proved"
			}
		}
		to := "(deleted)"
		if h.To != "" {
			to = h.To.Short()
		}
		from := "-"
		if h.From != "" {
			from = h.From.Short()
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\n", stamp(h.Time), h.Number, line(from), line(to), line(h.Actor), index, dash(h.Reason))
	}
}

func (a *app) registryHistory() *cobra.Command {
	var after string
	var limit int
	var proofs bool
	cmd := &cobra.Command{
		Use:   "history REPOSITORY:TAG",
		Short: "How a tag has moved, with where the transparency log has it",
		Long: `Every move of a tag is a record in the event log, whose heads are signed and put
into the transparency log: LOG INDEX is the head's entry that covers the move.
With --proofs each move comes with the proof that leads from the record to that
head, and the command checks it; look the head up with assay log inspect.`,
		Example: `  assay registry history --data ./data team/app:v1
  assay registry history --server https://assay.example team/app:v1 --proofs -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			p, err := s.place(args[0])
			if err != nil {
				return err
			}
			if p.tag == "" {
				return usagef("want REPOSITORY:TAG: a digest does not move")
			}
			var page client.List[gate.TagMove]
			if err := s.api().RegistryHistory(cmd.Context(), p.repository, p.tag, after, limit, proofs, &page); err != nil {
				return err
			}
			for _, h := range page.Items {
				if h.Proof == nil {
					continue
				}
				if _, err := h.Proof.Verify(); err != nil {
					return fault.Newf(fault.Tampered, "move %d: its proof does not hold: %w", h.Number, err)
				}
				if !strings.Contains(h.Proof.Leaf, `"id":"`+h.Event+`"`) {
					return fault.Newf(fault.Tampered, "move %d: the proof is of another record", h.Number)
				}
			}
			return a.print(page, func(w io.Writer) {
				if len(page.Items) == 0 && after == "" {
					fmt.Fprintf(w, "tag %s of %s never moved here; assay registry status tells of what waits for it\n", line(p.tag), line(p.repository))
					return
				}
				writeHistory(w, page.Items)
				if page.Next != "" {
					fmt.Fprintf(w, "more: --after %s\n", line(page.Next))
				}
			})
		},
	}
	cmd.Flags().StringVar(&after, "after", "", "continue after this cursor")
	cmd.Flags().IntVar(&limit, "limit", 100, "at most so many")
	cmd.Flags().BoolVar(&proofs, "proofs", false, "fetch and check the proofs of inclusion")
	return cmd
}

func (a *app) registryPromote() *cobra.Command {
	var reason string
	var within time.Duration
	cmd := &cobra.Command{
		Use:   "promote REPOSITORY@DIGEST --reason TEXT",
		Short: "Make a manifest active by hand, for a time",
		Long: `Promote shows to everybody what the policy does not allow, because an approver
says so. It is on record with its reason, and ends after --for: then the policy
decides again. Quarantine and revocation stand above it.`,
		Example: `  assay registry promote --data ./data team/app@sha256:3f… --reason "INC-12: hotfix, scan pending"
  assay registry promote --server https://assay.example team/app@sha256:3f… --reason "CAB 481" --for 24h`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return usagef("want --reason TEXT: it is on record")
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			p, err := s.place(args[0])
			if err != nil {
				return err
			}
			if p.digest == "" {
				return usagef("want REPOSITORY@DIGEST: a tag may name something else by the time this arrives")
			}
			var st gate.ManifestStatus
			if err := s.api().RegistryPromote(cmd.Context(), client.PromoteRequest{
				Repository: p.repository, Digest: p.digest, Reason: reason, Seconds: int64(within / time.Second),
			}, &st); err != nil {
				return err
			}
			return a.print(st, func(w io.Writer) { writeStatus(w, &st) })
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for those who read the record")
	cmd.Flags().DurationVar(&within, "for", gate.DefaultHand, "how long it holds, at most 2160h")
	return cmd
}

func (a *app) registryBlock(verb, short, long string) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:     verb + " DIGEST --reason TEXT",
		Short:   short,
		Long:    long,
		Example: "  assay registry " + verb + " --data ./data sha256:3f… --reason \"INC-12: found to be tampered with\"",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return usagef("want --reason TEXT: it is on record")
			}
			d, err := digestArgument(args[0])
			if err != nil {
				return err
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			var out gate.Blocking
			if err := s.api().RegistryBlock(cmd.Context(), verb, client.BlockRequest{Digest: d, Reason: reason}, &out); err != nil {
				return err
			}
			var pulls client.Pulls[gate.Pull]
			if verb != "release" {
				if err := s.api().RegistryPulls(cmd.Context(), d, &pulls); err != nil {
					return err
				}
			}
			return a.print(struct {
				gate.Blocking
				Pulls []gate.Pull `json:"pulls,omitempty"`
				More  bool        `json:"more_pulls,omitempty"`
			}{out, pulls.Items, pulls.More}, func(w io.Writer) {
				word := string(out.State)
				switch {
				case verb == "release":
					word = "released"
				case out.Already:
					word = "already " + word
				}
				fmt.Fprintf(w, "%s\t%s\t%d parts\n", word, line(string(out.Digest)), out.Parts)
				for _, p := range out.Places {
					fmt.Fprintf(w, "held by\t%s\n", line(p))
				}
				if verb != "release" {
					fmt.Fprintln(w)
					writePulls(w, &pulls)
				}
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for those who read the record")
	return cmd
}

// digestArgument reads DIGEST, or the digest of REPOSITORY@DIGEST. A tag may name
// something else by the time the command arrives.
func digestArgument(text string) (artifact.Digest, error) {
	_, digest, found := strings.Cut(text, "@")
	if !found {
		digest = text
	}
	d, err := artifact.ParseDigest(digest)
	switch {
	case err == nil:
		return d, nil
	case found || strings.HasPrefix(text, "sha"):
		return "", usagef("DIGEST: %w", err)
	}
	return "", usagef("%q: want a digest (sha256:…), since a tag may name something else by the time this arrives; assay registry status shows the digest of a tag", line(text))
}

func writePulls(w io.Writer, pulls *client.Pulls[gate.Pull]) {
	if len(pulls.Items) == 0 {
		fmt.Fprintln(w, "nobody has pulled it, as far as events are kept")
		return
	}
	fmt.Fprintln(w, "PULLED\tBY\tFROM\tWHAT\tDIGEST")
	for _, p := range pulls.Items {
		what := p.Repository
		if p.Tag != "" {
			what += ":" + p.Tag
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", stamp(p.Time), line(p.Actor), dash(p.Address), line(what), line(p.Digest.Short()))
	}
	if pulls.More {
		fmt.Fprintln(w, "and more: assay audit query has all of them")
	}
}

func (a *app) registryPulls() *cobra.Command {
	return &cobra.Command{
		Use:     "pulls DIGEST",
		Short:   "Who pulled a digest, or a part of it, and when",
		Example: "  assay registry pulls --data ./data sha256:3f…",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := digestArgument(args[0])
			if err != nil {
				return err
			}
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			var pulls client.Pulls[gate.Pull]
			if err := s.api().RegistryPulls(cmd.Context(), d, &pulls); err != nil {
				return err
			}
			return a.print(pulls, func(w io.Writer) { writePulls(w, &pulls) })
		},
	}
}

func (a *app) registryBlocks() *cobra.Command {
	var after string
	cmd := &cobra.Command{
		Use:     "blocks",
		Short:   "List what is quarantined or revoked",
		Example: "  assay registry blocks --data ./data",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			var page client.List[gate.Block]
			if err := s.api().RegistryBlocks(cmd.Context(), after, &page); err != nil {
				return err
			}
			return a.print(page, func(w io.Writer) {
				fmt.Fprintln(w, "DIGEST\tSTATE\tSINCE\tBY\tPART OF\tREASON")
				for _, b := range page.Items {
					part := "-"
					if b.Cause != b.Digest {
						part = b.Cause.Short()
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", line(string(b.Digest)), line(string(b.State)), stamp(b.Since), line(b.Actor), line(part), line(b.Reason))
				}
				if page.Next != "" {
					fmt.Fprintf(w, "more: --after %s\n", line(page.Next))
				}
			})
		},
	}
	cmd.Flags().StringVar(&after, "after", "", "continue after this cursor")
	return cmd
}
