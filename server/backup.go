package server

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"assay/api"
	"assay/artifact"
	"assay/authority/rotation"
	"assay/backup"
	"assay/blob"
	"assay/client"
	"assay/config"
	"assay/event"
	"assay/evidence"
	"assay/internal/clock"
	"assay/internal/durable"
	"assay/internal/fault"
	"assay/internal/keyring"
	"assay/internal/strictjson"
	"assay/registry"
	"assay/store"
	"assay/transfer"
)

// keyBackup signs the manifests of backups.
const keyBackup = "backup"

// DSN is the data source name of a site's database.
func DSN(cfg config.Config) (string, error) {
	dsn := cfg.Store.DSN
	switch {
	case dsn == "":
		d := dataFolder{path: cfg.Data}
		return "sqlite:" + d.join("assay.db"), nil
	case strings.HasPrefix(dsn, "file:"), strings.HasPrefix(dsn, "credential:"):
		b, err := config.Secret(dsn)
		if err != nil {
			return "", fmt.Errorf("store.dsn: %w", err)
		}
		return string(b), nil
	}
	return dsn, nil
}

// restored reads the mark that a restore leaves. A folder that is not whole is
// refused; one whose logs are not reconciled gives the reason why they take no
// entries.
func restored(data string) (held string, err error) {
	m, err := backup.ReadMarker(data)
	if err != nil || m == nil || m.State == backup.Reconciled {
		return "", err
	}
	if m.State == backup.Incomplete {
		return "", fault.Newf(fault.Conflict, "%s holds a restore that is not whole: remove the folder and run assay restore again", data)
	}
	return fmt.Sprintf("this site was restored from backup %s of %s, and what was logged after that is not known here; assay restore reconcile lets the log go on (docs/backup.md)",
		m.Backup, m.TakenAt.Format("2006-01-02 15:04:05Z")), nil
}

// notLost refuses a site that was complete and whose database or log is gone: to
// begin anew under the same name and keys would fork what was published.
func (s *Server) notLost() error {
	if !s.data.site.Complete {
		return nil
	}
	var must []string
	if s.has(config.RoleLog) {
		must = append(must, s.data.join("log", "checkpoint"), s.data.join("ct", "checkpoint"))
	}
	if s.cfg.Store.DSN == "" {
		must = append(must, s.data.join("assay.db"))
	}
	for _, p := range must {
		if _, err := os.Lstat(p); errors.Is(err, fs.ErrNotExist) {
			return fault.Newf(fault.Tampered, "%s is gone, and this site had one: restore the site from a backup (assay restore), all of it; what is left here is not to be started on", p)
		}
	}
	return nil
}

// references gives each blob that a row names.
func references(ctx context.Context, tx *store.Tx, fn func(artifact.Digest) error) error {
	if err := registry.References(ctx, tx, fn); err != nil {
		return err
	}
	if err := transfer.References(ctx, tx, fn); err != nil {
		return err
	}
	return evidence.References(ctx, tx, fn)
}

// Offline is a site's data without its server, which may run or not.
type Offline struct {
	Site  backup.Site
	close []func() error
}

// Close closes what was opened.
func (o *Offline) Close() error {
	var errs []error
	for i := len(o.close) - 1; i >= 0; i-- {
		errs = append(errs, o.close[i]())
	}
	return errors.Join(errs...)
}

