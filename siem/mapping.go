package siem

import (
	"slices"

	"assay/event"
)

// Activities of OCSF: of API Activity and Entity Management, of findings, of
// Authentication, of Application Lifecycle.
const (
	create = 1
	read   = 2
	update = 3
	remove = 4

	openFinding   = 1
	updateFinding = 2
	closeFinding  = 3

	logon         = 1
	logoff        = 2
	serviceTicket = 4

	startApp = 3
	stopApp  = 4
)

func api(activity int, name string) mapping {
	return mapping{class: APIActivity, activity: activity, name: name, severity: Informational}
}

func entityOf(activity int, name string, s Severity) mapping {
	return mapping{class: EntityManagement, activity: activity, name: name, severity: s}
}

func detect(s Severity) mapping {
	return mapping{class: DetectionFinding, activity: openFinding, name: "Create", severity: s}
}

func complies(s Severity, failed bool) mapping {
	return mapping{class: ComplianceFinding, activity: openFinding, name: "Create", severity: s, failed: failed}
}

func auth(activity int, name string, s Severity, failed bool) mapping {
	return mapping{class: Authentication, activity: activity, name: name, severity: s, failed: failed}
}

func refused(m mapping, s Severity) mapping {
	m.failed, m.severity = true, s
	return m
}

// mappings are the kinds that are not told by their class alone. docs/siem.md
// has the same table.
var mappings = map[event.Kind]mapping{
	event.ArtifactPushed: api(create, "Create"), event.AttestationIngested: api(create, "Create"), event.BlobMounted: api(create, "Create"),
	event.BuildStarted: api(create, "Create"), event.BuildLogStored: api(create, "Create"), event.CertificateIssued: api(create, "Create"),
	event.BundleExported: api(read, "Read"), event.BundleImported: api(create, "Create"), event.BackupCreated: api(create, "Create"),
	event.ArtifactPulled: api(read, "Read"), event.BlobRead: api(read, "Read"),
	event.TagMoved: api(update, "Update"), event.TagHeld: api(update, "Update"), event.ArtifactPromoted: api(update, "Update"), event.ArtifactReleased: api(update, "Update"),
	event.ArtifactDeleted: api(remove, "Delete"), event.TagDeleted: api(remove, "Delete"), event.BlobsCollected: api(remove, "Delete"),
	event.RetentionRun: api(remove, "Delete"), event.AttestationDropped: api(remove, "Delete"), event.EventsDropped: api(remove, "Delete"), event.BuildLogDeleted: api(remove, "Delete"),
	event.ArtifactDenied: refused(api(other, "Other"), Medium), event.ArtifactRejected: refused(api(update, "Update"), Medium), event.AttestationRejected: refused(api(create, "Create"), Medium),

	event.SessionOpened: auth(logon, "Logon", Informational, false), event.SessionClosed: auth(logoff, "Logoff", Informational, false),
	event.LoginFailed: auth(logon, "Logon", Medium, true), event.TokenIssued: auth(serviceTicket, "Service Ticket Request", Informational, false),
	event.TokenRefused: auth(serviceTicket, "Service Ticket Request", Low, true),

	event.PolicyApplied: entityOf(update, "Update", Low), event.PolicyModeChanged: entityOf(update, "Update", Medium), event.ConfigApplied: entityOf(update, "Update", Low),
	event.RobotChanged: entityOf(update, "Update", Low), event.CredentialRevoked: entityOf(remove, "Delete", Medium),
	event.RootImported: entityOf(create, "Create", Medium), event.RootRemoved: entityOf(remove, "Delete", Medium),
	event.DelegationMade: entityOf(create, "Create", Medium), event.DelegationRemoved: entityOf(remove, "Delete", Medium),
	event.TrustChanged: entityOf(update, "Update", Medium), event.TrustRootImported: entityOf(update, "Update", Medium), event.TrustRevoked: entityOf(remove, "Delete", Medium),
	event.KeyCreated: entityOf(create, "Create", Medium), event.KeyRotated: entityOf(update, "Update", Low), event.KeyRetired: entityOf(remove, "Delete", Low),
	event.HoldAdded: entityOf(create, "Create", Low), event.HoldRemoved: entityOf(remove, "Delete", Low),
	event.AlertSilenced: entityOf(create, "Create", Low), event.AlertSilenceEnded: entityOf(remove, "Delete", Informational),

	event.FindingOpened:   {class: VulnerabilityFinding, activity: openFinding, name: "Create", severity: Medium},
	event.FindingResolved: {class: VulnerabilityFinding, activity: closeFinding, name: "Close", severity: Informational},
	event.VulnMissed:      {class: VulnerabilityFinding, activity: openFinding, name: "Create", severity: High},
	event.MalwareFound:    {class: VulnerabilityFinding, activity: openFinding, name: "Create", severity: Critical},

	event.DecisionMade: complies(Informational, false), event.DecisionChanged: complies(Informational, false),
	event.AdmissionAllowed: complies(Informational, false), event.AdmissionDenied: complies(Medium, true), event.AdmissionWarned: complies(Low, false),
	event.EvidenceMissing: complies(Medium, true), event.EvidenceCompleted: complies(Informational, false),
	event.WorkloadDenied: complies(High, true), event.WorkloadAllowed: complies(Informational, false), event.WorkloadUndecided: complies(Medium, true),

	event.StoreTampered: detect(Critical), event.SignerUnlogged: detect(Critical), event.BreakGlass: detect(Critical), event.ArtifactRevoked: detect(Critical), event.WorkloadDrifted: detect(Critical),
	event.PullUnauthorized: detect(High), event.ClusterGuardChanged: detect(High), event.ClusterSilent: detect(High), event.MeshWeakened: detect(High), event.WorkloadIdentityChanged: detect(High), event.SourceForcePushed: detect(High),
	event.AlertOpened: detect(High), event.AlertEscalated: {class: DetectionFinding, activity: updateFinding, name: "Update", severity: High},
	event.AlertAcknowledged: {class: DetectionFinding, activity: updateFinding, name: "Update", severity: Informational},
	event.AlertResolved:     {class: DetectionFinding, activity: closeFinding, name: "Close", severity: Informational},

	event.ServerStarted: {class: ApplicationLifecycle, activity: startApp, name: "Start", severity: Informational},
	event.ServerStopped: {class: ApplicationLifecycle, activity: stopApp, name: "Stop", severity: Informational},
}

