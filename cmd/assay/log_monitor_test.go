package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"

	"assay/internal/fault"
	"assay/tlog/watch"
)

// TestMonitorTells: what is seen and found goes to the webhook, to standard
// output as lines of JSON, and into the metrics.
func TestMonitorTells(t *testing.T) {
	var mu sync.Mutex
	var posted []told
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		var m told
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
			t.Error(err)
		}
		posted = append(posted, m)
		if len(posted) > 2 {
			http.Error(w, "full", http.StatusInsufficientStorage)
		}
	}))
	defer hook.Close()
	var out, errs bytes.Buffer
	m := &monitor{a: &app{output: "json", stdout: &out, stderr: &errs}, f: &monitorFlags{webhook: hook.URL, metrics: "127.0.0.1:0"}, http: hook.Client()}
	if err := m.listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := m.sighted(t.Context(), watch.Sighting{Log: "ct", Index: 7, Identity: "me@example.com\x1b[2J"}); err != nil {
		t.Fatal(err)
	}
	forked := fault.Newf(fault.Tampered, "two roots")
	m.alert(t.Context(), alertKind(forked), forked)
	m.alert(t.Context(), alertKind(forked), forked) // to a webhook that refuses
	mu.Lock()
	if len(posted) != 3 || posted[0].Seen == nil || posted[0].Seen.Index != 7 || posted[1].Kind != "fork" || posted[1].Message == "" {
		t.Errorf("posted %+v", posted)
	}
	mu.Unlock()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 || strings.Contains(out.String(), "\x1b") {
		t.Errorf("printed %q", lines)
	}
	if !strings.Contains(errs.String(), "webhook was not reached") {
		t.Errorf("told %q", errs.String())
	}
	at := regexp.MustCompile(`http://\S+/metrics`).FindString(errs.String())
	resp, err := http.Get(at)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`assay_monitor_alerts_total{kind="fork"} 2`, `assay_monitor_alerts_total{kind="webhook"} 1`, "assay_monitor_sightings_total 1"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("metrics without %s", want)
		}
	}
}
