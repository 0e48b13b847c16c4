package api

import (
	"net/http"

	"assay/artifact"
	"assay/identity"
	"assay/internal/fault"
	"assay/store"
)

// readable says whether who asks may read what is known of an artifact by the grants
// of a repository: one that holds it. Whoever may read a repository may not name it
// to read of the artifacts of others. No repository is all of them.
func (a *API) readable(r *http.Request, repository string, subject artifact.Digest) error {
	if err := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, repository); err != nil {
		return err
	}
	if repository == "" || a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, "") == nil {
		return nil
	}
	lies := a.o.Lies
	is := false
	if lies != nil {
		if err := a.o.DB.View(r.Context(), func(tx *store.Tx) (err error) {
			is, err = lies(r.Context(), tx, repository, subject)
			return err
		}); err != nil {
			return err
		}
	}
	if !is {
		return fault.Newf(fault.NotFound, "%s is not in repository %.200q; name the one that holds it", subject, repository)
	}
	return nil
}
