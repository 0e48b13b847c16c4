package backup

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"assay/artifact"
	"assay/event"
	"assay/internal/fault"
	"assay/internal/keyring"
	"assay/internal/strictjson"
	"assay/store"
	"assay/tlog"
)

// verify checks what was restored, from what was restored alone.
func (x *restoration) verify(ctx context.Context) error {
	if x.tables == nil {
		return fault.Newf(fault.Tampered, "the backup has no database")
	}
	if err := x.db.Check(ctx); err != nil {
		return err
	}
	trees := map[string]*tlog.Tree{}
	for _, e := range x.logs {
		tree, mark, err := x.log(ctx, e)
		if err != nil {
			return fmt.Errorf("log %s: %w", e.Name, err)
		}
		trees[e.Name], x.marks = tree, append(x.marks, mark)
	}
	if len(x.marks) != len(x.l.Logs) {
		return fault.Newf(fault.Tampered, "the backup has %d logs, its manifest names %d", len(x.marks), len(x.l.Logs))
	}
	if err := x.keyIndex(); err != nil {
		return err
	}
	events := event.NewLog(x.db, event.LogOptions{})
	if err := events.VerifyChain(ctx, 0, 0); err != nil {
		return err
	}
	if h, err := events.LastHead(ctx); err == nil {
		x.report.Events = h.LastSeq
	} else if !errors.Is(err, fault.NotFound) {
		return err
	}
	if t := trees["log"]; t != nil {
		if err := headsInLog(ctx, events, t); err != nil {
			return err
		}
	}
	return x.references(ctx)
}

func (x *restoration) log(ctx context.Context, e logEntry) (*tlog.Tree, MarkedLog, error) {
	keys, err := parseKeys(e.Keys)
	if err != nil {
		return nil, MarkedLog{}, err
	}
	if !filepath.IsLocal(e.Folder) {
		return nil, MarkedLog{}, fault.Newf(fault.Tampered, "its folder is %.80q", e.Folder)
	}
	l := Log{Name: e.Name, Folder: e.Folder, Origin: e.Origin, CT: e.CT, Keys: keys}
	tree, cp, err := l.whole(ctx, x.t.Data)
	if err != nil {
		return nil, MarkedLog{}, err
	}
	var recorded []byte
	if err := x.db.View(ctx, func(tx *store.Tx) (err error) { recorded, err = tlog.Recorded(ctx, tx, e.Origin); return err }); err != nil {
		return nil, MarkedLog{}, err
	}
	if !bytes.Equal(recorded, cp.Note) || !bytes.Equal(e.Checkpoint, cp.Note) {
		return nil, MarkedLog{}, fault.Newf(fault.Tampered, "the checkpoints of the folder, the database and the index differ")
	}
	head := LogHead{e.Name, e.Origin, cp.Size, hex.EncodeToString(cp.Root[:])}
	if !slices.Contains(x.l.Logs, head) {
		return nil, MarkedLog{}, fault.Newf(fault.Tampered, "its checkpoint is not the manifest's")
	}
	return tree, MarkedLog{e.Name, e.Folder, e.Origin, e.CT, e.Keys, cp.Size, head.Root}, nil
}

// keyIndex checks keys.json, which remembers the site's keys by their public
// fingerprints: each that lies in a file has its file, and each log has a key that
// it knows. Whether a file holds the key of its fingerprint shows when it is
// opened, for which a restore has no secret.
func (x *restoration) keyIndex() error {
	b, err := x.root.ReadFile("keys.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil // of a version that kept none
	}
	if err != nil {
		return err
	}
	var index struct {
		Keys []struct {
			Name        string `json:"name"`
			Fingerprint string `json:"fingerprint"`
			Where       string `json:"where"`
		} `json:"keys"`
	}
	if err := strictjson.Unmarshal(b, &index); err != nil {
		return fault.Newf(fault.Tampered, "keys.json does not read: %w", err)
	}
	known := map[string]bool{}
	for _, k := range index.Keys {
		known[k.Fingerprint] = true
		if k.Where != "file" {
			continue
		}
		if _, err := x.root.Stat(filepath.Join("keys", k.Name+".pem")); err != nil {
			return fault.Newf(fault.Tampered, "key %.80q is in keys.json and its file is not in the backup", k.Name)
		}
	}
	for _, l := range x.logs {
		keys, err := parseKeys(l.Keys)
		if err != nil {
			return err
		}
		found := false
		for _, k := range keys {
			fp, err := keyring.Fingerprint(k)
			if err != nil {
				return err
			}
			found = found || known[fp]
		}
		if !found {
			return fault.Newf(fault.Tampered, "keys.json knows none of the keys of the log %s: keys and log are not of one site", l.Name)
		}
	}
	return nil
}

// whole recomputes a log of a data folder from its entries up to the signed
// checkpoint.
func (l Log) whole(ctx context.Context, data string) (*tlog.Tree, tlog.Checkpoint, error) {
	dir := tlog.Dir{Path: filepath.Join(data, l.Folder), Folder: l.codec().Folder()}
	b, err := dir.Checkpoint(ctx)
	if err != nil {
		return nil, tlog.Checkpoint{}, err
	}
	cp, err := l.parse(b)
	if err != nil {
		return nil, tlog.Checkpoint{}, err
	}
	tree, err := tlog.LoadTree(ctx, dir, l.codec(), cp)
	if err != nil {
		return nil, tlog.Checkpoint{}, err
	}
	return tree, cp, tree.Files(ctx, func(string, []byte) error { return nil })
}

// headsInLog checks that each head of the events that was published stands in
// the log where it is said to.
func headsInLog(ctx context.Context, events *event.Log, t *tlog.Tree) error {
	for seq := int64(1); ; {
		head, index, err := events.Logged(ctx, seq)
		if errors.Is(err, fault.NotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if index < 0 || uint64(index) >= t.Size() {
			return fault.Newf(fault.Tampered, "the head of event batch %d is said to be entry %d of the log, which has %d: database and log are not of one time", head.Batch, index, t.Size())
		}
		rs, err := t.Records(ctx, uint64(index), uint64(index)+1)
		if err != nil {
			return err
		}
		sum, err := hex.DecodeString(hexSum(head.Text()))
		if err != nil {
			return err
		}
		if !bytes.Contains(rs[0].Leaf, []byte(base64.StdEncoding.EncodeToString(sum))) {
			return fault.Newf(fault.Tampered, "entry %d of the log is not the head of event batch %d: the chain was rewritten after it was published", index, head.Batch)
		}
		seq = head.LastSeq + 1
	}
}

// references checks that each blob that rows name is there, unless the backup
// says that it was not.
func (x *restoration) references(ctx context.Context) error {
	var named []artifact.Digest
	if err := x.db.View(ctx, func(tx *store.Tx) error {
		return x.t.References(ctx, tx, func(d artifact.Digest) error { named = append(named, d); return nil })
	}); err != nil {
		return err
	}
	for _, d := range named {
		if x.missing[d] {
			continue
		}
		if _, err := x.blobs.Stat(ctx, d); err != nil {
			if errors.Is(err, fault.NotFound) {
				err = fault.Newf(fault.Tampered, "blob %s is named by the database and not in the backup", d)
			}
			return err
		}
	}
	return nil
}
