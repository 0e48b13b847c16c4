package alert

import (
	"context"
	"errors"
	"slices"

	"assay/identity"
	"assay/internal/fault"
)

// Reach are the alerts and silences that are somebody's to read, or to act upon:
// all of the site's, or those of some services.
type Reach struct {
	Site     bool
	Services []string // in order; without Site
}

// Reach says how far somebody's right to an action goes: to everything where it is
// his over the whole site, else to the services of the catalogue all of whose
// repositories his grants cover. What belongs to no service is the site's, and so
// is a service that names no repository: nothing shows that it is his.
// [fault.Denied] where he reaches nothing.
func (s *Store) Reach(ctx context.Context, access *identity.Access, who identity.Principal, act identity.Action) (Reach, error) {
	denied := access.Allow(ctx, who, act, identity.Resource{Kind: identity.ResourceConfig})
	if denied == nil {
		return Reach{Site: true}, nil
	}
	if s.o.Catalogue == nil || errors.Is(denied, fault.Unauthenticated) || access.Somewhere(who, act) != nil {
		return Reach{}, denied
	}
	var r Reach
	for _, v := range s.o.Catalogue().Services() {
		within := func(pattern string) bool { return access.AllowPattern(ctx, who, act, pattern) == nil }
		if len(v.Repositories) > 0 && !slices.ContainsFunc(v.Repositories, func(p string) bool { return !within(p) }) {
			r.Services = append(r.Services, v.Name)
		}
	}
	if len(r.Services) == 0 {
		return Reach{}, denied
	}
	return r, nil
}

// Holds says whether what is of a service ("": of none) is within reach.
func (r *Reach) Holds(service string) bool {
	if r.Site {
		return true
	}
	_, found := slices.BinarySearch(r.Services, service)
	return service != "" && found
}

// Check is nil where a thing of a service is within reach, else [fault.Denied] that
// says whose it is.
func (r *Reach) Check(what, service string) error {
	switch {
	case r.Holds(service):
		return nil
	case service == "":
		return fault.Newf(fault.Denied, "%s is of no service, and so the whole site's: it needs role %s with scope \"**\"", what, identity.RoleOperator)
	}
	return fault.Newf(fault.Denied, "%s is of service %.80s: it needs role %s with a scope that covers all of the service's repositories", what, service, identity.RoleOperator)
}

// Narrow keeps a filter within reach.
func (r *Reach) Narrow(f *Filter) {
	if !r.Site {
		f.Services = r.Services
	}
}
