// Package inventory knows the site's services, whose they are and how much hangs
// on them, and what runs where, now and at any time before.
//
// Services come from the site's own catalogue (documents of kind Services, often
// one file services.yaml): a service has a tier, a team, an environment and an
// exposure, and owns repositories, digests and workloads. What it does not say
// counts as the worst: no tier is tier 1, an unknown exposure is the internet,
// an unknown environment is production.
//
// What runs is told by reporters that may speak for a cluster, in snapshots:
// [Store.Observe]. A row stands for one container of one instance, from when it
// was first seen until it was seen no more; nothing is overwritten, so that what
// ran at a time can be asked later.
package inventory
