package admission

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"assay/artifact"
	"assay/event"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/internal/strictjson"
	"assay/policy"
	"assay/telemetry"

	"github.com/prometheus/client_golang/prometheus"
)

// The paths of the webhook.
const (
	PathMutate   = "/mutate"   // Pods: decide, and pin what was decided
	PathValidate = "/validate" // Pods: decide what is there in the end
	PathWarn     = "/warn"     // whatever holds a pod template: says early what would be refused
)

// Options of a [Webhook]. Judge, Cluster and Record are required.
type Options struct {
	Judge   Judge
	Running Running // nil: nothing is known to run
	Record  Recorder
	Cluster string // its name in policies and events
	// Environment gives a namespace's environment; nil or "": none. It comes from
	// the site's configuration: labels of a namespace are for its owner to set.
	Environment func(namespace string) string
	// Never lists namespaces in which nothing is refused: kube-system and the
	// webhook's own, so that a cluster can always be repaired. All is decided and
	// recorded there too.
	Never []string
	// Audit refuses nothing anywhere.
	Audit bool
	// NoPin leaves tags in Pods as they are: what runs may then be another image
	// than was decided about.
	NoPin bool
	// NoTelemetry leaves OTEL_RESOURCE_ATTRIBUTES alone.
	NoTelemetry bool
	// Timeout of a review, for API servers that do not say theirs; default 5 s.
	Timeout    time.Duration
	Clock      clock.Clock
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Recorder takes what happened into the event log. Record returns at once; an
// error says that it cannot be recorded, and nothing unrecorded is allowed.
type Recorder interface {
	Record(ctx context.Context, events ...event.Event) error
}

// Webhook is the HTTP door for the API server. It is safe for concurrent use.
type Webhook struct {
	o     Options
	met   *metrics
	large chan struct{} // a place for each large review under way
}

// NewWebhook checks the options; errors are fault.Invalid.
func NewWebhook(o Options) (*Webhook, error) {
	if o.Judge == nil || o.Record == nil || !ValidName(o.Cluster) {
		return nil, fault.Newf(fault.Invalid, "admission: want a Judge, a Recorder, and a cluster's name of letters, digits, . _ and -, at most 63; found %.80q", o.Cluster)
	}
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Second
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	met, err := newMetrics(o.Registerer)
	return &Webhook{o, met, make(chan struct{}, maxLarge)}, err
}

// ValidName says whether s can name a cluster or an environment.
func ValidName(s string) bool {
	if s == "" || len(s) > 63 {
		return false
	}
	for i, c := range []byte(s) {
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || i == len(s)-1 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return true
}

// ServeHTTP answers a review. What is no review is answered by a status of HTTP,
// which the API server takes as a failure, and its failurePolicy counts.
func (h *Webhook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	var handle func(context.Context, *Request) (*Response, error)
	switch r.URL.Path {
	case PathMutate:
		handle = h.mutate
	case PathValidate:
		handle = h.validate
	case PathWarn:
		handle = h.warn
	default:
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "want POST with an AdmissionReview", http.StatusMethodNotAllowed)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), h.within(r))
	defer cancel()
	b, done, err := h.read(ctx, w, r)
	defer done()
	if err != nil {
		http.Error(w, err.Error(), fault.HTTPStatus(err))
		return
	}
	q, err := parseReview(b)
	if err != nil {
		h.met.reviews.WithLabelValues(r.URL.Path[1:], "invalid").Inc()
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx, span := telemetry.StartOf(ctx, "admission.", r.URL.Path[1:])
	resp, err := handle(ctx, q)
	if err != nil {
		resp = h.failure(q, err)
	}
	span.Text(telemetry.Verdict, map[bool]string{true: string(policy.Allow), false: string(policy.Deny)}[resp.Allowed])
	span.End(err)
	resp.UID = q.UID
	out, err := strictjson.Marshal(Review{APIVersion: reviewVersion, Kind: reviewKind, Response: resp})
	if err != nil {
		http.Error(w, "the answer could not be written", http.StatusInternalServerError)
		return
	}
	h.met.answered(ctx, r.URL.Path[1:], resp, time.Since(start))
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(out)
}

// within is the time for an answer: what the API server waits, less a tenth for
// the way back.
func (h *Webhook) within(r *http.Request) time.Duration {
	d := h.o.Timeout
	if t, err := time.ParseDuration(r.URL.Query().Get("timeout")); err == nil && t > 0 && t < time.Minute {
		d = t
	}
	return d - d/10
}

// failure answers what could not be looked into: refused, with the reason.
func (h *Webhook) failure(q *Request, err error) *Response {
	h.o.Logger.Warn("an admission review could not be answered from its content", "namespace", q.Namespace, "resource", q.Resource.Resource, "error", err)
	if h.lenient(q.Namespace) {
		return &Response{Allowed: true, Warnings: []string{warning("could not be decided: " + err.Error())}}
	}
	return refusal("assay: " + err.Error())
}

func refusal(message string) *Response {
	return &Response{Status: &Status{Code: http.StatusForbidden, Reason: "Forbidden", Message: message}}
}

// lenient says whether nothing is refused in a namespace.
func (h *Webhook) lenient(namespace string) bool {
	return h.o.Audit || slices.Contains(h.o.Never, namespace)
}

func isPod(q *Request) bool {
	return q.Resource.Group == "" && q.Resource.Resource == "pods" && (q.SubResource == "" || q.SubResource == "ephemeralcontainers" || q.SubResource == "resize")
}

// pod reads a Pod's images, and which of them it had before.
func pod(q *Request) (images []Image, known []bool, doc map[string]any, err error) {
	if !isPod(q) {
		return nil, nil, nil, fault.Newf(fault.Invalid, "this path is for Pods; found %.60s of group %.60q: see assay admission manifests", q.Resource.Resource, q.Resource.Group)
	}
	if q.Operation != "CREATE" && q.Operation != "UPDATE" {
		return nil, nil, nil, nil // nothing begins to run
	}
	if images, doc, err = podImages(q.Object); err != nil {
		return nil, nil, nil, err
	}
	known = make([]bool, len(images))
	if q.Operation == "UPDATE" {
		before, _, err := podImages(q.OldObject)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("the Pod before the update: %w", err)
		}
		known = unchanged(images, before)
	}
	return images, known, doc, nil
}

