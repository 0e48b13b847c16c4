package server

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"assay/client"
	"assay/config"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	descName   = regexp.MustCompile(`fqName: "([^"]+)"`)
	descConst  = regexp.MustCompile(`constLabels: \{([^}]*)\}`)
	descLabels = regexp.MustCompile(`variableLabels: \{([^}]*)\}`)
)

// documented is a row of docs/metrics.md.
type documented struct {
	kind   string
	labels []string
}

// TestMetricsPage holds docs/metrics.md against what a running server has: each
// metric with its type and labels, and none that is not there.
func TestMetricsPage(t *testing.T) {
	page, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]documented{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(assay_\\w+)` \\| (\\w+) \\| (.*?) ?\\| .+ \\|$").FindAllStringSubmatch(string(page), -1) {
		d := documented{kind: m[2]}
		for _, l := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(m[3], -1) {
			d.labels = append(d.labels, l[1])
		}
		slices.Sort(d.labels)
		rows[m[1]] = d
	}
	if len(rows) < 20 {
		t.Fatalf("the page has %d metrics", len(rows))
	}

	s := runningServer(t)
	have := map[string]bool{}
	for _, d := range describe(s.reg) {
		name := descName.FindStringSubmatch(d)[1]
		if !strings.HasPrefix(name, "assay_") {
			continue
		}
		have[name] = true
		var labels []string
		for l := range strings.SplitSeq(descLabels.FindStringSubmatch(d)[1], ",") {
			if l != "" {
				labels = append(labels, l)
			}
		}
		for _, l := range regexp.MustCompile(`(\w+)=`).FindAllStringSubmatch(descConst.FindStringSubmatch(d)[1], -1) {
			labels = append(labels, l[1])
		}
		slices.Sort(labels)
		row, ok := rows[name]
		if !ok {
			t.Errorf("the page lacks %s", name)
		} else if !slices.Equal(row.labels, labels) {
			t.Errorf("%s: the page says labels %v, the server has %v", name, row.labels, labels)
		}
	}
	for name := range rows {
		if !have[name] {
			t.Errorf("the page has %s, the server does not", name)
		}
	}
	families, err := s.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if row, ok := rows[f.GetName()]; ok && row.kind != strings.ToLower(f.GetType().String()) {
			t.Errorf("%s: the page says %s, it is a %s", f.GetName(), row.kind, f.GetType())
		}
	}
}

// describe gives every description that is registered, also of vectors that
// have no value yet.
func describe(reg *prometheus.Registry) []string {
	ch := make(chan *prometheus.Desc)
	go func() { reg.Describe(ch); close(ch) }()
	var out []string
	for d := range ch {
		out = append(out, d.String())
	}
	return out
}

// runningServer is a server with all of its doors and workers, ended with the
// test.
func runningServer(t *testing.T) *Server {
	t.Helper()
	// Not t.TempDir: a socket's path is short.
	dir, err := os.MkdirTemp("", "assay-metrics-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cfg := config.Default()
	cfg.Data = filepath.Join(dir, "data")
	cfg.Server.Listen, cfg.Admission.Listen = "127.0.0.1:0", "127.0.0.1:0"
	s, err := New(t.Context(), cfg, Options{Version: "test", Local: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- s.Run(ctx, func(client.Status) { close(ready) }) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		t.Fatalf("not ready: %v", err)
	}
	return s
}
