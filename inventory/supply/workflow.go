package supply

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
	"time"

	"assay/internal/strictyaml"
)

var (
	commit = regexp.MustCompile(`@([0-9a-f]{40}|[0-9a-f]{64})$`)
	pinned = regexp.MustCompile(`@sha256:[0-9a-f]{64}$`)
)

// workflow records a pipeline's file and judges it.
func (s *scan) workflow(scope, path string, body []byte) {
	sum := sha256.Sum256(body)
	s.add(scope, Workflows, path, "sha256:"+hex.EncodeToString(sum[:]), time.Time{})
	if want, ok := s.o.Templates[path]; ok && string(want) != string(body) {
		s.find("template-drift", scope, path, "the file is not what its template says")
	}
	var err error
	if s.o.Provider == GitLab {
		err = s.judgeGitLab(scope, path, body)
	} else {
		err = s.judgeActions(scope, path, body)
	}
	if err != nil {
		s.unknown(scope, Workflows, path+" cannot be read: "+err.Error())
	}
}

// missing names templates whose file a repository does not have.
func (s *scan) missing(scope string, seen map[string]bool) {
	for path := range s.o.Templates {
		if !seen[path] {
			s.find("template-drift", scope, path, "the file of the template is not there")
		}
	}
}

func (s *scan) judgeActions(scope, path string, body []byte) error {
	var tree map[string]any
	if err := strictyaml.Unmarshal(body, &tree); err != nil {
		return err
	}
	s.grants(scope, path, tree["permissions"])
	jobs, _ := tree["jobs"].(map[string]any)
	for _, j := range jobs {
		job, _ := j.(map[string]any)
		s.grants(scope, path, job["permissions"])
		s.uses(scope, path, job["uses"])
		steps, _ := job["steps"].([]any)
		for _, x := range steps {
			step, _ := x.(map[string]any)
			s.uses(scope, path, step["uses"])
		}
	}
	return nil
}

func (s *scan) grants(scope, path string, v any) {
	if v == "write-all" {
		s.find("write-all", scope, path, "permissions: write-all; name what the job writes")
	}
}

// uses judges one action: of this repository, a commit, or an image by digest.
func (s *scan) uses(scope, path string, v any) {
	u, ok := v.(string)
	if !ok || strings.HasPrefix(u, "./") {
		return
	}
	if strings.HasPrefix(u, "docker://") && pinned.MatchString(u) || !strings.HasPrefix(u, "docker://") && commit.MatchString(u) {
		return
	}
	s.find("unpinned-action", scope, path, "uses: "+u+" is not held to a commit or a digest")
}

func (s *scan) judgeGitLab(scope, path string, body []byte) error {
	docs, err := strictyaml.Split(body)
	if err != nil {
		return err
	}
	for _, d := range docs {
		var tree map[string]any
		if err := d.Decode(&tree); err != nil {
			return err
		}
		s.image(scope, path, tree["image"])
		s.include(scope, path, tree["include"])
		for _, v := range tree {
			if job, ok := v.(map[string]any); ok {
				s.image(scope, path, job["image"])
			}
		}
	}
	return nil
}

func (s *scan) image(scope, path string, v any) {
	if m, ok := v.(map[string]any); ok {
		v = m["name"]
	}
	if name, ok := v.(string); ok && !pinned.MatchString(name) {
		s.find("unpinned-action", scope, path, "image: "+name+" is not held to a digest")
	}
}

func (s *scan) include(scope, path string, v any) {
	all, ok := v.([]any)
	if !ok {
		all = []any{v}
	}
	for _, x := range all {
		if text, ok := x.(string); ok && strings.Contains(text, "://") {
			x = map[string]any{"remote": text}
		}
		m, _ := x.(map[string]any)
		ref, _ := m["ref"].(string)
		component, _ := m["component"].(string)
		switch {
		case m["remote"] != nil && m["integrity"] == nil:
			s.find("unpinned-action", scope, path, "an include of another site is not held to a digest (integrity:)")
		case m["project"] != nil && !commit.MatchString("@"+ref), component != "" && !commit.MatchString(component):
			s.find("unpinned-action", scope, path, "an include of another project is not held to a commit")
		case m["template"] != nil:
			s.find("unpinned-action", scope, path, "an included template changes with the server's version")
		}
	}
}
