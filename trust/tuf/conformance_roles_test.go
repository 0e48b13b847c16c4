package tuf_test

import (
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"assay/internal/fault"
)

// keyScenarios are those of test_keys.py.
func keyScenarios() []conformanceTest {
	return []conformanceTest{
		{name: "test_snapshot_does_not_meet_threshold", run: func(s *scenario, _ string) {
			s.root.Signed.Roles["snapshot"].Threshold = 3
			for range 2 {
				s.addKey("snapshot", s.newKey("ecdsa"))
			}
			s.publish("root", "targets", "snapshot", "timestamp")
			s.refresh()
			s.popSigner("snapshot")
			s.publish(published...)
			s.refuse(fault.Unverified)
			s.version("snapshot", 2)
		}},
		{name: "test_snapshot_has_too_few_keys", run: func(s *scenario, _ string) {
			for range 4 {
				s.addKey("snapshot", s.newKey("ecdsa"))
			}
			s.root.Signed.Roles["snapshot"].Threshold = 6 // of 5
			s.publish("root", "snapshot", "timestamp")
			s.refuse(fault.Unverified)
			s.version("root", 2)
			s.version("snapshot", 0)
		}},
		{name: "test_duplicate_keys", run: func(s *scenario, _ string) {
			k := s.newKey("ecdsa")
			for range 9 {
				s.addKey("snapshot", k)
			}
			s.root.Signed.Roles["snapshot"].Threshold = 6
			s.publish("root", "snapshot", "timestamp")
			s.append("snapshot", edit(s, s.pop("snapshot"), func(m map[string]any) {
				sigs := m["signatures"].([]any)
				for range 8 {
					m["signatures"] = append(m["signatures"].([]any), sigs[len(sigs)-1])
				}
			}))
			s.refuse(fault.Unverified)
			s.version("snapshot", 0)
		}},
		{name: "test_duplicate_sig_keyids", run: func(s *scenario, _ string) {
			s.append("snapshot", edit(s, s.pop("snapshot"), func(m map[string]any) {
				sigs := m["signatures"].([]any)
				m["signatures"] = append(sigs, sigs[0])
			}))
			s.refuse(fault.Unverified)
			s.version("snapshot", 0)
		}},
		{name: "test_keytype_and_scheme", cases: []string{"rsa", "ecdsa", "ed25519"}, run: func(s *scenario, keytype string) {
			s.addKey("root", s.newKey(keytype))
			s.root.Signed.Roles["root"].Threshold++
			s.publish("root")
			s.refresh()
			s.version("root", 2)
			// A signature by the same key over something else.
			other := signatureOf(s, s.last("root"), 1)
			s.publish("root")
			s.append("root", withSignature(s, s.pop("root"), 1, other))
			s.refuse(fault.Unverified)
			s.version("root", 2)
		}},
		{name: "test_invalid_sig_in_valid_metadata", run: func(s *scenario, _ string) {
			other := signatureOf(s, s.last("timestamp"), 0)
			s.addKey("timestamp", s.newKey("ecdsa")) // threshold stays 1
			s.publish("root", "timestamp")
			for _, sig := range []string{other, ""} { // a plausible one, and none
				s.append("timestamp", withSignature(s, s.pop("timestamp"), 0, sig))
				s.refresh()
				s.publish("timestamp")
			}
		}},
	}
}

// rollbackScenarios are those of test_rollback.py.
func rollbackScenarios() []conformanceTest {
	hashes := []string{"basic", "with hashes"}
	return append(recoveryScenarios(), []conformanceTest{
		{name: "test_new_timestamp_version_rollback", run: func(s *scenario, _ string) {
			s.publish("timestamp")
			s.refresh()
			s.version("timestamp", 2)
			s.forget("timestamp")
			s.timestamp.Signed.Version = 1
			s.publish("timestamp")
			s.refuse(fault.Unverified)
			s.version("timestamp", 2)
			s.requestedLast("timestamp")
		}},
		{name: "test_snapshot_rollback", cases: hashes, run: func(s *scenario, name string) {
			s.hashes = name == "with hashes"
			s.publish("snapshot", "timestamp")
			s.refresh()
			s.forget("snapshot")
			s.snapshot.Signed.Version = 1
			s.publish("snapshot", "timestamp")
			s.refuse(fault.Unverified)
			s.version("timestamp", 2)
			s.version("snapshot", 2)
			s.requestedLast("timestamp")
		}},
		{name: "test_targets_role_removal", run: func(s *scenario, _ string) {
			s.delegate("targets", metadata.DelegatedRole{Name: "delegated", Paths: []string{"delegatedpath/*"}})
			s.publish("delegated", "targets", "snapshot", "timestamp")
			s.refresh()
			delete(s.snapshot.Signed.Meta, "delegated.json")
			s.publish("snapshot", "timestamp")
			s.refuse(fault.Unverified)
			s.version("snapshot", 2)
		}},
		{name: "test_targets_rollback", cases: hashes, run: func(s *scenario, name string) {
			s.hashes = name == "with hashes"
			s.publish(published...)
			s.refresh()
			s.forget("targets")
			s.targets["targets"].Signed.Version = 1
			s.publish(published...)
			s.refuse(fault.Unverified)
			s.version("snapshot", 2)
			s.version("targets", 2)
		}},
	}...)
}

