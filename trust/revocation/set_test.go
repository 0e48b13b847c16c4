package revocation_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/trust"
	"assay/trust/revocation"
	"assay/trust/trusttest"
)

const issuer = "https://issuer.example"

const provenanceType = "https://slsa.dev/provenance/v1"

// provenanceBy is provenance of the artifact "app".
func provenanceBy(builder string) []byte {
	return fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"app","digest":{"sha256":%q}}],"predicateType":%q,"predicate":{"buildDefinition":{"buildType":"https://b.example/t","externalParameters":{},"resolvedDependencies":[]},"runDetails":{"builder":{"id":%q},"metadata":{"startedOn":"2020-01-01T00:00:00Z"}}}}`,
		digestOf("app").Hex(), provenanceType, builder)
}

func ptr(n int64) *int64 { return &n }

// Evidence is judged by trusted time alone: what provably is older than an
// entry's instant stays, all else goes.
func TestThreat_Bundle_RevokedByTrustedTime(t *testing.T) {
	s := newSite(t)
	key := trusttest.NewKey(t)
	at := s.Start.Add(5 * time.Minute)
	leaf := trusttest.Leaf{Issuer: issuer, Subject: "https://ci.example/team/app/build@main", At: s.Start.Add(4 * time.Minute)}
	provenance := provenanceBy("https://b.example/one")
	byKey := s.Draft(t, trusttest.Request{Artifact: []byte("app"), Key: key, At: at})
	keyless := s.Draft(t, trusttest.Request{Artifact: []byte("app"), Leaf: leaf, At: at})
	built := s.Draft(t, trusttest.Request{Statement: provenance, Leaf: leaf, At: at})
	untimed := s.Draft(t, trusttest.Request{Artifact: []byte("app"), Key: key, NoTSA: true})
	verify := func(d *trusttest.Draft, list ...revocation.Entry) error {
		set := revocation.NewSet(s.list(1, list...))
		o := trust.VerifyOptions{AnyArtifact: true, Checks: []trust.Check{set.Check}}
		if d.Cert != nil {
			o.AnyIdentity = true
		} else {
			o.Keys, o.Thresholds = []trust.Key{{Public: key.Public()}}, &trust.Thresholds{TLog: 1}
		}
		_, err := s.root.VerifyBundle(t.Context(), d.Parse(t), o)
		return err
	}
	logID := ""
	v, err := s.root.VerifyBundle(t.Context(), keyless.Parse(t), trust.VerifyOptions{AnyArtifact: true, AnyIdentity: true})
	if err != nil {
		t.Fatal(err)
	}
	logID = v.LogID
	fp, _ := trust.KeyFingerprint(key.Public())
	targets := map[string]struct {
		draft *trusttest.Draft
		entry revocation.Entry
		other revocation.Entry // one that names something else
	}{
		"key": {byKey, revocation.Entry{Kind: revocation.Key, Key: fp}, revocation.Entry{Kind: revocation.Key, Key: string(digestOf("another"))}},
		"identity": {keyless, revocation.Entry{Kind: revocation.Identity, Match: revocation.Exact, Issuer: issuer, Subject: leaf.Subject},
			revocation.Entry{Kind: revocation.Identity, Match: revocation.Exact, Issuer: "https://other.example", Subject: leaf.Subject}},
		"pattern": {keyless, revocation.Entry{Kind: revocation.Identity, Match: revocation.Pattern, Issuer: issuer, Subject: "https://ci.example/team/**"},
			revocation.Entry{Kind: revocation.Identity, Match: revocation.Pattern, Issuer: issuer, Subject: "https://ci.example/team/*"}},
		"pattern of issuers": {keyless, revocation.Entry{Kind: revocation.Identity, Match: revocation.Pattern, Issuer: "**", Subject: "**"},
			revocation.Entry{Kind: revocation.Identity, Match: revocation.Exact, Issuer: "**", Subject: "**"}},
		"certificate": {keyless, revocation.Entry{Kind: revocation.Certificate, Serial: keyless.Cert.SerialNumber.Text(16), Issuer: keyless.Cert.Issuer.String()},
			revocation.Entry{Kind: revocation.Certificate, Serial: keyless.Cert.SerialNumber.Text(16), Issuer: "CN=another"}},
		"builder": {built, revocation.Entry{Kind: revocation.Builder, Builder: "https://b.example/one"}, revocation.Entry{Kind: revocation.Builder, Builder: "https://b.example/"}},
		"log": {keyless, revocation.Entry{Kind: revocation.Log, LogID: logID, From: ptr(v.LogIndex), To: ptr(v.LogIndex)},
			revocation.Entry{Kind: revocation.Log, LogID: logID, From: ptr(v.LogIndex + 1)}},
		"log to its end": {keyless, revocation.Entry{Kind: revocation.Log, LogID: logID, From: ptr(0)}, revocation.Entry{Kind: revocation.Log, LogID: strings.Repeat("00", 32), From: ptr(0)}},
		"artifact":       {keyless, revocation.Entry{Kind: revocation.Artifact, Digest: digestOf("app")}, revocation.Entry{Kind: revocation.Artifact, Digest: digestOf("other")}},
	}
	for name, tt := range targets {
		t.Run(name, func(t *testing.T) {
			if err := verify(tt.draft); err != nil {
				t.Fatalf("with an empty list: %v", err)
			}
			for since, refused := range map[time.Time]bool{
				s.Start: true, at.Add(-time.Second): true, at: true, at.Add(time.Second): false, at.Add(time.Hour): false,
			} {
				err := verify(tt.draft, entry(tt.entry, since))
				if refused {
					wantCode(t, err, revocation.CodeRevoked)
				} else if err != nil {
					t.Errorf("revoked since %v, stamped at %v: %v", since, at, err)
				}
			}
			if err := verify(tt.draft, entry(tt.other, s.Start)); err != nil {
				t.Errorf("another is revoked: %v", err)
			}
		})
	}
	// No trusted time: it counts as made after, whatever it claims.
	if err := verify(untimed); err != nil {
		t.Fatal(err)
	}
	wantCode(t, verify(untimed, entry(targets["key"].entry, s.Start.AddDate(100, 0, 0))), revocation.CodeRevoked)
	// Provenance that is no provenance names no builder.
	if err := verify(s.Draft(t, trusttest.Request{Statement: []byte(strings.Replace(string(provenance), provenanceType, "https://example/other", 1)), Leaf: leaf, At: at}),
		entry(targets["builder"].entry, s.Start)); err != nil {
		t.Errorf("another predicate type: %v", err)
	}
}

// The time that a log tells of itself is what a revoked range puts in doubt.
func TestLogRangeWantsTimestamps(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	set := revocation.NewSet(&revocation.List{Entries: []revocation.Entry{entry(revocation.Entry{Kind: revocation.Log, LogID: "aa", From: ptr(7)}, at.Add(time.Hour))}})
	v := &trust.Verified{TrustedTime: at, TimeSource: "tlog", Times: []trust.TimeProof{{Time: at, Source: "tlog"}}, Logs: []trust.LogProof{{LogID: "bb", Index: 9}, {LogID: "aa", Index: 7}}}
	wantCode(t, set.Check(t.Context(), v), revocation.CodeRevoked)
	v.Times = append(v.Times, trust.TimeProof{Time: at.Add(time.Minute), Source: "tsa"})
	if err := set.Check(t.Context(), v); err != nil {
		t.Errorf("a timestamp authority dates it before: %v", err)
	}
	v.Times[1].Time = at.Add(2 * time.Hour)
	wantCode(t, set.Check(t.Context(), v), revocation.CodeRevoked)
}

func TestArtifact(t *testing.T) {
	since := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	set := revocation.NewSet(&revocation.List{Entries: []revocation.Entry{entry(revocation.Entry{Kind: revocation.Artifact, Digest: digestOf("bad")}, since)}})
	if e := set.Artifact(digestOf("bad").Set()); e == nil || !e.InvalidSince.Equal(since) {
		t.Errorf("%+v", e)
	}
	if e := set.Artifact(digestOf("good").Set()); e != nil {
		t.Errorf("%+v", e)
	}
	if e := (*revocation.Set)(nil).Artifact(digestOf("bad").Set()); e != nil {
		t.Errorf("%+v", e)
	}
	// A statement about a revoked artifact and another one says something still.
	both := &trust.Verified{Subjects: []attestation.Subject{{Digest: digestOf("bad").Set()}, {Digest: digestOf("good").Set()}}}
	if err := set.Check(t.Context(), both); err != nil {
		t.Error(err)
	}
	wantCode(t, set.Check(t.Context(), &trust.Verified{Subjects: both.Subjects[:1]}), revocation.CodeRevoked)
}

func TestValidate(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, e := range map[string]revocation.Entry{
		"no kind":               {},
		"another kind":          {Kind: "team"},
		"key without algorithm": {Kind: revocation.Key, Key: digestOf("x").Hex()},
		"key of sha512":         {Kind: revocation.Key, Key: "sha512:" + strings.Repeat("0", 128)},
		"identity, no match":    {Kind: revocation.Identity, Issuer: issuer, Subject: "a"},
		"identity, no issuer":   {Kind: revocation.Identity, Match: revocation.Exact, Subject: "a"},
		"a bad pattern":         {Kind: revocation.Identity, Match: revocation.Pattern, Issuer: issuer, Subject: "a**"},
		"a regular expression":  {Kind: revocation.Identity, Match: revocation.Pattern, Issuer: issuer, Subject: `[a-z]+`},
		"serial in upper case":  {Kind: revocation.Certificate, Serial: "AB", Issuer: "CN=x"},
		"serial with zeros":     {Kind: revocation.Certificate, Serial: "0ab", Issuer: "CN=x"},
		"negative serial":       {Kind: revocation.Certificate, Serial: "-1", Issuer: "CN=x"},
		"no builder":            {Kind: revocation.Builder},
		"log without a range":   {Kind: revocation.Log, LogID: "aa"},
		"log range backwards":   {Kind: revocation.Log, LogID: "aa", From: ptr(2), To: ptr(1)},
		"weak digest":           {Kind: revocation.Artifact, Digest: artifact.Digest("md5:" + strings.Repeat("0", 32))},
		"members of two kinds":  {Kind: revocation.Builder, Builder: "x", Key: string(digestOf("x"))},
	} {
		e := entry(e, now)
		if err := e.Validate(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	ok := entry(revocation.Entry{Kind: revocation.Builder, Builder: "x"}, now)
	if err := ok.Validate(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(e *revocation.Entry){
		"no instant":                  func(e *revocation.Entry) { e.InvalidSince = revocation.Time{} },
		"no reason":                   func(e *revocation.Entry) { e.Reason = "" },
		"a reason that writes escape": func(e *revocation.Entry) { e.Reason = "\x1b[2J" },
		"no requester":                func(e *revocation.Entry) { e.Requester = "" },
		"a reason without end":        func(e *revocation.Entry) { e.Reason = strings.Repeat("x", 2000) },
	} {
		e := ok
		change(&e)
		if err := e.Validate(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParseList(f *testing.F) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l := &revocation.List{Schema: revocation.Schema, Domain: "site", Version: 3, Use: revocation.Export, Issued: revocation.At(now), Expires: revocation.At(now.Add(time.Hour))}
	l.Entries, _ = l.With(
		entry(revocation.Entry{Kind: revocation.Identity, Match: revocation.Pattern, Issuer: issuer, Subject: "a/**"}, now),
		entry(revocation.Entry{Kind: revocation.Log, LogID: "aa", From: ptr(1), To: ptr(2)}, now),
		entry(revocation.Entry{Kind: revocation.Artifact, Digest: digestOf("x")}, now))
	b, err := l.Bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{}`))
	f.Add([]byte(strings.Replace(string(b), `"version":3`, `"version":3.0`, 1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := revocation.ParseList(b)
		if err != nil {
			return
		}
		again, err := l.Bytes()
		if err != nil || string(again) != string(b) {
			t.Errorf("read and written again: %q, %v", again, err)
		}
		if err := l.Extends(l); err != nil {
			t.Error(err)
		}
		set := revocation.NewSet(l)
		_ = set.Check(t.Context(), &trust.Verified{Identity: trust.Identity{Issuer: issuer, Subject: "a/b"}, Logs: []trust.LogProof{{LogID: "aa", Index: 1}}})
	})
}
