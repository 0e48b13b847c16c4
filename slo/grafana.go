package slo

import "encoding/json"

// Dashboard is one of Grafana's.
type Dashboard struct {
	Name, Title string
	JSON        []byte
}

type panel struct {
	title, unit, kind string // kind: timeseries or stat
	exprs             [][2]string
}

// Dashboards gives dashboards for Grafana 10 and later: the objectives, what is
// being decided, and the site itself. Their data source is chosen in Grafana.
func Dashboards() ([]Dashboard, error) {
	one := func(expr, legend string) [][2]string { return [][2]string{{expr, legend}} }
	boards := []struct {
		name, title string
		panels      []panel
	}{
		{"assay-objectives", "Assay: objectives", []panel{
			{"Objectives met", "short", "stat", one("assay_slo_met", "{{indicator}}")},
			{"Value of ratios", "percentunit", "timeseries", one(`assay_slo_value{indicator!~"detection-time|unauthorized-pulls|vulnerable-dependencies|builder-incidents|sbom-quality"}`, "{{indicator}}")},
			{"Budget left", "percentunit", "timeseries", one("assay_slo_budget_ratio", "{{indicator}}")},
			{"Burn rate over 1 h", "short", "timeseries", one(`assay_slo_burn_rate{window="1h"}`, "{{indicator}}")},
			{"Time to detect", "s", "timeseries", one(`assay_slo_value{indicator="detection-time"}`, "mean")},
			{"Vulnerable dependencies of what runs", "short", "timeseries", one(`assay_slo_value{indicator="vulnerable-dependencies"}`, "components")},
			{"Not known", "short", "timeseries", one("assay_slo_unknown", "{{indicator}}")},
		}},
		{"assay-on-call", "Assay: on call", []panel{
			{"Open alerts", "short", "timeseries", one("assay_alert_active", "{{severity}} {{state}}")},
			{"Alerts opened", "short", "timeseries", one("increase(assay_alert_opened_total[1h])", "{{severity}}")},
			{"Notices", "short", "timeseries", one("increase(assay_alert_deliveries_total[1h])", "{{outcome}}")},
			{"Decisions", "ops", "timeseries", one("sum by (verdict) (rate(assay_verify_decisions_total[5m]))", "{{verdict}}")},
			{"Admissions", "ops", "timeseries", one("sum by (outcome) (rate(assay_admission_images_total[5m]))", "{{outcome}}")},
			{"What runs", "short", "timeseries", one("assay_running_images", "{{state}}")},
			{"Clusters connected", "short", "timeseries", one("assay_cluster_connected", "{{cluster}}")},
			{"Damaged blobs", "short", "timeseries", one(`increase(assay_integrity_blobs_checked_total{outcome!="whole"}[1h])`, "{{outcome}}")},
		}},
		{"assay-site", "Assay: the site itself", []panel{
			{"Requests", "reqps", "timeseries", one("sum by (service) (rate(assay_http_requests_total[5m]))", "{{service}}")},
			{"Decision latency", "s", "timeseries", [][2]string{{"histogram_quantile(0.5, sum by (le) (rate(assay_verify_seconds_bucket[5m])))", "p50"}, {"histogram_quantile(0.99, sum by (le) (rate(assay_verify_seconds_bucket[5m])))", "p99"}}},
			{"Log entries", "ops", "timeseries", one("sum by (log) (rate(assay_tlog_entries_total[5m]))", "{{log}}")},
			{"Backlog of heads", "s", "timeseries", one("assay_event_heads_backlog_seconds", "oldest")},
			{"Lag of consumers", "s", "timeseries", one("assay_event_consumer_lag_seconds", "{{consumer}}")},
			{"Age of feeds", "s", "timeseries", one("max by (feed) (assay_feed_age_seconds)", "{{feed}}")},
			{"Commits", "s", "timeseries", one("histogram_quantile(0.99, sum by (le) (rate(assay_store_commit_seconds_bucket[5m])))", "p99")},
			{"Keys", "s", "timeseries", one("assay_key_expiry_seconds", "{{role}}")},
		}},
	}
	var out []Dashboard
	for _, b := range boards {
		doc := map[string]any{
			"uid": b.name, "title": b.title, "schemaVersion": 39, "version": 1, "editable": true, "refresh": "1m", "tags": []string{"assay"},
			"time": map[string]string{"from": "now-24h", "to": "now"}, "timezone": "utc",
			"templating": map[string]any{"list": []any{map[string]any{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}}},
		}
		var panels []any
		for i, p := range b.panels {
			panels = append(panels, p.document(i))
		}
		doc["panels"] = panels
		j, err := json.MarshalIndent(doc, "", "  ")
		if err != nil {
			return nil, err
		}
		out = append(out, Dashboard{b.name, b.title, append(j, '\n')})
	}
	return out, nil
}

func (p panel) document(i int) map[string]any {
	source := map[string]string{"type": "prometheus", "uid": "${datasource}"}
	var targets []any
	for n, e := range p.exprs {
		targets = append(targets, map[string]any{"refId": string(rune('A' + n)), "datasource": source, "expr": e[0], "legendFormat": e[1]})
	}
	return map[string]any{
		"id": i + 1, "type": p.kind, "title": p.title, "datasource": source, "targets": targets,
		"gridPos":     map[string]int{"x": 12 * (i % 2), "y": 8 * (i / 2), "w": 12, "h": 8},
		"fieldConfig": map[string]any{"defaults": map[string]any{"unit": p.unit}, "overrides": []any{}},
		"options":     map[string]any{},
	}
}
