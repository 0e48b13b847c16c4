package upstream

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"assay/internal/durable"
	"assay/internal/fault"
	"assay/vuln"
	"assay/vuln/feed"
)

// outcome is what one look at an upstream came to.
type outcome struct {
	Did    string // unchanged, imported, changes
	Tag    string
	Detail string
	Whole  bool // the archive was looked at, and not changes alone
}

// few is how many records are fetched one by one; more come as the archive.
const few = 200

// wholeEvery is after how long the archive is asked for all the same: its
// records are compared with what single ones have added up to.
const wholeEvery = 24 * time.Hour

// job is one look: at one ecosystem of a feed, or at a list.
type job struct {
	Spec
	ecosystem string
	tag       string    // of the archive in force
	whole     time.Time // when the archive was last looked at
	downgrade string    // why it may go back; "": it may not
	actor     string
}

// run looks at the upstream and imports what it finds. A refusal has the fault's
// kinds of [feed.Store.Import].
func (f *Fetcher) run(ctx context.Context, j job) (outcome, error) {
	if u, err := url.Parse(j.URL); err == nil && u.Scheme == "file" {
		return f.local(ctx, j, filepath.FromSlash(u.Path))
	}
	p, err := f.at(ctx, &j.Spec)
	if err != nil {
		return outcome{}, err
	}
	defer p.close()
	if j.Type != OSV {
		return f.list(ctx, p, j)
	}
	if !j.single() && !j.proved() {
		out, done, err := f.changes(ctx, p, j)
		if err != nil || done {
			return out, err
		}
	}
	return f.archive(ctx, p, j)
}

func (j *job) options(tag string) feed.Options {
	return feed.Options{Name: j.Name, Ecosystem: j.ecosystem, Actor: j.actor, ETag: tag, AllowDowngrade: j.downgrade != "", Reason: j.downgrade}
}

// folder is an ecosystem's folder at the upstream.
func (j *job) folder() string { return url.PathEscape(j.ecosystem) }

// archive fetches all.zip, unless it is the one in force.
func (f *Fetcher) archive(ctx context.Context, p place, j job) (outcome, error) {
	name := single
	if !j.single() {
		name = j.folder() + "/all.zip"
	}
	// The index is as old as the archive or older: what lies between is fetched
	// once more, and nothing is left out.
	var index []byte
	if !j.single() && !j.proved() {
		var err error
		if index, err = f.index(ctx, p, j); err != nil {
			return outcome{}, err
		}
	}
	got, err := f.get(ctx, p, &j.Spec, name, j.tag, j.limit())
	if err != nil {
		return outcome{}, err
	}
	if got.Unchanged {
		if err := f.o.Feeds.Renew(ctx, j.Name, j.ecosystem, got.Tag); err != nil {
			return outcome{}, err
		}
		return outcome{Did: "unchanged", Tag: got.Tag, Whole: true}, f.keepIndex(j, index)
	}
	defer os.Remove(got.Path)
	if err := f.prove(ctx, p, j, name, got.Path); err != nil {
		return outcome{}, err
	}
	a, err := feed.OpenZip(got.Path)
	if err != nil {
		return outcome{}, err
	}
	defer a.Close()
	if index != nil {
		if a, err = f.caughtUp(ctx, p, j, a, index); err != nil {
			return outcome{}, err
		}
	}
	op, err := f.o.Feeds.Import(ctx, a, j.options(got.Tag))
	if err != nil {
		return outcome{}, err
	}
	return outcome{Did: "imported", Tag: got.Tag, Detail: counts(op), Whole: true}, f.keepIndex(j, index)
}

func counts(op feed.Operation) string {
	return fmt.Sprintf("operation %d: %d added, %d changed, %d removed, %d unchanged", op.ID, op.Added, op.Changed, op.Removed, op.Unchanged)
}

// prove checks the pin and the signature of a file.
func (f *Fetcher) prove(ctx context.Context, p place, j job, name, path string) error {
	if !j.proved() {
		return nil
	}
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	h := sha256.New()
	if _, err := io.Copy(h, in); err != nil {
		return err
	}
	digest := hex.EncodeToString(h.Sum(nil))
	if j.SHA256 != "" && digest != j.SHA256 {
		return fault.Newf(fault.Unverified, "the archive's SHA-256 is %s, pinned is %s", digest, j.SHA256)
	}
	if j.Signature.Issuer == "" {
		return nil
	}
	var bundle []byte
	if p == nil {
		bundle, err = os.ReadFile(path + bundleSuffix)
	} else {
		bundle, _, err = f.small(ctx, p, &j.Spec, name+bundleSuffix, "", maxBundle)
	}
	if errors.Is(err, fault.NotFound) || errors.Is(err, os.ErrNotExist) {
		return fault.Newf(fault.Unverified, "the signature that the feed must have is not there: want a Sigstore bundle beside the archive, %s", bundleSuffix)
	}
	if err != nil {
		return err
	}
	if f.o.Verify == nil {
		return fault.Newf(fault.Unverified, "signatures of feeds are verified by a server alone")
	}
	return f.o.Verify(ctx, digest, bundle, j.Signature)
}

