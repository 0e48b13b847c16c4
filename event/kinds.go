package event

import (
	"slices"

	"assay/internal/fault"
)

// Kind says what happened, as "subject.verb".
type Kind string

// Class is what an event is for. All classes are sealed alike.
type Class string

// The classes.
const (
	Audit  Class = "audit"  // who did or tried what; kept for auditors
	Domain Class = "domain" // a change that other parts act upon
	Alert  Class = "alert"  // something that a person must look at
	Page   Class = "page"   // something that a person must look at now, whatever the hour
)

// The kinds. Their meaning stands in [Kinds], once, and in docs/events.md.
const (
	ArtifactPushed      Kind = "artifact.pushed"
	ArtifactPulled      Kind = "artifact.pulled"
	BlobRead            Kind = "blob.read"
	BlobMounted         Kind = "blob.mounted"
	ArtifactDeleted     Kind = "artifact.deleted"
	ArtifactDenied      Kind = "artifact.denied"
	BlobsCollected      Kind = "blobs.collected"
	RetentionRun        Kind = "retention.run"
	HoldAdded           Kind = "hold.added"
	AttestationDropped  Kind = "attestation.dropped"
	HoldRemoved         Kind = "hold.removed"
	TagMoved            Kind = "tag.moved"
	TagDeleted          Kind = "tag.deleted"
	TagHeld             Kind = "tag.held"
	ArtifactPromoted    Kind = "artifact.promoted"
	ArtifactRejected    Kind = "artifact.rejected"
	ArtifactQuarantined Kind = "artifact.quarantined"
	ArtifactReleased    Kind = "artifact.released"
	ArtifactRevoked     Kind = "artifact.revoked"
	AttestationIngested Kind = "attestation.ingested"
	AttestationRejected Kind = "attestation.rejected"
	BuildFailed         Kind = "build.failed"
	BuildStarted        Kind = "build.started"
	BuildLogStored      Kind = "buildlog.stored"
	BuildLogDeleted     Kind = "buildlog.deleted"
	BuildFinished       Kind = "build.finished"
	EvidenceMissing     Kind = "evidence.missing"
	EvidenceCompleted   Kind = "evidence.completed"
	SBOMIndexed         Kind = "sbom.indexed"
	SBOMRefused         Kind = "sbom.refused"
	SBOMUploaded        Kind = "sbom.uploaded"
	SBOMOverlaid        Kind = "sbom.overlaid"
	FeedImported        Kind = "feed.imported"
	FeedRefused         Kind = "feed.refused"
	FeedFailed          Kind = "feed.failed"
	FeedStale           Kind = "feed.stale"
	FeedAccepted        Kind = "feed.accepted"
	FeedConfigured      Kind = "feed.configured"
	CanaryChanged       Kind = "canary.changed"
	CanaryFailed        Kind = "canary.failed"
	MalwareFound        Kind = "malware.found"
	RunnerAnomaly       Kind = "runner.anomaly"
	RunnerAccepted      Kind = "runner.accepted"
	InventoryScanned    Kind = "inventory.scanned"
	InventoryDrifted    Kind = "inventory.drifted"
	InventoryAccepted   Kind = "inventory.accepted"
	FeedMatched         Kind = "feed.matched"
	SBOMScanned         Kind = "sbom.scanned"
	FindingOpened       Kind = "finding.opened"
	VulnMissed          Kind = "vuln.missed"
	VEXStated           Kind = "vex.stated"
	ReadinessProbed     Kind = "readiness.probed"
	ExceptionRequested  Kind = "exception.requested"
	ExceptionApproved   Kind = "exception.approved"
	ExceptionRejected   Kind = "exception.rejected"
	ExceptionWithdrawn  Kind = "exception.withdrawn"
	ExceptionExpired    Kind = "exception.expired"
	ExceptionUsed       Kind = "exception.used"
	ActionHeld          Kind = "action.held"
	ActionOverdue       Kind = "action.overdue"
	ActionApproved      Kind = "action.approved"
	ActionRefused       Kind = "action.refused"
	ActionSuperseded    Kind = "action.superseded"
	VEXWithdrawn        Kind = "vex.withdrawn"
	VEXProposed         Kind = "vex.proposed"
	VEXRefused          Kind = "vex.refused"
	FindingResolved     Kind = "finding.resolved"
	WorkloadStarted     Kind = "workload.started"
	WorkloadStopped     Kind = "workload.stopped"
	WorkloadDenied      Kind = "workload.denied"
	WorkloadAllowed     Kind = "workload.allowed"
	WorkloadDrifted     Kind = "workload.drifted"
	WorkloadUndecided   Kind = "workload.undecided"
	ClusterGuardChanged Kind = "cluster.guard_changed"
	ClusterSilent       Kind = "cluster.silent"
	ClusterHeard        Kind = "cluster.heard"
	MeshWeakened        Kind = "mesh.weakened"
	MeshStrengthened    Kind = "mesh.strengthened"

	WorkloadIdentityChanged Kind = "workload.identity_changed"

	RuntimeReported     Kind = "runtime.reported"
	RuntimeExecuted     Kind = "runtime.executed"
	RuntimeUnwatched    Kind = "runtime.unwatched"
	TicketOpened        Kind = "ticket.opened"
	TicketClosed        Kind = "ticket.closed"
	DecisionMade        Kind = "decision.made"
	DecisionChanged     Kind = "decision.changed"
	AdmissionAllowed    Kind = "admission.allowed"
	AdmissionDenied     Kind = "admission.denied"
	AdmissionWarned     Kind = "admission.warned"
	BuildChecked        Kind = "build.checked"
	FunctionAllowed     Kind = "function.allowed"
	FunctionRefused     Kind = "function.refused"
	RolloutJudged       Kind = "rollout.judged"
	RolloutRefused      Kind = "rollout.refused"
	CertificateIssued   Kind = "certificate.issued"
	TokenIssued         Kind = "token.issued"
	TokenRefused        Kind = "token.refused"
	LoginFailed         Kind = "login.failed"
	SessionOpened       Kind = "session.opened"
	SessionClosed       Kind = "session.closed"
	RobotChanged        Kind = "robot.changed"
	CredentialRevoked   Kind = "credential.revoked"
	PullUnauthorized    Kind = "pull.unauthorized"
	BreakGlass          Kind = "glass.broken"
	PolicyApplied       Kind = "policy.applied"
	PolicyModeChanged   Kind = "policy.mode_changed"
	PolicyBundleChanged Kind = "policy.bundle_activated"
	PolicyBundleRefused Kind = "policy.bundle_refused"
	ConfigApplied       Kind = "config.applied"
	TrustChanged        Kind = "trust.changed"
	RootImported        Kind = "trust.root.imported"
	RootRemoved         Kind = "trust.root.removed"
	DelegationMade      Kind = "trust.delegation.made"
	DelegationRemoved   Kind = "trust.delegation.removed"
	TrustRootImported   Kind = "trust.root.signed"
	TrustRootExpiring   Kind = "trust.root.expiring"
	TrustRevoked        Kind = "trust.revoked"
	RevocationAffects   Kind = "revocation.affects"
	SignerFirstSeen     Kind = "signer.first_seen"
	SignerUnlogged      Kind = "signer.unlogged"
	KeyCreated          Kind = "key.created"
	KeyRotated          Kind = "key.rotated"
	KeyRetired          Kind = "key.retired"
	KeyExpiring         Kind = "key.expiring"
	LogHeadPublished    Kind = "log.head.published"
	LogUnwitnessed      Kind = "log.unwitnessed"
	LogWitnessed        Kind = "log.witnessed"
	EventsDropped       Kind = "events.dropped"
	StoreTampered       Kind = "store.tampered"
	StoreRepaired       Kind = "store.repaired"
	StoreRepairRefused  Kind = "store.repair.refused"
	BundleExported      Kind = "bundle.exported"
	BundleImported      Kind = "bundle.imported"
	BundleRefused       Kind = "bundle.refused"
	UpstreamMismatch    Kind = "upstream.mismatch"
	BackupCreated       Kind = "backup.created"
	RestoreReconciled   Kind = "restore.reconciled"
	WebhookFailing      Kind = "webhook.failing"
	SIEMStalled         Kind = "siem.stalled"
	SIEMResumed         Kind = "siem.resumed"
	AlertOpened         Kind = "alert.opened"
	AlertAcknowledged   Kind = "alert.acknowledged"
	AlertEscalated      Kind = "alert.escalated"
	AlertResolved       Kind = "alert.resolved"
	AlertSilenced       Kind = "alert.silenced"
	AlertSilenceEnded   Kind = "alert.silence_ended"
	AlertUndelivered    Kind = "alert.undelivered"
	ServerStarted       Kind = "server.started"
	ServerStopped       Kind = "server.stopped"
)

