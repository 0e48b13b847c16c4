package imageverifier

import (
	"io"
	"strings"

	"assay/admission"
	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// MediaTypeDescriptor is of the only standard input that is read.
const MediaTypeDescriptor = "application/vnd.oci.descriptor.v1+json"

const (
	// MaxStdin is the most that standard input may hold: containerd's own limit of a
	// manifest is 4 MiB, and a descriptor may carry one.
	MaxStdin = 8 << 20
	maxArg   = 4 << 10
)

// Call is one question of containerd.
type Call struct {
	Name      string             // as it was given
	Reference artifact.Reference // with Digest as the digest
	Digest    artifact.Digest
	MediaType string // of the image, as the descriptor says
}

type descriptor struct {
	MediaType string          `json:"mediaType"`
	Digest    artifact.Digest `json:"digest"`
	Size      int64           `json:"size"`
}

// ParseCall reads the arguments and the descriptor; whatever is not as containerd
// documents it is fault.Invalid, and what contradicts itself is fault.Denied.
func ParseCall(args []string, stdin io.Reader) (*Call, error) {
	v, err := parseArgs(args)
	if err != nil {
		return nil, err
	}
	if v["stdin-media-type"] != MediaTypeDescriptor {
		return nil, fault.Newf(fault.Invalid, "-stdin-media-type %.100q: want %s", v["stdin-media-type"], MediaTypeDescriptor)
	}
	d, err := artifact.ParseDigest(v["digest"])
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "-digest %.150q: %w", v["digest"], err)
	}
	ref, err := admission.Normalize(v["name"])
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "-name %.300q: %w", v["name"], err)
	}
	if ref.Digest != "" && ref.Digest != d {
		return nil, fault.Newf(fault.Denied, "-name asks for %s, and what came is %s", ref.Digest, d)
	}
	b, err := io.ReadAll(io.LimitReader(stdin, MaxStdin+1))
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "standard input: %w", err)
	}
	if len(b) > MaxStdin {
		return nil, fault.Newf(fault.TooLarge, "standard input: more than %d bytes are no descriptor", MaxStdin)
	}
	var desc descriptor
	if err := strictjson.Unmarshal(b, &desc, strictjson.WithMaxBytes(MaxStdin)); err != nil {
		return nil, fault.Newf(fault.Invalid, "standard input: want an OCI descriptor: %w", err)
	}
	if desc.Digest != d {
		return nil, fault.Newf(fault.Denied, "-digest is %s, and the descriptor's is %.150q", d, string(desc.Digest))
	}
	if desc.Size < 0 {
		return nil, fault.Newf(fault.Invalid, "standard input: size %d of the descriptor", desc.Size)
	}
	return &Call{Name: v["name"], Reference: ref.WithDigest(d), Digest: d, MediaType: desc.MediaType}, nil
}

// parseArgs reads flags as Go's flag package does, each once: -name VALUE,
// --name VALUE, -name=VALUE.
func parseArgs(args []string) (map[string]string, error) {
	const want = "want -name REFERENCE -digest DIGEST -stdin-media-type " + MediaTypeDescriptor
	v := map[string]string{}
	for i := 0; i < len(args); i++ {
		name, ok := strings.CutPrefix(args[i], "-")
		name = strings.TrimPrefix(name, "-")
		name, value, joined := strings.Cut(name, "=")
		if !ok || name != "name" && name != "digest" && name != "stdin-media-type" {
			return nil, fault.Newf(fault.Invalid, "argument %.100q is not known: %s", args[i], want)
		}
		if !joined {
			if i++; i == len(args) {
				return nil, fault.Newf(fault.Invalid, "-%s has no value: %s", name, want)
			}
			value = args[i]
		}
		if _, twice := v[name]; twice || value == "" || len(value) > maxArg {
			return nil, fault.Newf(fault.Invalid, "-%s: want it once, with a value of at most %d bytes", name, maxArg)
		}
		v[name] = value
	}
	if len(v) != 3 {
		return nil, fault.Newf(fault.Invalid, "arguments are missing: %s", want)
	}
	return v, nil
}
