package api_test

import (
	"fmt"
	"time"

	"assay/client"
)

// watched is a site of which something is wrong: an alert, a silence, and a
// receiver that is never reached.
func (s *site) watched() {
	s.t.Helper()
	ctx := s.t.Context()
	if _, err := s.admin.Apply(ctx, []byte("apiVersion: assay/v1\nkind: Receiver\nmetadata: {name: nobody}\nspec: {type: webhook, url: \"http://127.0.0.1:1/\", allowPrivate: true, teams: [none]}\n"), false, false); err != nil {
		s.t.Fatal(err)
	}
	made, err := s.admin.Silence(ctx, client.Silence{Rule: "sbom-refused", Reason: "a test", Expires: time.Now().Add(time.Hour)})
	if err != nil {
		s.t.Fatal(err)
	}
	s.ids["/api/v1/silences/{id}"] = made.ID
	for range 2 { // alerts that only a person ends
		if _, err := s.admin.BreakGlass(ctx, client.BreakGlassRequest{Reason: "an exercise of the test", Audience: "assay-api", TTL: 60}); err != nil {
			s.t.Fatal(err)
		}
	}
	for until := time.Now().Add(10 * time.Second); ; {
		all, err := s.admin.Alerts(ctx, client.AlertQuery{Rule: "break-glass"})
		if err != nil {
			s.t.Fatal(err)
		}
		if len(all) > 1 {
			id := "/api/v1/alerts/{id}"
			s.ids[id], s.ids[id+"/ack"], s.ids[id+"/resolve"] = all[0].ID, all[0].ID+"/ack", all[len(all)-1].ID+"/resolve"
			return
		}
		if time.Now().After(until) {
			s.t.Fatal("fewer than two alerts were opened of all that is wrong here")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (s *site) watchRequest(method, path string) (query string, header map[string]string, body []byte, ok bool) {
	switch method + " " + path {
	case "GET /api/v1/slo/series", "GET /api/v1/slo/items":
		return "?indicator=failed-verifications", nil, nil, true
	case "POST /api/v1/alerts/{id}/ack":
		return "", jsonBody, []byte(`{"note": "a test"}`), true
	case "POST /api/v1/silences":
		return "", jsonBody, []byte(fmt.Sprintf(`{"rule": "finding", "reason": "a test", "expires": %q}`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))), true
	case "POST /api/v1/receivers/test":
		return "", jsonBody, []byte(`{"receiver": "nobody"}`), true
	}
	return "", nil, nil, false
}
