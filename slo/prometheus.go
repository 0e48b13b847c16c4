package slo

import (
	"fmt"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

type ruleFile struct {
	Groups []ruleGroup `yaml:"groups"`
}

type ruleGroup struct {
	Name     string     `yaml:"name"`
	Interval string     `yaml:"interval,omitempty"`
	Rules    []promRule `yaml:"rules"`
}

type promRule struct {
	Record      string            `yaml:"record,omitempty"`
	Alert       string            `yaml:"alert,omitempty"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for,omitempty"`
	Labels      map[string]string `yaml:"labels,omitempty"`
	Annotations map[string]string `yaml:"annotations,omitempty"`
}

// PrometheusRules gives recording and alerting rules over /metrics: the burn rates
// that the site computed, what it says of its objectives, and what only Prometheus
// can see, such as that the site does not answer.
func PrometheusRules(o *Objectives) ([]byte, error) {
	record := ruleGroup{Name: "assay-slo", Interval: "1m"}
	alerts := ruleGroup{Name: "assay-slo-alerts"}
	for _, x := range o.All {
		d, _ := DefinitionOf(x.Indicator)
		match := fmt.Sprintf(`{indicator="%s"}`, x.Indicator)
		record.Rules = append(record.Rules,
			promRule{Record: "indicator:assay_slo_value:min", Expr: "min by (indicator) (assay_slo_value" + match + ")"},
			promRule{Record: "indicator:assay_slo_budget:min", Expr: "min by (indicator) (assay_slo_budget_ratio" + match + ")"},
		)
		note := map[string]string{"summary": d.Name, "runbook_url": "runbooks/objective-missed.md", "command": "assay slo status"}
		if d.Unit != Ratio {
			alerts.Rules = append(alerts.Rules, promRule{Alert: "AssayObjectiveMissed", Expr: "max by (indicator) (assay_slo_met" + match + ") == 0", For: "15m", Labels: labels(o.Budget.spent(), x.Indicator), Annotations: note})
			continue
		}
		// A budget that was spent slowly burns no more, and is spent. Too little traffic
		// says nothing: the site's own guard, over the whole window.
		enough := fmt.Sprintf("sum by (indicator) (assay_slo_bad%[1]s + assay_slo_unknown%[1]s) >= %[2]d", match, max(1, x.MinBad))
		alerts.Rules = append(alerts.Rules, promRule{Alert: "AssayBudgetSpent", Expr: "min by (indicator) (assay_slo_budget_ratio" + match + ") <= 0 and on (indicator) " + enough, For: "15m", Labels: labels(o.Budget.spent(), x.Indicator), Annotations: map[string]string{
			"summary": d.Name + " has spent its budget", "runbook_url": "runbooks/objective-missed.md", "command": "assay slo status"}})
		for _, severity := range []string{"page", "ticket"} {
			var pairs []string
			for _, b := range Burns() {
				if b.Page == (severity == "page") {
					pairs = append(pairs, fmt.Sprintf("(min by (indicator) (assay_slo_burn_rate{indicator=\"%[1]s\",window=\"%[2]s\"}) >= %[4]g and min by (indicator) (assay_slo_burn_rate{indicator=\"%[1]s\",window=\"%[3]s\"}) >= %[4]g)",
						x.Indicator, window(b.Long), window(b.Short), b.Threshold))
				}
			}
			alerts.Rules = append(alerts.Rules, promRule{Alert: "AssayBudgetBurn", Expr: "(" + strings.Join(pairs, " or ") + ") and on (indicator) " + enough, Labels: labels(severity, x.Indicator),
				Annotations: map[string]string{"summary": d.Name + " burns its budget", "runbook_url": "runbooks/objective-" + map[string]string{"page": "fast", "ticket": "slow"}[severity] + "-burn.md", "command": "assay slo status"}})
		}
	}
	outside := ruleGroup{Name: "assay-site", Rules: []promRule{
		{Record: "assay:decisions:rate5m", Expr: `sum by (verdict) (rate(assay_verify_decisions_total[5m]))`},
		{Record: "assay:decision_seconds:p99_5m", Expr: `histogram_quantile(0.99, sum by (le) (rate(assay_verify_seconds_bucket[5m])))`},
		{Alert: "AssayDown", Expr: `absent(assay_event_sealer_leader)`, For: "2m", Labels: map[string]string{"severity": "page"}, Annotations: map[string]string{"summary": "Assay gives no metrics", "runbook_url": "runbooks/verification-outage.md", "command": "assay doctor"}},
		{Alert: "AssayVerificationOutage", Expr: `sum(increase(assay_verify_decisions_total{verdict="undecided"}[2m])) >= 5 and sum(increase(assay_verify_decisions_total{verdict!="undecided"}[2m])) == 0`, Labels: map[string]string{"severity": "page"}, Annotations: map[string]string{"summary": "No verification comes to an answer", "runbook_url": "runbooks/verification-outage.md", "command": "assay doctor"}},
		{Alert: "AssayPageUnacknowledged", Expr: `sum(assay_alert_active{severity="page",state="firing"}) > 0`, For: "30m", Labels: map[string]string{"severity": "ticket"}, Annotations: map[string]string{"summary": "A page of Assay waits", "runbook_url": "runbooks/notice-undelivered.md", "command": "assay alert list --severity page"}},
		{Alert: "AssayNoticesUndelivered", Expr: `increase(assay_alert_deliveries_total{outcome="given_up"}[1h]) > 0`, Labels: map[string]string{"severity": "ticket"}, Annotations: map[string]string{"summary": "A notice of Assay reached nobody", "runbook_url": "runbooks/notice-undelivered.md", "command": "assay alert deliveries"}},
		{Alert: "AssaySIEMBacklog", Expr: `max by (sink) (assay_siem_backlog_events) > 0 and on (sink) sum by (sink) (increase(assay_siem_records_total{outcome="sent"}[15m])) == 0`, For: "15m", Labels: map[string]string{"severity": "ticket"}, Annotations: map[string]string{"summary": "A SIEM sink takes no events", "runbook_url": "runbooks/siem-stalled.md", "command": "assay doctor"}},
	}}
	b, err := yaml.Marshal(ruleFile{[]ruleGroup{record, alerts, outside}})
	return append([]byte("# Rules over Assay's /metrics, by assay slo rules.\n"), b...), err
}

func labels(severity string, id ID) map[string]string {
	return map[string]string{"severity": severity, "indicator": string(id)}
}

// Window gives a time as Prometheus writes it: 5m, 6h, 30d.
func Window(d time.Duration) string { return window(d) }
