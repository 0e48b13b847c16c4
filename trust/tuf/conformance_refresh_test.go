package tuf_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"assay/internal/fault"
)

// published are the roles that an ordinary update publishes, in order.
var published = []string{"targets", "snapshot", "timestamp"}

// refreshScenarios are those of test_basic.py.
func refreshScenarios() []conformanceTest {
	topLevel := []string{"2.root", "timestamp", "1.snapshot", "1.targets"}
	return slices.Concat([]conformanceTest{
		{name: "test_basic_refresh_requests", run: func(s *scenario, _ string) {
			s.refresh()
			s.requested(topLevel...)
		}},
		{name: "test_basic_refresh_trusted_data", run: func(s *scenario, _ string) {
			s.refresh()
			for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
				s.holds(role, s.last(role))
			}
		}},
		{name: "test_implicit_refresh", run: func(s *scenario, _ string) {
			s.withheld("nonexistent artifact", fault.NotFound)
			s.requested(topLevel...)
			for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
				s.holds(role, s.last(role))
			}
		}},
		{name: "test_invalid_initial_root", run: func(s *scenario, _ string) {
			s.first = edit(s, s.first, func(m map[string]any) { delete(m["signed"].(map[string]any), "version") })
			s.refuse(fault.Unverified)
			s.requested()
		}},
		{name: "test_unsigned_initial_root", run: func(s *scenario, _ string) {
			s.first = withSignature(s, s.first, 0, signatureOf(s, s.last("timestamp"), 0))
			s.refuse(fault.Unverified)
			s.requested()
		}},
		{name: "test_unsigned_metadata", cases: names(upTo), run: func(s *scenario, role string) {
			s.popSigner(role)
			s.publish("root", "targets", "snapshot", "timestamp")
			s.refuse(fault.Unverified)
			s.trusts(upTo[role])
		}},
		{name: "test_url_and_metadata_version_mismatch", cases: []string{"root", "snapshot", "targets"}, run: func(s *scenario, role string) {
			switch role { // published under version 2 in the URL, version 3 inside
			case "root":
				s.root.Signed.Version++
			case "snapshot":
				s.snapshot.Signed.Version++
			case "targets":
				s.targets[role].Signed.Version++
			}
			s.publish("root", "targets", "snapshot", "timestamp")
			kind := fault.Unavailable // snapshot and targets: the URL that names version 3 is absent
			if role == "root" {
				kind = fault.Unverified
			}
			s.refuse(kind)
			s.trusts(upTo[role])
		}},
		{name: "test_timestamp_content_changes", run: func(s *scenario, _ string) {
			s.refresh()
			before := s.last("timestamp")
			s.timestamp.Signed.Meta["snapshot.json"].Version = 100
			s.forget("timestamp")
			s.publish("timestamp")
			s.refresh()
			s.requestedLast("timestamp")
			s.holds("timestamp", before)
		}},
		{name: "test_metadata_bytes_match", run: func(s *scenario, _ string) {
			s.append("timestamp", append(s.pop("timestamp"), ' '))
			s.refresh()
			s.holds("timestamp", s.last("timestamp"))
		}},
		{name: "test_custom_fields", run: func(s *scenario, _ string) {
			s.refresh()
			k := s.withField(s.newKey("ecdsa"), "extra-field", map[string]any{"a": 1, "b": 2})
			s.root.Signed.UnrecognizedFields = map[string]any{"custom-field": "value"}
			s.addKey("root", k)
			s.root.Signed.Roles["root"].UnrecognizedFields = map[string]any{"another-field": "value"}
			s.publish("root")
			for _, field := range []string{"extra-field", "custom-field", "another-field"} {
				if !bytes.Contains(s.last("root"), []byte(field)) {
					s.t.Fatalf("the published root lacks %s", field)
				}
			}
			s.refresh()
			s.version("root", 2)
		}},
		{name: "test_deprecated_keyid_hash_algorithms", run: func(s *scenario, _ string) {
			s.clearKeys("snapshot")
			s.addKey("snapshot", s.withField(s.newKey("ecdsa"), "keyid_hash_algorithms", "md5"))
			s.publish("root", "snapshot", "timestamp")
			s.refresh()
			s.version("root", 2)
			s.version("snapshot", 2)
		}},
		{name: "test_incorrect_metadata_type", run: func(s *scenario, _ string) {
			// A snapshot that would be a valid timestamp but for its type.
			s.addKey("snapshot", s.signers["timestamp"][0])
			s.snapshot.Signed.Meta = map[string]*metadata.MetaFiles{"snapshot.json": {Version: 1}}
			s.publish("root", "snapshot")
			s.append("timestamp", s.pop("snapshot"))
			s.refuse(fault.Unverified)
			s.trusts(map[string]int64{"root": 2})
		}},
		{name: "test_faketime", run: func(s *scenario, _ string) {
			// The suite sets the process's clock; this client is given one.
			s.root.Signed.Expires = s.days(7)
			s.publish("root")
			s.refresh()
			s.now = s.days(8)
			s.refuse(fault.Unverified)
		}},
	}, hashScenarios(), absenceScenarios())
}

