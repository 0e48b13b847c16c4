// Package siem tells security information systems what happened: every event of
// the log as one record of the Open Cybersecurity Schema Framework (OCSF), in
// JSON, by syslog over TLS (RFC 5424, RFC 5425), by HTTP, or into files that are
// rotated. Each sink has a durable cursor and a filter of its own; it is told at
// least once, in order, and a sink that does not take events holds up nobody but
// itself.
//
// docs/siem.md has the mapping.
package siem
