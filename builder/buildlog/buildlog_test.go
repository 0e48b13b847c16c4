package buildlog_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	collectlogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	pbcommon "go.opentelemetry.io/proto/otlp/common/v1"
	pblogs "go.opentelemetry.io/proto/otlp/logs/v1"
	pbresource "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"assay/artifact"
	"assay/blob"
	"assay/blob/sweep"
	"assay/builder/buildlog"
	"assay/event"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"
)

var digest = artifact.SHA256Of([]byte("app"))

func open(t *testing.T, db *store.DB, o buildlog.Options) *buildlog.Store {
	t.Helper()
	if err := db.Migrate(t.Context(), event.Migrations, sweep.Migrations, buildlog.Migrations); err != nil {
		t.Fatal(err)
	}
	blobs, err := blob.NewDir(t.TempDir(), blob.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = blobs.Close() })
	o.DB, o.Blobs = db, blobs
	s, err := buildlog.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func target(build string) buildlog.Target {
	return buildlog.Target{Build: build, Repository: "team/app", Actor: "https://issuer#ci", Source: "upload", Digests: []artifact.Digest{digest}}
}

func texts(list []buildlog.Numbered) (out []string) {
	for _, l := range list {
		out = append(out, fmt.Sprintf("%d %s", l.Number, l.Text))
	}
	return out
}

func TestAppendReadSearch(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := open(t, db, buildlog.Options{})
		l, err := s.Append(ctx, target("bld_1"), buildlog.Split([]byte("one\r\ntwo \x1b[31mred\x1b[0m\nprogress 10%\rprogress 100%\nAPI_TOKEN=abcdefgh\n"), "stdout"))
		if err != nil {
			t.Fatal(err)
		}
		if l.Lines != 4 || l.Redacted != 1 || l.Chunks != 1 {
			t.Errorf("log %+v", l)
		}
		// Small parts become one chunk, large ones several.
		if l, err = s.Append(ctx, target("bld_1"), []buildlog.Line{{Text: "five"}}); err != nil || l.Chunks != 1 || l.Lines != 5 {
			t.Fatalf("%+v, %v", l, err)
		}
		many := make([]buildlog.Line, 3000)
		for i := range many {
			many[i] = buildlog.Line{Text: fmt.Sprintf("line %d %s", i, strings.Repeat("x", 500))}
		}
		many[2900].Text = "here is the Needle"
		if l, err = s.Append(ctx, target("bld_1"), many); err != nil || l.Chunks < 3 || l.Lines != 3005 {
			t.Fatalf("%+v, %v", l, err)
		}
		got, more, err := s.Lines(ctx, l.ID, 1, 5)
		if want := []string{"1 one", "2 two red", "3 progress 100%", "4 API_TOKEN=[REDACTED]", "5 five"}; err != nil || !more || !slices.Equal(texts(got), want) {
			t.Errorf("lines %q %v %v", texts(got), more, err)
		}
		if got, more, err = s.Lines(ctx, l.ID, 3005, 5); err != nil || more || len(got) != 1 || !strings.HasPrefix(got[0].Text, "line 2999 ") {
			t.Errorf("last line %q %v %v", texts(got), more, err)
		}
		found, err := s.Search(ctx, buildlog.Query{Text: "NEEDLE", Digest: digest})
		if err != nil || len(found.Hits) != 1 || found.Hits[0].Number != 2906 || found.Next != "" {
			t.Errorf("found %+v, %v", found, err)
		}
		// A search that stops goes on where it stopped.
		var all []int64
		q := buildlog.Query{Text: "line ", Builds: []string{"bld_1"}, Limit: 900, Bytes: 600 << 10}
		for rounds := 0; ; rounds++ {
			found, err := s.Search(ctx, q)
			if err != nil || rounds > 20 {
				t.Fatal(rounds, err)
			}
			for _, h := range found.Hits {
				all = append(all, h.Number)
			}
			if q.After = found.Next; q.After == "" {
				break
			}
		}
		if len(all) != 2999 || !slices.IsSorted(all) {
			t.Errorf("%d lines found in parts, want 2999", len(all))
		}
		if none, err := s.Search(ctx, buildlog.Query{Text: "needle", May: func(*buildlog.Log) bool { return false }}); err != nil || len(none.Hits) != 0 {
			t.Errorf("what may not be read was found: %+v, %v", none, err)
		}
		// Every blob is needed, and none other.
		kept := 0
		if err := db.View(ctx, func(tx *store.Tx) error {
			blobs, err := store.Values[artifact.Digest](ctx, tx, `SELECT blob FROM build_log_chunk`)
			if err != nil {
				return err
			}
			return buildlog.Needs(ctx, tx, append(blobs, digest), func(artifact.Digest) { kept++ })
		}); err != nil || int64(kept) != l.Chunks {
			t.Errorf("%d of %d blobs kept, %v", kept, l.Chunks, err)
		}
	})
}

