package admission

import (
	"net/url"
	"strconv"
	"strings"

	"assay/artifact"
	"assay/internal/strictjson"
	"assay/telemetry"
)

// operation is one of a JSON Patch (RFC 6902).
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// pinned is a reference with the digest that was decided about. The tag stays, for
// people: of both, runtimes go by the digest.
func pinned(r artifact.Reference, d artifact.Digest) string { return r.WithDigest(d).String() }

// otelAttributes is the variable that OpenTelemetry's SDKs read.
const otelAttributes = "OTEL_RESOURCE_ATTRIBUTES"

// attributes are what a container's telemetry says of its image, in the names of
// OpenTelemetry's semantic conventions.
func attributes(a *Answer) string {
	pairs := []string{string(telemetry.ManifestDigest) + "=" + url.QueryEscape(string(a.Digest))}
	if a.Decision != "" {
		pairs = append(pairs, string(telemetry.AttestationID)+"="+url.QueryEscape(a.Decision))
	}
	return strings.Join(pairs, ",")
}

// inject gives the operations that add attributes to a container's environment,
// after what it says itself. A value that comes from elsewhere (valueFrom) is
// left alone: nothing can be added to it.
func inject(im *Image, a *Answer) []operation {
	base := strings.TrimSuffix(im.Pointer, "/image") + "/env"
	add := map[string]any{"name": otelAttributes, "value": attributes(a)}
	env, have := im.spec["env"].([]any)
	if !have {
		return []operation{{"add", base, []any{add}}}
	}
	for i, e := range env {
		m, ok := e.(map[string]any)
		if !ok || m["name"] != otelAttributes {
			continue
		}
		if _, from := m["valueFrom"]; from {
			return nil
		}
		value, _ := m["value"].(string)
		if strings.Contains(value, string(telemetry.ManifestDigest)+"=") {
			return nil // said already
		}
		if value = strings.Trim(value, ", "); value != "" {
			value += ","
		}
		// The variable may come twice, and the last one counts.
		if last := lastNamed(env); last != i {
			continue
		}
		return []operation{{"add", base + "/" + strconv.Itoa(i) + "/value", value + attributes(a)}}
	}
	return []operation{{"add", base + "/-", add}}
}

func lastNamed(env []any) int {
	for i := len(env) - 1; i >= 0; i-- {
		if m, ok := env[i].(map[string]any); ok && m["name"] == otelAttributes {
			return i
		}
	}
	return -1
}

func marshalPatch(ops []operation) ([]byte, error) {
	if len(ops) == 0 {
		return nil, nil
	}
	return strictjson.Marshal(ops)
}
