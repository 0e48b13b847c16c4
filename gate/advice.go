package gate

import (
	"context"
	"fmt"
	"regexp"
	"slices"

	"assay/admission"
	"assay/artifact"
	"assay/client"
	"assay/inventory"
)

// The controllers whose commands advice can name.
const (
	ControllerArgo    = "argo"
	ControllerFlagger = "flagger"
)

// nameRE is what names of services, places and workloads look like, here and on the
// command lines of advice: none means anything to a shell.
var nameRE = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$`)

// maxAsked is how many digests that ran are asked about for one that may run.
const maxAsked = 20

func sortedStrings(all []string) []string {
	slices.Sort(all)
	return all
}

// conclude takes the worst of the reasons, and says what to go back to.
func (c *canary) conclude(ctx context.Context) {
	rank := []string{Proceed, Wait, Rollback}
	for _, r := range c.answer.Reasons {
		if slices.Index(rank, r.Verdict) > slices.Index(rank, c.answer.Verdict) {
			c.answer.Verdict = r.Verdict
		}
	}
	c.answer.Value = map[string]int64{Proceed: 1, Wait: 0, Rollback: -1}[c.answer.Verdict]
	// The reasons for the verdict come first.
	slices.SortStableFunc(c.answer.Reasons, func(a, b client.CanaryReason) int {
		return slices.Index(rank, b.Verdict) - slices.Index(rank, a.Verdict)
	})
	if c.answer.Verdict == Rollback {
		c.advise(ctx)
	}
}

// advise finds the digest that ran last in the canary's place and may still run.
func (c *canary) advise(ctx context.Context) {
	asked := map[artifact.Digest]bool{}
	for i := range c.ran {
		r := &c.ran[i]
		ref, err := artifact.ParseReference(r.Image)
		if err != nil || c.hold[r.Digest] || asked[r.Digest] || !c.repos[ref.Host+"/"+ref.Repository] {
			continue
		}
		if len(asked) >= maxAsked {
			break
		}
		asked[r.Digest] = true
		ref.Tag, ref.Digest = "", r.Digest
		place := c.place
		place.Cluster, place.Namespace = r.Cluster, r.Namespace
		a, err := c.g.o.Judge.Judge(ctx, admission.Question{Reference: ref, Place: place})
		if err != nil || !a.Allowed() {
			continue
		}
		last := r.Last
		if r.Instances > 0 {
			last = c.g.o.Clock()
		}
		c.answer.Advice = &client.CanaryAdvice{Image: ref.String(), Digest: r.Digest, Decision: a.Decision, Running: r.Instances > 0, Last: last, Commands: c.commands(r, ref)}
		return
	}
	text := "no other digest of its repository is known to have run here and to be allowed still"
	if len(asked) > 0 {
		text = fmt.Sprintf("none of the %d other digests of its repository that ran here is allowed still", len(asked))
	}
	c.answer.Advice = &client.CanaryAdvice{Text: text, Commands: []string{}}
}

// commands are what a person types to go back. Names that a shell could read
// otherwise make none.
func (c *canary) commands(r *inventory.Ran, ref artifact.Reference) (out []string) {
	workload, namespace := r.Name, r.Namespace
	if c.q.Workload != "" {
		workload = c.q.Workload
	}
	if c.q.Namespace != "" {
		namespace = c.q.Namespace
	}
	for _, name := range []string{workload, namespace, r.Container, r.Kind} {
		if !nameRE.MatchString(name) {
			return []string{}
		}
	}
	if c.q.Controller == ControllerArgo || r.Kind == "Rollout" {
		return []string{
			fmt.Sprintf("kubectl argo rollouts abort %s -n %s", workload, namespace),
			fmt.Sprintf("kubectl argo rollouts set image %s %s=%s -n %s", workload, r.Container, ref, namespace),
		}
	}
	kind := map[string]string{"StatefulSet": "statefulset", "DaemonSet": "daemonset"}[r.Kind]
	if kind == "" {
		kind = "deployment"
	}
	return []string{fmt.Sprintf("kubectl set image %s/%s %s=%s -n %s", kind, workload, r.Container, ref, namespace)}
}