func TestBounds(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := open(t, db, buildlog.Options{Max: 100})
		l, err := s.Append(ctx, target("b"), []buildlog.Line{{Text: strings.Repeat("a", 60)}, {Text: strings.Repeat("b", 60)}, {Text: "c"}})
		if err != nil || l.Lines != 2 || l.Dropped != 1 {
			t.Errorf("%+v, %v", l, err)
		}
		if _, err := s.Append(ctx, target("\x1b[2J"), nil); fault.KindOf(err) != fault.Invalid {
			t.Errorf("build ID of control characters: %v", err)
		}
		// Another uploader's log of the same build is another.
		other := target("b")
		other.Actor = "somebody"
		o, err := s.Append(ctx, other, []buildlog.Line{{Text: "mine"}})
		if err != nil || o.ID == l.ID || o.Lines != 1 {
			t.Errorf("%+v, %v", o, err)
		}
		logs, next, err := s.List(ctx, buildlog.Filter{Digest: digest})
		if err != nil || len(logs) != 2 || next != "" {
			t.Errorf("%+v %q %v", logs, next, err)
		}
		if err := s.Delete(ctx, o.ID, "admin", "it holds a secret"); err != nil {
			t.Error(err)
		}
		if _, err := s.Get(ctx, o.ID); fault.KindOf(err) != fault.NotFound {
			t.Errorf("deleted: %v", err)
		}
	})
}

func TestExpire(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		held := artifact.SHA256Of([]byte("held"))
		s := open(t, db, buildlog.Options{Keep: time.Nanosecond, Held: func(_ context.Context, _ *store.Tx, _ string, d []artifact.Digest) (bool, error) {
			return slices.Contains(d, held), nil
		}})
		for i := range 3 {
			if _, err := s.Append(ctx, target(fmt.Sprint(i)), []buildlog.Line{{Text: "x"}}); err != nil {
				t.Fatal(err)
			}
		}
		keep := target("kept")
		keep.Digests = []artifact.Digest{held}
		if _, err := s.Append(ctx, keep, []buildlog.Line{{Text: "x"}}); err != nil {
			t.Fatal(err)
		}
		if n, err := s.Expire(ctx); err != nil || n != 3 {
			t.Errorf("%d, %v", n, err)
		}
		if err := s.Delete(ctx, keep.ID(), "admin", "by hand"); fault.KindOf(err) != fault.Conflict {
			t.Errorf("what is held was deleted: %v", err)
		}
		if logs, _, err := s.List(ctx, buildlog.Filter{}); err != nil || len(logs) != 1 || logs[0].Build != "kept" {
			t.Errorf("%+v, %v", logs, err)
		}
	})
}

func str(k, v string) *pbcommon.KeyValue {
	return &pbcommon.KeyValue{Key: k, Value: &pbcommon.AnyValue{Value: &pbcommon.AnyValue_StringValue{StringValue: v}}}
}

