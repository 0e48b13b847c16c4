package api_test

import "assay/client"

const servicesDoc = `apiVersion: assay/v1
kind: Services
metadata: {name: shop}
spec:
  teams: {payments: {contacts: ["#payments"], groups: [{issuer: "https://id.example", group: payments}], routes: {page: somebody}}}
  services: {checkout: {tier: 1, team: payments, environment: production, exposure: internet, labels: {a: b}, repositories: ["team/**"], workloads: [{namespace: shop}]}}
`

// serviced gives the site a service and something that runs.
func (s *site) serviced() {
	s.t.Helper()
	ctx := s.t.Context()
	if _, err := s.admin.Apply(ctx, []byte(servicesDoc), false, false); err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.admin.ReportWorkloads(ctx, client.WorkloadReport{Cluster: "prod", Workloads: []client.ReportedWorkload{{Namespace: "shop", Kind: "Deployment", Name: "checkout", Digest: s.digest}}}); err != nil {
		s.t.Fatal(err)
	}
	s.ids["/api/v1/inventory/services/{name}"] = "checkout"
}

func (s *site) inventoryRequest(method, path string) (query string, header map[string]string, body []byte, ok bool) {
	switch method + " " + path {
	case "GET /api/v1/inventory/workloads":
		return "?digest=" + string(s.digest), nil, nil, true
	case "POST /api/v1/inventory/report":
		return "", jsonBody, []byte(`{"cluster":"edge","workloads":[{"digest":"` + string(s.digest) + `"}]}`), true
	}
	return "", nil, nil, false
}
