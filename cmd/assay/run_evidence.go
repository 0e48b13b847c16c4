package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"assay/artifact"
	"assay/builder"
	"assay/builder/runner"
	"assay/client"
	"assay/internal/fault"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

// wrapped is a build with what is said of it.
type wrapped struct {
	*session
	f       *runFlags
	signer  *client.Signing
	run     *builder.Run
	machine *runner.Evidence // nil: left out
	log     *captured        // nil: none was asked for

	images     []*target // what was pushed
	imageAt    string
	artifactAt string
	statements []statement
	evidence   []signedEvidence
}

// statement is one that is to be signed, or was.
type statement struct {
	predicateType string
	subjects      []subject
	predicate     []byte
	name          string // of its file in --bundle-dir
	bundle        *bundlepb.Bundle
}

func (w *wrapped) wants(evidence string) bool { return !slices.Contains(w.f.without, evidence) }

// lookAtMachine begins the evidence about the machine.
func (w *wrapped) lookAtMachine(ctx context.Context) error {
	if !w.wants("runner") {
		return nil
	}
	var err error
	w.machine, err = runner.Collect(ctx, runner.Options{InvocationID: w.f.build.ID, Dir: w.f.build.Dir, Caches: w.f.cacheSpecs, Ask: w.serverTime})
	return err
}

// serverTime is the server's clock, as the header of an answer tells it.
func (w *wrapped) serverTime(ctx context.Context) (time.Time, time.Duration, string, error) {
	if w.base == "" {
		return time.Time{}, 0, "", fault.Newf(fault.Unavailable, "no server to ask for the time")
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, w.base+"/tuf/timestamp.json", nil)
	if err != nil {
		return time.Time{}, 0, "", err
	}
	resp, err := w.http.Do(req)
	if err != nil {
		return time.Time{}, 0, "", err
	}
	_ = resp.Body.Close()
	at, err := http.ParseTime(resp.Header.Get("Date"))
	return at, time.Second, "server", err
}

// finishMachine ends the evidence about the machine.
func (w *wrapped) finishMachine(ctx context.Context) ([]byte, error) {
	tools := []runner.Tool{{Name: w.run.Tool.Name, Digest: w.run.Tool.Digest}}
	for _, t := range w.run.Tools {
		tools = append(tools, runner.Tool{Name: t.Name, Digest: t.Digest, Version: t.Version})
	}
	if t := w.run.Trace; t != nil {
		for _, p := range t.Log.Programs {
			if p.Digest != "" && !p.Made {
				tools = append(tools, runner.Tool{Name: filepath.Base(p.Path), Digest: p.Digest})
			}
		}
	}
	if err := w.machine.Finish(ctx, runner.Finished{Tools: tools, Caches: w.f.cacheSpecs}); err != nil {
		return nil, err
	}
	return w.machine.JSON()
}

// attest pushes the products and says about them what is to be said. When a
// product changed meanwhile, the run has failed.
func (w *wrapped) attest(ctx context.Context) error {
	if err := w.pushProducts(ctx); err != nil {
		return err
	}
	var subjects []subject
	for _, t := range w.images {
		subjects = append(subjects, subject{Name: t.name(), Digest: t.digest.Set()})
	}
	for _, p := range w.run.Products {
		subjects = append(subjects, subject{Name: p.Name, Digest: p.Digest.Set()})
	}
	add := func(name, predicateType string, predicate []byte, err error) error {
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		w.statements = append(w.statements, statement{predicateType: predicateType, subjects: subjects, predicate: predicate, name: name})
		return nil
	}
	p, err := w.run.Provenance(w.f.builderID, version())
	if err := add("provenance", "https://slsa.dev/provenance/v1", p, err); err != nil {
		return err
	}
	if w.wants("link") {
		p, err := w.run.Link(w.f.step)
		if err := add("link", builder.LinkType, p, err); err != nil {
			return err
		}
	}
	if w.run.Trace != nil {
		p, err := w.run.TracePredicate(w.f.builderID)
		if err := add("trace", builder.TraceType, p, err); err != nil {
			return err
		}
	}
	if w.machine != nil {
		p, err := w.finishMachine(ctx)
		if err := add("runner", runner.PredicateType, p, err); err != nil {
			return err
		}
	}
	if w.wants("sbom") {
		if err := w.describeProducts(ctx); err != nil {
			return err
		}
	}
	if err := w.signAll(ctx); err != nil {
		return err
	}
	// Signed, and not yet told to anybody.
	if err := w.run.Recheck(); err != nil {
		w.statements = nil
		return err
	}
	return w.store(ctx)
}

// attestFailure says that the build failed.
func (w *wrapped) attestFailure(ctx context.Context) error {
	if !w.f.sign.upload && w.f.bundles == "" {
		return nil // nobody would hear of it
	}
	p, err := w.run.FailurePredicate(w.f.builderID, version())
	if err != nil {
		return err
	}
	var subjects []subject
	for _, f := range w.run.FailureSubjects() {
		subjects = append(subjects, subject{Name: f.Name, Digest: f.Digest.Set()})
	}
	w.images, w.statements = nil, []statement{{predicateType: builder.FailureType, subjects: subjects, predicate: p, name: "failure"}}
	if w.run.Trace != nil {
		if p, err = w.run.TracePredicate(w.f.builderID); err != nil {
			return err
		}
		// About the build alone: it says nothing good of a file.
		w.statements = append(w.statements, statement{predicateType: builder.TraceType, subjects: subjects[:1], predicate: p, name: "trace"})
	}
	if err := w.signAll(ctx); err != nil {
		return err
	}
	return w.store(ctx)
}

