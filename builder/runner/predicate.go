// Package runner is evidence about the machine that builds: how old it is, what
// it was made from, whether it was used before, what its clock says, which
// programs it ran and which caches it read and wrote.
//
// [Collect] looks before the build, [Evidence.Finish] after it, and the document
// in between is signed with the build's identity. What the machine says of
// itself is a claim of that identity: a build that took its machine over can
// write anything. It shows what nobody hid, and what the server knows from other
// builds, it compares: see [Store].
package runner

import (
	"regexp"
	"strings"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/secret"
	"assay/internal/strictjson"
)

// PredicateType is the type of statements about a machine that built their
// subjects. docs/runner.md describes it and holds its schema.
const PredicateType = "https://assay.dev/predicates/runner/v0.1"

// Bounds of one document. What is beyond them is counted in Left, so that a
// reader knows of it.
const (
	maxDocument = 256 << 10 // bytes
	maxTools    = 512
	maxCaches   = 64
	maxText     = 300 // bytes of one string
	maxSigns    = 32
)

// Evidence is the predicate. Times are RFC 3339 and claimed by the machine's own
// clock; Clock says how far that was off.
type Evidence struct {
	Build    Build             `json:"build"`
	Machine  Machine           `json:"machine"`
	Image    Image             `json:"image"`
	Use      Use               `json:"use"`
	Claims   map[string]string `json:"claims,omitempty"` // variables of the CI system, by allow-list; claimed, and matched with nothing
	Clock    *Clock            `json:"clock,omitempty"`  // absent when nobody could be asked
	Tools    []Tool            `json:"tools,omitempty"`
	Caches   []Cache           `json:"caches,omitempty"`
	Load     *Load             `json:"load,omitempty"`
	Left     int               `json:"left,omitempty"`     // tools and caches that are beyond the bounds
	Problems []string          `json:"problems,omitempty"` // what could not be looked at
}

// Build binds the document to one run.
type Build struct {
	InvocationID string    `json:"invocationId"` // as in the provenance
	StartedOn    time.Time `json:"startedOn"`
	FinishedOn   time.Time `json:"finishedOn,omitzero"`
}

// Machine is what runs. Identifiers are hashes under a key of their own, as
// machine-id(5) asks: they can be compared with each other and with nothing
// else.
type Machine struct {
	ID         string    `json:"id,omitempty"`       // of /etc/machine-id
	BootID     string    `json:"bootId,omitempty"`   // of the running kernel; containers of one host share it
	Instance   string    `json:"instance,omitempty"` // of the running system: another container or another boot is another
	Kind       string    `json:"kind"`               // container, vm, host or unknown
	Signs      []string  `json:"signs,omitempty"`    // what Kind was told by
	BootedOn   time.Time `json:"bootedOn,omitzero"`
	StartedOn  time.Time `json:"startedOn,omitzero"` // of process 1: a container's own start
	BootAge    int64     `json:"bootAgeSeconds,omitempty"`
	Age        int64     `json:"ageSeconds,omitempty"` // since process 1 started
	OS         string    `json:"os"`
	Arch       string    `json:"arch"`
	Kernel     string    `json:"kernel,omitempty"`    // release
	OSRelease  string    `json:"osRelease,omitempty"` // ID and VERSION_ID of os-release(5)
	Processors int       `json:"processors,omitempty"`
	Memory     int64     `json:"memoryBytes,omitempty"`
}

// Image is what the machine was made from, as far as it tells.
type Image struct {
	Name      string `json:"name,omitempty"`      // of a hosted runner's image: ImageOS
	Version   string `json:"version,omitempty"`   // ImageVersion
	Container string `json:"container,omitempty"` // container's own ID, 64 hex digits
	Reference string `json:"reference,omitempty"` // the container image that the CI system names
}

// Use says how often the machine was used before. Marks lie in several places
// outside of the build's folder, since a clean-up forgets one more easily than
// all.
type Use struct {
	Fresh  bool      `json:"fresh"`           // no mark of an earlier build was found, and at least one could be left
	Builds int       `json:"builds"`          // earlier builds, at least
	First  time.Time `json:"first,omitzero"`  // of the oldest mark
	Last   time.Time `json:"last,omitzero"`   // of the newest
	Marks  []Mark    `json:"marks,omitempty"` // places that were looked at
}

// Mark is one place.
type Mark struct {
	Place string `json:"place"` // home, cache, tmp, var, shm
	State string `json:"state"` // absent, present, unreadable
	Left  bool   `json:"left"`  // this build left one
	Moved bool   `json:"moved,omitempty"`
}

// Clock compares the machine's clock with another's.
type Clock struct {
	Source      string `json:"source"` // server or tsa
	Offset      int64  `json:"offsetMillis"`
	Uncertainty int64  `json:"uncertaintyMillis"` // half of the time that asking took
}

// Tool is a program that the build ran.
type Tool struct {
	Name    string          `json:"name"`
	Digest  artifact.Digest `json:"digest"`
	Version string          `json:"version,omitempty"`
}

// Cache is a folder or file that outlives builds. Restored is its digest before
// the build, Saved after it; "" where there was none. Both are over the list of
// its files, see [HashCache].
type Cache struct {
	Key      string          `json:"key"`
	Restored artifact.Digest `json:"restored,omitempty"`
	Saved    artifact.Digest `json:"saved,omitempty"`
	Files    int             `json:"files"`
	Bytes    int64           `json:"bytes"`
}

// Load is the machine's state when the build began.
type Load struct {
	Load1     float64 `json:"load1"`
	MemFree   int64   `json:"memoryAvailableBytes"`
	DiskFree  int64   `json:"diskFreeBytes"`
	DiskTotal int64   `json:"diskTotalBytes"`
}

