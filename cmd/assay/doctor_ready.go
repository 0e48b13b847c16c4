package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/kube"
	"assay/readiness"
	"assay/registry/gate"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/spf13/cobra"
)

// readyFlags are doctor's about readiness.
type readyFlags struct {
	stage, repository, kubeconfig, context, namespace, subject string
}

func (f *readyFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.stage, "stage", "", "instead: is the site ready? pre-production or production")
	fl.StringVar(&f.repository, "repository", "", "with --stage: push an unsigned image there, which must be held back; it is deleted again")
	fl.StringVar(&f.kubeconfig, "kubeconfig", "", "with --stage: create a Pod with an unsigned image by dry run, which must be refused")
	fl.StringVar(&f.context, "context", "", "one of the kubeconfig's contexts (default its current one)")
	fl.StringVar(&f.namespace, "namespace", "default", "of the Pod")
	fl.StringVar(&f.subject, "subject", "doctor@localhost", "with --data: the local identity to ask and push as")
	_ = cmd.RegisterFlagCompletionFunc("stage", cobra.FixedCompletions([]string{string(readiness.PreProduction), string(readiness.Production)}, cobra.ShellCompDirectiveNoFileComp))
}

// readiness is what doctor prints of it.
type readyReport struct {
	Stage    readiness.Stage    `json:"stage"`
	Ready    readiness.Status   `json:"ready"` // pass, fail, unknown
	Checks   []readiness.Result `json:"checks"`
	Maturity readiness.Level    `json:"maturity"`
}

// ready probes, records what came of it, and runs the list of a stage. 0: ready;
// 1: something fails; 2: something is not known.
func (a *app) ready(ctx context.Context, f *readyFlags) error {
	stage := readiness.Stage(f.stage)
	if stage != readiness.PreProduction && stage != readiness.Production {
		return usagef("--stage %q: want pre-production or production", f.stage)
	}
	s, err := a.connect(ctx, f.subject, "", false)
	if err != nil {
		return err
	}
	api := s.api()
	if f.repository != "" {
		if err := s.record(ctx, readiness.ProbeUnsignedPush, func() (readiness.Status, string) { return s.probePush(ctx, f.repository) }); err != nil {
			return err
		}
	}
	if f.kubeconfig != "" {
		if err := s.record(ctx, readiness.ProbeUnsignedPod, func() (readiness.Status, string) { return s.probePod(ctx, f) }); err != nil {
			return err
		}
	}
	now := time.Now()
	all := readiness.Check(ctx, api.Ask, now, readiness.Production)
	r := readyReport{Stage: stage, Maturity: readiness.Maturity(all), Checks: []readiness.Result{}}
	for _, c := range all {
		if stage == readiness.Production || c.Stage == stage {
			r.Checks = append(r.Checks, c)
		}
	}
	r.Ready = readiness.Worst(r.Checks)
	if err := a.print(r, func(w io.Writer) { a.readyTable(w, &r) }); err != nil {
		return err
	}
	switch r.Ready {
	case readiness.Pass:
		return nil
	case readiness.Fail:
		return &exitError{1}
	}
	return &exitError{2}
}

func (a *app) readyTable(w io.Writer, r *readyReport) {
	for _, c := range r.Checks {
		colour := green
		if c.Status == readiness.Fail || c.Status == readiness.Unknown {
			colour = red
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", a.paint(fmt.Sprintf("%-7s", strings.ReplaceAll(string(c.Status), "_", " ")), colour), c.Title, line(c.Found))
		if c.Mend != "" {
			fmt.Fprintf(w, "\t\tmend: %s\n", clean(c.Mend))
		}
	}
	fmt.Fprintf(w, "%s\tready for %s\t\n", r.Ready, r.Stage)
	fmt.Fprintf(w, "level %d\tmaturity: %s\t", r.Maturity.Level, r.Maturity.Name)
	if r.Maturity.Next != "" {
		fmt.Fprintf(w, "for %q %d checks are missing, the first: %s", r.Maturity.Next, len(r.Maturity.Missing), line(r.Maturity.Missing[0].Title))
	}
	fmt.Fprintln(w)
}

// record keeps what a probe came to, where it came to anything.
func (s *session) record(ctx context.Context, name string, run func() (readiness.Status, string)) error {
	status, found := run()
	if status == readiness.Unknown {
		fmt.Fprintf(s.app.stderr, "%s: not known: %s\n", name, line(found))
		return nil
	}
	return s.api().RecordProbe(ctx, readiness.Probe{Name: name, Status: status, Found: found}, nil)
}

// probeImage is an image that nobody has seen or signed.
func probeImage() (v1.Image, artifact.Digest, error) {
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), static.NewLayer([]byte("an unsigned image of assay doctor: "+rand.Text()), types.OCIUncompressedLayer))
	if err != nil {
		return nil, "", err
	}
	h, err := img.Digest()
	if err != nil {
		return nil, "", err
	}
	d, err := artifact.ParseDigest(h.String())
	return img, d, err
}