const (
	bundleSuffix = ".sigstore.json"
	maxBundle    = 1 << 20
)

// list fetches KEV or EPSS.
func (f *Fetcher) list(ctx context.Context, p place, j job) (outcome, error) {
	got, err := f.get(ctx, p, &j.Spec, single, j.tag, j.limit())
	if err != nil {
		return outcome{}, err
	}
	if got.Unchanged {
		return outcome{Did: "unchanged", Tag: got.Tag}, f.o.Lists.Renew(ctx, j.Type)
	}
	defer os.Remove(got.Path)
	if err := f.prove(ctx, p, j, single, got.Path); err != nil {
		return outcome{}, err
	}
	return f.bringList(ctx, j, got.Path, got.Tag)
}

func (f *Fetcher) bringList(ctx context.Context, j job, path, tag string) (outcome, error) {
	in, err := os.Open(path)
	if err != nil {
		return outcome{}, absent(err)
	}
	defer in.Close()
	l, err := f.o.Lists.ImportAs(ctx, j.Type, in, j.actor, j.downgrade)
	if err != nil {
		return outcome{}, err
	}
	return outcome{Did: "imported", Tag: tag, Detail: fmt.Sprintf("%d records of %s", l.Records, l.Dated)}, nil
}

func absent(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return fault.Wrap(fault.NotFound, err)
	}
	return err
}

// local reads a folder or a file of this machine.
func (f *Fetcher) local(ctx context.Context, j job, path string) (outcome, error) {
	if j.Type != OSV {
		if err := f.prove(ctx, nil, j, "", path); err != nil {
			return outcome{}, absent(err)
		}
		return f.bringList(ctx, j, path, "")
	}
	found, err := feed.Find(path)
	if err != nil {
		return outcome{}, err
	}
	var did []string
	for _, one := range found {
		if one.List || j.ecosystem != "" && one.Ecosystem != "" && one.Ecosystem != j.ecosystem {
			continue
		}
		if one.Zip {
			if err := f.prove(ctx, nil, j, "", one.Path); err != nil {
				return outcome{}, err
			}
		} else if j.proved() {
			return outcome{}, fault.Newf(fault.Unverified, "a folder of records has neither a digest nor a signature: want a zip")
		}
		a, err := one.Open()
		if err != nil {
			return outcome{}, err
		}
		part := j
		if part.ecosystem == "" {
			part.ecosystem = one.Ecosystem
		}
		op, err := f.o.Feeds.Import(ctx, a, part.options(""))
		a.Close()
		if err != nil {
			return outcome{}, fmt.Errorf("%s: %w", one.Path, err)
		}
		did = append(did, counts(op))
	}
	if len(did) == 0 {
		return outcome{}, fault.Newf(fault.NotFound, "%s holds nothing of ecosystem %s", path, j.ecosystem)
	}
	return outcome{Did: "imported", Detail: strings.Join(did, "; ")}, nil
}

// The index of changes. A line is TIME,ID, newest first; a record's time there
// is taken for a version and compared, not believed.

func (f *Fetcher) indexPath(j job) string {
	sum := sha256.Sum256([]byte(j.Name + "\x00" + j.URL + "\x00" + j.ecosystem))
	return filepath.Join(f.o.Dir, "index-"+hex.EncodeToString(sum[:12]))
}

// index fetches modified_id.csv; nil: the upstream has none.
func (f *Fetcher) index(ctx context.Context, p place, j job) ([]byte, error) {
	b, _, err := f.small(ctx, p, &j.Spec, j.folder()+"/modified_id.csv", "", maxIndex)
	if errors.Is(err, fault.NotFound) {
		return nil, nil //nolint:nilnil // an upstream without one is asked for archives
	}
	if err == nil {
		_, _, err = readIndex(b, f.o.Clock())
	}
	return b, err
}

// keepIndex notes what the upstream had when all of it was taken.
func (f *Fetcher) keepIndex(j job, b []byte) error {
	if b == nil {
		return nil
	}
	return durable.WriteFile(f.indexPath(j), b, 0o600)
}

// readIndex gives the time of each record as text, and the newest of them that is
// not to come.
func readIndex(b []byte, now time.Time) (all map[string]string, newest time.Time, err error) {
	all = map[string]string{}
	for line := range bytes.Lines(b) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		at, id, ok := strings.Cut(string(line), ",")
		id = strings.Trim(id, `"`)
		if !ok || id == "" || len(id) > vuln.MaxID || strings.ContainsAny(id, "/\\ ?#%") || len(at) > 64 {
			return nil, newest, fault.Newf(fault.Invalid, "modified_id.csv: line %.100q: want TIME,ID", line)
		}
		all[id] = at
		if t, err := time.Parse(time.RFC3339, at); err == nil && t.After(newest) && !t.After(now.Add(time.Hour)) {
			newest = t
		}
	}
	if len(all) == 0 {
		return nil, newest, fault.Newf(fault.Invalid, "modified_id.csv holds no record")
	}
	return all, newest, nil
}

