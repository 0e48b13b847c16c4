package readiness

import (
	"fmt"
	"slices"
	"time"

	"assay/client"
)

// How old what was done may be.
const (
	probeAge    = 30 * 24 * time.Hour
	exerciseAge = 90 * 24 * time.Hour
	backupAge   = 7 * 24 * time.Hour
	soon        = 30 * 24 * time.Hour // a certificate or key that ends
)

// The probes and exercises that are recorded.
const (
	ProbeUnsignedPush  = "unsigned-push"
	ProbeUnsignedPod   = "unsigned-pod"
	ExerciseRestore    = "restore"
	ExerciseGameDay    = "game-day"
	ExercisePolicies   = "policy-review"
	ExerciseRevocation = "revocation-drill"
)

// checks are the lists: pre-production first, within it by level.
var checks = []check{
	{"what-runs", "What runs is told by every cluster", PreProduction, 1, "assay cluster watch, or assay cluster add NAME", whatRuns},
	{"owners", "Every service has a team and a contact", PreProduction, 1, "give it team and contacts in the catalogue: docs/services.md", owners},
	{"runbooks", "Every service that is critical has a runbook", Production, 4, "give it a label runbook with an address in the catalogue: docs/services.md", runbooks},
	{"signed", "What is pushed is signed by approved identities", PreProduction, 2, "assay slo items signed-pushes names what is not; nothing counted: push, and apply a policy that says who signs", indicator("M2")},
	{"boms", "What runs has a bill of materials", PreProduction, 2, "assay slo items sbom-availability names what has none", indicator("M3")},
	{"attested", "What runs is attested", PreProduction, 2, "assay slo items attestation-coverage names what is not", indicator("M1")},
	{ProbeUnsignedPush, "An unsigned push was tried, and held back", PreProduction, 3, "give the repository a mode that holds it back (docs/gate.md); assay doctor --stage pre-production --repository NAME tries it", probe(ProbeUnsignedPush, probeAge)},
	{ProbeUnsignedPod, "A Pod with an unsigned image was tried by dry run, and refused", Production, 3, "assay doctor --stage production --kubeconfig FILE tries it", probe(ProbeUnsignedPod, probeAge)},
	{"guards", "No cluster's admission webhook is gone or changed", PreProduction, 3, "assay cluster status; assay admission manifests", guards},
	{"feeds", "Every advisory feed is fresh", PreProduction, 3, "assay feed list; assay feed sync", feeds},
	{"what-may", "All that runs may run", PreProduction, 3, "assay cluster status --state denied", mayRun},
	{"receivers", "Somebody is paged", PreProduction, 3, "apply a Receiver with default: true that takes pages: docs/alerts.md", receivers},
	{"receiver-tested", "Each receiver took a notice", Production, 4, "assay alert test NAME", receiverTested},
	{"page-acknowledged", "The last page was acknowledged by a person", Production, 4, "assay alert list --state firing; assay alert ack ALERT", acknowledged},
	{"backup", "A backup was made within seven days", Production, 4, "assay backup: docs/backup.md", happened("backup.created", backupAge)},
	{ExerciseRestore, "A restore was rehearsed within ninety days", Production, 4, "rehearse it, then: assay doctor record restore --outcome pass --note TEXT", probe(ExerciseRestore, exerciseAge)},
	{ExerciseGameDay, "A game day was held within ninety days", Production, 4, "hold one (docs/drills.md), then: assay doctor record game-day --outcome pass --note TEXT", probe(ExerciseGameDay, exerciseAge)},
	{"keys", "No key is past its rotation or near its end", Production, 4, "assay keys list; assay keys rotate ROLE", keys},
	{"log", "No alert about the log is open", Production, 5, "assay log verify; docs/log.md", noAlert("log-unwitnessed")},
	{ExercisePolicies, "Policies and exceptions were reviewed within ninety days", Production, 5, "review them, then: assay doctor record policy-review --outcome pass --note TEXT", probe(ExercisePolicies, exerciseAge)},
	{"objectives", "Every objective is met", Production, 5, "assay slo status", objectives},
	{"exceptions", "Nothing runs by break-glass", Production, 5, "assay exception list", breakGlass},
}

func whatRuns(l *look) (Status, string) {
	list, err := once[client.List[client.ReportingCluster]](l, "inventory/clusters")
	if err != nil {
		return unsure(err)
	}
	var silent []string
	for _, c := range list.Items {
		if c.Silent {
			silent = append(silent, c.Name)
		}
	}
	switch {
	case len(list.Items) == 0:
		return Fail, "no cluster tells what runs"
	case len(silent) > 0:
		return Fail, "not heard of lately: " + some(silent)
	}
	return Pass, fmt.Sprintf("%d clusters", len(list.Items))
}

func services(l *look, bad func(*client.Service) bool) (n int, names []string, err error) {
	list, err := once[client.List[client.Service]](l, "inventory/services")
	for i := range list.Items {
		if bad(&list.Items[i]) {
			names = append(names, list.Items[i].Name)
		}
	}
	return len(list.Items), names, err
}

