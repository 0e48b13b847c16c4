package runner

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// system reads a machine below a root folder.
type system struct {
	root    string
	getenv  func(string) (string, bool)
	problem func(string)
}

// maxProc bounds what is read of one file of /proc or /etc.
const maxProc = 1 << 20

func (s system) read(name string) []byte {
	f, err := os.Open(filepath.Join(s.root, name))
	if err != nil {
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxProc))
	if err != nil {
		return nil
	}
	return b
}

func (s system) has(name string) bool {
	_, err := os.Lstat(filepath.Join(s.root, name))
	return err == nil
}

// identifier hashes what identifies a machine, so that documents can be compared
// and the machine's own name is not told (machine-id(5), "application-specific").
func identifier(what string, secret ...string) string {
	m := hmac.New(sha256.New, []byte(strings.Join(secret, "\x00")))
	m.Write([]byte("assay runner " + what + " v1"))
	return "sha256:" + hex.EncodeToString(m.Sum(nil))
}

func (s system) machine(now time.Time) Machine {
	m := Machine{Kind: "unknown", OS: runtime.GOOS, Arch: runtime.GOARCH, Processors: runtime.NumCPU()}
	if id := strings.TrimSpace(string(s.read("etc/machine-id"))); len(id) >= 32 {
		m.ID = identifier("machine", id)
	}
	boot := strings.TrimSpace(string(s.read("proc/sys/kernel/random/boot_id")))
	container := s.container()
	up, ok := parseUptime(s.read("proc/uptime"))
	if ok {
		m.BootAge = int64(up.Seconds())
		m.BootedOn = now.Add(-up).Truncate(time.Second)
	} else {
		s.problem("the machine's age: no /proc/uptime")
	}
	ticks, started := parseStart(s.read("proc/1/stat"))
	if boot != "" {
		m.BootID = identifier("boot", boot)
		m.Instance = identifier("instance", boot, strconv.FormatInt(ticks, 10), container)
	} else {
		s.problem("the boot's identity: no /proc/sys/kernel/random/boot_id")
	}
	if since := time.Duration(ticks) * tick; started && ok && since <= up {
		m.Age = int64((up - since).Seconds())
		m.StartedOn = now.Add(since - up).Truncate(time.Second)
	} else if ok {
		// Where /proc belongs to a container alone, its uptime is its age.
		m.Age, m.StartedOn = m.BootAge, m.BootedOn
	}
	m.Kernel = clip(strings.TrimSpace(string(s.read("proc/sys/kernel/osrelease"))))
	m.OSRelease = clip(parseOSRelease(s.read("etc/os-release")))
	m.Memory = parseMeminfo(s.read("proc/meminfo"), "MemTotal")
	m.Kind, m.Signs = s.kind(container)
	return m
}

// tick is the unit of proc(5)'s starttime: sysconf(_SC_CLK_TCK) is 100 on every
// Linux that Go runs on.
const tick = time.Second / 100

// kind tells containers and virtual machines from hosts, by signs that are
// listed: none of them is a proof.
func (s system) kind(container string) (kind string, signs []string) {
	sign := func(what string, is bool) bool {
		if is {
			signs = append(signs, what)
		}
		return is
	}
	inside := sign("/.dockerenv", s.has(".dockerenv"))
	inside = sign("/run/.containerenv", s.has("run/.containerenv")) || inside
	inside = sign("container id", container != "") || inside
	_, env := s.getenv("container")
	inside = sign("variable container", env) || inside
	_, pod := s.getenv("KUBERNETES_SERVICE_HOST")
	inside = sign("variable KUBERNETES_SERVICE_HOST", pod) || inside
	vm := sign("hypervisor flag", hypervisor(s.read("proc/cpuinfo")))
	product := strings.ToLower(string(s.read("sys/class/dmi/id/sys_vendor")) + " " + string(s.read("sys/class/dmi/id/product_name")))
	for _, p := range []string{"qemu", "kvm", "vmware", "virtualbox", "xen", "amazon ec2", "google compute engine", "virtual machine", "openstack"} {
		vm = sign("dmi "+p, strings.Contains(product, p)) || vm
	}
	switch {
	case inside:
		return "container", signs
	case vm:
		return "vm", signs
	case s.has("proc/cpuinfo"):
		return "host", signs
	}
	return "unknown", signs
}

var containerID = regexp.MustCompile(`(?:docker[-/]|containers/|libpod-|cri-containerd-|crio-|kubepods[^\n ]*/)([0-9a-f]{64})(?:[^0-9a-f]|$)`)