// changes fetches what the index says has changed, when that is little; done
// says that the archive need not be looked at.
func (f *Fetcher) changes(ctx context.Context, p place, j job) (out outcome, done bool, err error) {
	had, err := os.ReadFile(f.indexPath(j))
	if err != nil {
		return out, false, nil //nolint:nilerr // nothing to compare with: the archive it is
	}
	b, err := f.index(ctx, p, j)
	if err != nil || b == nil {
		return out, false, err
	}
	was, before, err := readIndex(had, f.o.Clock())
	if err != nil {
		return out, false, nil //nolint:nilerr // ours is damaged: the archive it is
	}
	is, newest, err := readIndex(b, f.o.Clock())
	if err != nil {
		return out, false, err
	}
	if newest.Before(before) && j.downgrade == "" {
		return out, false, fault.Newf(fault.Conflict, "the upstream is older than what is in force: its newest record is of %s, and was of %s; if that is right, allow it (assay feed sync %s --allow-downgrade --reason WHY)",
			newest.Format(time.RFC3339), before.Format(time.RFC3339), j.Name)
	}
	if f.o.Clock().Sub(j.whole) >= wholeEvery || j.downgrade != "" {
		return out, false, nil
	}
	var ids []string
	for id, at := range is {
		if was[id] != at {
			ids = append(ids, id)
		}
	}
	for id := range was {
		if _, there := is[id]; !there {
			return out, false, nil // removed: the archive says so with all others
		}
	}
	switch {
	case len(ids) > few:
		return out, false, nil
	case len(ids) == 0:
		return outcome{Did: "unchanged", Tag: j.tag}, true, f.o.Feeds.Renew(ctx, j.Name, j.ecosystem, j.tag)
	}
	slices.Sort(ids)
	records := gathered{}
	for _, id := range ids {
		raw, _, err := f.small(ctx, p, &j.Spec, j.folder()+"/"+url.PathEscape(id)+".json", "", vuln.MaxAdvisory)
		if err != nil {
			return out, false, fmt.Errorf("%s: %w", id, err)
		}
		records = append(records, record{id, raw})
	}
	o := j.options(j.tag)
	o.Partial = true
	op, err := f.o.Feeds.Import(ctx, records, o)
	if err != nil {
		return out, false, err
	}
	return outcome{Did: "changes", Tag: j.tag, Detail: counts(op)}, true, f.keepIndex(j, b)
}

// lagging is an archive that is behind the index: exports are made now and then,
// and what changed since must not seem to have gone back.
type lagging struct {
	feed.Archive
	times map[string]string
	fetch func(id string) ([]byte, error)
}

func (f *Fetcher) caughtUp(ctx context.Context, p place, j job, a feed.Archive, index []byte) (feed.Archive, error) {
	times, _, err := readIndex(index, f.o.Clock())
	if err != nil {
		return nil, err
	}
	left := few
	return lagging{a, times, func(id string) ([]byte, error) {
		if left--; left < 0 {
			return nil, nil
		}
		b, _, err := f.small(ctx, p, &j.Spec, j.folder()+"/"+url.PathEscape(id)+".json", "", vuln.MaxAdvisory)
		if errors.Is(err, fault.NotFound) {
			return nil, nil
		}
		return b, err
	}}, nil
}

// Each implements [feed.Archive].
func (l lagging) Each(lim feed.Limits, fn func(string, []byte) error) error {
	return l.Archive.Each(lim, func(name string, raw []byte) error {
		id := strings.TrimSuffix(name, ".json")
		if at, is := l.times[id]; is && behind(raw, at) {
			newer, err := l.fetch(id)
			if err != nil {
				return fmt.Errorf("%s: %w", id, err)
			}
			if newer != nil {
				raw = newer
			}
		}
		return fn(name, raw)
	})
}

// behind says that a record claims to be older than the index has it. It decides
// what is asked for once more, and nothing else.
func behind(raw []byte, at string) bool {
	_, rest, ok := bytes.Cut(raw, []byte(`"modified"`))
	if !ok {
		return false
	}
	rest = rest[:min(len(rest), 80)]
	_, rest, _ = bytes.Cut(rest, []byte(`"`))
	own, _, ok := bytes.Cut(rest, []byte(`"`))
	if !ok {
		return false
	}
	is, err1 := time.Parse(time.RFC3339, string(own))
	listed, err2 := time.Parse(time.RFC3339, at)
	return err1 == nil && err2 == nil && is.Truncate(time.Second).Before(listed.Truncate(time.Second))
}

// gathered are records that were fetched one by one.
type gathered []record

type record struct {
	id  string
	raw []byte
}

// Digest implements [feed.Archive].
func (r gathered) Digest() string {
	h := sha256.New()
	for _, one := range r {
		fmt.Fprintf(h, "%s %d\n", one.id, len(one.raw))
		h.Write(one.raw)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// Close implements [feed.Archive].
func (gathered) Close() error { return nil }

// Each implements [feed.Archive].
func (r gathered) Each(_ feed.Limits, fn func(string, []byte) error) error {
	for _, one := range r {
		if err := fn(one.id+".json", one.raw); err != nil {
			return err
		}
	}
	return nil
}