// mutate decides about the images of a Pod and pins those that are allowed.
func (h *Webhook) mutate(ctx context.Context, q *Request) (*Response, error) {
	images, known, doc, err := pod(q)
	if err != nil {
		return nil, err
	}
	verdicts := h.judge(ctx, q, images, known)
	resp := &Response{Allowed: true}
	if text := h.refuse(q, verdicts); text != "" {
		if err := h.record(ctx, q, verdicts, true); err != nil {
			return nil, err
		}
		return refusal(text), nil
	}
	if h.o.NoPin || mirror(doc) {
		return resp, nil // a node would not know its own Pod again
	}
	var ops []operation
	for i := range verdicts {
		v := &verdicts[i]
		if v.answer == nil || v.answer.Digest == "" {
			continue
		}
		ref, err := normalize(v.image.Reference)
		if err != nil {
			continue
		}
		if want := pinned(ref, v.answer.Digest); want != v.image.Reference && ref.Digest == "" {
			ops = append(ops, operation{"replace", v.image.Pointer, want})
		}
		if q.Operation == "CREATE" && !h.o.NoTelemetry && v.answer.Allowed() && v.image.Use != Volume {
			ops = append(ops, inject(v.image, v.answer)...)
		}
	}
	if resp.Patch, err = marshalPatch(ops); err != nil || resp.Patch == nil {
		return resp, err
	}
	jsonPatch := "JSONPatch"
	resp.PatchType = &jsonPatch
	return resp, nil
}

