package admission

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// Use is how an object uses an image.
type Use string

// The uses.
const (
	Container Use = "container"
	Init      Use = "init container"
	Ephemeral Use = "ephemeral container"
	Volume    Use = "image volume"
)

// Image is one place of an object that names an image.
type Image struct {
	Use       Use
	Name      string // of the container or volume
	Reference string // as the object has it
	Pointer   string // JSON pointer to the reference (RFC 6901)

	pull Pull           // what the Pod may show registries
	pod  string         // JSON pointer to the pod specification
	spec map[string]any // the container or volume
	at   int            // its place in its list
}

const (
	// MaxImages bounds the images of one object.
	MaxImages = 512
	// maxTemplates bounds the pod templates of one object.
	maxTemplates = 64
	maxNesting   = 64 // strictjson's limit is as deep
)

// lists are the members of a pod specification that name images.
var lists = []struct {
	member string
	use    Use
}{
	{"containers", Container}, {"initContainers", Init}, {"ephemeralContainers", Ephemeral}, {"volumes", Volume},
}

// podImages lists the images of a Pod.
func podImages(object []byte) ([]Image, map[string]any, error) {
	doc, err := readObject(object)
	if err != nil {
		return nil, nil, err
	}
	spec, ok := doc["spec"].(map[string]any)
	if !ok {
		return nil, nil, fault.Newf(fault.Invalid, "the Pod has no spec")
	}
	images, err := specImages(spec, "/spec")
	return images, doc, err
}

func readObject(object []byte) (map[string]any, error) {
	if len(object) == 0 {
		return nil, fault.Newf(fault.Invalid, "the review has no object")
	}
	v, err := strictjson.UnmarshalAny(object, strictjson.WithMaxBytes(MaxReview))
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "the review's object: %w", err)
	}
	doc, ok := v.(map[string]any)
	if !ok {
		return nil, fault.Newf(fault.Invalid, "the review's object is no JSON object")
	}
	return doc, nil
}

// templateImages lists the images of every pod specification in an object of
// whatever kind: a map with a list of containers. So it holds for kinds that
// nobody here has heard of.
func templateImages(object []byte) ([]Image, error) {
	doc, err := readObject(object)
	if err != nil {
		return nil, err
	}
	var out []Image
	templates := 0
	var walk func(v any, at string, depth int) error
	walk = func(v any, at string, depth int) error {
		if depth > maxNesting {
			return fault.Newf(fault.TooLarge, "the object is nested deeper than %d", maxNesting)
		}
		switch v := v.(type) {
		case []any:
			for i, e := range v {
				if err := walk(e, at+"/"+strconv.Itoa(i), depth+1); err != nil {
					return err
				}
			}
		case map[string]any:
			if isPodSpec(v) {
				if templates++; templates > maxTemplates {
					return fault.Newf(fault.TooLarge, "the object has more than %d pod templates", maxTemplates)
				}
				images, err := specImages(v, at)
				if out = append(out, images...); err == nil && len(out) > MaxImages {
					err = tooMany(len(out))
				}
				return err
			}
			for _, k := range sortedKeys(v) {
				if err := walk(v[k], at+"/"+escape(k), depth+1); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return out, walk(doc, "", 0)
}

// isPodSpec says whether a map is a pod specification: it has containers that
// name images.
func isPodSpec(m map[string]any) bool {
	list, ok := m["containers"].([]any)
	if !ok {
		return false
	}
	for _, e := range list {
		if c, ok := e.(map[string]any); ok {
			if _, ok := c["image"].(string); ok {
				return true
			}
		}
	}
	return false
}

func specImages(spec map[string]any, at string) (out []Image, err error) {
	pull := pullOf(spec)
	for _, l := range lists {
		raw, have := spec[l.member]
		if !have || raw == nil {
			continue
		}
		list, ok := raw.([]any)
		if !ok {
			return nil, fault.Newf(fault.Invalid, "%s/%s is no list", at, l.member)
		}
		for i, e := range list {
			m, ok := e.(map[string]any)
			if !ok {
				return nil, fault.Newf(fault.Invalid, "%s/%s/%d is no object", at, l.member, i)
			}
			im := Image{Use: l.use, pull: pull, pod: at, spec: m, at: i, Pointer: at + "/" + l.member + "/" + strconv.Itoa(i) + "/image"}
			im.Name, _ = m["name"].(string)
			if l.use == Volume {
				v, ok := m["image"].(map[string]any)
				if !ok {
					continue // a volume of another kind
				}
				im.Pointer += "/reference"
				im.Reference, _ = v["reference"].(string)
			} else {
				im.Reference, _ = m["image"].(string)
			}
			if out = append(out, im); len(out) > MaxImages {
				return nil, tooMany(len(out))
			}
		}
	}
	return out, nil
}

func tooMany(n int) error {
	return fault.Newf(fault.TooLarge, "the object names %d images or more; at most %d are looked into", n, MaxImages)
}

// escape is a member's name in a JSON pointer.
func escape(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "~", "~0"), "/", "~1")
}

// normalize reads an image's reference as container runtimes complete it: no
// host is docker.io, there no namespace is library, and neither tag nor digest
// is the tag latest. Of a tag and a digest the digest counts.
func normalize(s string) (artifact.Reference, error) {
	if s == "" {
		return artifact.Reference{}, fault.Newf(fault.Invalid, "no image is named")
	}
	full := s
	host, rest, ok := strings.Cut(s, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" {
		host, rest, full = "docker.io", s, "docker.io/"+s
	}
	if name, _, _ := strings.Cut(rest, "@"); (host == "docker.io" || host == "index.docker.io") && !strings.Contains(name, "/") {
		full = "docker.io/library/" + rest
	}
	r, err := artifact.ParseReference(full)
	if err == nil && r.Tag == "" && r.Digest == "" {
		r.Tag = "latest"
	}
	return r, err
}

// unchanged says of each image whether the object had it before, under the same
// name and use: a running Pod is not asked about again because its labels change.
func unchanged(images, before []Image) []bool {
	type key struct {
		use       Use
		name, ref string
	}
	had := map[key]bool{}
	for _, im := range before {
		had[key{im.Use, im.Name, im.Reference}] = true
	}
	out := make([]bool, len(images))
	for i, im := range images {
		out[i] = had[key{im.Use, im.Name, im.Reference}]
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
