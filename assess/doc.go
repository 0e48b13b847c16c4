// Package assess takes a first look at what runs, without a server: what is signed
// and by whom, what says how it was built and what is in it, which tags moved, what is
// malicious or known to be exploited, and what a policy would deny, by cause, with the
// fixes that help most.
//
// It reads and changes nothing: see [ReadOnly]. Three answers are kept apart
// throughout: yes, no, and unknown. What a registry holds and nobody here can verify is
// a fourth, "claimed", and counts as none of them; what could not be reached, was cut
// short by time, or was never asked is unknown.
package assess