// pushProducts pushes what was asked for.
func (w *wrapped) pushProducts(ctx context.Context) error {
	if w.f.image != "" {
		t, err := w.pushImage(ctx, w.run, w.f.build.Dir, w.f.base, w.f.imageRef)
		if err != nil {
			return err
		}
		w.images, w.imageAt = append(w.images, t), t.image.String()
	}
	if w.f.push != "" {
		img, err := w.run.Artifact()
		if err != nil {
			return err
		}
		t, err := w.pushContent(ctx, img, w.f.fileTo)
		if err != nil {
			return err
		}
		w.images, w.artifactAt = append(w.images, t), t.image.String()
	}
	return nil
}

func (s *session) pushImage(ctx context.Context, run *builder.Run, dir string, base *builder.Base, ref artifact.Reference) (*target, error) {
	img, err := run.Image(dir)
	if base != nil {
		img, err = run.ImageOn(dir, *base)
	}
	if err != nil {
		return nil, err
	}
	return s.pushContent(ctx, img, ref)
}

func (s *session) pushContent(ctx context.Context, img v1.Image, ref artifact.Reference) (*target, error) {
	d, err := s.registry().PushImage(ctx, ref, img)
	if err != nil {
		return nil, unauthenticated(err, ref.Host)
	}
	pinned := ref.WithDigest(d)
	return &target{text: strings.TrimSpace(ref.String()), digest: d, image: &pinned, media: "application/vnd.oci.image.manifest.v1+json"}, nil
}

// signAll signs the statements at once: services that commit in groups then
// answer once for all.
func (w *wrapped) signAll(ctx context.Context) error {
	errs := make([]error, len(w.statements))
	var all sync.WaitGroup
	for i := range w.statements {
		all.Go(func() {
			st := &w.statements[i]
			b, err := statementOf(st.subjects, st.predicateType, st.predicate)
			if err == nil {
				st.bundle, err = signStatement(ctx, w.signer, b)
			}
			if err != nil {
				errs[i] = fmt.Errorf("%s: %w", st.name, err)
			}
		})
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// store writes and uploads the bundles.
func (w *wrapped) store(ctx context.Context) error {
	docs := make([][]byte, len(w.statements))
	for i, st := range w.statements {
		doc, err := protojson.Marshal(st.bundle)
		if err != nil {
			return err
		}
		docs[i] = doc
		e := signedEvidence{PredicateType: st.predicateType, Subjects: len(st.subjects)}
		if entries := st.bundle.GetVerificationMaterial().GetTlogEntries(); len(entries) > 0 {
			e.LogIndex = &entries[0].LogIndex
		}
		if e.Bundle, err = w.write(&st, doc); err != nil {
			return err
		}
		w.evidence = append(w.evidence, e)
	}
	switch {
	case w.f.sign.upload:
	case w.f.sign.bundle == "" && w.f.bundles == "":
		return usagef("--upload=false without --bundle or --bundle-dir would throw the signatures away")
	default:
		return nil
	}
	errs := make([]error, len(docs))
	var all sync.WaitGroup
	for i := range docs {
		all.Go(func() { errs[i] = w.upload(ctx, &w.statements[i], docs[i], &w.evidence[i]) })
	}
	all.Wait()
	for i, err := range errs {
		if err != nil {
			return fmt.Errorf("store %s: %w", w.statements[i].name, err)
		}
	}
	return nil
}

// write puts a bundle where --bundle and --bundle-dir want it.
func (w *wrapped) write(st *statement, doc []byte) (path string, err error) {
	if w.f.bundles != "" {
		if err := os.MkdirAll(w.f.bundles, 0o755); err != nil { //nolint:gosec // evidence is public
			return "", usagef("--bundle-dir: %w", err)
		}
		path = filepath.Join(w.f.bundles, st.name+".sigstore.json")
		if err := writeFile(path, doc); err != nil {
			return "", err
		}
	}
	if w.f.sign.bundle != "" && st.predicateType == "https://slsa.dev/provenance/v1" {
		path = w.f.sign.bundle
		return path, writeFile(path, doc)
	}
	return path, nil
}

// upload stores a bundle beside what was pushed, else with the server.
func (w *wrapped) upload(ctx context.Context, st *statement, doc []byte, e *signedEvidence) error {
	images := w.about(st)
	if len(images) == 0 && w.status == nil {
		images = w.images // no server: what was pushed is the only place to keep it
	}
	for _, t := range images {
		d, err := w.registry().PushReferrer(ctx, *t.image, st.bundle.MediaType, doc, map[string]string{
			"dev.sigstore.bundle.content":       contentOf(st.bundle),
			"dev.sigstore.bundle.predicateType": st.predicateType,
			"org.opencontainers.image.created":  time.Now().UTC().Format(time.RFC3339),
		})
		if err != nil {
			return err
		}
		e.Stored = append(e.Stored, t.image.Host+"/"+t.image.Repository+"@"+string(d))
	}
	switch {
	case len(images) > 0:
	case w.status != nil:
		ev, err := w.api().Ingest(ctx, doc, "")
		if err != nil {
			return err
		}
		if len(ev) > 0 {
			e.Stored = append(e.Stored, ev[0].ID)
		}
	case w.f.sign.bundle == "" && w.f.bundles == "":
		return usagef("no server to store the bundles with: give --bundle FILE or --bundle-dir DIR")
	}
	return nil
}

// about are the pushed images that a statement names.
func (w *wrapped) about(st *statement) []*target {
	var out []*target
	for _, t := range w.images {
		if slices.ContainsFunc(st.subjects, func(s subject) bool { return s.Digest.Match(t.digest.Set()) }) {
			out = append(out, t)
		}
	}
	return out
}
