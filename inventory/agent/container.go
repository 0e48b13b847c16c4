package agent

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"assay/artifact"
)

var idRE = regexp.MustCompile(`[0-9a-f]{64}`)

// idOf is the container of a process, by its cgroup: the last 64 hex digits of its
// path, as containerd, CRI-O, Docker and Podman name them. "": a host's program,
// or a process that is gone.
func (a *Agent) idOf(pid string) string {
	b, err := readBounded(filepath.Join(a.o.Proc, pid, "cgroup"), 64<<10)
	if err != nil {
		return ""
	}
	id := ""
	for l := range strings.Lines(string(b)) {
		if all := idRE.FindAllString(l, -1); len(all) > 0 {
			id = all[len(all)-1]
		}
	}
	return id
}

// bundles are where runtimes keep the configuration of what runs: below /run.
var bundles = []string{
	"containerd/io.containerd.runtime.v2.task/k8s.io/ID/config.json",
	"containerd/io.containerd.runtime.v2.task/moby/ID/config.json",
	"containerd/io.containerd.runtime.v2.task/default/ID/config.json",
	"k3s/containerd/io.containerd.runtime.v2.task/k8s.io/ID/config.json",
	"containers/storage/overlay-containers/ID/userdata/config.json",
}

// container is what is known here of a container. What the runtime wrote names it;
// whose image it is the server says by its inventory, where that knows the Pod.
func (a *Agent) container(id string) Container {
	c := Container{ID: id}
	for prefix, d := range a.o.Containers {
		if strings.HasPrefix(id, prefix) {
			c.Digest = d
		}
	}
	for _, at := range bundles {
		b, err := readBounded(filepath.Join(a.o.Run, strings.Replace(at, "ID", id, 1)), 4<<20)
		if err != nil {
			continue
		}
		var config struct {
			Annotations map[string]string `json:"annotations"`
		}
		if json.Unmarshal(b, &config) != nil {
			continue
		}
		first := func(names ...string) string {
			for _, n := range names {
				if s := config.Annotations[n]; s != "" {
					return s
				}
			}
			return ""
		}
		c.Namespace = first("io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace")
		c.Pod = first("io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name")
		c.Name = first("io.kubernetes.cri.container-name", "io.kubernetes.container.name")
		c.Image = first("io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName", "io.kubernetes.cri-o.ImageRef")
		if _, after, ok := strings.Cut(c.Image, "@"); ok && c.Digest == "" {
			if d, err := artifact.ParseDigest(after); err == nil {
				c.Digest = d
			}
		}
		break
	}
	return c
}

func readBounded(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}

// sweep looks at what runs now, and calls each for the processes of containers.
func (a *Agent) sweep(each func(pid, id string)) error {
	list, err := os.ReadDir(a.o.Proc)
	if err != nil {
		return err
	}
	for _, e := range list {
		pid := e.Name()
		if pid[0] < '0' || pid[0] > '9' {
			continue
		}
		if id := a.idIn(pid); id != "" {
			each(pid, id)
		}
	}
	return nil
}

// inside is a path as the process sees it, whose root may be a folder of another.
func (a *Agent) inside(pid, path string) string {
	root, err := os.Readlink(filepath.Join(a.o.Proc, pid, "root"))
	if err != nil || root == "/" {
		return path
	}
	if p, ok := strings.CutPrefix(path, strings.TrimSuffix(root, "/")); ok && strings.HasPrefix(p, "/") {
		return p
	}
	return path
}

func (a *Agent) command(pid string) string {
	b, err := readBounded(filepath.Join(a.o.Proc, pid, "cmdline"), 4096)
	if err != nil {
		return ""
	}
	s := strings.TrimSpace(strings.ReplaceAll(string(b), "\x00", " "))
	return s[:min(len(s), 400)]
}