// upTo are the versions that a client trusts when it refuses version 2 of the
// named role: what comes before it in the workflow was updated.
var upTo = map[string]map[string]int64{
	"root":      {"root": 1},
	"timestamp": {"root": 2},
	"snapshot":  {"root": 2, "timestamp": 2},
	"targets":   {"root": 2, "timestamp": 2, "snapshot": 2},
}

func hashScenarios() []conformanceTest {
	return []conformanceTest{
		{name: "test_basic_metadata_hash_support", run: func(s *scenario, _ string) {
			s.hashes = true
			s.publish(published...)
			s.refresh()
		}},
		{name: "test_targets_hash_mismatch", run: func(s *scenario, _ string) {
			s.hashes = true
			s.publish(published...)
			s.refresh()
			s.publish("targets")
			s.snapshot.Signed.Meta["targets.json"].Hashes["sha256"] = make([]byte, 32)
			s.publish("snapshot", "timestamp")
			s.refuse(fault.Unverified)
			s.version("snapshot", 3)
			s.version("targets", 2)
		}},
		{name: "test_snapshot_hash_mismatch", run: func(s *scenario, _ string) {
			s.hashes = true
			s.publish("snapshot", "timestamp")
			s.refresh()
			s.publish("snapshot")
			s.timestamp.Signed.Meta["snapshot.json"].Hashes["sha256"] = make([]byte, 32)
			s.publish("timestamp")
			s.refuse(fault.Unverified)
			s.version("snapshot", 2)
			s.version("timestamp", 3)
		}},
	}
}

func absenceScenarios() []conformanceTest {
	return []conformanceTest{
		{name: "test_snapshot_404", run: func(s *scenario, _ string) {
			s.refresh()
			s.timestamp.Signed.Meta["snapshot.json"].Version++
			s.publish("timestamp")
			s.refuse(fault.Unavailable)
			s.requestedLast("2.snapshot")
			s.trusts(map[string]int64{"root": 1, "snapshot": 1, "targets": 1, "timestamp": 2})
		}},
		{name: "test_targets_404", run: func(s *scenario, _ string) {
			s.refresh()
			s.snapshot.Signed.Meta["targets.json"].Version++
			s.publish("snapshot", "timestamp")
			s.refuse(fault.Unavailable)
			s.requestedLast("2.targets")
			s.trusts(map[string]int64{"root": 1, "snapshot": 2, "targets": 1, "timestamp": 2})
		}},
		{name: "test_timestamp_404", run: func(s *scenario, _ string) {
			s.refresh()
			s.forget("timestamp")
			s.refuse(fault.Unavailable)
			s.requestedLast("timestamp")
		}},
	}
}

// expirationScenarios are those of test_expiration.py.
func expirationScenarios() []conformanceTest {
	return []conformanceTest{
		{name: "test_root_expired", run: func(s *scenario, _ string) {
			s.refresh()
			s.publish("root")
			s.refresh()
			s.root.Signed.Expires = s.days(-1)
			s.publish("root", "targets", "snapshot", "timestamp")
			s.refuse(fault.Unverified)
			s.requestedLast("4.root") // an expired root asks for nothing else
			// The root updates before its expiry is looked at (5.3.10), nothing else does.
			s.trusts(map[string]int64{"root": 3, "snapshot": 1, "targets": 1, "timestamp": 1})
		}},
		{name: "test_timestamp_expired", run: func(s *scenario, _ string) {
			s.refresh()
			s.timestamp.Signed.Expires = s.days(-5)
			s.publish("timestamp")
			s.refuse(fault.Unverified)
			s.trusts(map[string]int64{"root": 1, "snapshot": 1, "targets": 1, "timestamp": 1})
		}},
		{name: "test_snapshot_expired", run: func(s *scenario, _ string) {
			s.refresh()
			s.snapshot.Signed.Expires = s.days(-5)
			s.publish("snapshot", "timestamp")
			s.refuse(fault.Unverified)
			s.trusts(map[string]int64{"root": 1, "snapshot": 1, "targets": 1, "timestamp": 2})
		}},
		{name: "test_targets_expired", run: func(s *scenario, _ string) {
			s.refresh()
			s.targets["targets"].Signed.Expires = s.days(-5)
			s.publish(published...)
			s.refuse(fault.Unverified)
			s.trusts(map[string]int64{"root": 1, "snapshot": 2, "targets": 1, "timestamp": 2})
		}},
		{name: "test_expired_local_root", run: func(s *scenario, _ string) {
			s.root.Signed.Expires = s.days(7)
			s.publish("root")
			s.refresh()
			s.root.Signed.Expires = s.days(21)
			s.publish("root")
			s.now = s.days(18)
			s.refresh()
			s.version("root", 3)
		}},
		{name: "test_expired_local_timestamp", run: func(s *scenario, _ string) {
			s.timestamp.Signed.Expires = s.days(7)
			s.publish("timestamp")
			s.refresh()
			s.timestamp.Signed.Expires = s.days(21)
			s.publish(published...)
			s.now = s.days(18)
			s.refresh()
			s.trusts(map[string]int64{"root": 1, "snapshot": 2, "targets": 2, "timestamp": 3})
		}},
	}
}

