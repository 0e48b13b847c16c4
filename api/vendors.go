package api

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"assay/client"
	"assay/config"
	"assay/identity"
	"assay/internal/fault"
	"assay/policy"
	"assay/registry/gate"
	"assay/verify"
)

func (a *API) vendorRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/api/v1/vendors", Summary: "Vendors of artifacts that others made, and how complete is what they bring", Action: identity.ActReadAudit,
			Query: []Param{{"name", "of one vendor: its artifacts too, and what each lacks"}}, Out: client.List[client.Vendor]{}, Status: 200, handle: a.vendors},
	}
}

// vendorMost is how many artifacts of a vendor are looked at, the last pushed
// first.
const vendorMost = 200

func (a *API) vendors(w http.ResponseWriter, r *http.Request) {
	out, err := a.listVendors(r)
	a.answer(w, r, http.StatusOK, out, err)
}

func (a *API) listVendors(r *http.Request) (*client.List[client.Vendor], error) {
	if err := a.allow(r, identity.ActReadAudit, identity.ResourceAudit, ""); err != nil {
		return nil, err
	}
	ctx, name := r.Context(), r.URL.Query().Get("name")
	roots := map[string]bool{"own": true}
	if a.o.Foreign != nil {
		for _, one := range a.o.Foreign.List() {
			roots[one.Name] = true
		}
	}
	out := &client.List[client.Vendor]{Items: []client.Vendor{}}
	for _, v := range a.o.Desired().Vendors {
		if name != "" && v.Name != name {
			continue
		}
		one, err := a.vendor(ctx, v, name != "")
		if err != nil {
			return nil, err
		}
		one.RootMissing = v.Spec.Root != "" && !roots[v.Spec.Root]
		out.Items = append(out.Items, *one)
	}
	if name != "" && len(out.Items) == 0 {
		return nil, fault.Newf(fault.NotFound, "no vendor %.80q here: assay vendor list", name)
	}
	slices.SortFunc(out.Items, func(x, y client.Vendor) int { return strings.Compare(x.Name, y.Name) })
	return out, nil
}

func (a *API) vendor(ctx context.Context, v *config.Vendor, items bool) (*client.Vendor, error) {
	out := &client.Vendor{
		Name: v.Name, Contact: v.Spec.Contact, Policy: v.Policy.Name(), Mode: string(v.Policy.Mode()),
		Repositories: v.Spec.Repositories, Root: v.Spec.Root, Requires: []string{},
	}
	if !v.Spec.Require.Unsigned {
		out.Requires = append(out.Requires, "signature")
	}
	if v.Spec.Require.SBOM != "" {
		out.Requires = append(out.Requires, "sbom:"+v.Spec.Require.SBOM)
	}
	out.Requires = append(out.Requires, v.Spec.Require.Attestations...)
	seen := map[string]bool{}
	for _, pattern := range v.Spec.Repositories {
		prefix, _, wild := strings.Cut(pattern, "*")
		if wild { // "acme/**" is acme too
			prefix = strings.TrimSuffix(prefix, "/") + "*"
		}
		list, next, err := a.o.Gate.List(ctx, gate.ListQuery{Repository: prefix, Limit: vendorMost, Sees: v.Made})
		if err != nil {
			return nil, err
		}
		out.More = out.More || next != ""
		for _, l := range list {
			key := l.Repository + "@" + string(l.Digest)
			if seen[key] || !v.Made(l.Repository) {
				continue
			}
			seen[key] = true
			if out.Artifacts >= vendorMost {
				out.More = true
				break
			}
			one := a.vendorArtifact(ctx, v, &l)
			out.Artifacts++
			if one.Complete {
				out.Complete++
			}
			if items {
				out.Items = append(out.Items, one)
			}
		}
	}
	return out, nil
}

// vendorArtifact judges one artifact by the vendor's policy, and keeps nothing.
func (a *API) vendorArtifact(ctx context.Context, v *config.Vendor, l *gate.Listed) client.VendorArtifact {
	out := client.VendorArtifact{Repository: l.Repository, Digest: l.Digest, Tags: append([]string{}, l.Tags...), Missing: []client.VendorLack{}}
	_, res, err := a.o.Engine.Preview(ctx, verify.Target{Digest: l.Digest, Repository: l.Repository, MediaType: l.MediaType, Kind: policy.Image}, policy.Scope{ID: "vendor"}, v.Policy)
	if err != nil {
		out.Unknown = err.Error()
		return out
	}
	for _, c := range res.Checks {
		if c.Status == policy.Fail {
			out.Missing = append(out.Missing, client.VendorLack{Requirement: c.Name, Expected: c.Expected, Found: c.Found})
		}
	}
	out.Complete = res.Verdict == policy.Allow
	return out
}