// recoveryScenarios undo the attack that raises versions as far as they go.
func recoveryScenarios() []conformanceTest {
	return []conformanceTest{
		{name: "test_targets_fast_forward_recovery", run: func(s *scenario, _ string) {
			s.delegate("targets", metadata.DelegatedRole{Name: "delegated", Paths: []string{"delegatedpath/*"}})
			s.publish("delegated")
			for range 99 {
				s.publish("targets")
			}
			s.publish("snapshot", "timestamp")
			s.refresh()
			s.version("targets", 100)
			s.rotate("snapshot")
			s.forget("targets")
			s.targets["targets"].Signed.Version = 1
			delete(s.snapshot.Signed.Meta, "delegated.json")
			s.publish("root", "targets", "snapshot", "timestamp")
			s.refresh()
			s.version("targets", 1)
		}},
		{name: "test_new_snapshot_fast_forward_recovery", run: func(s *scenario, _ string) {
			for range 99 {
				s.publish("snapshot")
			}
			s.publish("timestamp")
			s.refresh()
			s.version("snapshot", 100)
			s.rotate("snapshot")
			s.rotate("timestamp")
			s.forget("snapshot")
			s.snapshot.Signed.Version = 1
			s.publish("root", "targets", "snapshot", "timestamp")
			s.refresh()
			s.version("snapshot", 1)
		}},
		{name: "test_new_timestamp_fast_forward_recovery", run: func(s *scenario, _ string) {
			for range 99 {
				s.publish("timestamp")
			}
			s.refresh()
			s.version("timestamp", 100)
			s.rotate("timestamp")
			s.forget("timestamp")
			s.timestamp.Signed.Version = 1
			s.publish("root", "timestamp")
			s.refresh()
			s.version("timestamp", 1)
		}},
	}
}

// signedBy is a version of a role: the keys it has, how many must sign, and
// which do, as indices of ten keys.
type signedBy struct {
	keys      []int
	threshold int
	sigs      []int
}

var five = []int{0, 1, 2, 3, 4}

// rootRotations are sequences of roots; the last of those that are in rootRefused
// is refused.
var rootRotations = map[string][]signedBy{
	"1-of-1-key-rotation":                   {{[]int{1}, 1, []int{1}}, {[]int{2}, 1, []int{2, 1}}, {[]int{2}, 1, []int{2}}},
	"1-of-1-key-rotation-unused-signatures": {{[]int{1}, 1, []int{3, 1, 4}}, {[]int{2}, 1, []int{3, 2, 1, 4}}, {[]int{2}, 1, []int{3, 2, 4}}},
	"3-of-5-sign-with-different-keycombos":  {{five, 3, []int{0, 2, 4}}, {five, 3, []int{0, 4, 1}}, {five, 3, []int{0, 1, 3}}, {five, 3, []int{0, 1, 3}}},
	"3-of-5-one-key-rotated":                {{five, 3, []int{0, 2, 4}}, {[]int{0, 1, 3, 4, 5}, 3, []int{0, 4, 1}}},
	"3-of-5-one-key-rotated-with-intermediate-step": {
		{five, 3, []int{0, 2, 4}}, {[]int{0, 1, 3, 4, 5}, 3, []int{0, 2, 4, 5}}, {[]int{0, 1, 3, 4, 5}, 3, []int{0, 4, 5}},
	},
	"3-of-5-all-keys-rotated-with-intermediate-step": {
		{five, 3, []int{0, 2, 4}}, {[]int{5, 6, 7, 8, 9}, 3, []int{0, 2, 4, 5, 6, 7}}, {[]int{5, 6, 7, 8, 9}, 3, []int{5, 6, 7}},
	},
	"1-of-3-threshold-increase-to-2-of-3": {{[]int{1, 2, 3}, 1, []int{1}}, {[]int{1, 2, 3}, 2, []int{1, 2}}},
	"2-of-3-threshold-decrease-to-1-of-3": {{[]int{1, 2, 3}, 2, []int{1, 2}}, {[]int{1, 2, 3}, 1, []int{1, 2}}, {[]int{1, 2, 3}, 1, []int{1}}},
	"1-of-2-threshold-increase-to-2-of-2": {{[]int{1}, 1, []int{1}}, {[]int{1, 2}, 2, []int{1, 2}}},

	"1-of-1-key-rotation-fail-not-signed-with-old-key":                {{[]int{1}, 1, []int{1}}, {[]int{2}, 1, []int{2, 3, 4}}},
	"1-of-1-key-rotation-fail-not-signed-with-new-key":                {{[]int{1}, 1, []int{1}}, {[]int{2}, 1, []int{1, 3, 4}}},
	"3-of-5-one-key-rotate-fails-not-signed-with-3-new-keys":          {{five, 3, []int{0, 2, 4}}, {[]int{0, 1, 3, 4, 5}, 3, []int{0, 2, 4}}},
	"3-of-5-one-key-rotate-fails-not-signed-with-3-old-keys":          {{five, 3, []int{0, 2, 4}}, {[]int{0, 1, 3, 4, 5}, 3, []int{0, 4, 5}}},
	"1-of-3-threshold-bump-to-2-of-3-fails-new-threshold-not-reached": {{[]int{1, 2, 3}, 1, []int{1}}, {[]int{1, 2, 3}, 2, []int{2}}},
	"2-of-3-threshold-decr-to-1-of-3-fails-old-threshold-not-eached":  {{[]int{1, 2, 3}, 2, []int{1, 2}}, {[]int{1, 2, 3}, 1, []int{1}}},
}

