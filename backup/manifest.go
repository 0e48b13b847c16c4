package backup

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"assay/attestation"
	"assay/internal/fault"
	"assay/internal/keyring"
	"assay/internal/strictjson"
)

// PayloadType is that of the envelope in which a manifest is signed.
const PayloadType = "application/vnd.assay.backup.v1+json"

// Manifest is what is public and signed of a backup.
type Manifest struct {
	Version    int       `json:"version"`
	ID         string    `json:"id"`     // time and random, in the order of making
	Parent     string    `json:"parent"` // the backup before, whose pieces it shares; "": none
	Host       string    `json:"host"`   // whose backup it is: the site's host name
	Program    string    `json:"program"`
	CreatedAt  time.Time `json:"created_at"` // when the database's snapshot was taken
	Recipients []string  `json:"recipients"`
	Logs       []LogHead `json:"logs"`
	Objects    List      `json:"objects"`
	Index      []Piece   `json:"index"`
	Counts     Counts    `json:"counts"`
}

// LogHead is a log at the snapshot.
type LogHead struct {
	Name   string `json:"name"`
	Origin string `json:"origin"`
	Size   uint64 `json:"size"`
	Root   string `json:"root"` // hex
}

// List names the list of all objects of a backup.
type List struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
	Count  int    `json:"count"`
}

// Piece is a piece by name, with its size before encryption.
type Piece struct {
	Name string `json:"name"` // 64 hex digits
	Size int64  `json:"size"`
}

// Counts say how much a backup holds and how much of it was new.
type Counts struct {
	Blobs     int   `json:"blobs"`
	BlobBytes int64 `json:"blob_bytes"`
	Rows      int64 `json:"rows"`
	Files     int   `json:"files"`
	Missing   int   `json:"missing"` // blobs that rows name and that were not there (deleted meanwhile, or lost)
	Damaged   int   `json:"damaged"` // blobs whose content is not their digest's: not in the backup
	Objects   int   `json:"objects"`
	Bytes     int64 `json:"bytes"` // of all objects
	New       int   `json:"new"`
	NewBytes  int64 `json:"new_bytes"`
}

// signed is the file manifests/<id>.json.
type signed struct {
	Key      string          `json:"key"` // PEM
	Envelope json.RawMessage `json:"envelope"`
}

// Signer signs a manifest with the site's key "backup".
type Signer interface {
	SignBackup(ctx context.Context, payload []byte) (envelope, keyPEM []byte, err error)
}

// KeySigner signs with a key at hand.
type KeySigner struct{ Key crypto.Signer }

// SignBackup implements [Signer].
func (k KeySigner) SignBackup(ctx context.Context, payload []byte) (envelope, keyPEM []byte, err error) {
	e, err := attestation.SignDSSE(ctx, k.Key, PayloadType, payload)
	if err != nil {
		return nil, nil, err
	}
	if envelope, err = e.MarshalJSON(); err != nil {
		return nil, nil, err
	}
	keyPEM, err = keyring.MarshalPublic(k.Key.Public())
	return envelope, keyPEM, err
}

// CheckPayload says whether bytes are a manifest of a host, for who is asked to
// sign them.
func CheckPayload(b []byte, host string) (Manifest, error) {
	m, err := parseManifest(b)
	if err == nil && m.Host != host {
		err = fault.Newf(fault.Denied, "a backup of %.100q is not signed by %s", m.Host, host)
	}
	return m, err
}

func parseManifest(b []byte) (Manifest, error) {
	var m Manifest
	if err := strictjson.Unmarshal(b, &m); err != nil {
		return m, fault.Newf(fault.Tampered, "the manifest does not read: %w", err)
	}
	if m.Version != formatVersion {
		return m, fault.Newf(fault.Conflict, "the manifest has version %d, this Assay knows %d: use a newer one", m.Version, formatVersion)
	}
	if !validID(m.ID) || m.Parent != "" && !validID(m.Parent) || m.Objects.Name != listName(m.ID) {
		return m, fault.Newf(fault.Tampered, "the manifest's names do not fit together")
	}
	for _, p := range m.Index {
		if !validName(p.Name) {
			return m, fault.Newf(fault.Tampered, "the manifest names the piece %.80q", p.Name)
		}
	}
	return m, nil
}

