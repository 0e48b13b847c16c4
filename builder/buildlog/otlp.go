package buildlog

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	collectlogs "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	pbcommon "go.opentelemetry.io/proto/slim/otlp/common/v1"
	pblogs "go.opentelemetry.io/proto/slim/otlp/logs/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"assay/artifact"
	"assay/internal/fault"
	"assay/telemetry"
)

// maxRecords bounds the records of one request, and maxDepth how deep a body may
// be nested.
const (
	maxRecords = 50_000
	maxDepth   = 32
)

// Part is what one request says of one build.
type Part struct {
	Target
	Lines []Line
}

// Parsed is what an OTLP request holds.
type Parsed struct {
	Parts    []Part
	Rejected int64  // records that name no build
	Reason   string // of the first
}

// ParseOTLP reads an ExportLogsServiceRequest, as protobuf or JSON. The build is
// cicd.pipeline.run.id, of the record or its resource; the artifact, where it is
// named, oci.manifest.digest or artifact.hash; the repository assay.repository.
func ParseOTLP(b []byte, asJSON bool) (out Parsed, err error) {
	var m collectlogs.ExportLogsServiceRequest
	if asJSON {
		err = protojson.UnmarshalOptions{DiscardUnknown: true, RecursionLimit: maxDepth}.Unmarshal(b, &m)
	} else {
		err = proto.UnmarshalOptions{DiscardUnknown: true, RecursionLimit: maxDepth}.Unmarshal(b, &m)
	}
	if err != nil {
		return out, fault.Newf(fault.Invalid, "this is no OTLP ExportLogsServiceRequest: %.200s", err.Error())
	}
	p := parser{at: map[string]int{}}
	for _, rl := range m.GetResourceLogs() {
		of := named(rl.GetResource().GetAttributes())
		for _, sl := range rl.GetScopeLogs() {
			for _, rec := range sl.GetLogRecords() {
				if p.records++; p.records > maxRecords {
					return out, fault.Newf(fault.TooLarge, "more than %d log records in one request", maxRecords)
				}
				p.record(rec, of, asJSON)
			}
		}
	}
	return p.out, nil
}

type parser struct {
	out     Parsed
	at      map[string]int
	records int
}

// about is what attributes say that lines are of.
type about struct{ build, repository, digest, stream string }

func named(list []*pbcommon.KeyValue) (a about) {
	for _, kv := range list {
		v := kv.GetValue().GetStringValue()
		if v == "" {
			continue
		}
		switch kv.GetKey() {
		case string(telemetry.PipelineRunID):
			a.build = v
		case string(telemetry.Repository):
			a.repository = v
		case string(telemetry.ManifestDigest), string(telemetry.ArtifactHash):
			a.digest = v
		case string(telemetry.LogStream):
			a.stream = v
		}
	}
	return a
}

func (p *parser) reject(format string, args ...any) {
	p.out.Rejected++
	if p.out.Reason == "" {
		p.out.Reason = fmt.Sprintf(format, args...)
	}
}

func (p *parser) record(rec *pblogs.LogRecord, of about, asJSON bool) {
	own := named(rec.GetAttributes())
	for _, x := range [...]struct{ own, of *string }{{&own.build, &of.build}, {&own.repository, &of.repository}, {&own.digest, &of.digest}, {&own.stream, &of.stream}} {
		if *x.own == "" {
			*x.own = *x.of
		}
	}
	if err := ValidBuild(own.build); err != nil {
		p.reject("a record names no build: %s", err)
		return
	}
	var digests []artifact.Digest
	if own.digest != "" {
		d, err := artifact.ParseDigest(own.digest)
		if err != nil {
			p.reject("a record names no artifact: %s", err)
			return
		}
		digests = []artifact.Digest{d}
	}
	line := Line{Stream: own.stream, Text: plain(bodyText(rec.GetBody(), 0))}
	if line.Stream == "" {
		line.Stream = rec.GetSeverityText()
	}
	for _, ns := range [...]uint64{rec.GetTimeUnixNano(), rec.GetObservedTimeUnixNano()} {
		if ns > 0 && ns < 1<<63 && line.Time.IsZero() {
			line.Time = time.Unix(0, int64(ns)).UTC()
		}
	}
	if id := traceID(rec.GetTraceId(), asJSON); id != "" {
		line.Text += " trace_id=" + id
	}
	key := own.build + "\x00" + own.repository + "\x00" + own.digest
	i, ok := p.at[key]
	if !ok {
		i = len(p.out.Parts)
		p.at[key] = i
		p.out.Parts = append(p.out.Parts, Part{Target: Target{Build: own.build, Repository: own.repository, Digests: digests, Source: "otlp"}})
	}
	p.out.Parts[i].Lines = append(p.out.Parts[i].Lines, line)
}

// traceID gives the ID in hex. OTLP's JSON has it in hex already, which the
// reader of protobuf's JSON took for base64 (OTLP, "JSON Protobuf Encoding").
func traceID(b []byte, asJSON bool) string {
	if asJSON && len(b) == 24 {
		if raw, err := hex.DecodeString(base64.StdEncoding.EncodeToString(b)); err == nil {
			b = raw
		}
	}
	if len(b) != 16 {
		return ""
	}
	return hex.EncodeToString(b)
}

// bodyText is a body as a line.
func bodyText(v *pbcommon.AnyValue, depth int) string {
	if depth > maxDepth {
		return "…"
	}
	switch x := v.GetValue().(type) {
	case *pbcommon.AnyValue_StringValue:
		return x.StringValue
	case *pbcommon.AnyValue_BoolValue:
		return strconv.FormatBool(x.BoolValue)
	case *pbcommon.AnyValue_IntValue:
		return strconv.FormatInt(x.IntValue, 10)
	case *pbcommon.AnyValue_DoubleValue:
		return strconv.FormatFloat(x.DoubleValue, 'g', -1, 64)
	case *pbcommon.AnyValue_BytesValue:
		return fmt.Sprintf("%d bytes", len(x.BytesValue))
	case *pbcommon.AnyValue_ArrayValue:
		out := ""
		for i, e := range x.ArrayValue.GetValues() {
			if i > 0 {
				out += " "
			}
			if out += bodyText(e, depth+1); len(out) > MaxLine {
				break
			}
		}
		return out
	case *pbcommon.AnyValue_KvlistValue:
		out := ""
		for i, kv := range x.KvlistValue.GetValues() {
			if i > 0 {
				out += " "
			}
			if out += kv.GetKey() + "=" + bodyText(kv.GetValue(), depth+1); len(out) > MaxLine {
				break
			}
		}
		return out
	}
	return ""
}

// Answer is the ExportLogsServiceResponse, which says what was not taken.
func (p *Parsed) Answer(asJSON bool) ([]byte, error) {
	m := &collectlogs.ExportLogsServiceResponse{}
	if p.Rejected > 0 {
		m.PartialSuccess = &collectlogs.ExportLogsPartialSuccess{RejectedLogRecords: p.Rejected, ErrorMessage: clip(p.Reason, 500)}
	}
	if asJSON {
		return protojson.Marshal(m)
	}
	return proto.Marshal(m)
}
