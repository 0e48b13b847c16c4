package convert

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"strings"

	"assay/internal/fault"
)

// Recorded is what another system said of an image once.
type Recorded struct {
	Image     string `json:"image"` // as the workload named it, or with the digest that ran
	Namespace string `json:"namespace,omitempty"`
	Allowed   bool   `json:"allowed"`
	Policy    string `json:"policy,omitempty"` // whose verdict it is, where that is known
	Message   string `json:"message,omitempty"`
}

// maxRecords bounds what is compared.
const maxRecords = 10_000

// Records reads what another system decided, out of any of: AdmissionReview
// documents with request and response; PolicyReport and ClusterPolicyReport
// documents together with lists of Pods, whose images they are about (kubectl get
// policyreports,pods -A -o json); lines "IMAGE allow" and "IMAGE deny". JSON may be
// one document, or one to a line.
//
// The other engine is not asked anew: what it said is taken from its own records.
func Records(text []byte) ([]Recorded, error) {
	trimmed := bytes.TrimSpace(text)
	if len(trimmed) == 0 {
		return nil, fault.Newf(fault.Invalid, "no records in it")
	}
	if trimmed[0] != '{' && trimmed[0] != '[' {
		return plainRecords(string(trimmed))
	}
	r := &records{images: map[string][]string{}}
	dec := json.NewDecoder(bytes.NewReader(trimmed))
	for dec.More() {
		var v any
		if err := dec.Decode(&v); err != nil {
			return nil, fault.Newf(fault.Invalid, "records: %w", err)
		}
		r.read(v)
	}
	out := r.out
	for _, p := range r.reports {
		images := r.images[p.pod]
		for _, im := range images {
			p.rec.Image = im
			out = append(out, p.rec)
		}
		if len(images) == 0 {
			r.unknown++
		}
	}
	if len(out) == 0 {
		if r.unknown > 0 {
			return nil, fault.Newf(fault.Invalid, "%d results of reports, and none of the Pods that they are about: give the Pods too (kubectl get policyreports,pods -A -o json)", r.unknown)
		}
		return nil, fault.Newf(fault.Invalid, "no verdict about an image in it: want AdmissionReview with request and response, PolicyReport with Pods, or lines IMAGE allow|deny")
	}
	if len(out) > maxRecords {
		return nil, fault.Newf(fault.TooLarge, "%d records: at most %d are compared at once", len(out), maxRecords)
	}
	return merged(out), nil
}

func plainRecords(text string) (out []Recorded, err error) {
	for i, l := range strings.Split(text, "\n") {
		f := strings.Fields(l)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		if len(f) != 2 || f[1] != "allow" && f[1] != "deny" {
			return nil, fault.Newf(fault.Invalid, "records, line %d: want IMAGE allow, or IMAGE deny", i+1)
		}
		out = append(out, Recorded{Image: f[0], Allowed: f[1] == "allow"})
	}
	if len(out) > maxRecords {
		return nil, fault.Newf(fault.TooLarge, "%d records: at most %d are compared at once", len(out), maxRecords)
	}
	return out, nil
}

type reported struct {
	pod string
	rec Recorded
}

type records struct {
	out     []Recorded
	reports []reported
	images  map[string][]string // by "namespace/pod"
	unknown int
}

func (r *records) read(v any) {
	if l, is := v.([]any); is {
		for _, one := range l {
			r.read(one)
		}
		return
	}
	m, _ := v.(map[string]any)
	o := object(m)
	switch kind := o.str("kind"); {
	case strings.HasSuffix(kind, "List"):
		for _, one := range o.list("items") {
			if one != nil && one.str("kind") == "" {
				one["kind"] = strings.TrimSuffix(kind, "List")
			}
			r.read(map[string]any(one))
		}
	case kind == "AdmissionReview":
		if !o.has("response") {
			return
		}
		for _, im := range podImages(o.obj("request.object")) {
			r.out = append(r.out, Recorded{Image: im, Namespace: o.str("request.namespace"), Allowed: o.str("response.allowed") == "true", Message: o.str("response.status.message")})
		}
	case kind == "Pod":
		key := o.str("metadata.namespace") + "/" + o.str("metadata.name")
		r.images[key] = append(r.images[key], podImages(o)...)
	case kind == "PolicyReport" || kind == "ClusterPolicyReport":
		r.report(o)
	}
}

func (r *records) report(o object) {
	for _, res := range o.list("results") {
		verdict := res.str("result")
		if verdict != "pass" && verdict != "fail" {
			continue // skip, warn and error are no verdicts
		}
		on := res.list("resources")
		if len(on) == 0 && o.has("scope") {
			on = []object{o.obj("scope")}
		}
		for _, one := range on {
			if one.str("kind") == "Pod" {
				r.reports = append(r.reports, reported{one.str("namespace") + "/" + one.str("name"), Recorded{
					Namespace: one.str("namespace"), Allowed: verdict == "pass", Policy: res.str("policy"), Message: res.str("message"),
				}})
			}
		}
	}
}

// podImages are those of a Pod, or of a pod template: with the digest that ran
// where the status says it.
func podImages(o object) (out []string) {
	spec := o.obj("spec")
	if spec.has("template") {
		spec = o.obj("spec.template.spec")
	}
	ran := map[string]string{}
	for _, list := range []string{"containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"} {
		for _, s := range o.list("status." + list) {
			if id := strings.TrimPrefix(s.str("imageID"), "docker-pullable://"); strings.Contains(id, "@sha256:") {
				ran[s.str("name")] = id
			}
		}
	}
	for _, list := range []string{"containers", "initContainers", "ephemeralContainers"} {
		for _, one := range spec.list(list) {
			if im := cmp.Or(ran[one.str("name")], one.str("image")); im != "" && !slices.Contains(out, im) {
				out = append(out, im)
			}
		}
	}
	return out
}

// merged joins records of one image: refused by one policy is refused.
func merged(in []Recorded) (out []Recorded) {
	for _, r := range in {
		i := slices.IndexFunc(out, func(o Recorded) bool { return o.Image == r.Image && o.Namespace == r.Namespace })
		switch {
		case i < 0:
			out = append(out, r)
		case out[i].Allowed && !r.Allowed:
			out[i] = r
		}
	}
	return out
}
