package identity

import "slices"

// Action is something that a principal may be allowed to do.
type Action string

// The actions.
const (
	ActPull          Action = "pull"           // read manifests, blobs, tags and referrers
	ActCreate        Action = "create"         // upload content and set tags that do not exist yet; never overwrite
	ActPush          Action = "push"           // move a tag that exists already (uploading needs ActCreate)
	ActDelete        Action = "delete"         // delete manifests, tags, blobs
	ActSign          Action = "sign"           // attach signatures and attestations to content that is there
	ActReadLog       Action = "read-log"       // read identities in the transparency log
	ActReadEvidence  Action = "read-evidence"  // read verified bundles
	ActWriteEvidence Action = "write-evidence" // hand in bundles
	ActVerify        Action = "verify"         // ask for a decision
	ActDeploy        Action = "deploy"         // record that something runs or is about to
	ActObserve       Action = "observe"        // say what a sensor of a cluster or a host saw
	ActApprove       Action = "approve"        // promote by hand, grant an exception
	ActApply         Action = "apply"          // change configuration, roles and policies
	ActReadAudit     Action = "read-audit"     // read the audit trail
	ActOperate       Action = "operate"        // quarantine, scrub, collect garbage, back up
	ActRevoke        Action = "revoke"         // take trust from keys, identities, builders, artifacts
	ActAdmin         Action = "admin"          // keys, trust roots, taking revocations back
)

// Role is a named set of actions.
type Role string

// The roles. The first five are those of a registry, with its actions alone.
const (
	RolePull       Role = "pull"        // read content
	RoleSign       Role = "sign"        // attach signatures and attestations
	RoleCreateOnly Role = "create-only" // bring new content and new tags, and never move a tag
	RolePush       Role = "push"        // bring content and move tags
	RoleDelete     Role = "delete"      // delete content and tags

	RoleViewer    Role = "viewer"
	RolePublisher Role = "publisher"
	RoleSigner    Role = "signer"
	RoleDeployer  Role = "deployer"
	RoleAgent     Role = "agent"
	RoleApprover  Role = "approver"
	RoleOperator  Role = "operator"
	RoleAuditor   Role = "auditor"
	RoleAdmin     Role = "admin"
)

// roleTable is the one table from role to actions, in the order in which a
// denial names the least role that would do.
var roleTable = []struct {
	role    Role
	actions []Action
}{
	{RolePull, []Action{ActPull}},
	{RoleSign, []Action{ActPull, ActSign}},
	{RoleCreateOnly, []Action{ActPull, ActCreate}},
	{RolePush, []Action{ActPull, ActCreate, ActPush}},
	{RoleDelete, []Action{ActPull, ActDelete}},
	{RoleViewer, []Action{ActPull, ActReadEvidence, ActVerify, ActReadLog}},
	{RoleSigner, []Action{ActPull, ActReadEvidence, ActVerify, ActSign, ActWriteEvidence}},
	{RolePublisher, []Action{ActPull, ActReadEvidence, ActVerify, ActSign, ActWriteEvidence, ActCreate, ActPush}},
	{RoleDeployer, []Action{ActPull, ActReadEvidence, ActVerify, ActDeploy}},
	{RoleAgent, []Action{ActObserve}},
	{RoleApprover, []Action{ActPull, ActReadEvidence, ActVerify, ActReadLog, ActApprove}},
	{RoleOperator, []Action{ActPull, ActReadEvidence, ActVerify, ActReadLog, ActDelete, ActOperate, ActRevoke}},
	{RoleAuditor, []Action{ActReadEvidence, ActVerify, ActReadLog, ActReadAudit}},
	{RoleAdmin, []Action{
		ActPull, ActCreate, ActPush, ActDelete, ActSign, ActReadLog, ActReadEvidence, ActWriteEvidence,
		ActVerify, ActDeploy, ActObserve, ActApprove, ActApply, ActReadAudit, ActOperate, ActRevoke, ActAdmin,
	}},
}

// Roles lists all roles.
func Roles() []Role {
	roles := make([]Role, len(roleTable))
	for i, r := range roleTable {
		roles[i] = r.role
	}
	return roles
}

// Actions lists what a role may do; nil for an unknown role.
func (r Role) Actions() []Action {
	for _, row := range roleTable {
		if row.role == r {
			return slices.Clone(row.actions)
		}
	}
	return nil
}

// rolesFor lists the roles that hold an action, least first.
func rolesFor(act Action) []Role {
	var roles []Role
	for _, row := range roleTable {
		if slices.Contains(row.actions, act) {
			roles = append(roles, row.role)
		}
	}
	return roles
}