var rootRefused = map[string]bool{
	"1-of-1-key-rotation-fail-not-signed-with-old-key":                true,
	"1-of-1-key-rotation-fail-not-signed-with-new-key":                true,
	"3-of-5-one-key-rotate-fails-not-signed-with-3-new-keys":          true,
	"3-of-5-one-key-rotate-fails-not-signed-with-3-old-keys":          true,
	"1-of-3-threshold-bump-to-2-of-3-fails-new-threshold-not-reached": true,
	"2-of-3-threshold-decr-to-1-of-3-fails-old-threshold-not-eached":  true,
}

// otherRotations are what timestamp, snapshot and targets become in turn, and
// whether a client accepts that.
var otherRotations = map[string]struct {
	signedBy
	accepted bool
}{
	"1-of-1-key-rotation":                                            {signedBy{[]int{2}, 1, []int{2}}, true},
	"1-of-1-key-rotation-unused-signatures":                          {signedBy{[]int{1}, 1, []int{3, 1, 4}}, true},
	"1-of-1-key-rotation-fail-not-signed-with-new-key":               {signedBy{[]int{2}, 1, []int{1, 3, 4}}, false},
	"3-of-5-one-key-signature-wrong-not-signed-with-3-expected-keys": {signedBy{[]int{0, 1, 3, 4, 5}, 3, []int{0, 2, 4}}, false},
	"2-of-5-one-key-signature-mising-threshold-not-reached":          {signedBy{[]int{0, 1, 3, 4, 5}, 3, []int{0, 4}}, false},
	"3-of-5-sign-first-combo":                                        {signedBy{five, 3, []int{0, 2, 4}}, true},
	"3-of-5-sign-second-combo":                                       {signedBy{five, 3, []int{0, 4, 1}}, true},
	"3-of-5-sign-third-combo":                                        {signedBy{five, 3, []int{0, 1, 3}}, true},
	"3-of-5-sign-fourth-combo":                                       {signedBy{five, 3, []int{1, 2, 3}}, true},
	"3-of-5-sign-fifth-combo":                                        {signedBy{five, 3, []int{2, 3, 4}}, true},
}

// rotationScenarios are those of test_updater_key_rotations.py.
func rotationScenarios() []conformanceTest {
	return []conformanceTest{
		{name: "test_root_rotation", cases: names(rootRotations), run: func(s *scenario, name string) {
			versions, keys := rootRotations[name], tenKeys(s)
			s.forget("root")
			for _, v := range versions {
				s.become("root", v, keys)
				s.publish("root")
			}
			s.publish(published...)
			s.first = s.signed["root"][0]
			if rootRefused[name] {
				s.refuse(fault.Unverified)
				s.holds("root", s.signed["root"][len(versions)-2])
				return
			}
			s.refresh()
			s.holds("root", s.last("root"))
		}},
		{name: "test_non_root_rotations", cases: names(otherRotations), run: func(s *scenario, name string) {
			c, keys := otherRotations[name], tenKeys(s)
			for _, role := range []string{"timestamp", "snapshot", "targets"} {
				s.become(role, c.signedBy, keys)
				s.publish("root", "targets", "snapshot", "timestamp")
				if !c.accepted {
					s.refuse(fault.Unverified)
					continue
				}
				s.refresh()
				s.holds(role, s.last(role))
			}
		}},
	}
}

func tenKeys(s *scenario) (keys []*simKey) {
	for range 10 {
		keys = append(keys, s.newKey("ecdsa"))
	}
	return keys
}

// become gives a role the keys, threshold and signers of v.
func (s *scenario) become(role string, v signedBy, keys []*simKey) {
	s.clearKeys(role)
	s.root.Signed.Roles[role].Threshold = v.threshold
	for _, i := range v.keys {
		s.addKey(role, keys[i])
	}
	s.signers[role] = nil
	for _, i := range v.sigs {
		s.addSigner(role, keys[i])
	}
}
