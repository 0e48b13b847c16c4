package api

import (
	"context"
	"net/http"
	"strconv"

	"assay/admission"
	"assay/artifact"
	"assay/client"
	"assay/event"
	"assay/identity"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// AdmissionSite answers webhooks that are processes of their own.
type AdmissionSite interface {
	// Judge says whether an image may run at a place.
	Judge(ctx context.Context, q admission.Question) *admission.Reply
	// Bundle gives the cluster's newest bundle, signed; nil: version is that.
	Bundle(ctx context.Context, cluster string, version int64) ([]byte, error)
	// Record writes events of a cluster's webhook; fault.Invalid for other kinds.
	Record(ctx context.Context, cluster string, list []event.Event) error
	// JudgeNode says whether a node may pull an image, and records it.
	JudgeNode(ctx context.Context, q admission.NodeQuestion) *admission.Reply
}

// BundleMediaType is of a bundle for webhooks.
const BundleMediaType = "application/vnd.assay.admission-bundle.v2+json"

func (a *API) admissionRoutes() []Route {
	return []Route{
		{Method: "POST", Path: "/api/v1/admission/judge", Summary: "May this image run at this place of a cluster? For its webhook", Action: identity.ActDeploy,
			In: client.AdmissionQuestion{}, Out: admission.Reply{}, Status: 200, handle: a.judgeAdmission},
		{Method: "POST", Path: "/api/v1/admission/node", Summary: "May a node of a cluster pull this image? For the image verifier of its containerd", Action: identity.ActDeploy,
			In: client.NodeQuestion{}, Out: admission.Reply{}, Status: 200, handle: a.judgeNode},
		{Method: "GET", Path: "/api/v1/admission/bundle", Summary: "What a cluster's webhook goes on with while the server does not answer, signed; empty: there is none that is newer", Action: identity.ActDeploy,
			Query: []Param{{"cluster", "its name"}, {"version", "that is there"}}, Out: RawBytes{BundleMediaType}, Status: 200, handle: a.admissionBundle},
		{Method: "POST", Path: "/api/v1/admission/records", Summary: "Hand on what a cluster's webhook did", Action: identity.ActDeploy,
			In: client.AdmissionRecords{}, Out: struct{}{}, Status: 200, handle: a.recordAdmission},
	}
}

// ofCluster says whether the caller may speak for a cluster.
func (a *API) ofCluster(r *http.Request, cluster string) error {
	if !clusterNameRE.MatchString(cluster) {
		return fault.Newf(fault.Invalid, "cluster %.80q: want lower-case letters, digits, - . and _, at most 63", cluster)
	}
	return a.allow(r, identity.ActDeploy, identity.ResourceCluster, clusterResource(cluster))
}

func (a *API) somewhereDeploys(r *http.Request) error {
	return a.o.Access.Somewhere(identity.FromContext(r.Context()), identity.ActDeploy)
}

func (a *API) judgeAdmission(w http.ResponseWriter, r *http.Request) {
	reply, err := func() (*admission.Reply, error) {
		if err := a.somewhereDeploys(r); err != nil {
			return nil, err
		}
		var q client.AdmissionQuestion
		if err := readStrict(w, r, &q); err != nil {
			return nil, err
		}
		if err := a.ofCluster(r, q.Cluster); err != nil {
			return nil, err
		}
		ref, err := artifact.ParseReference(q.Reference)
		if err != nil {
			return nil, err
		}
		if !admission.ValidName(q.Namespace) || q.Environment != "" && !admission.ValidName(q.Environment) || ref.Tag == "" && ref.Digest == "" {
			return nil, fault.Newf(fault.Invalid, "want a namespace's name, and a reference with a tag or a digest")
		}
		pull, err := pullOf(&q)
		if err != nil {
			return nil, err
		}
		if a.o.Admission == nil {
			return nil, fault.Newf(fault.Unavailable, "this process does not decide")
		}
		return a.o.Admission.Judge(r.Context(), admission.Question{Reference: ref, Place: admission.Place{Cluster: q.Cluster, Namespace: q.Namespace, Environment: q.Environment}, Standing: q.Standing, Pull: pull}), nil
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, reply)
}

// pullOf checks the names of what a Pod may show registries.
func pullOf(q *client.AdmissionQuestion) (admission.Pull, error) {
	p := admission.Pull{ServiceAccount: q.ServiceAccount, Secrets: q.PullSecrets}
	if p.ServiceAccount != "" && !admission.ValidObjectName(p.ServiceAccount) || len(p.Secrets) > 16 {
		return p, fault.Newf(fault.Invalid, "want the name of a service account, and at most 16 names of secrets")
	}
	for _, s := range p.Secrets {
		if !admission.ValidObjectName(s) {
			return p, fault.Newf(fault.Invalid, "pull_secrets %.80q: want the name of a Secret", s)
		}
	}
	return p, nil
}

func (a *API) admissionBundle(w http.ResponseWriter, r *http.Request) {
	raw, err := func() ([]byte, error) {
		q := r.URL.Query()
		if err := a.ofCluster(r, q.Get("cluster")); err != nil {
			return nil, err
		}
		version := int64(0)
		if text := q.Get("version"); text != "" {
			var err error
			if version, err = strconv.ParseInt(text, 10, 64); err != nil || version < 1 {
				return nil, fault.Newf(fault.Invalid, "version %.40q: want a bundle's number", text)
			}
		}
		if a.o.Admission == nil {
			return nil, fault.Newf(fault.Unavailable, "this process does not decide")
		}
		return a.o.Admission.Bundle(r.Context(), q.Get("cluster"), version)
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", BundleMediaType)
	_, _ = w.Write(raw)
}

const (
	maxRecords     = 500
	maxRecordBytes = 4 << 20
)

func (a *API) recordAdmission(w http.ResponseWriter, r *http.Request) {
	err := func() error {
		if err := a.somewhereDeploys(r); err != nil {
			return err
		}
		if err := wantMedia(r, "application/json"); err != nil {
			return err
		}
		b, err := body(w, r, maxRecordBytes)
		if err != nil {
			return err
		}
		var q client.AdmissionRecords
		if err := strictjson.Unmarshal(b, &q, strictjson.RejectUnknown()); err != nil {
			return fault.Newf(fault.Invalid, "request: %w", err)
		}
		if err := a.ofCluster(r, q.Cluster); err != nil {
			return err
		}
		if len(q.Records) > maxRecords {
			return fault.Newf(fault.TooLarge, "%d records: at most %d at once", len(q.Records), maxRecords)
		}
		var list []event.Event
		for _, x := range q.Records {
			e := event.Event{Kind: event.Kind(x.Kind), Actor: x.Actor, Env: x.Environment, Body: x.Body}
			if x.Digest != "" {
				if e.Digest, err = artifact.ParseDigest(x.Digest); err != nil {
					return err
				}
			}
			list = append(list, e)
		}
		if a.o.Admission == nil {
			return fault.Newf(fault.Unavailable, "this process does not decide")
		}
		return a.o.Admission.Record(r.Context(), q.Cluster, list)
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, struct{}{})
}
