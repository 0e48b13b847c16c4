// Package gate answers those who move software on: controllers that shift traffic
// to a canary, pipelines that ask whether a build may go on, and platforms that
// activate functions. Each question is answered by the decisions of this site, its
// objectives and what is known of flaws; time is the site's own record, never the
// caller's word.
package gate