// OpenOffline opens database and blobs of a site beside its server. It changes
// neither.
func OpenOffline(ctx context.Context, cfg config.Config, version string, log *slog.Logger) (_ *Offline, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	d := dataFolder{path: cfg.Data}
	b, err := os.ReadFile(d.join("site.json"))
	if err != nil {
		return nil, fault.Newf(fault.NotFound, "%s is no data folder of a site: %w", cfg.Data, err)
	}
	if err := strictjson.Unmarshal(b, &d.site); err != nil {
		return nil, fault.Newf(fault.Tampered, "%s: %w", d.join("site.json"), err)
	}
	o := &Offline{}
	defer func() {
		if err != nil {
			err = errors.Join(err, o.Close())
		}
	}()
	dsn, err := DSN(cfg)
	if err != nil {
		return nil, err
	}
	if path, ok := strings.CutPrefix(dsn, "sqlite:"); ok {
		if _, err := os.Stat(path); err != nil {
			return nil, fault.Newf(fault.NotFound, "the database: %w", err)
		}
	}
	db, err := store.Open(ctx, dsn, store.WithLogger(log))
	if err != nil {
		return nil, err
	}
	o.close = append(o.close, db.Close)
	blobs, closeBlobs, err := openBlobs(ctx, cfg.Blob, d.join("blobs"), clock.System, log)
	if err != nil {
		return nil, err
	}
	o.close = append(o.close, closeBlobs)
	o.Site = backup.Site{Data: cfg.Data, Host: d.site.Host, Program: "assay " + version, DB: db, Blobs: blobs, References: references, Logger: log, First: event.JournalFiles}
	o.Site.Pin = func(ctx context.Context) (func(), error) { return pinBlobs(ctx, db, "a backup is made", log) }
	if cfg.Server.Has(config.RoleLog) { // of a site in several processes, one has the logs
		o.Site.Logs, err = siteLogs(ctx, db, d.site.Host)
	}
	return o, err
}

// siteLogs are a site's logs with every key that has signed them.
func siteLogs(ctx context.Context, db *store.DB, host string) ([]backup.Log, error) {
	logs := []backup.Log{{Name: "log", Folder: "log", Origin: host}, {Name: "ct", Folder: "ct", Origin: host + "/ct", CT: true}}
	var rows []rotation.Key
	if err := db.View(ctx, func(tx *store.Tx) (err error) { rows, err = rotation.Load(ctx, tx); return err }); err != nil {
		return nil, err
	}
	for i, role := range []rotation.Role{rotation.Log, rotation.CT} {
		for _, k := range rotation.Of(rows, role) {
			pub, err := k.PublicKey()
			if err != nil {
				return nil, err
			}
			logs[i].Keys = append(logs[i].Keys, pub)
		}
		if len(logs[i].Keys) == 0 {
			return nil, fault.Newf(fault.NotFound, "the database knows no key of the log %s: start the site once", logs[i].Origin)
		}
	}
	return logs, nil
}

// BackupSigner gives who signs manifests: the server when it runs, else the
// site's key itself, with the data folder locked until the returned function.
func BackupSigner(ctx context.Context, cfg config.Config, db *store.DB, prompt func() ([]byte, error)) (backup.Signer, func() error, error) {
	d := dataFolder{path: cfg.Data}
	admin := client.Socket(d.join("run", "admin.sock"))
	if _, err := admin.Status(ctx); err == nil {
		return &socketSigner{admin}, func() error { return nil }, nil
	}
	lock, err := durable.Lock(d.join("lock"))
	if err != nil {
		return nil, nil, fmt.Errorf("the server does not answer on its socket and has the folder: %w", err)
	}
	key, err := func() (crypto.Signer, error) {
		unlock, err := keyring.UnlockFrom(ctx, cfg.Keys.Unlock, keyring.UnlockOptions{DataDir: cfg.Data, Prompt: prompt})
		if err != nil {
			return nil, err
		}
		keys, err := keyring.OpenFolder(ctx, KeyFolder(cfg, unlock, keyring.Options{}))
		if err != nil {
			return nil, err
		}
		return keys.LoadOrCreate(ctx, keyBackup)
	}()
	if err != nil {
		return nil, nil, errors.Join(err, lock.Close())
	}
	return &keySigner{backup.KeySigner{Key: key}, db}, lock.Close, nil
}

// keySigner signs in a stopped site, and records it as the server would.
type keySigner struct {
	backup.KeySigner
	db *store.DB
}

func (k *keySigner) Fingerprint(context.Context) (string, error) {
	return keyring.Fingerprint(k.Key.Public())
}

