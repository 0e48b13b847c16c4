// Package e2e drives the real binary with the real clients of the field. Its
// tests have the build tag e2e; `make e2e` builds or installs what they need.
package e2e
