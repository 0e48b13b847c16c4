package rebuild

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"assay/artifact"
)

// Most that is read of two files to tell their differences.
const (
	maxRead    = 1 << 30 // bytes of one file, unpacked
	maxMembers = 100_000
)

// report collects differences, up to their bound.
type report struct {
	out  []Difference
	more bool
	gzip gzip.Header // of the expected file
}

func (r *report) add(what, name, expected, got string) {
	if expected == got {
		return
	}
	if len(r.out) >= maxDifferences {
		r.more = true
		return
	}
	r.out = append(r.out, Difference{clip(what), clip(name), clip(expected), clip(got)})
}

// Compare tells in what two files differ, as far as it knows their kind: Go
// binaries, ELF files, tar and zip archives, packed or not; of others where they
// begin to differ. It is for people: what it cannot read it says, and that never
// makes two files the same.
func Compare(expected, got string) (out []Difference, more bool, err error) {
	r := &report{}
	a, err := os.Open(expected)
	if err != nil {
		return nil, false, err
	}
	defer a.Close()
	b, err := os.Open(got)
	if err != nil {
		return nil, false, err
	}
	defer b.Close()
	sa, err := a.Stat()
	if err != nil {
		return nil, false, err
	}
	sb, err := b.Stat()
	if err != nil {
		return nil, false, err
	}
	r.add("size", "", strconv.FormatInt(sa.Size(), 10), strconv.FormatInt(sb.Size(), 10))
	known := goBuild(r, a, b)
	known = elfFiles(r, a, b) || known
	known = known || archives(r, a, b, sa.Size(), sb.Size())
	if !known || len(r.out) == 0 || len(r.out) == 1 && r.out[0].What == "size" {
		firstByte(r, a, b)
	}
	return r.out, r.more, nil
}

// goBuild compares what Go's linker says of a build.
func goBuild(r *report, a, b io.ReaderAt) bool {
	x, errX := buildinfo.Read(a)
	y, errY := buildinfo.Read(b)
	if errX != nil || errY != nil {
		return false
	}
	r.add("gobuild", "go", x.GoVersion, y.GoVersion)
	r.add("gobuild", "path", x.Path, y.Path)
	r.add("gobuild", "module", module(&x.Main), module(&y.Main))
	pairs(r, "gobuild.setting", settings(x), settings(y))
	pairs(r, "gobuild.module", modules(x), modules(y))
	return true
}

func module(m *debug.Module) string { return strings.TrimSpace(m.Path + " " + m.Version + " " + m.Sum) }

func settings(i *debug.BuildInfo) map[string]string {
	out := map[string]string{}
	for _, s := range i.Settings {
		out[s.Key] = s.Value
	}
	return out
}

func modules(i *debug.BuildInfo) map[string]string {
	out := map[string]string{}
	for _, d := range i.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		out[d.Path] = d.Version + " " + d.Sum
	}
	return out
}

func pairs(r *report, what string, a, b map[string]string) {
	for _, k := range sortedKeys(a, b) {
		r.add(what, k, a[k], b[k])
	}
}

