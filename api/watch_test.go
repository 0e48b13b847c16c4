package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/client"
	"assay/event"
	"assay/store"
)

// happened writes an event beside the server, as another process of a site does.
func (s *site) happened(all ...event.Event) {
	s.t.Helper()
	db, err := store.Open(s.t.Context(), "sqlite:"+filepath.Join(s.data, "assay.db"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(s.t.Context(), func(tx *store.Tx) error {
		for _, e := range all {
			if err := event.Append(context.WithoutCancel(s.t.Context()), tx, e); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		s.t.Fatal(err)
	}
}

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

// TestThreat_Tenancy_AlertsOfOthers: an operator of all of a service's repositories
// deals with the alerts of that service, and with nobody else's.
func TestThreat_Tenancy_AlertsOfOthers(t *testing.T) {
	s := newSite(t)
	ctx := t.Context()
	docs := `apiVersion: assay/v1
kind: Services
metadata: {name: tills}
spec:
  teams: {tills: {}, search: {}}
  services:
    till: {team: tills, repositories: ["till/app/**", "till/pay"]}
    finder: {team: search, repositories: ["find/**"]}
    half: {team: tills, repositories: ["till/half", "elsewhere/half"]}
    nowhere: {team: tills, workloads: [{namespace: tills}]}
`
	for name, scope := range map[string]string{"paymentsop": "till/**", "searchop": "find/**"} {
		docs += fmt.Sprintf("---\napiVersion: assay/v1\nkind: Grant\nmetadata: {name: %s}\nspec: {issuer: %q, subject: %s@example.com, role: operator, scope: %q}\n", name, s.issuer, name, scope)
		a, err := s.admin.Mint(ctx, client.TokenRequest{Subject: name + "@example.com", Audience: "assay-api", TTL: 300})
		if err != nil {
			t.Fatal(err)
		}
		s.tokens[name] = a.Token
	}
	if _, err := s.admin.Apply(ctx, []byte(docs), false, false); err != nil {
		t.Fatal(err)
	}
	// One alert of each service, and one of the site (from watched).
	services := []string{"till", "finder", "half", "nowhere"}
	for i, v := range services {
		s.happened(event.Event{Kind: event.SBOMRefused, Digest: artifact.SHA256Of([]byte(v)), Actor: "system:test", Service: v, Body: map[string]any{"reason": fmt.Sprint("test ", i)}})
	}
	ids := map[string]string{}
	for until := time.Now().Add(10 * time.Second); len(ids) < len(services) && time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		all, err := s.admin.Alerts(ctx, client.AlertQuery{Rule: "sbom-refused"})
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range all {
			ids[a.Service] = a.ID
		}
	}
	site, err := s.admin.Alerts(ctx, client.AlertQuery{Rule: "break-glass"})
	if err != nil || len(site) == 0 || len(ids) != len(services) {
		t.Fatalf("%v, %v, %v", ids, site, err)
	}
	ids[""] = site[0].ID
	_, before := s.silencesOf("operator")
	ends := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	silence := func(who, members string) (int, client.Silence) {
		status, _, b := s.do("POST", "/api/v1/silences", s.tokens[who], jsonBody, []byte(fmt.Sprintf(`{%s, "reason": "a test", "expires": %q}`, members, ends)))
		var out client.Silence
		_ = json.Unmarshal(b, &out)
		return status, out
	}
	foreign := ""
	for who, mine := range map[string]string{"paymentsop": "till", "searchop": "finder"} {
		var list client.List[client.Alert]
		status, _, b := s.do("GET", "/api/v1/alerts", s.tokens[who], nil, nil)
		if err := json.Unmarshal(b, &list); err != nil || status != 200 || len(list.Items) != 1 || list.Items[0].Service != mine {
			t.Errorf("%s reads %d %s", who, status, b)
		}
		var groups client.List[client.AlertGroup]
		status, _, b = s.do("GET", "/api/v1/alert-groups", s.tokens[who], nil, nil)
		if err := json.Unmarshal(b, &groups); err != nil || status != 200 || len(groups.Items) != 1 || groups.Items[0].Newest.ID != ids[mine] {
			t.Errorf("%s reads groups %d %s", who, status, b)
		}
		for service, id := range ids {
			want := map[bool]int{true: 200, false: 404}[service == mine]
			if status, _, b := s.do("GET", "/api/v1/alerts/"+id, s.tokens[who], nil, nil); status != want {
				t.Errorf("%s reads the alert of %q: %d %s, want %d", who, service, status, b, want)
			}
			if status, _, b := s.do("POST", "/api/v1/alerts/"+id+"/ack", s.tokens[who], jsonBody, []byte(`{}`)); status != want {
				t.Errorf("%s acknowledges the alert of %q: %d %s, want %d", who, service, status, b, want)
			}
			if status, _, _ := s.do("POST", "/api/v1/alerts/"+id+"/resolve", s.tokens[who], nil, nil); status != 403 {
				t.Errorf("%s ends the alert of %q: %d", who, service, status)
			}
			if service == "" {
				continue
			}
			want = map[bool]int{true: 201, false: 403}[service == mine]
			status, made := silence(who, fmt.Sprintf(`"service": %q`, service))
			if status != want {
				t.Errorf("%s silences %s: %d, want %d", who, service, status, want)
			}
			if made.ID != "" && foreign == "" {
				foreign = made.ID // the other may not end it
			} else if made.ID != "" {
				if status, _, b := s.do("DELETE", "/api/v1/silences/"+foreign, s.tokens[who], nil, nil); status != 403 {
					t.Errorf("%s ends another's silence: %d %s", who, status, b)
				}
				if status, _, b := s.do("DELETE", "/api/v1/silences/"+made.ID, s.tokens[who], nil, nil); status != 200 {
					t.Errorf("%s ends its own silence: %d %s", who, status, b)
				}
			}
		}
		for _, wide := range []string{`"rule": "sbom-refused"`, `"team": "tills"`, `"cluster": "prod"`, `"artifact": "` + string(artifact.SHA256Of([]byte(mine))) + `"`} {
			if status, _ := silence(who, wide); status != 403 {
				t.Errorf("%s silences all of %s: %d", who, wide, status)
			}
		}
	}
	if _, after := s.silencesOf("operator"); len(after) != len(before)+1 {
		t.Errorf("%d silences of the site, want %d", len(after), len(before)+1)
	}
	// Who reads a part (team: that of another service) and operates nothing acts on
	// nothing; who has no part reads nothing.
	for who, want := range map[string]int{"team": 200, "nobody": 403, "other": 403} {
		if status, _, b := s.do("POST", "/api/v1/alerts/"+ids["till"]+"/ack", s.tokens[who], jsonBody, []byte(`{}`)); status != 403 {
			t.Errorf("%s: %d %s", who, status, b)
		}
		if status, _, b := s.do("GET", "/api/v1/alerts", s.tokens[who], nil, nil); status != want || strings.Contains(string(b), ids["till"]) {
			t.Errorf("%s: %d %s", who, status, b)
		}
	}
	if status, _, b := s.do("POST", "/api/v1/alerts/"+ids["half"]+"/ack", s.tokens["operator"], jsonBody, []byte(`{}`)); status != 200 {
		t.Errorf("the site's operator: %d %s", status, b)
	}
}

func (s *site) silencesOf(who string) (int, []client.Silence) {
	var list client.List[client.Silence]
	status, _, b := s.do("GET", "/api/v1/silences", s.tokens[who], nil, nil)
	_ = json.Unmarshal(b, &list)
	return status, list.Items
}
