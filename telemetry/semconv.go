package telemetry

import "go.opentelemetry.io/otel/attribute"

// SchemaURL is the version of OpenTelemetry's semantic conventions that the
// names of this file are taken from. All names stand here and nowhere else, so
// that a new version of the conventions is one change.
const SchemaURL = "https://opentelemetry.io/schemas/1.43.0"

// Names of the semantic conventions: artifacts, OCI, version control, CI, HTTP.
const (
	AttestationID  = attribute.Key("artifact.attestation.id")
	ArtifactHash   = attribute.Key("artifact.hash")
	ArtifactPURL   = attribute.Key("artifact.purl")
	ManifestDigest = attribute.Key("oci.manifest.digest")

	VCSRepository = attribute.Key("vcs.repository.url.full")
	VCSRevision   = attribute.Key("vcs.ref.head.revision")
	VCSRef        = attribute.Key("vcs.ref.head.name")

	PipelineName  = attribute.Key("cicd.pipeline.name")
	PipelineRunID = attribute.Key("cicd.pipeline.run.id")
	WorkerID      = attribute.Key("cicd.worker.id")

	HTTPMethod    = attribute.Key("http.request.method")
	HTTPStatus    = attribute.Key("http.response.status_code")
	HTTPRoute     = attribute.Key("http.route")
	URLPath       = attribute.Key("url.path")
	ServerAddress = attribute.Key("server.address")
	ErrorType     = attribute.Key("error.type")

	ServiceName     = attribute.Key("service.name")
	ServiceVersion  = attribute.Key("service.version")
	ServiceInstance = attribute.Key("service.instance.id")
	LogFilePath     = attribute.Key("log.file.path")
	LogStream       = attribute.Key("log.iostream")
)

// Names of this program, where the conventions have none.
const (
	DecisionID  = attribute.Key("assay.decision.id")
	Verdict     = attribute.Key("assay.decision.verdict")
	Policy      = attribute.Key("assay.policy.name")
	Scope       = attribute.Key("assay.scope")
	Repository  = attribute.Key("assay.repository")
	Tag         = attribute.Key("assay.tag")
	LogIndex    = attribute.Key("assay.log.index")
	Feed        = attribute.Key("assay.feed.name")
	Items       = attribute.Key("assay.items")
	GateState   = attribute.Key("assay.gate.state")
	EvidenceOf  = attribute.Key("assay.evidence.type")
	RequestedBy = attribute.Key("assay.door")
)

// Scope names of what this program sends: its instrumentation scope.
const instrumentation = "assay"