// downloadScenarios are those of test_file_download.py.
func downloadScenarios() []conformanceTest {
	const name, content = "target_file.txt", "target file contents"
	return []conformanceTest{
		{name: "test_client_downloads_expected_file", run: func(s *scenario, _ string) {
			s.addArtifact("targets", []byte(content), name)
			s.publish(published...)
			s.refresh()
			s.cached()
			s.downloads(name, []byte(content))
			s.cached(content)
		}},
		{name: "test_client_downloads_expected_file_in_sub_dir", run: func(s *scenario, _ string) {
			const name = "path/to/a/target_file.txt"
			s.addArtifact("targets", []byte(content), name)
			s.publish(published...)
			s.downloads(name, []byte(content))
			s.cached(content)
		}},
		{name: "test_repository_substitutes_target_file", run: func(s *scenario, _ string) {
			const other = "another_target_file.txt"
			s.addArtifact("targets", []byte(content), name)
			s.addArtifact("targets", []byte("content"), other)
			s.publish(published...)
			s.downloads(name, []byte(content))
			for _, n := range []string{name, other} {
				s.substitute(n, []byte("malicious data - should not download"))
			}
			s.downloads(name, []byte(content)) // from the cache
			s.withheld(other, fault.Unverified)
			s.cached(content)
		}},
		{name: "test_multiple_changes_to_target", run: multipleChanges},
		{name: "test_download_with_hash_algorithms", cases: []string{"sha256", "sha512", "both"}, run: func(s *scenario, algorithm string) {
			algorithms := []string{algorithm}
			if algorithm == "both" {
				algorithms = []string{"sha256", "sha512"}
			}
			s.addArtifact("targets", []byte(content), name, algorithms...)
			s.publish(published...)
			s.downloads(name, []byte(content))
			if len(s.fetched) != 1 { // the simulator answers only to one of the hashes
				s.t.Errorf("requests for targets %q, want one", s.fetched)
			}
			s.cached(content)
		}},
		{name: "test_download_with_unknown_hash_algorithm", run: func(s *scenario, _ string) {
			s.addArtifact("targets", []byte(content), name, "unknown-hash")
			s.publish(published...)
			s.withheld(name, fault.Unverified)
			s.cached()
		}},
		{name: "test_artifact_cache", run: func(s *scenario, _ string) {
			s.addArtifact("targets", []byte(content), name)
			s.publish(published...)
			s.downloads(name, []byte(content))
			s.downloads(name, []byte(content))
			if len(s.fetched) != 1 {
				s.t.Errorf("requests for targets %q, want one", s.fetched)
			}
		}},
	}
}

// multipleChanges updates a target over and over; of every fifth version the
// client is then offered other bytes.
func multipleChanges(s *scenario, _ string) {
	const name = "target_file.txt"
	s.addArtifact("targets", []byte("target file contents"), name)
	s.publish(published...)
	s.downloads(name, []byte("target file contents"))
	s.cached("target file contents")
	var kept []string
	for i := range 11 {
		modified, more := fmt.Sprintf("modified file contents %d", i), fmt.Sprintf("new file contents %d", i)
		s.addArtifact("targets", []byte(modified), name)
		s.addArtifact("targets", []byte(more), fmt.Sprintf("new-target-%d", i))
		s.publish(published...)
		if i%5 != 0 {
			continue
		}
		s.downloads(name, []byte(modified))
		s.cached(append(slices.Clone(kept), modified)...)
		s.downloads(fmt.Sprintf("new-target-%d", i), []byte(more))
		kept = append(kept, more)
		s.cached(append(slices.Clone(kept), modified)...)
		s.substitute(name, fmt.Appendf(nil, "malicious contents %d", i))
		s.publish(published...)
		s.downloads(name, []byte(modified)) // from the cache
		s.cached(append(slices.Clone(kept), modified)...)
	}
}

// edit changes a document through its JSON; its signatures stay as they are.
func edit(s *scenario, b []byte, fn func(m map[string]any)) []byte {
	s.t.Helper()
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var m map[string]any
	s.check(dec.Decode(&m))
	fn(m)
	out, err := json.Marshal(m)
	s.check(err)
	return out
}

// signatureOf is the i-th signature of a document.
func signatureOf(s *scenario, b []byte, i int) (sig string) {
	edit(s, b, func(m map[string]any) {
		sig = m["signatures"].([]any)[i].(map[string]any)["sig"].(string)
	})
	return sig
}

// withSignature replaces the i-th signature of a document.
func withSignature(s *scenario, b []byte, i int, sig string) []byte {
	return edit(s, b, func(m map[string]any) {
		m["signatures"].([]any)[i].(map[string]any)["sig"] = sig
	})
}