func owners(l *look) (Status, string) {
	n, bad, err := services(l, func(s *client.Service) bool { return s.Team == "" || len(s.Contacts) == 0 })
	switch {
	case err != nil:
		return unsure(err)
	case n == 0:
		return Fail, "the catalogue has no service"
	case len(bad) > 0:
		return Fail, "without team or contact: " + some(bad)
	}
	return Pass, fmt.Sprintf("%d services", n)
}

func runbooks(l *look) (Status, string) {
	n, bad, err := services(l, func(s *client.Service) bool {
		return (s.Production || s.Tier <= 2) && s.Labels["runbook"] == "" && s.Routes["runbook"] == ""
	})
	switch {
	case err != nil:
		return unsure(err)
	case n == 0:
		return Fail, "the catalogue has no service"
	case len(bad) > 0:
		return Fail, "in production or of tier 1 or 2, without runbook: " + some(bad)
	}
	return Pass, fmt.Sprintf("%d services", n)
}

// indicator holds an indicator against its objective.
func indicator(metric string) func(*look) (Status, string) {
	return func(l *look) (Status, string) {
		list, err := once[client.List[client.Objective]](l, "slo/status")
		if err != nil {
			return unsure(err)
		}
		for i := range list.Items {
			o := &list.Items[i]
			if o.Now.Metric != metric {
				continue
			}
			found := fmt.Sprintf("%.1f %% of %.4g, want %s", 100*o.Now.Value, o.Now.Denominator, o.Want)
			if o.Now.Unknown > 0 {
				found += fmt.Sprintf("; of %.4g it is not known", o.Now.Unknown)
			}
			switch {
			case !o.Now.Known:
				return Unknown, "nothing was counted yet"
			case o.State == "exhausted" || o.Budget < 0:
				return Fail, found
			}
			return Pass, found
		}
		return Unknown, "there is no objective for " + metric
	}
}

// probe wants a probe or an exercise that passed lately.
func probe(name string, age time.Duration) func(*look) (Status, string) {
	return func(l *look) (Status, string) {
		if l.probes == nil {
			return Unknown, "what was probed may not be asked"
		}
		p, there := l.probes[name]
		switch {
		case !there:
			return Unknown, "never tried"
		case p.Status != Pass:
			return Fail, fmt.Sprintf("%s: %s", p.At.UTC().Format(time.DateOnly), p.Found)
		case l.now.Sub(p.At) > age:
			return Fail, fmt.Sprintf("last on %s, more than %s ago", p.At.UTC().Format(time.DateOnly), days(age))
		}
		return Pass, fmt.Sprintf("%s: %s", p.At.UTC().Format(time.DateOnly), p.Found)
	}
}

// noAlert wants no open alert of a rule.
func noAlert(rule string) func(*look) (Status, string) {
	return func(l *look) (Status, string) {
		list, err := once[client.List[client.Alert]](l, "alerts", "rule", rule, "limit", "1000")
		if err != nil {
			return unsure(err)
		}
		for i := range list.Items {
			if a := &list.Items[i]; a.Rule == rule && a.State != "resolved" {
				return Fail, a.Title + ": " + a.Summary
			}
		}
		return Pass, "no alert " + rule
	}
}

// guards wants clusters that are heard of, and no alert about their webhooks.
func guards(l *look) (Status, string) {
	if status, found := whatRuns(l); status != Pass {
		return Unknown, found
	}
	return noAlert("admission-guard")(l)
}

func feeds(l *look) (Status, string) {
	list, err := once[client.List[client.Feed]](l, "feeds")
	if err != nil {
		return unsure(err)
	}
	var bad []string
	for _, f := range list.Items {
		if f.Stale || f.Blocked != "" || f.Checked == nil {
			bad = append(bad, f.Name+" "+f.Ecosystem)
		}
	}
	switch {
	case len(list.Items) == 0:
		return Fail, "there is no feed: nothing is known of flaws"
	case len(bad) > 0:
		return Fail, "stale or not believed: " + some(bad)
	}
	return Pass, fmt.Sprintf("%d feeds", len(list.Items))
}

func mayRun(l *look) (Status, string) {
	list, err := once[client.List[client.RunningTally]](l, "inventory/running/summary")
	if err != nil {
		return unsure(err)
	}
	denied, unknown, all := 0, 0, 0
	for _, t := range list.Items {
		denied, unknown, all = denied+t.Denied+t.Drifted, unknown+t.Unknown, all+t.Allowed+t.Denied+t.Drifted+t.Unknown
	}
	switch {
	case all == 0:
		return Unknown, "it is not known what runs"
	case denied > 0:
		return Fail, fmt.Sprintf("%d of %d running images may not", denied, all)
	case unknown > 0:
		return Unknown, fmt.Sprintf("of %d of %d running images it is not known", unknown, all)
	}
	return Pass, fmt.Sprintf("%d running images", all)
}

func receivers(l *look) (Status, string) {
	list, err := once[client.List[client.Receiver]](l, "receivers")
	if err != nil {
		return unsure(err)
	}
	takes := false
	for _, r := range list.Items {
		if !slices.Contains(r.Severities, "page") {
			continue
		}
		if r.Default {
			return Pass, fmt.Sprintf("%s takes pages that no other of %d receivers takes", r.Name, len(list.Items))
		}
		takes = true
	}
	if !takes {
		return Fail, "no receiver takes pages"
	}
	return Fail, "no receiver that takes pages is a default one: pages of teams that none is for reach nobody"
}