// probePush pushes an unsigned image, first by its digest, which who may push may
// do everywhere, and then by a tag; and asks what became of it.
func (s *session) probePush(ctx context.Context, repository string) (readiness.Status, string) {
	img, d, err := probeImage()
	if err != nil {
		return readiness.Unknown, err.Error()
	}
	ref, err := artifact.ParseReference(s.status.Services.Registry + "/" + repository)
	if err != nil {
		return readiness.Unknown, err.Error()
	}
	pinned := ref.WithDigest(d)
	pinned.Tag = ""
	if _, err := s.registry().PushImage(ctx, pinned, img); err != nil {
		if errors.Is(err, fault.Denied) || errors.Is(err, fault.Unauthenticated) {
			return readiness.Unknown, fmt.Sprintf("could not be tried: who asks may not push to %s; grant the roles publisher and delete there, or ask as somebody who has them (--subject): %s", repository, err)
		}
		return readiness.Unknown, "could not be tried: " + err.Error()
	}
	defer func() {
		if err := s.registry().Delete(context.WithoutCancel(ctx), pinned); err != nil {
			fmt.Fprintf(s.app.stderr, "the probe %s is still there: %s\n", pinned, line(err.Error()))
		}
	}()
	ref.Tag = "doctor-" + strings.ToLower(rand.Text()[:8])
	if _, err := s.registry().PushImage(ctx, ref, img); err != nil {
		if errors.Is(err, fault.Denied) {
			return readiness.Pass, "refused: " + err.Error()
		}
		return readiness.Unknown, err.Error()
	}
	var st gate.ManifestStatus
	if err := s.api().RegistryStatus(ctx, repository, string(d), &st); err != nil {
		return readiness.Unknown, err.Error()
	}
	switch st.State {
	case gate.Staged, gate.Rejected, gate.Quarantined:
		return readiness.Pass, fmt.Sprintf("held back in %s: %s", repository, st.State)
	}
	return readiness.Fail, fmt.Sprintf("an unsigned image may be pulled from %s: it is %s", repository, st.State)
}

// probePod asks a cluster by dry run for a Pod with an image that nobody signed.
func (s *session) probePod(ctx context.Context, f *readyFlags) (readiness.Status, string) {
	k, err := kube.FromFile(f.kubeconfig, f.context)
	if err != nil {
		return readiness.Unknown, err.Error()
	}
	_, d, err := probeImage()
	if err != nil {
		return readiness.Unknown, err.Error()
	}
	image := s.status.Services.Registry + "/assay-doctor/unsigned@" + string(d)
	pod, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"generateName": "assay-doctor-"},
		"spec": map[string]any{"containers": []any{map[string]any{"name": "probe", "image": image}}},
	})
	if err != nil {
		return readiness.Unknown, err.Error()
	}
	err = k.Do(ctx, http.MethodPost, "/api/v1/namespaces/"+url.PathEscape(f.namespace)+"/pods", url.Values{"dryRun": {"All"}}, json.RawMessage(bytes.TrimSpace(pod)), nil)
	var refused *kube.Error
	switch {
	case err == nil:
		return readiness.Fail, "the cluster takes a Pod with " + image
	case errors.As(err, &refused) && refused.Code >= 400 && refused.Code < 500 && strings.Contains(refused.Message, "admission"):
		return readiness.Pass, "refused: " + refused.Message
	}
	return readiness.Unknown, err.Error()
}

func (a *app) doctorRecordCommand() *cobra.Command {
	var p readiness.Probe
	var outcome string
	cmd := &cobra.Command{
		Use: "record NAME --outcome pass|fail --note TEXT", Short: "Record that an exercise was held: restore, game-day, policy-review, revocation-drill", Args: cobra.ExactArgs(1),
		Example: "  assay doctor record restore --outcome pass --note 'restored to the standby in 22 minutes, log verified'",
		RunE: func(cmd *cobra.Command, args []string) error {
			p.Name, p.Status = args[0], readiness.Status(outcome)
			s, err := a.connect(cmd.Context(), "", "", true)
			if err != nil {
				return err
			}
			var out readiness.Probe
			if err := s.api().RecordProbe(cmd.Context(), p, &out); err != nil {
				return err
			}
			return a.print(out, func(w io.Writer) {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", line(out.Name), out.Status, stamp(out.At), line(out.Found))
			})
		},
	}
	cmd.Flags().StringVar(&outcome, "outcome", "", "pass or fail (required)")
	cmd.Flags().StringVar(&p.Found, "note", "", "what happened (required)")
	return cmd
}
