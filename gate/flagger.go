package gate

import (
	"encoding/json"
	"slices"
	"strings"

	"assay/client"
	"assay/internal/fault"
)

// Hook is a kind of Flagger's webhooks.
type Hook string

// The hooks that can be asked of this gate (Flagger, "Webhooks").
const (
	HookConfirmRollout   Hook = "confirm-rollout"
	HookPreRollout       Hook = "pre-rollout"
	HookRollout          Hook = "rollout"
	HookConfirmIncrease  Hook = "confirm-traffic-increase"
	HookConfirmPromotion Hook = "confirm-promotion"
	HookRollback         Hook = "rollback"
)

// Hooks are all of them.
func Hooks() []Hook {
	return []Hook{HookConfirmRollout, HookPreRollout, HookRollout, HookConfirmIncrease, HookConfirmPromotion, HookRollback}
}

// ParseHook reads a hook's name; fault.NotFound for another.
func ParseHook(s string) (Hook, error) {
	if h := Hook(s); slices.Contains(Hooks(), h) {
		return h, nil
	}
	return "", fault.Newf(fault.NotFound, "hook %.40q: want confirm-rollout, pre-rollout, rollout, confirm-traffic-increase, confirm-promotion or rollback", s)
}

// payload is what Flagger posts. It grows with Flagger's versions, so members that
// are not known here are passed over.
type payload struct {
	Name         string            `json:"name"`
	Namespace    string            `json:"namespace"`
	Phase        string            `json:"phase"`
	CanaryWeight *float64          `json:"canaryWeight"`
	Metadata     map[string]string `json:"metadata"`
}

// ParseFlagger reads what Flagger posts as a question. The canary's name is the
// workload's; metadata names image (several with commas), service, environment,
// cluster, least_duration, least_share and share.
func ParseFlagger(b []byte) (*client.CanaryQuestion, error) {
	var p payload
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, fault.Newf(fault.Invalid, "webhook of Flagger: %w", err)
	}
	q := &client.CanaryQuestion{Controller: ControllerFlagger, Namespace: p.Namespace, Workload: p.Name, Service: p.Name}
	set := map[string]*string{
		"service": &q.Service, "environment": &q.Environment, "cluster": &q.Cluster, "workload": &q.Workload,
		"share": &q.Share, "least_share": &q.LeastShare, "least_duration": &q.LeastDuration,
	}
	for k, v := range p.Metadata {
		if k == "image" {
			q.Images = strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' })
			continue
		}
		to, known := set[k]
		if !known {
			return nil, fault.Newf(fault.Invalid, "metadata %.60q is unknown here: want image, service, environment, cluster, workload, share, least_share or least_duration", k)
		}
		*to = v
	}
	if p.CanaryWeight != nil && q.Share == "" {
		b, err := json.Marshal(*p.CanaryWeight)
		if err != nil {
			return nil, err
		}
		q.Share = string(b)
	}
	return q, nil
}

// Opens says whether a hook is answered with success. Flagger counts every other
// answer to pre-rollout and rollout as a failed check, so that what has only to
// grow older or bigger is none there; rollback is the other way round, success
// makes Flagger roll back.
func (h Hook) Opens(a *client.CanaryAnswer) bool {
	if h == HookRollback {
		return a.Verdict == Rollback
	}
	for _, r := range a.Reasons {
		if r.Verdict == Proceed || h != HookConfirmPromotion && r.Verdict == Wait && (r.Check == CheckDuration || r.Check == CheckShare) {
			continue
		}
		return false
	}
	return true
}