// Parse reads a predicate strictly: an unknown member, a value out of bounds or
// a text that looks like a secret is [fault.Invalid].
func Parse(b []byte) (*Evidence, error) {
	if len(b) > maxDocument {
		return nil, fault.Newf(fault.TooLarge, "runner evidence of %d bytes, want at most %d", len(b), maxDocument)
	}
	var e Evidence
	if err := strictjson.Unmarshal(b, &e, strictjson.RejectUnknown(), strictjson.WithMaxDepth(8)); err != nil {
		return nil, fault.Newf(fault.Invalid, "runner evidence: %w", err)
	}
	if err := e.Validate(); err != nil {
		return nil, err
	}
	return &e, nil
}

// JSON writes the predicate.
func (e *Evidence) JSON() ([]byte, error) {
	if err := e.Validate(); err != nil {
		return nil, err
	}
	return strictjson.Marshal(e)
}

var (
	hashed   = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	hex64    = regexp.MustCompile(`^[0-9a-f]{64}$`)
	buildID  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@+=?&%#-]{0,255}$`)
	kinds    = []string{"container", "vm", "host", "unknown"}
	states   = []string{"absent", "present", "unreadable"}
	sources  = []string{"server", "tsa"}
	maxClock = int64(400 * 24 * time.Hour / time.Millisecond)
)

// Validate checks the document's bounds.
func (e *Evidence) Validate() error {
	bad := func(format string, a ...any) error {
		return fault.Newf(fault.Invalid, "runner evidence: "+format, a...)
	}
	if !buildID.MatchString(e.Build.InvocationID) {
		return bad("build.invocationId %.80q: want the provenance's invocationId", e.Build.InvocationID)
	}
	for name, id := range map[string]string{"id": e.Machine.ID, "bootId": e.Machine.BootID, "instance": e.Machine.Instance} {
		if id != "" && !hashed.MatchString(id) {
			return bad("machine.%s: want sha256:HEX", name)
		}
	}
	if !oneOf(e.Machine.Kind, kinds) {
		return bad("machine.kind %.40q: want container, vm, host or unknown", e.Machine.Kind)
	}
	if e.Image.Container != "" && !hex64.MatchString(e.Image.Container) {
		return bad("image.container: want 64 hex digits")
	}
	if e.Use.Builds < 0 || e.Left < 0 || e.Machine.Age < 0 || e.Machine.BootAge < 0 || e.Use.Fresh && e.Use.Builds > 0 {
		return bad("use or machine: a number is out of range, or a fresh machine that was used")
	}
	if len(e.Use.Marks) > maxSigns || len(e.Machine.Signs) > maxSigns || len(e.Problems) > maxSigns || len(e.Claims) > maxSigns {
		return bad("a list of over %d", maxSigns)
	}
	for _, m := range e.Use.Marks {
		if !oneOf(m.State, states) {
			return bad("use.marks: state %.40q: want absent, present or unreadable", m.State)
		}
	}
	if c := e.Clock; c != nil && (!oneOf(c.Source, sources) || c.Uncertainty < 0 || c.Offset > maxClock || c.Offset < -maxClock) {
		return bad("clock: want a source of server or tsa, and an offset within 400 days")
	}
	if err := e.validateLists(bad); err != nil {
		return err
	}
	return e.texts(bad)
}

func (e *Evidence) validateLists(bad func(string, ...any) error) error {
	if len(e.Tools) > maxTools || len(e.Caches) > maxCaches {
		return bad("%d tools and %d caches, want at most %d and %d", len(e.Tools), len(e.Caches), maxTools, maxCaches)
	}
	for _, t := range e.Tools {
		if t.Name == "" || t.Digest.Validate() != nil {
			return bad("tool %.80q: want a name and a digest", t.Name)
		}
	}
	keys := map[string]bool{}
	for _, c := range e.Caches {
		if c.Key == "" || keys[c.Key] || c.Files < 0 || c.Bytes < 0 {
			return bad("cache %.80q: empty, or twice", c.Key)
		}
		keys[c.Key] = true
		for _, d := range []artifact.Digest{c.Restored, c.Saved} {
			if d != "" && d.Validate() != nil {
				return bad("cache %.80q: want digests", c.Key)
			}
		}
	}
	return nil
}

// texts checks every string that a machine could fill.
func (e *Evidence) texts(bad func(string, ...any) error) error {
	all := []string{
		e.Machine.OS, e.Machine.Arch, e.Machine.Kernel, e.Machine.OSRelease, e.Image.Name, e.Image.Version, e.Image.Reference,
	}
	all = append(append(all, e.Machine.Signs...), e.Problems...)
	for k, v := range e.Claims {
		all = append(all, k, v)
	}
	for _, m := range e.Use.Marks {
		all = append(all, m.Place)
	}
	for _, t := range e.Tools {
		all = append(all, t.Name, t.Version)
	}
	for _, c := range e.Caches {
		all = append(all, c.Key)
	}
	for _, s := range all {
		if why := unprintable(s); why != "" {
			return bad("a text %s", why)
		}
	}
	return nil
}

// unprintable says why a text may not stand in the document; "" when it may.
func unprintable(s string) string {
	switch {
	case len(s) > maxText:
		return "of over 300 bytes"
	case strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f || r == 0xfffd || r >= 0x80 && r < 0xa0 }):
		return "with control characters"
	case secret.Looking(s):
		return "that looks like a secret"
	}
	return ""
}

func oneOf(s string, all []string) bool {
	for _, a := range all {
		if s == a {
			return true
		}
	}
	return false
}
