package scan

import (
	"context"
	"os"
	"strings"
	"time"

	"assay/artifact"
	"assay/internal/fault"
	"assay/internal/oci"
	"assay/sbom"
)

// Limits bound what a target may cost. Zero values mean the defaults.
type Limits struct {
	Bytes      int64 // read after decompression, of the whole target; default 64 GiB
	Ratio      int64 // decompressed to compressed, beyond the first 64 MiB; default 250
	Entries    int   // files, folders and links; default 5,000,000
	File       int64 // of a file that is read whole; default 128 MiB
	Program    int64 // of a program, database or jar; default 4 GiB
	Components int   // default 500,000
}

func (l Limits) withDefaults() Limits {
	set := func(v *int64, to int64) {
		if *v <= 0 {
			*v = to
		}
	}
	set(&l.Bytes, 64<<30)
	set(&l.Ratio, 250)
	set(&l.File, 128<<20)
	set(&l.Program, 4<<30)
	if l.Entries <= 0 {
		l.Entries = 5_000_000
	}
	if l.Components <= 0 {
		l.Components = 500_000
	}
	return l
}

// Options say how a target is read.
type Options struct {
	// Platform chooses from an index: "linux/amd64", "linux/arm64/v8". Where an
	// index has one image only, it is taken; "" is linux and this machine's own.
	Platform string
	Tool     string    // who makes the document: "assay v1.2.3"
	Now      time.Time // when; in the document
	TempDir  string    // for large files of compressed layers; "" is the system's
	Limits   Limits
	// NoDocuments refuses a target that is a bill of materials already, whose
	// word about its subject is not ours.
	NoDocuments bool
	// Progress, when set, is told what is being read.
	Progress func(what string)
}

func (o Options) withDefaults() Options {
	o.Limits = o.Limits.withDefaults()
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	return o
}

// Path reads a file or a folder: an OCI layout (folder or archive), an archive of
// docker save, a tar, tar.gz, tar.zst or zip, a root file system or source tree,
// a lock file, a program, or a bill of materials, which is given back as read.
//
// A file that cannot be read as any of these is fault.Invalid; one that holds no
// package gives a document that says so.
func Path(ctx context.Context, path string, o Options) (*sbom.Document, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "%w; want a file, a folder or an image reference", err)
	}
	c, err := newCollector(ctx, o)
	if err != nil {
		return nil, err
	}
	defer c.close()
	if st.IsDir() {
		return c.folder(path)
	}
	if !st.Mode().IsRegular() {
		return nil, fault.Newf(fault.Invalid, "%s is neither a file nor a folder", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	defer f.Close()
	return c.singleFile(f, st.Size(), path)
}

// Image reads an image of a registry, layer by layer.
func Image(ctx context.Context, client *oci.Client, ref artifact.Reference, o Options) (*sbom.Document, error) {
	c, err := newCollector(ctx, o)
	if err != nil {
		return nil, err
	}
	defer c.close()
	return c.remote(client, ref)
}

// platform is an image's operating system and processor.
type platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant"`
}

func (p platform) String() string {
	return strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/")
}

func parsePlatform(s string) (platform, error) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || parts[1] == "" {
		return platform{}, fault.Newf(fault.Invalid, "platform %.60q: want OS/ARCHITECTURE[/VARIANT], for example linux/amd64", s)
	}
	p := platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p, nil
}