// open checks the signature and gives the manifest and its signer's fingerprint.
func (s signed) open() (Manifest, string, error) {
	pub, err := keyring.ParsePublic([]byte(s.Key))
	if err != nil {
		return Manifest{}, "", fault.Newf(fault.Tampered, "the manifest's key does not read: %w", err)
	}
	lim := attestation.DefaultLimits()
	e, err := attestation.ParseEnvelope(s.Envelope, lim)
	if err != nil {
		return Manifest{}, "", fault.Newf(fault.Tampered, "the manifest's envelope does not read: %w", err)
	}
	if e.PayloadType != PayloadType {
		return Manifest{}, "", fault.Newf(fault.Tampered, "the manifest's envelope holds %.80q", e.PayloadType)
	}
	if got, err := attestation.VerifyDSSE(e, pub); err != nil || len(got) != 1 {
		return Manifest{}, "", fault.Newf(fault.Tampered, "the manifest's signature is not valid: it was changed after the backup was made")
	}
	fp, err := keyring.Fingerprint(pub)
	if err != nil {
		return Manifest{}, "", err
	}
	m, err := parseManifest(e.Payload)
	return m, fp, err
}

// Listed is a backup as [ListBackups] finds it.
type Listed struct {
	Manifest
	Key string `json:"key"`     // fingerprint of the signer; whether it is the site's is for the reader to know
	PEM string `json:"key_pem"` // the signer's public key
}

// Get reads one manifest, and checks its signature. key is the fingerprint that
// must have signed it; "" takes any.
func Get(ctx context.Context, r Repo, id, key string) (Listed, error) {
	if !validID(id) {
		return Listed{}, fault.Newf(fault.Invalid, "backup %.60q: want an id as assay backup list prints it", id)
	}
	b, err := r.Get(ctx, manifestName(id), maxManifest)
	if err != nil {
		return Listed{}, err
	}
	var s signed
	if err := strictjson.Unmarshal(b, &s, strictjson.RejectUnknown()); err != nil {
		return Listed{}, fault.Newf(fault.Tampered, "backup %s: its manifest does not read: %w", id, err)
	}
	m, fp, err := s.open()
	if err != nil {
		return Listed{}, fmt.Errorf("backup %s: %w", id, err)
	}
	if m.ID != id {
		return Listed{}, fault.Newf(fault.Tampered, "backup %s: its manifest is that of %s", id, m.ID)
	}
	if key != "" && key != fp {
		return Listed{}, fault.Newf(fault.Unverified, "backup %s is signed by %s, want %s: it was not made by the site whose key you gave", id, fp, key)
	}
	return Listed{m, fp, s.Key}, nil
}

// IDs gives the backups of a repository, oldest first.
func IDs(ctx context.Context, r Repo) ([]string, error) {
	var ids []string
	err := r.List(ctx, "manifests/", func(name string, _ int64, _ time.Time) error {
		id, ok := strings.CutSuffix(strings.TrimPrefix(name, "manifests/"), ".json")
		if ok && validID(id) {
			ids = append(ids, id)
		}
		return nil
	})
	slices.Sort(ids)
	return ids, err
}

// stored is an object of a backup: its size and SHA-256 as it lies there.
type stored struct {
	size int64
	sum  string
}

// objects reads the list of a backup's objects.
func objects(ctx context.Context, r Repo, m Manifest) (map[string]stored, error) {
	b, err := r.Get(ctx, m.Objects.Name, maxList)
	if err != nil {
		return nil, err
	}
	if hexSum(b) != m.Objects.SHA256 {
		return nil, fault.Newf(fault.Tampered, "backup %s: its list of objects is not the one that was signed", m.ID)
	}
	all := make(map[string]stored, m.Objects.Count)
	for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
		f := strings.Fields(sc.Text())
		if len(f) != 3 || !validName(f[0]) || len(f[2]) != 64 {
			return nil, fault.Newf(fault.Tampered, "backup %s: its list of objects does not read", m.ID)
		}
		size, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil || size < 0 || size > maxObject {
			return nil, fault.Newf(fault.Tampered, "backup %s: its list of objects does not read", m.ID)
		}
		all[f[0]] = stored{size, f[2]}
	}
	if len(all) != m.Objects.Count {
		return nil, fault.Newf(fault.Tampered, "backup %s: its list has %d objects, want %d", m.ID, len(all), m.Objects.Count)
	}
	return all, nil
}

func manifestName(id string) string { return "manifests/" + id + ".json" }
func listName(id string) string     { return "manifests/" + id + ".objects" }
func objectName(name string) string { return "objects/" + name[:2] + "/" + name }

func validName(s string) bool { return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == "" }

const idTime = "20060102T150405.000Z"

// validID: time of making, "-", 8 letters.
func validID(s string) bool {
	t, r, ok := strings.Cut(s, "-")
	if !ok || len(r) != 8 || strings.Trim(r, "abcdefghijklmnopqrstuvwxyz234567") != "" {
		return false
	}
	_, err := time.Parse(idTime, t)
	return err == nil
}