// mirror says whether a Pod is a node's own view of a static Pod. It is decided
// about like any other.
func mirror(doc map[string]any) bool {
	meta, _ := doc["metadata"].(map[string]any)
	annotations, _ := meta["annotations"].(map[string]any)
	_, ok := annotations["kubernetes.io/config.mirror"]
	return ok
}

// validate decides about what the Pod is after all mutations.
func (h *Webhook) validate(ctx context.Context, q *Request) (*Response, error) {
	images, known, doc, err := pod(q)
	if err != nil {
		return nil, err
	}
	verdicts := h.judge(ctx, q, images, known)
	if !h.o.NoPin && !mirror(doc) {
		for i := range verdicts {
			v := &verdicts[i]
			if ref, err := normalize(v.image.Reference); err == nil && ref.Digest == "" && v.err == nil && v.answer.Allowed() {
				// Between the two doors a tag can move, and another webhook can write.
				v.err = fault.Newf(fault.Denied, "its tag was not pinned to the digest that was decided about: the mutating webhook did not see it, or another one wrote after it")
			}
		}
	}
	if err := h.record(ctx, q, verdicts, false); err != nil {
		return nil, err
	}
	if text := h.refuse(q, verdicts); text != "" {
		return refusal(text), nil
	}
	resp := &Response{Allowed: true, Warnings: h.warnings(q, verdicts)}
	for i := range verdicts {
		if a := verdicts[i].answer; a != nil && a.Decision != "" {
			if resp.AuditAnnotations == nil {
				resp.AuditAnnotations = map[string]string{}
			}
			resp.AuditAnnotations[fmt.Sprintf("decision-%d", i)] = a.Decision
		}
	}
	return resp, nil
}

// warn says early what will be refused once a workload makes its Pods.
func (h *Webhook) warn(ctx context.Context, q *Request) (*Response, error) {
	resp := &Response{Allowed: true}
	if q.Operation != "CREATE" && q.Operation != "UPDATE" {
		return resp, nil
	}
	images, err := templateImages(q.Object)
	if err != nil {
		resp.Warnings = []string{warning("its images could not be looked into: " + err.Error())}
		return resp, nil //nolint:nilerr // it is told of, and the Pods are refused
	}
	verdicts := h.judge(ctx, q, images, make([]bool, len(images)))
	resp.Warnings = h.warnings(q, verdicts)
	return resp, nil
}

// maxAtOnce bounds the questions of one review that are under way.
const maxAtOnce = 8

// judge asks about each image that is not known, each reference once.
func (h *Webhook) judge(ctx context.Context, q *Request, images []Image, known []bool) []verdictOn {
	place := Place{Cluster: h.o.Cluster, Namespace: q.Namespace}
	if h.o.Environment != nil {
		place.Environment = h.o.Environment(q.Namespace)
	}
	var asked []verdictOn // one for each reference
	index := map[string]int{}
	out := make([]verdictOn, 0, len(images))
	refs := make([]int, 0, len(images))
	for i := range images {
		if known[i] {
			continue
		}
		im := &images[i]
		key := im.Reference + "\x00" + im.pull.key()
		n, have := index[key]
		if !have {
			n = len(asked)
			index[key] = n
			asked = append(asked, verdictOn{image: im})
		}
		out, refs = append(out, verdictOn{image: im}), append(refs, n)
	}
	var g errgroup.Group
	g.SetLimit(maxAtOnce)
	for i := range asked {
		g.Go(func() error { h.judgeOne(ctx, place, &asked[i]); return nil })
	}
	_ = g.Wait()
	for i := range out {
		a := &asked[refs[i]]
		out[i].answer, out[i].err, out[i].restart = a.answer, a.err, a.restart
	}
	return out
}

