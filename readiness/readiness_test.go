package readiness

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"assay/event"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
)

var now = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// site answers questions by their path.
type site map[string]string

func (s site) ask(_ context.Context, path string, out any, _ ...string) error {
	text, ok := s[path]
	if !ok {
		return fault.Newf(fault.Denied, "%s: not for you", path)
	}
	return json.Unmarshal([]byte(text), out)
}

// ready answers so that every check passes.
func ready() site {
	at := now.Add(-time.Hour).Format(time.RFC3339)
	probes := []string{}
	for _, n := range []string{ProbeUnsignedPush, ProbeUnsignedPod, ExerciseRestore, ExerciseGameDay, ExercisePolicies} {
		probes = append(probes, `{"name":"`+n+`","status":"pass","found":"fine","at":"`+at+`"}`)
	}
	return site{
		"readiness/probes":          `{"items":[` + strings.Join(probes, ",") + `]}`,
		"inventory/clusters":        `{"items":[{"name":"prod"}]}`,
		"inventory/services":        `{"items":[{"name":"shop","team":"a","contacts":["a@x"],"production":true,"labels":{"runbook":"https://x"}}]}`,
		"inventory/running/summary": `{"items":[{"cluster":"prod","allowed":3}]}`,
		"slo/status":                `{"items":[{"indicator":"m1","state":"ok","budget":1,"now":{"metric":"M1","known":true,"value":1,"denominator":3}},{"indicator":"m2","state":"ok","budget":1,"now":{"metric":"M2","known":true,"value":1}},{"indicator":"m3","state":"ok","budget":1,"now":{"metric":"M3","known":true,"value":1}}]}`,
		"alerts":                    `{"items":[{"rule":"tampering","severity":"page","state":"resolved","since":"` + at + `","acknowledged":"` + now.Format(time.RFC3339) + `"}]}`,
		"feeds":                     `{"items":[{"name":"osv","checked":"` + at + `"}]}`,
		"receivers":                 `{"items":[{"name":"pager","severities":["page"],"default":true}]}`,
		"notices":                   `{"items":[{"receiver":"pager","taken":"` + at + `"}]}`,
		"audit":                     `{"items":[{"kind":"backup.created","time":"` + at + `"}]}`,
		"keys":                      `{"items":[{"name":"log"}]}`,
		"exceptions":                `{"items":[]}`,
	}
}

func TestReady(t *testing.T) {
	all := Check(t.Context(), ready().ask, now, Production)
	for _, r := range all {
		if r.Status != Pass || r.Mend != "" {
			t.Errorf("%+v", r)
		}
	}
	if m := Maturity(all); m.Level != MostLevel || m.Next != "" || len(m.Missing) != 0 {
		t.Errorf("%+v", m)
	}
	if pre := Check(t.Context(), ready().ask, now, PreProduction); len(pre) == 0 || len(pre) >= len(all) {
		t.Errorf("%d of %d before production", len(pre), len(all))
	}
}

// What may not be asked is unknown, and an empty site is not ready.
func TestUnknownIsNotReady(t *testing.T) {
	for _, r := range Check(t.Context(), site{}.ask, now, Production) {
		if r.Status != Unknown || r.Mend == "" {
			t.Errorf("nothing may be asked: %+v", r)
		}
	}
	empty := site{}
	for path := range ready() {
		empty[path] = `{"items":[]}`
	}
	for _, r := range Check(t.Context(), empty.ask, now, Production) {
		if r.Status == Pass && r.ID != "keys" && r.ID != "log" && r.ID != "exceptions" {
			t.Errorf("passes where there is nothing: %+v", r)
		}
	}
}

