package assay.policy

test_stranger_denied if {
	some m in deny with input as {"signatures": [{"identity": {"subject": "eve@evil.example"}}]} with data.site as {"signers": ["ci@example.com"]}
	contains(m, "eve@evil.example")
}

test_known_passes if {
	count(deny) == 0 with input as {"signatures": [{"identity": {"subject": "ci@example.com"}}]} with data.site as {"signers": ["ci@example.com"]}
}
