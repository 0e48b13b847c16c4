package alert

import (
	"fmt"
	"slices"

	"assay/event"
	"assay/inventory"
	"assay/slo"
)

// The rules that no single event tells.
const (
	RuleOutage      = "verification-outage"
	RuleFastBurn    = "objective-fast-burn"
	RuleSlowBurn    = "objective-slow-burn"
	RuleMissed      = "objective-missed"
	RuleUnderFire   = "service-under-fire"
	RuleUndelivered = "notice-undelivered"
	RuleSilenced    = "pages-silenced"
)

// rules is the table of all of them. Each has a page in docs/runbooks.
var rules = []Rule{
	// Active compromise.
	{ID: "malware", Severity: Page, High: true, Title: "An artifact holds a malicious package",
		Why:     "A feed says that a package in it is itself the attack. It is quarantined where a registry is here to do that.",
		Command: "assay inventory workloads --digest {digest}", kinds: []event.Kind{event.MalwareFound},
		match: always("advisory", "component")},
	{ID: "action-held", Severity: Page, High: true, Title: "The site would do something to much of what runs, and waits for a person",
		Why:     "A quarantine or a bundle of policies that touches more workloads than may be touched without a question. Nothing new may run what is to be quarantined; what runs goes on until somebody answers.",
		Command: "assay action list", kinds: []event.Kind{event.ActionHeld, event.ActionOverdue}, resolves: []event.Kind{event.ActionApproved, event.ActionRefused, event.ActionSuperseded},
		match: func(_ *event.Event, b body) (found, bool) {
			id := b.text("id")
			return found{about: id, cause: id, summary: fmt.Sprintf("%s: %d of %d workloads: %s", b.words("id", "kind"), b.number("touched"), b.number("running"), b.text("reason"))}, id != ""
		}},
	{ID: "revoked-artifact-served", Severity: Page, High: true, Title: "An artifact that was pulled is revoked",
		Why:     "It was handed out before it was revoked, and may run.",
		Command: "assay inventory workloads --digest {digest}", kinds: []event.Kind{event.ArtifactRevoked},
		match: func(_ *event.Event, b body) (found, bool) {
			n := b.number("pulls")
			return found{summary: fmt.Sprintf("%s; pulled %d times before", b.text("reason"), n)}, n > 0
		}},
	{ID: "unauthorized-pulls", Severity: Page, High: true, Title: "Pulls were served whose right proved invalid",
		Why:     "Credentials that were revoked with an earlier date, or an artifact, had been used.",
		Command: "assay audit unauthorized", kinds: []event.Kind{event.PullUnauthorized},
		match: func(_ *event.Event, b body) (found, bool) {
			return found{about: b.text("revocation"), summary: fmt.Sprintf("%d pulls since %s: %s", b.number("count"), b.text("since"), b.words("credential", "identity", "reason"))}, true
		}},
	// Key misuse.
	{ID: "key-misuse", Severity: Page, High: true, Title: "One of our identities signed what our log does not hold",
		Why:     "A signature of ours that no build of ours made: its key or its issuer may be in other hands.",
		Command: "assay revocations list", kinds: []event.Kind{event.SignerUnlogged},
		match: always("identity", "issuer", "repository")},
	// Tampering: at once, never after several.
	{ID: "tampering", Severity: Page, High: true, Title: "Stored bytes are not what they were",
		Why:     "A blob, an event, the log or the database was changed from outside, or the disk fails.",
		Command: "assay registry scrub", kinds: []event.Kind{event.StoreTampered}, resolves: []event.Kind{event.StoreRepaired},
		match: until([]string{"what", "name"}, "what", "name", "found")},
	{ID: "upstream-mismatch", Severity: Page, High: true, Title: "An upstream served other content than its digest says",
		Why:     "Nothing of it was kept. Somebody on the way, or at the upstream, gives out other bytes.",
		Command: "assay registry pulls {digest}", kinds: []event.Kind{event.UpstreamMismatch},
		match: always("repository", "upstream", "found")},
	{ID: "bundle-refused", Severity: Page, Title: "A file of another site was refused",
		Why:     "It did not verify; nothing of it is visible.",
		Command: "assay bundle list", kinds: []event.Kind{event.BundleRefused},
		match: func(_ *event.Event, b body) (found, bool) {
			return found{about: b.text("origin"), summary: b.words("origin", "code", "reason")}, true
		}},
	// Production attestation failing.
	{ID: "production-denied", Severity: Page, High: true, Title: "What runs may not run",
		Why:     "By evidence, policy, a revocation or a new finding since it was admitted, or it was never decided about. A page in production, else a ticket.",
		Command: "assay verify {digest}", kinds: []event.Kind{event.WorkloadDenied}, resolves: []event.Kind{event.WorkloadAllowed, event.WorkloadStopped},
		match: until([]string{"namespace", "kind", "name", "container"}, "namespace", "name", "reason"), severity: inProduction},
	{ID: "production-drifted", Severity: Page, High: true, Title: "Another digest runs than the one that was admitted",
		Why:     "The image was changed after it was decided about.",
		Command: "assay inventory workloads --digest {digest}", kinds: []event.Kind{event.WorkloadDrifted}, resolves: []event.Kind{event.WorkloadAllowed, event.WorkloadStopped},
		match: until([]string{"namespace", "kind", "name", "container"}, "namespace", "name", "reason"), severity: inProduction},
	{ID: "production-undecided", Severity: Ticket, Title: "Nothing can be told of what runs",
		Why:     "It runs without a Decision: its node does not say which digest it is, or nobody can be asked about it. Unknown is not clean.",
		Command: "assay cluster status --cluster {cluster} --state unknown", kinds: []event.Kind{event.WorkloadUndecided}, resolves: []event.Kind{event.WorkloadAllowed, event.WorkloadDenied, event.WorkloadDrifted, event.WorkloadStopped},
		match: until([]string{"namespace", "kind", "name", "container"}, "namespace", "name", "reason")},
	{ID: "mesh-weakened", Severity: Page, High: true, Title: "Workloads are reached with weaker mutual TLS than they were",
		Why:     "A mesh's policy changed, or a proxy is gone: who reaches them need not show who it is. A page in production, else a ticket.",
		Command: "assay inventory identities --cluster {cluster}", kinds: []event.Kind{event.MeshWeakened}, resolves: []event.Kind{event.MeshStrengthened},
		match: func(e *event.Event, b body) (found, bool) {
			key := e.Cluster + " " + b.text("namespace")
			if e.Kind == event.MeshStrengthened && b.number("weaker") > 0 {
				return found{}, false // it is over when all are strict
			}
			return found{about: key, cause: key, anywhere: true, summary: fmt.Sprintf("%s: %d workloads, %s then %s", b.text("namespace"), b.number("count"), b.text("was"), b.text("now"))}, true
		}, severity: inProduction},
	{ID: "identity-changed", Severity: Page, High: true, Title: "A workload has another SPIFFE identity than it had, or none",
		Why:     "It may be taken for another, or is refused by what knows it. A page in production, else a ticket.",
		Command: "assay inventory identities --cluster {cluster}", kinds: []event.Kind{event.WorkloadIdentityChanged},
		match: func(e *event.Event, b body) (found, bool) {
			return found{about: e.Cluster + " " + b.words("namespace", "was"), anywhere: true, summary: b.words("namespace", "was", "now")}, b.text("was") != ""
		}, severity: inProduction},
	// Runtime.
	{ID: "runtime-executed", Severity: Page, High: true, Title: "A container executed what its image does not hold",
		Why:     "The file was brought there while it ran, or changed. A page in production, else a ticket.",
		Command: "assay runtime list --digest {digest}", kinds: []event.Kind{event.RuntimeExecuted},
		match: seen, severity: inProduction},
	{ID: "runtime-threat", Severity: Page, High: true, Title: "Falco or Tetragon saw an attack",
		Why:     "Its rule is of priority critical or above, or stopped a process. A page in production, else a ticket.",
		Command: "assay runtime list --digest {digest}", kinds: []event.Kind{event.RuntimeReported},
		match: func(e *event.Event, b body) (found, bool) {
			f, _ := seen(e, b)
			return f, slices.Contains([]string{"emergency", "alert", "critical"}, b.text("priority"))
		}, severity: inProduction},
	{ID: "runtime-unwatched", Severity: Ticket, Title: "What is executed on a host cannot be told",
		Why:     "The image's files are not known, or the agent missed some: nothing seen there means nothing.",
		Command: "assay runtime list --cluster {cluster}", kinds: []event.Kind{event.RuntimeUnwatched},
		match: seen},
	// Policy bypass.
	{ID: "break-glass", Severity: Page, High: true, Title: "Somebody took the break-glass rights",
		Why:     "The administrator's rights were taken over the admin socket, past all roles.",
		Command: "assay audit query --kind glass.broken", kinds: []event.Kind{event.BreakGlass},
		match: func(_ *event.Event, b body) (found, bool) {
			return found{about: b.text("subject"), summary: b.words("subject", "reason")}, true
		}},
	{ID: "break-glass-exception", Severity: Page, High: true, Title: "An artifact runs by break-glass",
		Why:     "Two persons agreed that it may run whatever its checks say, until the exception ends.",
		Command: "assay exception list --artifact {digest}", kinds: []event.Kind{event.ExceptionApproved}, resolves: []event.Kind{event.ExceptionWithdrawn, event.ExceptionExpired},
		match: exceptionOf("break-glass")},
	{ID: "exception-granted", Severity: Ticket, Title: "An artifact may run although checks fail",
		Why:     "Two persons agreed on it, for a while. What failed is to be mended before it ends.",
		Command: "assay exception list --artifact {digest}", kinds: []event.Kind{event.ExceptionApproved}, resolves: []event.Kind{event.ExceptionWithdrawn, event.ExceptionExpired},
		match: exceptionOf("exception")},
	{ID: "source-rewritten", Severity: Page, High: true, Title: "The history of a protected branch, or a tag, was rewritten",
		Why:     "What was reviewed there is no longer what stands there.",
		Command: "assay audit query --kind source.force_pushed", kinds: []event.Kind{event.SourceForcePushed, event.SourceTagMoved},
		match: func(_ *event.Event, b body) (found, bool) {
			return found{about: b.words("repository", "ref"), anywhere: true, summary: b.words("repository", "ref", "before", "after")}, true
		}},
	// Webhook gone.
	{ID: "admission-guard", Severity: Page, High: true, Title: "A cluster's admission webhook is gone or says something else",
		Why:     "Nothing is refused there while it is.",
		Command: "assay cluster status", kinds: []event.Kind{event.ClusterGuardChanged}, resolves: []event.Kind{event.ClusterGuardChanged},
		match: func(e *event.Event, b body) (found, bool) {
			key := e.Cluster + " " + b.words("kind", "name")
			return found{about: key, cause: key, anywhere: true, summary: b.words("kind", "name", "what")}, b.text("what") != "back"
		}},
	{ID: "cluster-silent", Severity: Page, High: true, Title: "A cluster is not heard of any more",
		Why:     "Its agent is gone or cannot reach the server: what runs there, and whether its webhook stands, is not known.",
		Command: "assay cluster status --cluster {cluster}", kinds: []event.Kind{event.ClusterSilent}, resolves: []event.Kind{event.ClusterHeard},
		match: func(e *event.Event, b body) (found, bool) {
			return found{about: e.Cluster, cause: e.Cluster, anywhere: true, summary: b.words("heard")}, e.Kind == event.ClusterSilent
		}},
	// Judged here, over many events.
	{ID: RuleOutage, Severity: Page, High: true, Title: "No verification comes to an answer", Why: "For two minutes questions came and none was answered: new deployments are refused.", Command: "assay doctor"},
	{ID: RuleFastBurn, Severity: Page, Title: "An objective burns its budget fast", Why: "At this rate the budget of a month is gone in two to five days.", Command: "assay slo status"},
	{ID: RuleUnderFire, Severity: Page, Title: "Three high-severity events of one service in 15 minutes", Why: "Together they may be one attack.", Command: "assay alert list --service {about}"},
	{ID: RuleSlowBurn, Severity: Ticket, Title: "An objective burns its budget slowly", Why: "At this rate the budget of the month will not last.", Command: "assay slo status"},
	{ID: RuleSilenced, Severity: Ticket, Title: "Somebody silenced what may be a page", Why: "Until the silence ends nobody is called for what it matches. No silence keeps this back.", Command: "assay alert silences"},
	{ID: RuleMissed, Severity: Ticket, Title: "An objective is missed", Why: "Its budget is spent, or a thing of which there may be none was there.", Command: "assay slo status",
		severity: func(o *occurrence) Severity {
			if o.page {
				return Page
			}
			return Ticket
		}},
	{ID: RuleUndelivered, Severity: Ticket, Title: "A notice reached nobody", Why: "A receiver took none for three days, or there is no receiver for a team.", Command: "assay alert deliveries",
		kinds: []event.Kind{event.AlertUndelivered},
		match: func(_ *event.Event, b body) (found, bool) {
			return found{about: b.text("receiver"), anywhere: true, summary: b.words("receiver", "reason")}, b.text("receiver") != ""
		}},
	// Findings and SBOM failures.
	{ID: "finding", Severity: Ticket, Title: "Advisories affect an artifact",
		Why:     "Flaws became known of what it holds.",
		Command: "assay vuln list {digest}", kinds: []event.Kind{event.FindingOpened}, resolves: []event.Kind{event.FindingResolved},
		match: func(e *event.Event, b body) (found, bool) {
			var advisories []string
			_ = unmarshal(b["advisories"], &advisories)
			n := max(b.number("count"), int64(len(advisories)), 1)
			return found{summary: fmt.Sprintf("%d of feed %s: %s", n, b.text("feed"), first(advisories, 3))}, true
		}},
	{ID: "sbom-refused", Severity: Ticket, Title: "A signed bill of materials could not be read",
		Why:     "It counts as absent: its artifact is not searched and not matched.",
		Command: "assay sbom list {digest}", kinds: []event.Kind{event.SBOMRefused}, resolves: []event.Kind{event.SBOMIndexed},
		match: until(nil, "reason")},
	{ID: "evidence-missing", Severity: Ticket, Title: "Evidence that a contract expects is missing",
		Why:     "The contract's time is over.",
		Command: "assay evidence list {digest}", kinds: []event.Kind{event.EvidenceMissing}, resolves: []event.Kind{event.EvidenceCompleted},
		match: until([]string{"repository", "contract"}, "repository", "contract")},
	{ID: "quarantined", Severity: Ticket, High: true, Title: "An artifact is quarantined",
		Why:     "It is served to nobody until it is released.",
		Command: "assay verify {digest}", kinds: []event.Kind{event.ArtifactQuarantined}, resolves: []event.Kind{event.ArtifactReleased},
		match: until(nil, "reason")},
	{ID: "gate-holds", Severity: Ticket, Title: "The gate holds an artifact back", Why: "Its owner is told, once for each artifact and cause.",
		Command: "assay verify {digest}", kinds: []event.Kind{event.TicketOpened}, resolves: []event.Kind{event.TicketClosed},
		match: until([]string{"ticket"}, "repository", "reason")},
	{ID: "build-anomaly", Severity: Ticket, High: true, Title: "A build was not as earlier builds of its source",
		Why:     "A worker or a workflow may be in other hands.",
		Command: "assay runner anomalies", kinds: []event.Kind{event.RunnerAnomaly},
		match: func(_ *event.Event, b body) (found, bool) {
			return found{about: b.words("what", "name"), summary: b.words("source", "what", "name", "after")}, true
		}},
	{ID: "forge-drifted", Severity: Ticket, Title: "A forge is not as its baseline says", Why: "Runners, secrets or protections changed.",
		Command: "assay inventory drift", kinds: []event.Kind{event.InventoryDrifted}, resolves: []event.Kind{event.InventoryAccepted},
		match: until([]string{"estate"}, "url", "first")},
	{ID: "source-unreviewed", Severity: Ticket, High: true, Title: "A protected branch moved to what was not reviewed", Why: "Builds of it have no two-person review.",
		Command: "assay audit query --kind source.unreviewed", kinds: []event.Kind{event.SourceUnreviewed},
		match: func(_ *event.Event, b body) (found, bool) {
			return found{about: b.words("repository", "ref"), anywhere: true, summary: b.words("repository", "ref", "reason")}, true
		}},
	{ID: "source-protection", Severity: Ticket, Title: "A branch's protection, or its pipelines, changed", Why: "Somebody changed what guards the source.",
		Command: "assay audit query --kind source.protection_changed", kinds: []event.Kind{event.SourceProtectionChanged, event.SourceWorkflowChanged},
		match: func(_ *event.Event, b body) (found, bool) {
			return found{about: b.words("repository", "ref"), anywhere: true, summary: b.words("repository", "ref")}, true
		}},
	// What the site rests on.
	{ID: "feed-refused", Severity: Ticket, Title: "An advisory feed was refused", Why: "What was in force stays, and grows old.",
		Command: "assay feed list", kinds: []event.Kind{event.FeedRefused}, resolves: []event.Kind{event.FeedImported}, match: feed},
	{ID: "feed-failing", Severity: Ticket, Title: "An advisory feed cannot be fetched", Why: "It is tried again; what was in force stays.", Several: 3,
		Command: "assay feed list", kinds: []event.Kind{event.FeedFailed}, resolves: []event.Kind{event.FeedImported}, match: feed},
	{ID: "feed-stale", Severity: Ticket, High: true, Title: "An advisory feed is too old", Why: "What depends on it is unknown from now on.",
		Command: "assay feed list", kinds: []event.Kind{event.FeedStale}, resolves: []event.Kind{event.FeedImported}, match: feed},
	{ID: "canary-failed", Severity: Ticket, High: true, Title: "What is known to be vulnerable comes out clean", Why: "The feed's operation is not used.",
		Command: "assay canary list", kinds: []event.Kind{event.CanaryFailed}, resolves: []event.Kind{event.FeedImported}, match: feed},
	{ID: "log-unwitnessed", Severity: Ticket, High: true, Title: "The log's checkpoints lack their witnesses", Why: "A fork would be seen late.",
		Command: "assay log monitor", kinds: []event.Kind{event.LogUnwitnessed}, resolves: []event.Kind{event.LogWitnessed}, match: until(nil, "outage")},
	{ID: "key-expiring", Severity: Ticket, High: true, Title: "A key, its certificate or the TUF root ends soon", Why: "Nothing has followed yet.",
		Command: "assay keys list", kinds: []event.Kind{event.KeyExpiring, event.TrustRootExpiring}, resolves: []event.Kind{event.KeyRotated, event.TrustRootImported},
		match: until([]string{"role"}, "role", "name", "expires")},
	{ID: "webhook-failing", Severity: Ticket, Title: "A webhook was given up", Why: "A receiver took no event in three days.",
		Command: "assay webhook deliveries {about}", kinds: []event.Kind{event.WebhookFailing},
		match: func(_ *event.Event, b body) (found, bool) {
			return found{about: b.text("hook"), anywhere: true, summary: b.words("hook", "reason")}, true
		}},
	{ID: "siem-stalled", Severity: Ticket, Title: "A SIEM sink takes no events", Why: "What happens here is not seen there. Nothing is lost: it is sent when the sink takes again.",
		Command: "assay doctor", kinds: []event.Kind{event.SIEMStalled}, resolves: []event.Kind{event.SIEMResumed}, match: until([]string{"sink"}, "sink", "reason", "since")},
	{ID: "restore", Severity: Ticket, Title: "A restored log was let go on", Why: "Somebody accepted what a restore lost.",
		Command: "assay doctor", kinds: []event.Kind{event.RestoreReconciled}, match: always("how", "reason")},
	{ID: "admission-failing", Severity: Ticket, Title: "Admissions fail for want of an answer", Why: "Images are refused, or let in, because nothing could decide in time.", Several: 5,
		Command: "assay doctor", kinds: []event.Kind{event.AdmissionDenied, event.AdmissionWarned},
		match: func(e *event.Event, b body) (found, bool) {
			return found{about: e.Cluster, anywhere: true, summary: b.words("namespace", "object", "reason")}, b.text("cause") == slo.CauseInfrastructure
		}},
}

// seen matches what sensors report: an alert for each thing at each workload.
func seen(e *event.Event, b body) (found, bool) {
	about := b.words("namespace", "kind", "name", "container", "rule", "path")
	if b.text("name") == "" {
		about = b.words("node", "container_id", "rule", "path")
	}
	return found{about: e.Cluster + " " + about, cause: about, key: e.Cluster, anywhere: true, summary: b.words("source", "rule", "namespace", "name", "path", "message")}, true
}

func feed(_ *event.Event, b body) (found, bool) {
	key := b.words("feed", "ecosystem")
	return found{about: key, cause: key, anywhere: true, summary: b.words("feed", "ecosystem", "reason")}, true
}

func inProduction(o *occurrence) Severity {
	if inventory.Production(o.place.Environment) {
		return Page
	}
	return Ticket
}