// Each check fails by what it is about, and by that alone.
func TestChecks(t *testing.T) {
	old := now.Add(-100 * 24 * time.Hour).Format(time.RFC3339)
	for id, c := range map[string]struct {
		path, answer string
		want         Status
	}{
		"what-runs":         {"inventory/clusters", `{"items":[{"name":"prod","silent":true}]}`, Fail},
		"owners":            {"inventory/services", `{"items":[{"name":"shop","team":"a","labels":{"runbook":"x"}}]}`, Fail},
		"runbooks":          {"inventory/services", `{"items":[{"name":"shop","team":"a","contacts":["a"],"tier":1}]}`, Fail},
		"attested":          {"slo/status", `{"items":[{"state":"exhausted","budget":-1,"now":{"metric":"M1","known":true}},{"state":"ok","now":{"metric":"M2","known":true}},{"state":"ok","now":{"metric":"M3","known":true}}]}`, Fail},
		"signed":            {"slo/status", `{"items":[{"state":"no data","now":{"metric":"M2"}}]}`, Unknown},
		ProbeUnsignedPush:   {"readiness/probes", `{"items":[{"name":"unsigned-push","status":"fail","found":"it is open","at":"` + now.Format(time.RFC3339) + `"}]}`, Fail},
		ProbeUnsignedPod:    {"readiness/probes", `{"items":[{"name":"unsigned-pod","status":"pass","found":"refused","at":"` + old + `"}]}`, Fail},
		ExerciseRestore:     {"readiness/probes", `{"items":[]}`, Unknown},
		"guards":            {"alerts", `{"items":[{"rule":"admission-guard","state":"firing","severity":"page","since":"` + now.Format(time.RFC3339) + `"}]}`, Fail},
		"feeds":             {"feeds", `{"items":[{"name":"osv","stale":true,"checked":"` + old + `"}]}`, Fail},
		"what-may":          {"inventory/running/summary", `{"items":[{"allowed":3,"unknown":1}]}`, Unknown},
		"receivers":         {"receivers", `{"items":[{"name":"desk","severities":["ticket"]}]}`, Fail},
		"receiver-tested":   {"notices", `{"items":[{"receiver":"pager","taken":"` + old + `"}]}`, Fail},
		"page-acknowledged": {"alerts", `{"items":[{"rule":"malware","severity":"page","state":"firing","since":"` + old + `"}]}`, Fail},
		"backup":            {"audit", `{"items":[{"time":"` + old + `"}]}`, Fail},
		"keys":              {"keys", `{"items":[{"name":"log","rotates":"` + old + `"}]}`, Fail},
		"objectives":        {"slo/status", `{"items":[{"indicator":"m1","state":"fast"}]}`, Fail},
		"exceptions":        {"exceptions", `{"items":[{"id":"exc_1","kind":"break-glass","state":"approved"}]}`, Fail},
		"log":               {"alerts", `{"items":[{"rule":"log-unwitnessed","state":"firing"}]}`, Fail},
	} {
		s := ready()
		s[c.path] = c.answer
		found := false
		for _, r := range Check(t.Context(), s.ask, now, Production) {
			if r.ID == id {
				if found = true; r.Status != c.want {
					t.Errorf("%s: %+v, want %s", id, r, c.want)
				}
			}
		}
		if !found {
			t.Errorf("there is no check %s", id)
		}
		if m := Maturity(Check(t.Context(), s.ask, now, Production)); m.Level == MostLevel || len(m.Missing) == 0 {
			t.Errorf("%s: %+v", id, m)
		}
	}
}

func TestRecord(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		if err := db.Migrate(t.Context(), event.Migrations, Migrations); err != nil {
			t.Fatal(err)
		}
		for _, bad := range []Probe{{Name: "A b", Status: Pass, Found: "fine"}, {Name: "restore", Status: Unknown, Found: "fine"}, {Name: "restore", Status: Pass}} {
			if _, err := Record(t.Context(), db, bad, "me"); !errors.Is(err, fault.Invalid) {
				t.Errorf("%+v: %v", bad, err)
			}
		}
		for _, s := range []Status{Fail, Pass} {
			if _, err := Record(t.Context(), db, Probe{Name: "restore", Status: s, Found: "it took an hour"}, "me"); err != nil {
				t.Fatal(err)
			}
		}
		all, err := Probes(t.Context(), db)
		if err != nil || len(all) != 1 || all[0].Status != Pass || all[0].Actor != "me" || all[0].At.IsZero() {
			t.Errorf("%+v, %v", all, err)
		}
	})
}

// A receiver of one team pages nobody about the others' things.
func TestReceiverOfOneTeamIsNotEnough(t *testing.T) {
	s := ready()
	s["receivers"] = `{"items":[{"name":"pager","severities":["page"],"teams":["payments"]},{"name":"desk","severities":["ticket"],"default":true}]}`
	for _, r := range Check(t.Context(), s.ask, now, PreProduction) {
		if r.ID == "receivers" && (r.Status != Fail || !strings.Contains(r.Found, "default")) {
			t.Errorf("%+v", r)
		}
	}
}

// An alert that matters is asked for by its rule: a thousand others hide nothing.
func TestAlertsAreAskedForByRule(t *testing.T) {
	asked := map[string]bool{}
	Check(t.Context(), func(ctx context.Context, path string, out any, query ...string) error {
		if path == "alerts" && len(query) > 1 && query[0] == "rule" {
			asked[query[1]] = true
		}
		return ready().ask(ctx, path, out, query...)
	}, now, Production)
	if !asked["admission-guard"] || !asked["log-unwitnessed"] {
		t.Errorf("asked by rule: %v", asked)
	}
}
