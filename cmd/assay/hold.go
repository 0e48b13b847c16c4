package main

import (
	"fmt"
	"io"
	"strings"

	"assay/artifact"
	"assay/client"
	"assay/registry"
	"assay/registry/retention"

	"github.com/spf13/cobra"
)

func (a *app) holdCommand() *cobra.Command {
	return group("hold", "Legal hold: what nobody can delete", a.holdAdd(), a.holdList(), a.holdRemove())
}

func (a *app) holdAdd() *cobra.Command {
	var as, reason, until string
	c := &cobra.Command{
		Use:   "add REPOSITORY[:TAG|@DIGEST] | DIGEST --reason TEXT",
		Short: "Put a repository, an image or a digest on hold",
		Long: `What is on hold is deleted by nobody: not by a client's DELETE, not by retention
rules, not by garbage collection; nor is evidence about it. A tag is looked up
now: it may move on later, and what it names now stays. In a bucket with Object
Lock the objects are locked there, too.`,
		Example: "  assay hold add team/app:v1 --reason 'case 2026-17'\n  assay hold add sha256:3f… --reason 'INC-9' --until 2027-01-31",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := holdTarget(args[0])
			if err != nil {
				return err
			}
			if q.Reason = reason; reason == "" {
				return usagef("want --reason: it is on record")
			}
			if end, err := untilOf(until); err != nil {
				return err
			} else if !end.IsZero() {
				q.Until = &end
			}
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			var h retention.Hold
			if err := s.api().AddHold(cmd.Context(), q, &h); err != nil {
				return err
			}
			return a.print(h, func(w io.Writer) {
				printHolds(w, []retention.Hold{h})
				fmt.Fprintf(w, "object lock: %s\n", line(h.ObjectLock))
			})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, on record")
	c.Flags().StringVar(&until, "until", "", "when it ends by itself: a day, a time, or how long from now (90d); default: when it is removed")
	c.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return c
}

// holdTarget reads what is to be held. A name may come with the registry's host.
func holdTarget(s string) (q client.HoldRequest, err error) {
	if d, err := artifact.ParseDigest(s); err == nil {
		q.Digest = d
		return q, nil
	}
	name, digest, at := strings.Cut(s, "@")
	if at {
		if q.Digest, err = artifact.ParseDigest(digest); err != nil {
			return q, usagef("%w", err)
		}
	}
	if i := strings.LastIndexByte(name, ':'); !at && i > strings.LastIndexByte(name, '/') {
		name, q.Tag = name[:i], name[i+1:]
	}
	if host, rest, ok := strings.Cut(name, "/"); ok && (strings.ContainsAny(host, ".:") || host == "localhost") {
		name = rest
	}
	if q.Repository = name; !registry.ValidName(name) || q.Tag != "" && !registry.ValidTag(q.Tag) {
		return q, usagef("%q: want REPOSITORY, REPOSITORY:TAG, REPOSITORY@DIGEST or DIGEST", clean(s))
	}
	return q, nil
}

func printHolds(w io.Writer, list []retention.Hold) {
	fmt.Fprintln(w, "HOLD\tREPOSITORY\tTAG\tDIGEST\tSINCE\tUNTIL\tBY\tREASON")
	for _, h := range list {
		until := "removed"
		if h.Until != nil {
			until = stamp(*h.Until)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", line(h.ID), line(dash(h.Repository)), line(dash(h.Tag)), line(dash(string(h.Digest))), stamp(h.Since), until, line(h.Actor), line(h.Reason))
	}
}

func (a *app) holdList() *cobra.Command {
	var ended bool
	c := &cobra.Command{
		Use: "list", Short: "List what is on hold", Args: cobra.NoArgs,
		Example: "  assay hold list -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			var page client.List[retention.Hold]
			if err := s.api().Holds(cmd.Context(), ended, &page); err != nil {
				return err
			}
			return a.print(page, func(w io.Writer) { printHolds(w, page.Items) })
		},
	}
	c.Flags().BoolVar(&ended, "ended", false, "also those whose time has come")
	return c
}

func (a *app) holdRemove() *cobra.Command {
	var as, reason string
	c := &cobra.Command{
		Use: "remove HOLD --reason TEXT", Short: "End a hold; needs an administrator", Args: cobra.ExactArgs(1),
		Example: "  assay hold remove hold_4f… --reason 'case closed'",
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return usagef("want --reason: it is on record")
			}
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			var h retention.Hold
			if err := s.api().RemoveHold(cmd.Context(), args[0], reason, &h); err != nil {
				return err
			}
			return a.print(h, func(w io.Writer) { fmt.Fprintf(w, "removed\t%s\n", line(h.ID)) })
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, on record")
	c.Flags().StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return c
}