func receiverTested(l *look) (Status, string) {
	list, err := once[client.List[client.Receiver]](l, "receivers")
	if err != nil {
		return unsure(err)
	}
	notices, err := once[client.List[client.Notice]](l, "notices")
	if err != nil {
		return unsure(err)
	}
	took := map[string]time.Time{}
	for _, n := range notices.Items {
		if n.Taken != nil && n.Taken.After(took[n.Receiver]) {
			took[n.Receiver] = *n.Taken
		}
	}
	var bad []string
	for _, r := range list.Items {
		if at := took[r.Name]; at.IsZero() || l.now.Sub(at) > exerciseAge {
			bad = append(bad, r.Name)
		}
	}
	switch {
	case len(list.Items) == 0:
		return Fail, "there is no receiver"
	case len(bad) > 0:
		return Fail, "took none within " + days(exerciseAge) + ": " + some(bad)
	}
	return Pass, fmt.Sprintf("%d receivers", len(list.Items))
}

// acknowledged looks at the newest page: it is one that somebody took.
func acknowledged(l *look) (Status, string) {
	list, err := once[client.List[client.Alert]](l, "alerts", "severity", "page", "all", "true", "limit", "100")
	if err != nil {
		return unsure(err)
	}
	var last *client.Alert
	for i := range list.Items {
		if a := &list.Items[i]; a.Severity == "page" && (last == nil || a.Since.After(last.Since)) {
			last = a
		}
	}
	switch {
	case last == nil:
		return Unknown, "there was no page yet: assay alert test tries the way there"
	case last.Acknowledged == nil && last.State != "resolved" && l.now.Sub(last.Since) > 15*time.Minute:
		return Fail, fmt.Sprintf("%s, of %s, was acknowledged by nobody", last.Title, last.Since.UTC().Format(time.RFC3339))
	case last.Acknowledged == nil:
		return Unknown, fmt.Sprintf("%s, of %s, is not acknowledged", last.Title, last.Since.UTC().Format(time.RFC3339))
	}
	return Pass, fmt.Sprintf("%s, after %s", last.Title, last.Acknowledged.Sub(last.Since).Round(time.Second))
}

// happened wants an event of a kind lately.
func happened(kind string, age time.Duration) func(*look) (Status, string) {
	return func(l *look) (Status, string) {
		list, err := once[client.List[client.AuditRecord]](l, "audit", "kind", kind, "newest", "true", "limit", "1")
		switch {
		case err != nil:
			return unsure(err)
		case len(list.Items) == 0:
			return Fail, "never"
		case l.now.Sub(list.Items[0].Time) > age:
			return Fail, fmt.Sprintf("last at %s", list.Items[0].Time.UTC().Format(time.RFC3339))
		}
		return Pass, list.Items[0].Time.UTC().Format(time.RFC3339)
	}
}

func keys(l *look) (Status, string) {
	list, err := once[client.List[client.Key]](l, "keys")
	if err != nil {
		return unsure(err)
	}
	var bad []string
	for i := range list.Items {
		k := &list.Items[i]
		if k.State == "retired" || k.State == "retiring" {
			continue
		}
		if !k.Rotates.IsZero() && l.now.After(k.Rotates) || !k.Expires.IsZero() && k.Expires.Sub(l.now) < soon && k.Rotates.IsZero() {
			bad = append(bad, k.Name)
		}
	}
	if len(bad) > 0 {
		return Fail, "past their rotation, or near their end: " + some(bad)
	}
	return Pass, fmt.Sprintf("%d keys", len(list.Items))
}

func objectives(l *look) (Status, string) {
	list, err := once[client.List[client.Objective]](l, "slo/status")
	if err != nil {
		return unsure(err)
	}
	var missed, none []string
	for _, o := range list.Items {
		switch o.State {
		case "ok":
		case "no data":
			none = append(none, o.Indicator)
		default:
			missed = append(missed, o.Indicator)
		}
	}
	switch {
	case len(list.Items) == 0:
		return Unknown, "there is no objective"
	case len(missed) > 0:
		return Fail, "missed, or burning: " + some(missed)
	case len(none) > 0:
		return Unknown, "nothing was counted: " + some(none)
	}
	return Pass, fmt.Sprintf("%d objectives", len(list.Items))
}

func breakGlass(l *look) (Status, string) {
	type entry struct {
		ID    string `json:"id"`
		Kind  string `json:"kind"`
		State string `json:"state"`
	}
	list, err := once[client.List[entry]](l, "exceptions", "limit", "1000")
	if err != nil {
		return unsure(err)
	}
	n := 0
	for _, e := range list.Items {
		if e.State != "approved" {
			continue
		}
		if n++; e.Kind == "break-glass" {
			return Fail, "in force: " + e.ID
		}
	}
	return Pass, fmt.Sprintf("%d exceptions in force, none of them break-glass", n)
}
