package backup

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"assay/internal/durable"
	"assay/internal/fault"
	"assay/internal/strictjson"
)

// MarkerFile, in a data folder, says that the folder came out of a backup.
const MarkerFile = "restore.json"

// States of a restored folder.
const (
	Incomplete = "incomplete" // a restore is under way or broke off: nothing may start on it
	Restored   = "restored"   // whole and verified; its logs take no entries
	Reconciled = "reconciled" // its logs go on
)

// Marker is the content of [MarkerFile].
type Marker struct {
	Version    int         `json:"version"`
	State      string      `json:"state"`
	Backup     string      `json:"backup"`
	TakenAt    time.Time   `json:"taken_at"`
	RestoredAt time.Time   `json:"restored_at,omitzero"`
	Logs       []MarkedLog `json:"logs"`
	Reconciled *Reconcile  `json:"reconciled,omitempty"`
}

// MarkedLog is a log as it was restored.
type MarkedLog struct {
	Name   string   `json:"name"`
	Folder string   `json:"folder"`
	Origin string   `json:"origin"`
	CT     bool     `json:"ct"`
	Keys   [][]byte `json:"keys"` // PKIX, DER
	Size   uint64   `json:"size"`
	Root   string   `json:"root"`
}

// Reconcile says how a log was let go on.
type Reconcile struct {
	At       time.Time `json:"at"`
	By       string    `json:"by"`
	How      string    `json:"how"` // "outside knowledge", "caught up", "loss accepted"
	Reason   string    `json:"reason,omitempty"`
	Evidence []string  `json:"evidence,omitempty"` // signed notes that were brought
}

// ReadMarker reads the marker of a data folder; nil when it has none.
func ReadMarker(data string) (*Marker, error) {
	p := filepath.Join(data, MarkerFile)
	b, err := os.ReadFile(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var m Marker
	if err := strictjson.Unmarshal(b, &m); err != nil {
		return nil, fault.Newf(fault.Tampered, "%s does not read: %w", p, err)
	}
	if m.State != Incomplete && m.State != Restored && m.State != Reconciled {
		return nil, fault.Newf(fault.Tampered, "%s: state %.40q", p, m.State)
	}
	return &m, nil
}

// Write replaces the marker, durably.
func (m *Marker) Write(data string) error {
	m.Version = formatVersion
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(data, MarkerFile), append(b, '\n'), 0o600)
}
