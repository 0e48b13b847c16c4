// Package alert calls people: rules over events and objectives open alerts,
// alerts stand together in groups, and groups are told of to whoever is on call.
//
// An alert is one thing that is wrong, once: its fingerprint is its rule and the
// artifact (or what else it is about). What happens again is counted on it. A
// group is what a person deals with at once: the alerts of one severity, service
// and release. A group is told of when it begins and when a rule joins it that was
// not told of yet, so that ten thousand findings of a release are one notice; when
// nobody has acknowledged a page in time, it is told of again, further up; when all
// is over, once more.
//
// Notices are rows written in the transaction of what they tell, sent until they
// were taken, and unique by group, occasion and receiver: at least once to each
// receiver, and queued never twice for one fingerprint. The receivers that can tell
// copies apart (PagerDuty, Alertmanager, webhooks) get a key to do so.
//
// A rule of infrastructure needs several failures before it opens an alert. A rule
// of tampering never does.
//
// Maintenance windows, rotas and inhibition are left to Alertmanager and PagerDuty,
// which are receivers.
package alert