func sortedKeys[V any](maps ...map[string]V) []string {
	var out []string
	for _, m := range maps {
		for k := range m {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// elfFiles compares sections, and the build's names in notes.
func elfFiles(r *report, a, b io.ReaderAt) bool {
	x, errX := elf.NewFile(a)
	y, errY := elf.NewFile(b)
	if errX != nil || errY != nil {
		return false
	}
	sx, sy := sections(x), sections(y)
	for _, name := range sortedKeys(sx, sy) {
		p, q := sx[name], sy[name]
		what := "elf.section"
		if strings.HasPrefix(name, ".note.") {
			what = "elf.note"
		}
		r.add(what, name, sectionText(p), sectionText(q))
	}
	return true
}

func sections(f *elf.File) map[string]*elf.Section {
	out := map[string]*elf.Section{}
	for _, s := range f.Sections {
		if len(out) < 1000 && s.Name != "" {
			out[s.Name] = s
		}
	}
	return out
}

// sectionText is a note's content, which names the build, or a section's size
// and digest.
func sectionText(s *elf.Section) string {
	if s == nil {
		return ""
	}
	if s.Type == elf.SHT_NOBITS {
		return fmt.Sprintf("%d bytes, none in the file", s.Size)
	}
	if s.Type == elf.SHT_NOTE && s.FileSize > 16 && s.FileSize < 400 {
		if b, err := io.ReadAll(io.LimitReader(s.Open(), 400)); err == nil {
			return noteText(b)
		}
	}
	d, n, err := artifact.SHA256Reader(io.LimitReader(s.Open(), maxRead))
	if err != nil {
		return "unreadable"
	}
	return fmt.Sprintf("%d bytes, %s", n, d)
}

// noteText shows a note: its descriptor as text where it is one, else in hex.
func noteText(b []byte) string {
	if len(b) < 12 {
		return hex.EncodeToString(b)
	}
	desc := b[12:]
	if printable := strings.TrimRight(string(desc), "\x00"); len(printable) > 4 && !strings.ContainsFunc(printable, func(c rune) bool { return c != 0 && (c < 0x20 || c > 0x7e) }) {
		return strings.ReplaceAll(printable, "\x00", " ")
	}
	return hex.EncodeToString(desc)
}

// member is an entry of an archive.
type member struct {
	place int
	text  map[string]string
}

func archives(r *report, a, b io.ReaderAt, na, nb int64) bool {
	x, kindX, errX := members(r, a, na, "expected")
	y, kindY, errY := members(r, b, nb, "got")
	if kindX == "" || kindX != kindY {
		return false
	}
	for side, err := range map[string]error{"expected": errX, "got": errY} {
		if err != nil {
			r.add("archive", "unreadable "+side, err.Error(), "")
		}
	}
	var order [2][]string
	for _, name := range sortedKeys(x, y) {
		p, q := x[name], y[name]
		switch {
		case p == nil:
			r.add(kindX+".member", name, "", "added")
			continue
		case q == nil:
			r.add(kindX+".member", name, "there", "missing")
			continue
		}
		order[0], order[1] = append(order[0], name), append(order[1], name)
		for _, k := range sortedKeys(p.text, q.text) {
			r.add(kindX+"."+k, name, p.text[k], q.text[k])
		}
	}
	slices.SortFunc(order[0], func(s, t string) int { return x[s].place - x[t].place })
	slices.SortFunc(order[1], func(s, t string) int { return y[s].place - y[t].place })
	for i := range order[0] {
		if order[0][i] != order[1][i] {
			r.add(kindX+".order", "member "+strconv.Itoa(i), order[0][i], order[1][i])
			break
		}
	}
	return true
}

// members reads an archive of either kind; kind "" is that it is none.
func members(r *report, f io.ReaderAt, size int64, side string) (map[string]*member, string, error) {
	head := make([]byte, 10)
	if _, err := f.ReadAt(head, 0); err != nil {
		return nil, "", nil //nolint:nilerr // too short for any
	}
	if bytes.HasPrefix(head, []byte("PK\x03\x04")) {
		m, err := zipMembers(f, size)
		return m, "zip", err
	}
	var in io.Reader = io.NewSectionReader(f, 0, size)
	packed := bytes.HasPrefix(head, []byte{0x1f, 0x8b})
	if packed {
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, "", nil //nolint:nilerr // it only begins like one
		}
		if side == "expected" {
			r.gzip = z.Header
		} else {
			r.add("gzip", "mtime", r.gzip.ModTime.UTC().Format(time.RFC3339), z.ModTime.UTC().Format(time.RFC3339))
			r.add("gzip", "name", r.gzip.Name, z.Name)
			r.add("gzip", "os", strconv.Itoa(int(r.gzip.OS)), strconv.Itoa(int(z.OS)))
		}
		in = z
	}
	m, err := tarMembers(io.LimitReader(in, maxRead))
	if err != nil && len(m) == 0 {
		return nil, "", nil
	}
	return m, "tar", err
}

func tarMembers(in io.Reader) (map[string]*member, error) {
	out := map[string]*member{}
	tr := tar.NewReader(in)
	for place := 0; ; place++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		if place == maxMembers {
			return out, fmt.Errorf("over %d members", maxMembers)
		}
		d, _, err := artifact.SHA256Reader(tr)
		if err != nil {
			return out, err
		}
		out[h.Name] = &member{place, map[string]string{
			"content": string(d), "mtime": h.ModTime.UTC().Format(time.RFC3339Nano), "mode": strconv.FormatInt(h.Mode, 8), "type": string(h.Typeflag), "link": h.Linkname,
			"owner": fmt.Sprintf("%d:%d %s:%s", h.Uid, h.Gid, h.Uname, h.Gname), "size": strconv.FormatInt(h.Size, 10),
		}}
	}
}

func zipMembers(f io.ReaderAt, size int64) (map[string]*member, error) {
	z, err := zip.NewReader(f, size)
	if err != nil {
		return nil, err
	}
	if len(z.File) > maxMembers {
		return nil, fmt.Errorf("over %d members", maxMembers)
	}
	out := map[string]*member{}
	left := int64(maxRead)
	for place, h := range z.File {
		m := &member{place, map[string]string{
			"mtime": h.Modified.UTC().Format(time.RFC3339), "mode": h.Mode().String(), "method": strconv.Itoa(int(h.Method)), "comment": h.Comment, "extra": hex.EncodeToString(h.Extra[:min(len(h.Extra), 64)]),
		}}
		out[h.Name] = m
		in, err := h.Open()
		if err != nil {
			m.text["content"] = "unreadable"
			continue
		}
		d, n, err := artifact.SHA256Reader(io.LimitReader(in, left))
		_ = in.Close()
		if left -= n; err != nil || left <= 0 {
			return out, errors.Join(err, fmt.Errorf("more than %d bytes, or damaged", int64(maxRead)))
		}
		m.text["content"] = string(d)
	}
	return out, nil
}

// firstByte tells where two files begin to differ, with what stands there.
func firstByte(r *report, a, b io.ReaderAt) {
	const chunk = 256 << 10
	x, y := make([]byte, chunk), make([]byte, chunk)
	for at := int64(0); at < maxRead; at += chunk {
		n, errX := a.ReadAt(x, at)
		m, errY := b.ReadAt(y, at)
		k := 0
		for k < min(n, m) && x[k] == y[k] {
			k++
		}
		if k < max(n, m) {
			r.add("bytes", "from offset "+strconv.FormatInt(at+int64(k), 10), around(x[:n], k), around(y[:m], k))
			return
		}
		if errX != nil || errY != nil {
			return
		}
	}
}

// around is some text about a place, as Go quotes it.
func around(b []byte, at int) string {
	return strconv.QuoteToASCII(string(b[max(at-16, 0):min(at+48, len(b))]))
}