// TestOTLP: requests as OpenTelemetry's own message types write them, in both
// encodings.
func TestOTLP(t *testing.T) {
	trace, _ := hex.DecodeString("0af7651916cd43dd8448eb211c80319c")
	m := &collectlogs.ExportLogsServiceRequest{ResourceLogs: []*pblogs.ResourceLogs{{
		Resource: &pbresource.Resource{Attributes: []*pbcommon.KeyValue{str("cicd.pipeline.run.id", "bld_9"), str("assay.repository", "team/app"), str("oci.manifest.digest", string(digest))}},
		ScopeLogs: []*pblogs.ScopeLogs{{LogRecords: []*pblogs.LogRecord{
			{TimeUnixNano: 1700000000000000000, SeverityText: "INFO", Body: str("", "compiling").Value, TraceId: trace},
			{ObservedTimeUnixNano: 1700000001000000000, Body: &pbcommon.AnyValue{Value: &pbcommon.AnyValue_KvlistValue{KvlistValue: &pbcommon.KeyValueList{Values: []*pbcommon.KeyValue{str("k", "v")}}}}},
		}}},
	}, {ScopeLogs: []*pblogs.ScopeLogs{{LogRecords: []*pblogs.LogRecord{{Body: str("", "of nothing").Value}}}}}}}
	raw, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	asJSON, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	// OTLP has IDs in hex where protobuf's JSON has base64.
	asJSON = []byte(strings.Replace(string(asJSON), "CvdlGRbNQ92ESOshHIAxnA==", "0af7651916cd43dd8448eb211c80319c", 1))
	for name, c := range map[string]struct {
		b    []byte
		json bool
	}{"protobuf": {raw, false}, "json": {asJSON, true}} {
		p, err := buildlog.ParseOTLP(c.b, c.json)
		if err != nil || len(p.Parts) != 1 || p.Rejected != 1 || p.Reason == "" {
			t.Fatalf("%s: %+v, %v", name, p, err)
		}
		part := p.Parts[0]
		if part.Build != "bld_9" || part.Repository != "team/app" || !slices.Equal(part.Digests, []artifact.Digest{digest}) {
			t.Errorf("%s: %+v", name, part.Target)
		}
		if part.Lines[0].Text != "compiling trace_id=0af7651916cd43dd8448eb211c80319c" || part.Lines[0].Stream != "INFO" || part.Lines[0].Time.Unix() != 1700000000 || part.Lines[1].Text != "k=v" {
			t.Errorf("%s: %+v", name, part.Lines)
		}
		answer, err := p.Answer(c.json)
		if err != nil {
			t.Fatal(err)
		}
		var got collectlogs.ExportLogsServiceResponse
		if c.json {
			err = protojson.Unmarshal(answer, &got)
		} else {
			err = proto.Unmarshal(answer, &got)
		}
		if err != nil || got.PartialSuccess.GetRejectedLogRecords() != 1 {
			t.Errorf("%s: answer %v, %v", name, &got, err)
		}
	}
	// Nested without end is refused, not followed.
	deep := &pbcommon.AnyValue{}
	for range 200 {
		deep = &pbcommon.AnyValue{Value: &pbcommon.AnyValue_ArrayValue{ArrayValue: &pbcommon.ArrayValue{Values: []*pbcommon.AnyValue{deep}}}}
	}
	m.ResourceLogs[0].ScopeLogs[0].LogRecords[0].Body = deep
	raw, _ = proto.Marshal(m)
	if _, err := buildlog.ParseOTLP(raw, false); fault.KindOf(err) != fault.Invalid {
		t.Errorf("nested: %v", err)
	}
}

func FuzzParseOTLP(f *testing.F) {
	f.Add([]byte(`{"resourceLogs":[{"resource":{"attributes":[{"key":"cicd.pipeline.run.id","value":{"stringValue":"b"}}]},"scopeLogs":[{"logRecords":[{"body":{"stringValue":"x"}}]}]}]}`), true)
	f.Add([]byte{0x0a, 0x02, 0x0a, 0x00}, false)
	f.Fuzz(func(t *testing.T, b []byte, asJSON bool) {
		p, err := buildlog.ParseOTLP(b, asJSON)
		if err != nil {
			return
		}
		for _, part := range p.Parts {
			if part.Build == "" || len(part.Lines) == 0 {
				t.Errorf("part %+v", part)
			}
		}
	})
}