// container is this container's own ID, as its cgroup or the files that the
// engine mounts into it name it; "" outside of one.
func (s system) container() string {
	for _, name := range []string{"proc/self/cgroup", "proc/self/mountinfo"} {
		if m := containerID.FindSubmatch(s.read(name)); m != nil {
			return string(m[1])
		}
	}
	return ""
}

func (s system) image() Image {
	env := func(names ...string) string {
		for _, n := range names {
			if v, ok := s.getenv(n); ok && v != "" {
				return clip(v)
			}
		}
		return ""
	}
	return Image{
		Name: env("ImageOS"), Version: env("ImageVersion"), Container: s.container(),
		Reference: env("CI_JOB_IMAGE", "ASSAY_RUNNER_IMAGE"),
	}
}

// claimed are the variables in which CI systems say what they are. None of them
// holds a secret; what could is left out by clip all the same.
var claimed = []string{
	"GITHUB_ACTIONS", "GITHUB_REPOSITORY", "GITHUB_WORKFLOW_REF", "GITHUB_RUN_ID", "GITHUB_RUN_ATTEMPT", "GITHUB_JOB", "GITHUB_EVENT_NAME",
	"RUNNER_NAME", "RUNNER_OS", "RUNNER_ARCH", "RUNNER_ENVIRONMENT",
	"GITLAB_CI", "CI_PROJECT_PATH", "CI_PIPELINE_ID", "CI_PIPELINE_SOURCE", "CI_JOB_ID", "CI_JOB_NAME", "CI_RUNNER_ID", "CI_RUNNER_VERSION", "CI_COMMIT_REF_PROTECTED",
	"BUILD_TAG", "NODE_NAME", "TEKTON_PIPELINE_RUN",
}

func (s system) claims() map[string]string {
	out := map[string]string{}
	for _, name := range claimed {
		if v, ok := s.getenv(name); ok && v != "" && len(out) < maxSigns {
			out[name] = clip(v)
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// parseUptime reads the first number of /proc/uptime, in seconds.
func parseUptime(b []byte) (time.Duration, bool) {
	first, _, _ := strings.Cut(string(b), " ")
	v, err := strconv.ParseFloat(strings.TrimSpace(first), 64)
	if err != nil || math.IsNaN(v) || v < 0 || v > 1e9 {
		return 0, false
	}
	return time.Duration(v * float64(time.Second)), true
}

// parseStart reads the start time of a process, in ticks since boot, from
// /proc/PID/stat: the 22nd field. The second is the program's name in brackets
// and may hold anything.
func parseStart(b []byte) (ticks int64, ok bool) {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return 0, false
	}
	f := strings.Fields(string(b[i+1:]))
	if len(f) < 20 {
		return 0, false
	}
	ticks, err := strconv.ParseInt(f[19], 10, 64)
	return ticks, err == nil && ticks >= 0 && ticks < 1e12
}

// parseMeminfo reads one line of /proc/meminfo, in bytes; 0 when absent.
func parseMeminfo(b []byte, name string) int64 {
	for line := range strings.Lines(string(b)) {
		rest, ok := strings.CutPrefix(line, name+":")
		if !ok {
			continue
		}
		f := strings.Fields(rest)
		if len(f) == 0 {
			return 0
		}
		kb, err := strconv.ParseInt(f[0], 10, 64)
		if err != nil || kb < 0 || kb > 1<<50 {
			return 0
		}
		return kb << 10
	}
	return 0
}

// parseOSRelease gives "ID VERSION_ID" of os-release(5).
func parseOSRelease(b []byte) string {
	var id, version string
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		v = strings.Trim(v, `"'`)
		switch k {
		case "ID":
			id = v
		case "VERSION_ID":
			version = v
		}
	}
	return strings.TrimSpace(id + " " + version)
}

func parseLoad(b []byte) float64 {
	first, _, _ := strings.Cut(string(b), " ")
	v, err := strconv.ParseFloat(first, 64)
	if err != nil || math.IsNaN(v) || v < 0 || v > 1e6 {
		return 0
	}
	return v
}

func hypervisor(cpuinfo []byte) bool {
	for line := range strings.Lines(string(cpuinfo)) {
		if strings.HasPrefix(line, "flags") {
			return strings.Contains(" "+strings.TrimSpace(line)+" ", " hypervisor ")
		}
	}
	return false
}

func (s system) load(dir string) *Load {
	l := &Load{Load1: parseLoad(s.read("proc/loadavg")), MemFree: parseMeminfo(s.read("proc/meminfo"), "MemAvailable")}
	l.DiskFree, l.DiskTotal = disk(dir)
	return l
}