// The kinds of what forges tell of commits.
const (
	SourcePushed            Kind = "source.pushed"
	SourceReviewed          Kind = "source.reviewed"
	SourceTagMoved          Kind = "source.tag_moved"
	SourceForcePushed       Kind = "source.force_pushed"
	SourceUnreviewed        Kind = "source.unreviewed"
	SourceReviewWithdrawn   Kind = "source.review_withdrawn"
	SourceMergeChanged      Kind = "source.merge_changed"
	SourceProtectionChanged Kind = "source.protection_changed"
	SourceWorkflowChanged   Kind = "source.workflow_changed"
)

// KindInfo is what is known of a kind.
type KindInfo struct {
	Kind    Kind
	Class   Class
	Meaning string
	Fields  []Field // members of the body; each may be absent
}

// Field is one member of an event's body.
type Field struct {
	Name    string
	Meaning string
}

// workloadFields are those of the kinds that say whether what runs may run.
func workloadFields(reason string) []Field {
	f := []Field{
		{"namespace", "of the workload"}, {"kind", "of the workload"}, {"name", "of the workload"}, {"container", "its name"}, {"image", "reference that was asked for"},
		{"instances", "how many run it"}, {"since", "when the first of those that run was first seen"}, {"decision", "decision, dec_..."}, {"was", "state before: allowed, denied, drifted or unknown"},
	}
	if reason != "" {
		f = append(f, Field{"reason", reason}, Field{"cause", "digest (another runs than the one that was pinned), undecided (no Decision), revoked (or under quarantine: since says whether it ran before) or denied (by a Decision)"})
	}
	return f
}

// runtimeFields are those of what sensors report.
func runtimeFields() []Field {
	return []Field{
		{"source", "falco, tetragon or agent"}, {"rule", "the sensor's; of the agent: foreign, changed, unknown or unwatched"}, {"priority", "as Falco names them"},
		{"joined", "false: the inventory knows no such container"}, {"times", "how often it was reported"}, {"node", "where"}, {"namespace", "of the workload"}, {"kind", "of the workload"},
		{"name", "of the workload"}, {"instance", "the Pod"}, {"container", "its name"}, {"container_id", "as the sensor says"}, {"image", "reference"}, {"reported_digest", "the sensor's, where the inventory has another"},
		{"process", "its command line, clipped"}, {"path", "of the executed file"}, {"file", "its digest"}, {"message", "the sensor's words"}, {"claimed", "the sensor's time"},
		{"state", "of the image where it runs: allowed, denied, drifted or unknown"}, {"decision", "decision, dec_..."}}
}

// admissionFields are those of the kinds of admission.
func admissionFields(reason string) []Field {
	return []Field{
		{"namespace", "of the Pod"}, {"object", "its kind and name, where it has one yet"}, {"operation", "CREATE or UPDATE, with the subresource"}, {"image", "as the Pod has it"},
		{"used", "by which containers and volumes"}, {"decision", "decision, dec_..."}, {"basis", "decision, index (as part of one that is allowed) or bundle (offline)"}, {"mode", "audit, warn or enforce"},
		{"restart", "it runs there already, and may start again"}, {"reason", reason}, {"cause", "infrastructure: nothing could answer"},
		{"door", "gatekeeper or containerd; absent: the webhook"},
	}
}

// withoutReason are the fields of what was allowed.
func withoutReason(f []Field) []Field {
	return slices.DeleteFunc(f, func(x Field) bool { return x.Name == "restart" || x.Name == "reason" || x.Name == "cause" })
}

// functionFields are those of the kinds about packages of functions.
func functionFields() []Field {
	return []Field{
		{"image", "the package's reference"}, {"decision", "decision, dec_..."}, {"reason", "why it may not"}, {"components", "that its bill of materials names"}, {"findings", "of them that nothing takes away"},
	}
}

// rolloutFields are those of what controllers of canaries were told.
func rolloutFields() []Field {
	return []Field{
		{"verdict", "proceed, wait or rollback"}, {"was", "verdict before; empty: the first of its trial"}, {"images", "of the canary"}, {"reason", "what the verdict comes from"},
		{"namespace", "of the workload, where it was named"}, {"workload", "its name, where it was named"}, {"advice", "the image to go back to"},
	}
}

// Kinds is the one table of kinds, in the order of the documentation.
func Kinds() []KindInfo { return slices.Clone(kinds) }

var kinds = table()