func (h *Webhook) judgeOne(ctx context.Context, place Place, v *verdictOn) {
	ref, err := normalize(v.image.Reference)
	if err != nil {
		v.err = err
		return
	}
	defer func() { // one image must not take the door with it
		if p := recover(); p != nil {
			v.err = fault.Newf(fault.Internal, "panic: %v", p)
		}
	}()
	judging, span := telemetry.Start(ctx, "admission.judge")
	v.answer, v.err = h.o.Judge.Judge(judging, Question{Reference: ref, Place: place, Pull: v.image.pull})
	if v.answer != nil {
		span.Text(telemetry.ManifestDigest, string(v.answer.Digest))
		span.Text(telemetry.DecisionID, v.answer.Decision)
		span.Text(telemetry.Policy, v.answer.Policy)
		span.Text(telemetry.Verdict, string(v.answer.Verdict))
	}
	span.End(v.err)
	if v.err == nil && v.answer == nil {
		v.err = fault.Newf(fault.Undecided, "there is no answer")
	}
	if v.err != nil && ctx.Err() != nil && !errors.Is(v.err, fault.Undecided) {
		v.err = fault.Newf(fault.Undecided, "no answer within the time of the API server: %w", v.err)
	}
	v.restart = h.restarts(ctx, place, ref, v)
}

// restarts says whether an image that is not allowed may start all the same,
// since it runs there already and nothing speaks against it but time.
func (h *Webhook) restarts(ctx context.Context, place Place, ref artifact.Reference, v *verdictOn) bool {
	digest := ref.Digest
	switch {
	case v.err != nil:
		if k := fault.KindOf(v.err); k != fault.Undecided && k != fault.Unavailable {
			return false
		}
		if v.answer != nil && (v.answer.Blocked != "" || v.answer.Digest == "") {
			return false
		}
	case v.answer.Blocked != "" || v.answer.Verdict == policy.Allow || !v.answer.Soft:
		return false
	}
	if v.answer != nil && v.answer.Digest != "" {
		digest = v.answer.Digest
	}
	if v.answer != nil && v.answer.Runs {
		return true
	}
	if digest == "" || h.o.Running == nil {
		return false
	}
	// The answer may have taken all of the time; this is a look at a table.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 250*time.Millisecond)
	defer cancel()
	runs, err := h.o.Running.Runs(ctx, place.Cluster, place.Namespace, digest)
	if err != nil {
		h.o.Logger.Warn("it could not be found out whether an image runs already", "digest", digest, "error", err)
	}
	return err == nil && runs
}

// maxTold bounds the images that one message tells of.
const maxTold = 5

// refuse is why the object is refused; "": it is not.
func (h *Webhook) refuse(q *Request, verdicts []verdictOn) string {
	if h.lenient(q.Namespace) {
		return ""
	}
	text, n := "", 0
	said := map[string]bool{}
	for i := range verdicts {
		v := &verdicts[i]
		if !v.refuses() || said[v.image.Reference] {
			continue
		}
		said[v.image.Reference] = true
		if n++; n <= maxTold {
			if text != "" {
				text += "\n"
			}
			text += "assay: " + v.text(q.Namespace)
		}
	}
	if n > maxTold {
		text += fmt.Sprintf("\nassay: and %d more images", n-maxTold)
	}
	return text
}

// warnings are for what is not allowed and yet not refused.
func (h *Webhook) warnings(q *Request, verdicts []verdictOn) []string {
	var out []string
	said := map[string]bool{}
	for i := range verdicts {
		v := &verdicts[i]
		if v.err == nil && v.answer.Allowed() || v.err == nil && v.answer.Mode == policy.Audit && !v.answer.Refuses() || said[v.image.Reference] || len(out) == maxTold {
			continue
		}
		said[v.image.Reference] = true
		text := v.text(q.Namespace)
		if v.restart {
			text = "runs here already, so it may start again: " + text
		}
		out = append(out, warning(text))
	}
	return out
}

// maxWarning is what the API server passes on of one warning without cutting it.
const maxWarning = 256
