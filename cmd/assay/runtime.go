package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"assay/artifact"
	"assay/client"

	"github.com/spf13/cobra"
)

func (a *app) runtimeCommand() *cobra.Command {
	return group("runtime", "What sensors see of what runs: Falco, Tetragon and agents", a.runtimeIngestCommand(), a.runtimeListCommand())
}

const (
	ingestBatch = 1_000
	ingestBytes = 4 << 20
	ingestLine  = 1 << 20
)

func (a *app) runtimeIngestCommand() *cobra.Command {
	var source, cluster, as string
	cmd := &cobra.Command{
		Use:   "ingest FILE|- --source falco|tetragon --cluster NAME",
		Short: "Hand in the JSON events of Falco or Tetragon",
		Long: `Hand in events that Falco (json_output: true) or Tetragon (its JSON export) wrote,
one on each line. "-" reads the standard input, and hands in what came each second,
so that it can follow a pipe.

It needs the action observe (role agent) on clusters/NAME at the server.`,
		Example: `  assay runtime ingest falco.json --source falco --cluster prod-eu
  tail -F /var/run/cilium/tetragon/tetragon.log | assay runtime ingest - --source tetragon --cluster prod-eu`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cluster == "" || source != "falco" && source != "tetragon" {
				return usagef("want --cluster NAME and --source falco or tetragon")
			}
			in := a.stdin
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			sum, err := ingestLines(cmd.Context(), in, func(ctx context.Context, b []byte) (*client.RuntimeTaken, error) {
				return s.api().IngestRuntime(ctx, source, cluster, b)
			})
			if err != nil {
				return err
			}
			return a.print(sum, func(w io.Writer) {
				fmt.Fprintf(w, "told %d, again %d, joined %d, skipped %d\n", sum.Told, sum.Again, sum.Joined, sum.Skipped)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&source, "source", "", "falco or tetragon")
	f.StringVar(&cluster, "cluster", "", "the cluster that they are of")
	f.StringVar(&as, "subject", "", "with --data: the local identity to report as")
	complete(cmd, "source", "falco", "tetragon")
	return cmd
}

// ingestLines hands lines in, many at once: when there are enough, or a second
// after the first.
func ingestLines(ctx context.Context, in io.Reader, send func(context.Context, []byte) (*client.RuntimeTaken, error)) (*client.RuntimeTaken, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lines, failed := make(chan []byte), make(chan error, 1)
	go func() {
		defer close(lines)
		sc := bufio.NewScanner(in)
		sc.Buffer(nil, ingestLine)
		for sc.Scan() {
			select {
			case lines <- bytes.Clone(sc.Bytes()):
			case <-ctx.Done():
				return
			}
		}
		failed <- sc.Err()
	}()
	var sum client.RuntimeTaken
	var batch bytes.Buffer
	n := 0
	flush := func() error {
		if n == 0 {
			return nil
		}
		t, err := send(ctx, batch.Bytes())
		if err != nil {
			return err
		}
		sum.Told, sum.Again, sum.Joined, sum.Skipped = sum.Told+t.Told, sum.Again+t.Again, sum.Joined+t.Joined, sum.Skipped+t.Skipped
		batch.Reset()
		n = 0
		return nil
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		var err error
		select {
		case line, more := <-lines:
			if !more {
				if err := flush(); err != nil {
					return nil, err
				}
				select {
				case err := <-failed:
					return &sum, err
				default:
					return &sum, ctx.Err()
				}
			}
			if len(bytes.TrimSpace(line)) == 0 {
				continue
			}
			batch.Write(append(line, '\n'))
			if n++; n >= ingestBatch || batch.Len() >= ingestBytes {
				err = flush()
			}
		case <-tick.C:
			err = flush()
		}
		if err != nil {
			return nil, err
		}
	}
}

func (a *app) runtimeListCommand() *cobra.Command {
	var digest, cluster, as string
	var limit int
	cmd := &cobra.Command{
		Use:   "list [--digest DIGEST] [--cluster NAME]",
		Short: "What sensors reported, latest first",
		Example: `  assay runtime list --cluster prod-eu
  assay runtime list --digest sha256:… -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.connect(cmd.Context(), as, "", true)
			if err != nil {
				return err
			}
			list, err := s.api().RuntimeSeen(cmd.Context(), artifact.Digest(digest), cluster, limit)
			if err != nil {
				return err
			}
			return a.print(list, func(w io.Writer) {
				for _, x := range list.Items {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\n", x.Last.UTC().Format(time.RFC3339), line(x.Source), dash(x.Priority), line(x.Rule), line(x.Cluster+"/"+x.Namespace+"/"+x.Name), dash(x.Path), x.Times)
				}
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&digest, "digest", "", "of this image alone")
	f.StringVar(&cluster, "cluster", "", "of this cluster alone")
	f.IntVar(&limit, "limit", 100, "at most this many")
	f.StringVar(&as, "subject", "", "with --data: the local identity to ask as")
	return cmd
}