func table() []KindInfo {
	return []KindInfo{
		{ArtifactPushed, Audit, "A manifest was stored. The event's digest is the manifest's.", []Field{
			{"repository", "repository name"}, {"tag", "tag, when pushed by tag"}, {"media_type", "of the manifest"},
			{"artifact_type", "OCI artifact type"}, {"size", "bytes of the manifest"}, {"subject", "digest that it refers to"},
			{"state", "staged or active, in a repository with a gate"}, {"profile", "dev: counts in no objective"}, {"decision", "allow"},
			{"address", "whence"}, {"user_agent", "the client's, clipped"}, {"credential", "that proved the identity"}, {"micros", "from the request to the record"}}},
		{ArtifactPulled, Audit, "A manifest was handed out.", []Field{
			{"repository", "repository name"}, {"tag", "tag, when asked for by tag"}, {"media_type", "of the manifest"}, {"decision", "allow"},
			{"address", "whence"}, {"user_agent", "the client's, clipped"}, {"credential", "that proved the identity, jwt:... or robot:..."},
			{"bytes", "of the manifest"}, {"micros", "from the request to the record, in millionths of a second"}}},
		{BlobRead, Audit, "A blob was handed out to one who had pulled no manifest of the repository within the hour.", []Field{
			{"repository", "repository name"}, {"bytes", "of the blob"}, {"decision", "allow"}, {"address", "whence"},
			{"user_agent", "the client's, clipped"}, {"credential", "that proved the identity"}, {"micros", "from the request to the record"}}},
		{BlobMounted, Audit, "A blob of one repository was mounted into another, without its bytes being sent.", []Field{
			{"repository", "into which"}, {"from", "repository that has it"}, {"decision", "allow"}, {"address", "whence"},
			{"user_agent", "the client's, clipped"}, {"credential", "that proved the identity"}, {"micros", "from the request to the record"}}},
		{ArtifactDeleted, Audit, "A manifest or a blob was deleted.", []Field{
			{"repository", "repository name"}, {"what", "manifest or blob"}, {"media_type", "of a manifest"}, {"decision", "allow"},
			{"address", "whence"}, {"user_agent", "the client's, clipped"}, {"credential", "that proved the identity"}}},
		{BlobsCollected, Domain, "Garbage collection deleted the bytes of blobs that nothing needed.", []Field{
			{"blobs", "how many"}, {"bytes", "freed"}, {"digests", "which"}}},
		{RetentionRun, Audit, "Retention rules were carried out. What each deletion was for stands in its own event.", []Field{
			{"manifests", "deleted"}, {"tags", "deleted"}, {"attestations", "deleted"}, {"decisions", "deleted"}, {"events", "dropped"}, {"rules", "Retention documents"}, {"held", "kept by a hold alone"}}},
		{AttestationDropped, Audit, "A retention rule took verified evidence out of the store; its entry in the log stays. The event's digest is its first subject's.", []Field{
			{"id", "record, att_..."}, {"predicate_type", "of the statement"}, {"rule", "Retention document"}}},
		{HoldAdded, Audit, "Something is on legal hold: nobody can delete it. The event's digest is the held one, if any.", []Field{
			{"id", "hold, hold_..."}, {"repository", "held, or where the digest is held"}, {"tag", "that named it"}, {"reason", "why"}, {"until", "when it ends by itself"}, {"locked", "objects that the object store locked"}}},
		{HoldRemoved, Audit, "A legal hold ended, by hand or at its time.", []Field{
			{"id", "hold, hold_..."}, {"repository", "held"}, {"tag", "that named it"}, {"reason", "why it ended"}}},
		{ArtifactDenied, Audit, "A push, pull or delete was refused.", []Field{
			{"repository", "repository name"}, {"tag", "tag, if any"}, {"action", "push, pull or delete"}, {"operation", "as in the metrics"},
			{"decision", "deny"}, {"cause", "rights: whoever asked may not; gate: what was asked for, or its state, may not"}, {"reason", "why"}, {"address", "whence"}, {"user_agent", "the client's, clipped"}, {"credential", "that proved the identity"},
			{"micros", "from the request to the refusal"}}},
		{TagMoved, Audit, "A tag names another manifest. The event's digest is the new one.", []Field{
			{"repository", "repository name"}, {"tag", "the tag"}, {"from", "digest before; absent for a new tag"},
			{"number", "of the push to this tag that it comes from"}, {"pushed_by", "who pushed it, when a promotion moved it"}, {"reason", "of a promotion"}, {"profile", "dev: counts in no objective"}}},
		{TagDeleted, Audit, "A tag was deleted. The event's digest is what it named.", []Field{
			{"repository", "repository name"}, {"tag", "the tag"}}},
		{TagHeld, Audit, "A push to a tag waits until evidence allows its manifest; the tag did not move. The event's digest is the manifest's.", []Field{
			{"repository", "repository name"}, {"tag", "the tag"}, {"number", "of the push to this tag"}}},
		{ArtifactPromoted, Domain, "A manifest that was staged or rejected is for all who may pull now, and the tags that waited for it moved.", []Field{
			{"repository", "repository name"}, {"from", "state before"}, {"basis", "decision, warn, hand, or the index that it is part of"}, {"reason", "why"},
			{"decision", "decision, dec_..."}, {"tags", "that moved"}, {"children", "manifests of the index that became active with it"}}},
		{ArtifactRejected, Domain, "A manifest is not for all who may pull any longer, or waited for evidence too long.", []Field{
			{"repository", "repository name"}, {"from", "state before"}, {"reason", "why"}, {"decision", "decision, dec_..."}, {"tags", "that were given up waiting"}}},
		{ArtifactQuarantined, Alert, "A digest is served to nobody, in any repository, until it is released.", []Field{
			{"reason", "why"}, {"children", "manifests of the index that share it"}, {"pulls", "how often it was pulled before"}}},
		{ArtifactReleased, Audit, "A quarantine was lifted.", []Field{
			{"reason", "why"}}},
		{ArtifactRevoked, Alert, "A digest is served to nobody, in any repository, for good.", []Field{
			{"reason", "why"}, {"source", "registry, or trust: the revocation list"}, {"children", "manifests of the index that share it"}, {"pulls", "how often it was pulled before"}}},
		{AttestationIngested, Domain, "Verified evidence was stored. The event's digest is its subject's.", []Field{
			{"id", "record, att_..."}, {"predicate_type", "of the statement"}, {"identity", "signer's subject"},
			{"issuer", "signer's issuer"}, {"log_index", "in the transparency log"}, {"source", "where it came from"},
			{"repository", "where it was pushed"}}},
		{AttestationRejected, Audit, "Evidence did not verify and was not stored.", []Field{
			{"source", "where it came from"}, {"repository", "where it was pushed"}, {"code", "short reason"}, {"reason", "why"}}},
		{BuildFailed, Domain, "A build failed; what it left is not attested as good. The event's digest is the SHA-256 of the build's id.", []Field{
			{"id", "record, att_..."}, {"identity", "signer's subject"}, {"issuer", "signer's issuer"}, {"key", "signer's key, in place of both"}}},
		{BuildLogStored, Audit, "The first lines of a build's log were taken in; their uploader's word, signed by nobody.", []Field{
			{"log", "log_…"}, {"build", "the build's ID"}, {"repository", "whose log it is; may be empty"}, {"source", "upload or otlp"},
		}},
		{BuildLogDeleted, Audit, "A build's log was deleted, by a person or by its age.", []Field{
			{"log", "log_…"}, {"build", "the build's ID"}, {"repository", "whose log it was"}, {"lines", "how many it had"}, {"reason", "why"},
		}},
		{BuildStarted, Audit, "A build began; what its contract expects is owed from its push on.", []Field{
			{"build", "bld_..."}, {"repository", "that it will push to"}, {"workflow", "that its token names"}, {"contract", "name; absent: nothing is expected"}, {"version", "of the contract"}}},
		{BuildFinished, Audit, "A build that had been told of is over.", []Field{
			{"build", "bld_..."}, {"repository", "repository name"}, {"outcome", "passed or failed"}, {"products", "how many it says that it made"}, {"seconds", "from its start"}}},
		{EvidenceMissing, Alert, "Evidence that a contract expects was not there when its time after the push was over, or is there no longer. The event's digest is the artifact's.", []Field{
			{"repository", "repository name"}, {"contract", "name"}, {"version", "of the contract"}, {"build", "bld_..., when one was told of"},
			{"missing", "names of what is missing"}, {"reasons", "why each does not count"}, {"seconds", "the contract's time"}}},
		{EvidenceCompleted, Domain, "All evidence is there that had been missing.", []Field{
			{"repository", "repository name"}, {"contract", "name"}, {"version", "of the contract"}, {"build", "bld_..., when one was told of"}, {"late_seconds", "after the contract's time was over"}}},
		{SourcePushed, Domain, "A protected branch moved, as its forge told. The event's digest stands for the commit that it moved to.", []Field{
			{"source", "its name in the configuration"}, {"repository", "URL at the forge"}, {"ref", "the protected branch"}, {"before", "commit"}, {"after", "commit"}}},
		{SourceReviewed, Domain, "A reviewer spoke on a change. The event's digest stands for the commit that was reviewed.", []Field{
			{"source", "its name in the configuration"}, {"repository", "URL at the forge"}, {"change", "number of the pull or merge request"}, {"commit", "that the reviewer saw"},
			{"state", "approved, changes_requested, commented or dismissed"}, {"stale", "the change has another head by now"}, {"own", "by the change's author"}}},
		{SourceForcePushed, Alert, "The history of a protected branch was rewritten, or the branch deleted.", []Field{
			{"source", "its name in the configuration"}, {"repository", "URL at the forge"}, {"ref", "the protected branch"}, {"before", "commit"}, {"after", "commit"}, {"reason", "which of the two"}}},
		{SourceTagMoved, Alert, "A tag was moved to another commit than it was known to name. The event's digest is of the commit that it names now.", []Field{
			{"source", "its name in the configuration"}, {"repository", "URL at the forge"}, {"ref", "the tag"}, {"before", "commit, or as the forge says it where nothing was known"}, {"after", "commit"}}},
		{SourceUnreviewed, Alert, "A protected branch moved to what was not reviewed.", []Field{
			{"source", "its name in the configuration"}, {"repository", "URL at the forge"}, {"ref", "the protected branch"}, {"before", "commit"}, {"after", "commit"}, {"reason", "what is missing"}, {"approvals", "how many there are, stale and own ones included"}}},
		{SourceReviewWithdrawn, Alert, "What a protected branch moved to counted as reviewed, and counts so no longer: its review was dismissed or taken back.", []Field{
			{"source", "its name in the configuration"}, {"repository", "URL at the forge"}, {"ref", "the protected branch"}, {"before", "commit"}, {"after", "commit"}, {"reason", "what took it back"}, {"approvals", "how many there are still, stale and own ones included"}}},
		{SourceMergeChanged, Alert, "A verified statement says of a commit that a merge in it holds changes that none of the merged branches brings. The event's digest stands for the commit.", []Field{
			{"id", "record, att_..."}, {"repository", "that the statement is about"}, {"commits", "the merge commits, some of them"}, {"count", "how many there are"}, {"identity", "signer's subject"}, {"issuer", "signer's issuer"}, {"key", "signer's key, in place of both"}}},
		{SourceProtectionChanged, Alert, "A branch is protected otherwise than when it was last looked at.", []Field{
			{"source", "its name in the configuration"}, {"repository", "URL at the forge"}, {"ref", "the protected branch"}, {"from", "the controls before, null at the first look"}, {"to", "the controls now"}}},
		{SourceWorkflowChanged, Alert, "A push changed files of the pipelines, or the forge did not tell which files it changed.", []Field{
			{"source", "its name in the configuration"}, {"repository", "URL at the forge"}, {"ref", "the protected branch"}, {"before", "commit"}, {"after", "commit"}, {"files", "of the pipelines"}, {"known", "the forge told of all files"}, {"reviewed", "the change was reviewed"}}},
		{SBOMIndexed, Domain, "A bill of materials was read and is searched and matched from now on. The event's digest is what it describes.", []Field{
			{"attestation", "record, att_..."}, {"format", "of the document"}, {"packages", "how many it names"}, {"quality", "score, 0 to 100"},
			{"incomplete", "it does not claim, or cannot, to hold everything"}}},
		{SBOMRefused, Domain, "A signed bill of materials could not be read; it counts as absent. The event's digest is what it describes.", []Field{
			{"attestation", "record, att_..."}, {"reason", "why"}}},
		{SBOMUploaded, Domain, "A bill of materials was handed in about a project, unsigned, and took the place of the one before. The event's digest stands for the project's name and version.", []Field{
			{"project", "name"}, {"version", "of the project"}, {"document", "its number"}, {"replaced", "documents that it took the place of"}}},
		{SBOMOverlaid, Domain, "What a signed overlay adds to the components of an artifact was read. The event's digest is the artifact's.", []Field{
			{"attestation", "record, att_..."}, {"problem", "why it counts as absent; empty: it counts"}}},
		{FeedImported, Domain, "An operation of an advisory feed came into force.", []Field{
			{"feed", "its name"}, {"ecosystem", "of its records; empty: several"}, {"operation", "its number"}, {"records", "how many are in force"},
			{"added", "records"}, {"changed", "records, withdrawn ones among them"}, {"withdrawn", "records"}, {"removed", "records"},
			{"skipped", "records that could not be read"}, {"archive", "digest of the bytes"}, {"partial", "only what changed was fetched"}, {"reason", "why an older or suspect one was taken"}}},
		{FeedRefused, Alert, "An advisory feed was refused; what was in force stays, and grows old.", []Field{
			{"feed", "its name"}, {"ecosystem", "of its records; empty: several"}, {"operation", "its number; 0: it did not come that far"}, {"reason", "why"}, {"archive", "digest of the bytes"}, {"blocked", "it is all there, and waits to be accepted"}}},
		{FeedFailed, Alert, "An advisory feed could not be fetched; it is tried again, and what was in force stays. Told when it begins.", []Field{
			{"feed", "its name"}, {"ecosystem", "of its records; empty: several"}, {"reason", "why"}}},
		{FeedStale, Alert, "An advisory feed was not looked at with success for longer than vuln.max_age: what depends on it is unknown from now on.", []Field{
			{"feed", "its name"}, {"ecosystem", "of its records; empty: several"}, {"operation", "in force"}, {"checked", "RFC 3339"}, {"seconds", "since then"}, {"reason", "why it could not be renewed"}}},
		{FeedAccepted, Audit, "An operation of an advisory feed that was blocked was accepted by a person.", []Field{
			{"feed", "its name"}, {"ecosystem", "of its records; empty: several"}, {"operation", "its number"}, {"problem", "for which it was blocked"}, {"reason", "that was given"}}},
		{FeedConfigured, Audit, "Where an advisory feed is fetched was set or taken away, or a fetch was asked for that may go back.", []Field{
			{"feed", "its name"}, {"what", "added, changed, removed or downgrade"}, {"url", "whence"}, {"reason", "of a downgrade"}}},
		{CanaryChanged, Audit, "A canary was added or removed.", []Field{
			{"canary", "its name"}, {"what", "added or removed"}, {"feed", "that must find it; empty: any that found it once"}}},
		{CanaryFailed, Alert, "What is known to be vulnerable comes out clean, or a feed finds less than half of what it found: the feed's operation is not used.", []Field{
			{"canary", "its name; density: the feed finds less than half"}, {"feed", "its name"}, {"ecosystem", "of its records; empty: several"}, {"operation", "that is blocked"},
			{"missing", "what is no longer found"}, {"matcher", "its version"}, {"reason", "why"}}},
		{MalwareFound, Page, "An artifact holds a malicious package; it is quarantined. The event's digest is the artifact's.", []Field{
			{"advisory", "MAL-..."}, {"component", "package URL"}, {"feed", "that says so"}, {"quarantine", "it is quarantined; false: it waits, or no registry is here to do that"}, {"action", "act_..., that waits for a person"}}},
		{RunnerAnomaly, Alert, "A build was not as earlier builds of its source. The event's digest is the first of what it made.", []Field{
			{"id", "anomaly, ano_..."}, {"what", "egress, domain, tool, program, command, trace, reuse, hidden, cache or more"}, {"name", "of the tool, cache or protocol"},
			{"before", "what was usual"}, {"after", "what is new"}, {"build", "invocation id"}, {"identity", "who signed"}, {"source", "repository"},
			{"workflow", "without its ref"}, {"artifacts", "digests that the build made, at most 16"}}},
		{RunnerAccepted, Audit, "An anomaly, or a first build, was taken into what is usual. The event's digest is what the build made.", []Field{
			{"id", "anomaly, ano_..., or build, run_..."}, {"what", "as in runner.anomaly, or first"}, {"name", "of the tool, cache or protocol"},
			{"after", "what is usual from now on"}, {"pattern", "in its place, when one was given"}, {"reason", "why"}}},
		{InventoryScanned, Domain, "A scan of a forge was handed in and held against the baseline of its estate.", []Field{
			{"id", "run, inv_..."}, {"estate", "what was scanned, estate_..."}, {"provider", "github, gitlab or gitea"}, {"url", "of the forge"}, {"state", "first, same, drifted or unknown"},
			{"items", "how many"}, {"findings", "how many"}, {"unknown", "parts that the forge did not tell"}, {"count", "of what is otherwise than in the baseline"}}},
		{InventoryDrifted, Alert, "A forge is not as its baseline says. Told once, until the difference changes.", []Field{
			{"id", "run, inv_..."}, {"estate", "what was scanned, estate_..."}, {"provider", "github, gitlab or gitea"}, {"url", "of the forge"}, {"state", "drifted"}, {"baseline", "run that was accepted, inv_..."},
			{"items", "how many"}, {"findings", "how many"}, {"unknown", "parts that the forge did not tell"}, {"count", "of what is otherwise"}, {"first", "changes and new findings, at most 10 of each"}}},
		{InventoryAccepted, Audit, "Somebody said that a forge is as it should be: the run is the baseline of its estate.", []Field{
			{"id", "run, inv_..."}, {"estate", "what was scanned, estate_..."}, {"url", "of the forge"}, {"before", "the baseline until now, inv_...; empty: none"}, {"reason", "why"}}},
		{FeedMatched, Domain, "An operation of an advisory feed was matched against everything stored: the receipt, also when nothing is affected.", []Field{
			{"feed", "its name"}, {"ecosystem", "of its records; empty: several"}, {"operation", "its number"}, {"advisories", "that changed"},
			{"opened", "matches of component and advisory"}, {"resolved", "matches"}, {"artifacts", "newly affected"},
			{"cpu_us", "processor time of matching, in microseconds"}, {"wall_us", "and by the clock"}}},
		{SBOMScanned, Domain, "The components of a bill of materials were looked up in the advisories in force. The event's digest is what it describes.", []Field{
			{"document", "its number"}, {"components", "how many"}, {"affected", "matches of component and advisory"}, {"unknown", "matches of which it cannot be told"},
			{"unmatched", "components that no feed can know"}, {"tier", "that it had in the queue"}, {"new", "components never seen before, which alone were looked up"}, {"advisories", "looked at for them"},
			{"cpu_us", "processor time of looking up, in microseconds"}, {"wall_us", "and by the clock"}, {"waited_us", "in the queue before"}}},
		{ReadinessProbed, Audit, "A defence was tried, or an exercise held.", []Field{
			{"name", "unsigned-push, unsigned-pod, restore, game-day, policy-review, revocation-drill, or another"}, {"status", "pass or fail"}, {"found", "what happened"},
		}},
		{ExceptionRequested, Audit, "Somebody asks that an artifact may run although checks fail. It excuses nothing yet.", []Field{
			{"id", "exc_..."}, {"kind", "exception or break-glass"}, {"checks", "that it excuses; null: all"}, {"until", "RFC 3339"}, {"reason", "why"}, {"requested_by", "who asked for it"}, {"decided_by", "who approved or rejected it"}, {"ticket", "elsewhere"},
		}},
		{ExceptionApproved, Alert, "Another person approved it: those checks only warn, until it ends.", []Field{
			{"id", "exc_..."}, {"kind", "exception or break-glass"}, {"checks", "that it excuses; null: all"}, {"until", "RFC 3339"}, {"reason", "why"}, {"requested_by", "who asked for it"}, {"decided_by", "who approved or rejected it"}, {"ticket", "elsewhere"},
		}},
		{ExceptionRejected, Audit, "The answer was no.", []Field{
			{"id", "exc_..."}, {"kind", "exception or break-glass"}, {"checks", "that it excuses; null: all"}, {"until", "RFC 3339"}, {"reason", "why"}, {"requested_by", "who asked for it"}, {"decided_by", "who approved or rejected it"}, {"ticket", "elsewhere"},
		}},
		{ExceptionWithdrawn, Audit, "It was ended before its time.", []Field{
			{"id", "exc_..."}, {"kind", "exception or break-glass"}, {"checks", "that it excuses; null: all"}, {"until", "RFC 3339"}, {"reason", "why"}, {"requested_by", "who asked for it"}, {"decided_by", "who approved or rejected it"}, {"ticket", "elsewhere"},
		}},
		{ExceptionExpired, Audit, "It is over: approved once, or never decided about.", []Field{
			{"id", "exc_..."}, {"kind", "exception or break-glass"}, {"checks", "that it excuses; null: all"}, {"until", "RFC 3339"}, {"reason", "why"}, {"requested_by", "who asked for it"}, {"decided_by", "who approved or rejected it"}, {"ticket", "elsewhere"},
		}},
		{ExceptionUsed, Audit, "A decision allows because of an exception.", []Field{
			{"id", "exc_..."}, {"decision", "dec_..."}, {"scope", "of the decision"}, {"checks", "that only warn for it"},
		}},
		{ActionHeld, Page, "The site would do something by itself that touches much of what runs: it waits for a person. Of a quarantine, nothing new may run the event's digest meanwhile.", []Field{
			{"id", "act_..."}, {"kind", "quarantine or policy-bundle"}, {"reason", "why the site would do it"}, {"touched", "running workloads that it touches"}, {"earlier", "and that other automatic actions touched shortly before"}, {"running", "workloads in all"}, {"share", "of all, in percent"}, {"limit", "percent from which it waits"},
		}},
		{ActionOverdue, Page, "Nobody answered in time: it waits all the same.", []Field{
			{"id", "act_..."}, {"kind", "quarantine or policy-bundle"}, {"reason", "why the site would do it"}, {"touched", "running workloads that it touches"}, {"earlier", "and that other automatic actions touched shortly before"}, {"running", "workloads in all"}, {"share", "of all, in percent"}, {"limit", "percent from which it waits"},
		}},
		{ActionApproved, Alert, "A person had it carried out.", []Field{
			{"id", "act_..."}, {"kind", "quarantine or policy-bundle"}, {"reason", "why the site would do it"}, {"touched", "running workloads that it touches"}, {"earlier", "and that other automatic actions touched shortly before"}, {"running", "workloads in all"}, {"share", "of all, in percent"}, {"limit", "percent from which it waits"}, {"decided_by", "who answered"}, {"answer", "why"},
		}},
		{ActionRefused, Alert, "A person said no: it is not done, and what waited for it is let go.", []Field{
			{"id", "act_..."}, {"kind", "quarantine or policy-bundle"}, {"reason", "why the site would do it"}, {"touched", "running workloads that it touches"}, {"earlier", "and that other automatic actions touched shortly before"}, {"running", "workloads in all"}, {"share", "of all, in percent"}, {"limit", "percent from which it waits"}, {"decided_by", "who answered"}, {"answer", "why"},
		}},
		{ActionSuperseded, Audit, "What waited is moot: something else is proposed in its place.", []Field{
			{"id", "act_..."}, {"kind", "quarantine or policy-bundle"}, {"reason", "why the site would do it"}, {"touched", "running workloads that it touches"}, {"earlier", "and that other automatic actions touched shortly before"}, {"running", "workloads in all"}, {"share", "of all, in percent"}, {"limit", "percent from which it waits"}, {"decided_by", "who answered"}, {"answer", "why"},
		}},
		{VEXStated, Audit, "The site states whether flaws concern its artifacts: decided here, or another's document taken over.", []Field{
			{"id", "of the statement, vex_..."}, {"source", "triage or import"}, {"author", "of an imported one, by its own word"}, {"reason", "that was given"},
			{"statements", "how many"}, {"vulnerability", "of the first"}, {"status", "of the first"}, {"until", "when it ends, RFC 3339; absent: no end"},
			{"approved_by", "the second person, where two are wanted"}}},
		{VEXWithdrawn, Audit, "A statement about flaws was taken back.", []Field{
			{"id", "of the statement, vex_..."}, {"reason", "why"}}},
		{VEXProposed, Audit, "A statement that takes findings away was proposed, and waits for another person.", []Field{
			{"id", "of the proposal, vexp_..."}, {"source", "triage or import"}, {"author", "of an imported one, by its own word"}, {"reason", "that was given"},
			{"statements", "how many"}, {"vulnerability", "of the first"}, {"status", "of the first"}}},
		{VEXRefused, Audit, "A proposed statement about flaws was refused.", []Field{
			{"id", "of the proposal, vexp_..."}, {"reason", "why"}}},
		{FindingOpened, Domain, "Advisories newly affect an artifact. The event's digest is the artifact's.", []Field{
			{"feed", "its name"}, {"ecosystem", "of its records; empty: several"}, {"operation", "its number"}, {"advisories", "the first of them"}, {"count", "of all"},
			{"malicious", "one is about a package that is itself the attack"}}},
		{FindingResolved, Domain, "Advisories affect an artifact no more: they changed, or were withdrawn. The event's digest is the artifact's.", []Field{
			{"feed", "its name"}, {"ecosystem", "of its records; empty: several"}, {"operation", "its number"}, {"advisories", "the first of them"}, {"count", "of all"},
			{"malicious", "one was about a package that is itself the attack"}}},
		{VulnMissed, Alert, "A scan came out clean and should not have: what affects the artifact was known, or published, before. The event's digest is the artifact's.", []Field{
			{"feed", "its name"}, {"ecosystem", "of its records; empty: several"}, {"operation", "that shows it"}, {"advisories", "the first of them"}, {"count", "of all"},
			{"causes", "how many matches by cause: record (the advisory was here, and was corrected), matcher (it was here, and was judged otherwise), feed (by its own word it was published before, and came later)"}}},
		{WorkloadStarted, Domain, "The first instance of a workload's container began to run a digest. The event's digest is what runs.", []Field{
			{"namespace", "where"}, {"kind", "of the workload"}, {"name", "of the workload"}, {"container", "within it"}, {"image", "reference that was asked for"},
			{"instances", "how many were seen"}, {"nodes", "the first of them"}}},
		{WorkloadStopped, Domain, "The last instance of a workload's container that ran a digest ended. The event's digest is what ran.", []Field{
			{"namespace", "where"}, {"kind", "of the workload"}, {"name", "of the workload"}, {"container", "within it"}, {"image", "reference that was asked for"}}},
		{WorkloadDenied, Alert, "What runs may not run: by evidence, policy, a revocation or a new finding since it was admitted, or it was never decided about. The event's digest is what runs.", workloadFields("why")},
		{WorkloadAllowed, Domain, "What runs may run again. The event's digest is what runs.", workloadFields("")},
		{WorkloadDrifted, Alert, "Another digest runs than the one that was admitted and pinned. The event's digest is what runs.", workloadFields("both digests")},
		{WorkloadUndecided, Alert, "For ten minutes nothing can be told of what runs: its node does not say which digest it is, or nobody can be asked about it. It runs without a Decision. The event's digest is what runs, where it is known.", workloadFields("why")},
		{ClusterGuardChanged, Alert, "A webhook configuration, or the policy that only digests may run, is gone from a cluster, says something else, or is back; or a first look found none.", []Field{
			{"kind", "resource"}, {"name", "of the object"}, {"what", "missing, changed or back"}}},
		{ClusterSilent, Alert, "A cluster was not heard of for long: what runs there, and what guards it, is not known any more.", []Field{{"heard", "when last"}}},
		{ClusterHeard, Domain, "A cluster that was silent is heard of again.", nil},
		{MeshWeakened, Alert, "Workloads of a namespace are reached with weaker mutual TLS than they were: their mesh's policy changed, or a proxy is gone. One event for all that changed alike.", []Field{
			{"namespace", "where"}, {"workloads", "KIND/NAME, the first 20; Namespace/NAME stands for what comes to be there"}, {"count", "of all"}, {"mesh", "istio or linkerd"},
			{"was", "before: strict, permissive, disabled, none or unknown"}, {"now", "since"}}},
		{MeshStrengthened, Domain, "Workloads of a namespace are reached with stronger mutual TLS than they were. One event for all that changed alike.", []Field{
			{"namespace", "where"}, {"workloads", "KIND/NAME, the first 20; Namespace/NAME stands for what comes to be there"}, {"count", "of all"}, {"mesh", "istio or linkerd"},
			{"was", "before: strict, permissive, disabled, none or unknown"}, {"now", "since"}, {"weaker", "workloads of the namespace that are still not strict"}}},
		{WorkloadIdentityChanged, Alert, "The SPIFFE identities that workloads of a namespace have are others than they were, or gone. One event for all that changed alike.", []Field{
			{"namespace", "where"}, {"workloads", "KIND/NAME, the first 20"}, {"count", "of all"}, {"was", "identities before, with blanks between; empty: none"}, {"now", "since; empty: none"},
			{"source", "spire, istio, claimed (an annotation, which is no proof), none or unknown"}}},
		{RuntimeReported, Alert, "Falco or Tetragon saw something in a container or on a host: once an hour for the same thing. The event's digest is the image's, as the inventory has it, else as the sensor says.", runtimeFields()},
		{RuntimeExecuted, Alert, "The agent of a host saw a file executed in a container that its image does not hold, or not with this content.", runtimeFields()},
		{RuntimeUnwatched, Alert, "The agent of a host could not tell whether what was executed is of the image, or missed some of it. It counts as nothing seen, never as clean.", runtimeFields()},
		{TicketOpened, Alert, "The gate holds an artifact back, and its owner is told: once for each artifact and cause. The event's team is the owner's.", []Field{
			{"ticket", "tkt_..."}, {"cause", "gate:REPOSITORY, quarantined or revoked"}, {"repository", "where it lies"}, {"owned", "false: nobody owns it, so that it went to the platform's team"},
			{"reason", "the first checks that failed"}, {"decision", "decision, dec_..."}, {"contacts", "of the team"}, {"mend", "commands that would"}, {"upgrades", "component, to which version, which flaws that mends and which it leaves"}}},
		{TicketClosed, Domain, "What an artifact was held back for is gone.", []Field{
			{"ticket", "tkt_..."}, {"cause", "as in ticket.opened"}, {"repository", "where it lies"}, {"reason", "why"}, {"open_seconds", "how long it was open"}}},
		{DecisionMade, Domain, "A digest was decided upon for a scope.", []Field{
			{"id", "decision, dec_..."}, {"scope", "scope's id"}, {"verdict", "allow or deny"}, {"mode", "audit, warn or enforce"},
			{"policy", "policy hash"}, {"facts", "facts hash"}, {"valid_until", "RFC 3339"}}},
		{DecisionChanged, Domain, "A digest that was decided upon has another verdict now, or is denied with another effect: refused, where a roll-out only warned.", []Field{
			{"id", "decision, dec_..."}, {"scope", "scope's id"}, {"from", "verdict before"}, {"verdict", "verdict now"}, {"mode", "audit, warn or enforce"}, {"reason", "what changed"}}},
		{AdmissionAllowed, Audit, "A cluster was told that an image of a Pod may run. The event's digest is the image's, its actor the cluster's user.", withoutReason(admissionFields(""))},
		{AdmissionDenied, Audit, "A cluster was told that an image of a Pod may not run. The event's digest is the image's, where it was found out; its actor the cluster's user.", admissionFields("why")},
		{AdmissionWarned, Audit, "An image may run in a cluster though it is not allowed: in mode audit or warn, in a namespace in which nothing is refused, or because it runs there already and only time speaks against it.", admissionFields("what speaks against it")},
		{BuildChecked, Audit, "A pipeline was told whether what it built may run. The event's digest is its first image's.", []Field{
			{"verdict", "allow, deny, undecided or slow-lane"}, {"images", "of the build"}, {"namespace", "where they were to run"}, {"slow_lane", "the restricted namespace, where one was named"}, {"reason", "checks that failed"}}},
		{FunctionAllowed, Audit, "A package of a function may be activated.", functionFields()},
		{FunctionRefused, Audit, "A package of a function may not be activated.", functionFields()},
		{RolloutJudged, Audit, "A canary may go on, or has to wait, and could not or did not before. The event's digest is its first image's.", rolloutFields()},
		{RolloutRefused, Alert, "A canary is to be rolled back: it is denied, brings new findings, or burns its service's error budget. The event's digest is its first image's.", rolloutFields()},
		{CertificateIssued, Audit, "The CA issued a signing certificate.", []Field{
			{"serial", "hex"}, {"subject", "subject alternative name"}, {"issuer", "of the identity token"},
			{"not_after", "RFC 3339"}, {"key", "SHA-256 of the public key"}}},
		{TokenIssued, Audit, "A token was handed out.", []Field{
			{"subject", "whom it names"}, {"audience", "what it is good for"}, {"expires", "RFC 3339"}, {"scope", "repositories and actions"},
			{"use", "scoped, exchange or refresh, of the registry's own tokens"}, {"address", "whence"}, {"credential", "that bought it"},
			{"count", "scoped tokens that this event stands for"}}},
		{TokenRefused, Audit, "A token was asked for and not handed out.", []Field{
			{"subject", "who asked"}, {"audience", "for what"}, {"reason", "why"}}},
		{LoginFailed, Audit, "Credentials were presented that do not hold. The actor is anonymous, or who had what was revoked.", []Field{
			{"door", "registry, api, authority, log"}, {"address", "whence; an IPv6 network of 64 bits, or many"}, {"class", "kind of fault"},
			{"reason", "of the latest"}, {"count", "refusals that this event stands for"}, {"credential", "that was revoked: jwt:... or robot:..."}}},
		{SessionOpened, Audit, "Somebody logged in to the pages of the UI.", []Field{
			{"credential", "that was shown: jwt:... or robot:..."}, {"address", "whence"}, {"seconds", "how long it holds at most"}}},
		{SessionClosed, Audit, "Somebody logged out of the pages of the UI.", []Field{{"credential", "that was shown at the login"}}},
		{RobotChanged, Audit, "A robot was made, given another token, or taken away.", []Field{
			{"robot", "its name"}, {"action", "created, rotated or deleted"}, {"token", "id of its new token"}, {"expires", "of that token, RFC 3339"},
			{"rights", "role and scope, each"}}},
		{CredentialRevoked, Audit, "Credentials were revoked: a robot's, one by its id, or all of an identity so far.", []Field{
			{"id", "of the revocation, rev_..."}, {"credential", "jwt:... or robot:..."}, {"issuer", "of the identity"}, {"identity", "its name"},
			{"since", "from when on earlier use was not right, RFC 3339"}, {"reason", "why"}}},
		{PullUnauthorized, Alert, "Pulls were served whose right proved invalid later.", []Field{
			{"revocation", "rev_..., or what revoked the digest"}, {"count", "pulls served since then"}, {"since", "RFC 3339"},
			{"credential", "that was revoked"}, {"identity", "that was revoked"}, {"reason", "of the revocation"}}},
		{BreakGlass, Alert, "Somebody took the break-glass administrator's rights, over the admin socket.", []Field{
			{"subject", "of the token, break-glass:..."}, {"reason", "that was given"}, {"expires", "RFC 3339"}}},
		{PolicyApplied, Audit, "A policy was set or changed.", []Field{
			{"name", "policy's name"}, {"hash", "its hash now"}, {"from", "its hash before"}}},
		{PolicyModeChanged, Audit, "What a denial by a policy does was changed, after what it would refuse was looked at.", []Field{
			{"policy", "its name"}, {"from", "audit, warn or enforce"}, {"to", "the mode now"}, {"reason", "that was given"},
			{"accepted", "causes of new refusals that were accepted"}, {"stricter", "recorded decisions whose effect is harder now"}}},
		{PolicyBundleChanged, Audit, "A bundle of policies was put in force, or taken out of it.", []Field{
			{"name", "of the bundle"}, {"version", "0: it is in force no more"}, {"from", "version before; 0: none"}, {"digest", "of its content"},
			{"signers", "who signed it; none: that was allowed"}, {"origin", "whence it came"}, {"reason", "that was given"}, {"rollback", "it is older than one that was in force"}}},
		{PolicyBundleRefused, Alert, "A bundle of policies that the site follows is bad, and the last good one stays in force; or it is good again.", []Field{
			{"name", "of the bundle"}, {"origin", "whence it came"}, {"problem", "what is wrong with it; none: nothing is any more"}}},
		{ConfigApplied, Audit, "Configuration was applied.", []Field{
			{"what", "repositories, roles, issuers, ..."}, {"added", "names"}, {"changed", "names"}, {"removed", "names"}}},
		{RootImported, Audit, "A foreign root of trust counts from now on, or was changed.", []Field{
			{"name", "of the root"}, {"type", "sigstore, keys, x509 or notation"}, {"version", "of the document"}, {"namespaces", "repositories it counts for"}}},
		{RootRemoved, Audit, "A foreign root of trust counts no more.", []Field{
			{"name", "of the root"}, {"version", "of the removal"}}},
		{DelegationMade, Audit, "A part of what the organisation may sign was handed to identities or keys, or that was changed.", []Field{
			{"name", "of the delegation"}, {"version", "of the document"}, {"patterns", "repositories"}, {"predicate_types", "what may be signed"},
			{"expires", "RFC 3339"}, {"log_index", "in the transparency log"}}},
		{DelegationRemoved, Audit, "A delegation was ended.", []Field{
			{"name", "of the delegation"}, {"version", "of the removal"}, {"log_index", "in the transparency log"}}},
		{TrustChanged, Audit, "A root, a revocation or a delegation changed; the trust epoch rose.", []Field{
			{"what", "root, revocation or delegation"}, {"name", "which"}, {"epoch", "the epoch now"}, {"hash", "of the new document"}}},
		{TrustRootImported, Audit, "A TUF root that was signed offline was published.", []Field{
			{"version", "of the root"}, {"expires", "when it expires"}, {"hash", "of the file"}, {"signatures", "of distinct root keys"}}},
		{TrustRootExpiring, Alert, "The TUF root nears its expiry and its keys are not on this server: people must sign the next one.", []Field{
			{"version", "of the root"}, {"expires", "when it expires"}, {"days", "left, whole"}}},
		{TrustRevoked, Audit, "Something is trusted no more; the trust epoch rose.", []Field{
			{"target", "key, identity, certificate, builder, log range or artifact"}, {"kind", "which of them"}, {"since", "RFC 3339"},
			{"reason", "why"}, {"version", "of the list"}, {"log_index", "of the list in the transparency log"},
			{"artifacts", "how many lose evidence"}, {"attestations", "how many count no more"}}},
		{RevocationAffects, Domain, "An artifact lost evidence by a revocation, or is revoked itself. The first 1,000 of a revocation are told, those that lose most first.", []Field{
			{"version", "of the list"}, {"attestations", "how many of its bundles count no more"}}},
		{SignerFirstSeen, Audit, "An issuer, an identity or a key signed in a repository for the first time. The event's digest is what was signed.", []Field{
			{"repository", "repository name"}, {"what", "issuer, identity or key"}, {"who", "which"}, {"issuer", "of an identity"}, {"id", "record, att_..."}}},
		{SignerUnlogged, Alert, "One of our identities signed what our own log does not hold: its key or its issuer may be in other hands.", []Field{
			{"id", "record, att_..."}, {"issuer", "signer's issuer"}, {"identity", "signer's subject"}, {"root", "that it verified under"},
			{"log_id", "log that holds it, if any"}, {"repository", "where it was pushed"}}},
		{KeyCreated, Audit, "A key was made.", []Field{
			{"role", "what it signs"}, {"fingerprint", "SHA-256 of the public key"}, {"algorithm", "for example ECDSA P-256"},
			{"name", "in the key store"}, {"reason", "compromised, when the key before it is"}}},
		{KeyRotated, Audit, "A key took over from another.", []Field{
			{"role", "what it signs"}, {"name", "of the new key"}, {"fingerprint", "of the new key"}, {"from", "fingerprint of the key before"},
			{"end", "of the window of the key before, RFC 3339"}, {"reason", "compromised, when the key before it is"}}},
		{KeyRetired, Audit, "The window of a key has ended; what it signed before goes on to verify.", []Field{
			{"role", "what it signed"}, {"name", "in the key store"}, {"fingerprint", "SHA-256 of the public key"}, {"end", "of its window, RFC 3339"},
			{"reason", "compromised, when it is"}}},
		{KeyExpiring, Alert, "A key's certificate, or the TUF root, ends soon. Told once for each threshold.", []Field{
			{"role", "what it signs"}, {"name", "in the key store"}, {"fingerprint", "SHA-256 of the public key"},
			{"expires", "RFC 3339"}, {"threshold_seconds", "time before the end that has been reached"}}},
		{LogUnwitnessed, Alert, "Checkpoints of the transparency log lack their quorum of witnesses.", []Field{
			{"size", "entries of the checkpoint"}, {"have", "witnesses that signed it"}, {"missing", "the others, each with why"},
			{"quorum", "how many are wanted"}, {"outage", "degrade: published all the same; refuse: held back"}}},
		{LogWitnessed, Domain, "Checkpoints of the transparency log have their quorum of witnesses again.", []Field{
			{"size", "entries of the checkpoint"}, {"have", "witnesses that signed it"}, {"missing", "the others, each with why"},
			{"quorum", "how many are wanted"}, {"outage", "what happens without"}}},
		{LogHeadPublished, Domain, "A head of this chain entered the transparency log.", []Field{
			{"batch", "the head's batch"}, {"hash", "the head's hash, hex"}, {"last_seq", "last event it covers"}, {"log_index", "in the transparency log"}}},
		{EventsDropped, Audit, "Old events were dropped by retention; their heads are kept.", []Field{
			{"last_batch", "last batch dropped"}, {"last_seq", "last event dropped"}, {"hash", "that batch's head, hex"}, {"count", "events dropped at this step"}}},
		{StoreTampered, Alert, "Stored bytes are not what they were.", []Field{
			{"what", "blob, event, log, database"}, {"name", "which"}, {"expected", "what was expected"}, {"found", "what was found"}}},
		{StoreRepaired, Audit, "Stored bytes that were damaged are right again, and what only they kept back is released.", []Field{
			{"what", "blob"}, {"name", "which"}, {"source", "where the right bytes came from"}, {"bytes", "how many; -1 where it was put back by hand"}, {"released", "manifests that nothing damaged keeps back any longer"}}},
		{StoreRepairRefused, Audit, "A source that was to repair stored bytes has others; nothing was changed.", []Field{
			{"what", "blob"}, {"name", "which"}, {"source", "that was asked"}, {"found", "what it gave"}}},
		{BundleExported, Audit, "A file for another site was made and signed. The event's digest is the signed manifest's.", []Field{
			{"target", "whom it is for"}, {"sequence", "its number for this target"}, {"full", "whether it stands alone"}, {"repositories", "patterns"},
			{"members", "how many"}, {"bytes", "of all members"}, {"log_index", "of the manifest's signature"}, {"expires", "until when it can be imported"}}},
		{BundleImported, Audit, "A file of another site was imported whole: everything in it is visible from now on. The event's digest is the signed manifest's.", []Field{
			{"origin", "the exporting site"}, {"target", "whom it was made for"}, {"sequence", "its number"}, {"full", "whether it stands alone"},
			{"manifests", "that came"}, {"evidence", "bundles that came"}, {"refused", "what the gate did not let in, at most 16"}, {"revocations", "version of the origin's list"}, {"policies", "documents that were applied"}}},
		{BundleRefused, Alert, "A file of another site was refused, and nothing of it is visible.", []Field{
			{"origin", "the site that it says it is of, unproven"}, {"sequence", "its number, unproven"}, {"code", "why, for programs"}, {"reason", "why"}}},
		{UpstreamMismatch, Alert, "A gateway's upstream served other content than the digest says that it was asked for. Nothing of it was kept. The event's digest is the one asked for.", []Field{
			{"repository", "here"}, {"upstream", "host and repository"}, {"reference", "tag or digest that was asked for"}, {"found", "what was wrong"}}},
		{BackupCreated, Audit, "A backup's manifest was signed.", []Field{
			{"id", "of the backup"}, {"parent", "the backup before"}, {"objects", "its list of objects, SHA-256"}, {"recipients", "whom it is encrypted to"}}},
		{RestoreReconciled, Alert, "A restored log was let go on.", []Field{
			{"backup", "restored from"}, {"how", "outside knowledge, caught up, loss accepted"}, {"reason", "the operator's"}, {"logs", "name, restored size, size from which it goes on"}}},
		{WebhookFailing, Alert, "A webhook did not take an event in three days, or wants none: it was given up.", []Field{
			{"hook", "the document's name"}, {"event", "evt_..."}, {"kind", "of that event"}, {"attempts", "how often it was tried"}, {"reason", "the last failure"}}},
		{SIEMStalled, Alert, "A SIEM sink took nothing for ten minutes. What it has not taken is kept.", []Field{
			{"sink", "its name in the configuration"}, {"backlog", "sealed events that it has not passed"}, {"since", "of the first failure, RFC 3339"}, {"reason", "the last failure"}}},
		{SIEMResumed, Domain, "A SIEM sink that had stalled has all events again.", []Field{
			{"sink", "its name in the configuration"}, {"backlog", "sealed events that it has not passed: 0"}}},
		{AlertOpened, Domain, "A rule found that something is wrong. The event's digest is the artifact's, its team whom it goes to.", []Field{
			{"id", "alert, alr_..."}, {"rule", "its name"}, {"severity", "page or ticket"}, {"group", "grp_..., that it is told of in"}, {"owned", "false: nobody owns it, so that it went to the platform's team"},
			{"cause", "event that told, evt_..."}, {"title", "in short"}, {"of", "kind of that event; empty: several together"}, {"after_ms", "milliseconds from that event to the alert"}}},
		{AlertAcknowledged, Audit, "Somebody said that they deal with an alert and those of its group.", []Field{
			{"id", "alert, alr_..."}, {"rule", "its name"}, {"group", "grp_..."}, {"seconds", "since it was opened"}, {"note", "of who acknowledged it"}}},
		{AlertEscalated, Domain, "Nobody acknowledged a page in time: it is told of again, further up.", []Field{
			{"group", "grp_..."}, {"times", "how often by now"}, {"alerts", "how many wait"}}},
		{AlertResolved, Domain, "What an alert was about is over, or somebody said so.", []Field{
			{"id", "alert, alr_..."}, {"rule", "its name"}, {"group", "grp_..."}, {"seconds", "how long it was open"}}},
		{AlertSilenced, Audit, "Notices of alerts are kept back for a time.", []Field{
			{"id", "silence, sil_..."}, {"rule", "its name; empty: any"}, {"severity", "page or ticket; empty: both"}, {"cluster", "name; empty: any"}, {"reason", "why"}, {"expires", "RFC 3339"}}},
		{AlertSilenceEnded, Audit, "A silence was ended before its time.", []Field{{"id", "silence, sil_..."}}},
		{AlertUndelivered, Domain, "A receiver did not take a notice for three days, or there is no receiver for it: nobody was told.", []Field{
			{"group", "grp_..."}, {"receiver", "its name; empty: there is none"}, {"attempts", "how often it was tried"}, {"reason", "the last failure"}}},
		{ServerStarted, Domain, "A server started.", []Field{
			{"version", "of the binary"}, {"listen", "addresses"}, {"public_url", "its public URL"}}},
		{ServerStopped, Domain, "A server stopped in good order.", []Field{
			{"reason", "signal or error"}}},
	}
}

// known maps each kind to its class.
var known = func() map[Kind]Class {
	m := map[Kind]Class{}
	for _, k := range kinds {
		m[k.Kind] = k.Class
	}
	return m
}()

// Class is what the kind is for; "" for an unknown kind.
func (k Kind) Class() Class { return known[k] }

// Validate says whether the kind stands in the table.
func (k Kind) Validate() error {
	if known[k] == "" {
		return fault.Newf(fault.Invalid, "event kind %.60q: not one of those in event/kinds.go", string(k))
	}
	return nil
}