// Mapped tells class and severity of a kind, before what a body says.
func Mapped(k event.Kind) (class int, s Severity) {
	m := byKind(k)
	return m.class, m.severity
}

func byKind(k event.Kind) mapping {
	if m, ok := mappings[k]; ok {
		return m
	}
	switch k.Class() {
	case event.Alert, event.Page:
		return detect(High)
	}
	return api(other, "Other")
}

// mappingOf is byKind with what the body says: a verdict, a count.
func mappingOf(e *event.Event, b body) mapping {
	m := byKind(e.Kind)
	switch e.Kind {
	case event.DecisionMade, event.DecisionChanged:
		if b.text("verdict") == "deny" {
			m.failed, m.severity = true, Medium
		}
	case event.FindingOpened:
		if malicious, _ := b.all["malicious"].(bool); malicious {
			m.severity = Critical
		}
	case event.AlertOpened:
		if b.text("severity") == "ticket" {
			m.severity = Medium
		}
	case event.RobotChanged:
		switch b.text("action") {
		case "created":
			m.activity, m.name = create, "Create"
		case "deleted":
			m.activity, m.name = remove, "Delete"
		}
	}
	return m
}

// meaning is what each kind means, in words.
var meaning = func() map[event.Kind]string {
	out := map[event.Kind]string{}
	for _, k := range event.Kinds() {
		out[k.Kind] = k.Meaning
	}
	return out
}()

// classNumbers are the classes, for filters.
func classNumbers() []int {
	var out []int
	for c := range classNames {
		out = append(out, c)
	}
	slices.Sort(out)
	return out
}
