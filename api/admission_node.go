package api

import (
	"net/http"

	"assay/admission"
	"assay/artifact"
	"assay/client"
	"assay/internal/fault"
)

func (a *API) judgeNode(w http.ResponseWriter, r *http.Request) {
	reply, err := func() (*admission.Reply, error) {
		if err := a.somewhereDeploys(r); err != nil {
			return nil, err
		}
		var q client.NodeQuestion
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
		if !admission.ValidName(q.Namespace) || q.Environment != "" && !admission.ValidName(q.Environment) || q.Node == "" || len(q.Node) > 253 || ref.Digest == "" {
			return nil, fault.Newf(fault.Invalid, "want a namespace's name, a node's, and a reference with a digest")
		}
		if a.o.Admission == nil {
			return nil, fault.Newf(fault.Unavailable, "this process does not decide")
		}
		return a.o.Admission.JudgeNode(r.Context(), admission.NodeQuestion{
			Reference: ref, Node: q.Node, Place: admission.Place{Cluster: q.Cluster, Namespace: q.Namespace, Environment: q.Environment},
		}), nil
	}()
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, reply)
}
