package assay.policy

# No one signs here who is not on the list of data.json.
deny contains msg if {
	some s in input.signatures
	not s.identity.subject in data.site.signers
	msg := sprintf("signed by %s, who is not on the list", [s.identity.subject])
}