func (k *keySigner) SignBackup(ctx context.Context, payload []byte) (envelope, key []byte, err error) {
	var m backup.Manifest
	if err := strictjson.Unmarshal(payload, &m); err != nil {
		return nil, nil, err
	}
	if err := recordBackup(ctx, k.db, m, fmt.Sprintf("uid:%d", os.Getuid())); err != nil {
		return nil, nil, err
	}
	return k.KeySigner.SignBackup(ctx, payload)
}

func recordBackup(ctx context.Context, db *store.DB, m backup.Manifest, by string) error {
	return db.Update(ctx, func(tx *store.Tx) error {
		return event.Append(ctx, tx, event.Event{Kind: event.BackupCreated, Actor: by, Body: map[string]any{
			"id": m.ID, "parent": m.Parent, "objects": m.Objects.SHA256, "recipients": m.Recipients,
		}})
	})
}

// socketSigner has the running server sign.
type socketSigner struct{ admin *client.Client }

func (s *socketSigner) Fingerprint(ctx context.Context) (string, error) {
	a, err := s.admin.SignBackup(ctx, nil)
	return a.Fingerprint, err
}

func (s *socketSigner) SignBackup(ctx context.Context, payload []byte) (envelope, key []byte, err error) {
	a, err := s.admin.SignBackup(ctx, payload)
	return a.Envelope, []byte(a.Key), err
}

const maxBackupManifest = 64 << 20

// signBackup answers POST /v1/backup/sign on the admin socket: a manifest of this
// site, to its envelope. An empty body asks for the key alone.
func (s *Server) signBackup(w http.ResponseWriter, r *http.Request) {
	answer, err := func() (client.BackupSignature, error) {
		var a client.BackupSignature
		key, err := s.keys.LoadOrCreate(r.Context(), keyBackup)
		if err != nil {
			return a, err
		}
		if a.Fingerprint, err = keyring.Fingerprint(key.Public()); err != nil {
			return a, err
		}
		b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBackupManifest))
		if err != nil {
			return a, fault.Newf(fault.TooLarge, "the manifest of a backup: %w", err)
		}
		if len(b) == 0 {
			return a, nil
		}
		m, err := backup.CheckPayload(b, s.data.site.Host)
		if err != nil {
			return a, err
		}
		if err := recordBackup(r.Context(), s.db, m, peerName(r)); err != nil {
			return a, err
		}
		env, pub, err := backup.KeySigner{Key: key}.SignBackup(r.Context(), b)
		a.Envelope, a.Key = env, string(pub)
		return a, err
	}()
	if err != nil {
		api.WriteError(w, r, s.log, err)
		return
	}
	api.WriteJSON(w, http.StatusOK, answer)
}

// RestoreTarget is what a backup is restored into: the folder data, and the
// database and blobs that the configuration names for it.
func RestoreTarget(cfg config.Config, data string, log *slog.Logger) (backup.Target, error) {
	abs, err := filepath.Abs(data)
	if err != nil {
		return backup.Target{}, err
	}
	cfg.Data = abs
	if err := cfg.Validate(); err != nil {
		return backup.Target{}, err
	}
	return backup.Target{
		Data: abs, Migrations: migrations(), References: references, Now: clock.System, Logger: log,
		Open: func(ctx context.Context) (*store.DB, blob.Store, func() error, error) {
			dsn, err := DSN(cfg)
			if err != nil {
				return nil, nil, nil, err
			}
			db, err := store.Open(ctx, dsn, store.WithLogger(log))
			if err != nil {
				return nil, nil, nil, err
			}
			blobs, closeBlobs, err := openBlobs(ctx, cfg.Blob, filepath.Join(abs, "blobs"), clock.System, log)
			if err != nil {
				return nil, nil, nil, errors.Join(err, db.Close())
			}
			return db, blobs, func() error { return errors.Join(closeBlobs(), db.Close()) }, nil
		},
	}, nil
}

// LockSite takes the lock of a stopped site's folder.
func LockSite(cfg config.Config) (io.Closer, error) {
	l, err := durable.Lock(filepath.Join(cfg.Data, "lock"))
	if err != nil {
		return nil, fmt.Errorf("stop the server first: %w", err)
	}
	return l, nil
}
