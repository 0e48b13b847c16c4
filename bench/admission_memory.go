package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"assay/artifact"
	"assay/store"
)

const (
	keptDecisions = 100_000
	// keptFor is how long both processes are watched after the webhook has them.
	keptFor = 12 * time.Second
)

// decisionMemory measures what a webhook of its own takes that holds 100,000
// decisions for when the server is down, and what the server takes that makes and
// signs the bundle of them: the most that either had resident.
func (b *bench) decisionMemory(ctx context.Context) error {
	n, wait := keptDecisions, keptFor
	if b.quick {
		n, wait = 2000, time.Second
	}
	dir := b.folder("admission-memory")
	defer os.RemoveAll(dir)
	site, edge := filepath.Join(dir, "site"), filepath.Join(dir, "edge")
	env := "ASSAY_ADMISSION_LISTEN=127.0.0.1:0"
	s, err := upWith(ctx, b.assay, site, env)
	if err != nil {
		return err
	}
	s.stop()
	if err := fillStanding(ctx, filepath.Join(site, "assay.db"), n); err != nil {
		return err
	}
	if s, err = upWith(ctx, b.assay, site, env); err != nil {
		return err
	}
	defer s.stop()
	if _, err = s.admin.Apply(ctx, fmt.Appendf(nil, "apiVersion: assay/v1\nkind: Grant\nmetadata: {name: edge}\nspec: {issuer: %q, subject: %q, role: deployer, scope: clusters/edge}\n", s.Services.OIDC, benchSubject), false, false); err != nil {
		return err
	}
	token, err := s.token(ctx, "assay-api")
	if err != nil {
		return err
	}
	door, err := start(b.assay, []string{"admission", "serve", "--server", s.PublicURL, "--cluster", "edge", "--environment", "production", "--listen", "127.0.0.1:0", "--dir", edge, "--authority", filepath.Join(site, "ca", "admission.pem")},
		[]string{"ASSAY_API_TOKEN=" + token, "XDG_CONFIG_HOME=" + dir}, nil)
	if err != nil {
		return err
	}
	defer door.stop()
	if err := bundleKept(ctx, edge, n, door); err != nil {
		return err
	}
	select {
	case <-time.After(wait):
	case <-ctx.Done():
		return ctx.Err()
	}
	for _, p := range []struct {
		name string
		pid  int
		note string
	}{
		{"admission.memory", door.pid(), "assay admission serve"}, {"admission.memory.server", s.pid(), "the server that signs their bundle"},
	} {
		now, most := residentBytes(p.pid), peakBytes(p.pid)
		if most == 0 {
			continue // no /proc
		}
		f := figure(p.name, "MB", samples{float64(most) / 1e6}, &Aim{"<=", 120})
		f.Note = fmt.Sprintf("the most that was resident of %s with %d decisions of a cluster; %.0f MB at the end", p.note, n, float64(now)/1e6)
		b.add(f)
	}
	return nil
}

// bundleKept waits until a webhook has kept the bundle of n decisions.
func bundleKept(ctx context.Context, dir string, n int, door *process) error {
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(200 * time.Millisecond) {
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			return err
		}
		for _, f := range files {
			if st, err := os.Stat(f); err == nil && strings.Contains(filepath.Base(f), "bundle") && st.Size() > int64(n)*20 {
				return nil
			}
		}
	}
	return errors.New("the webhook keeps no bundle of all decisions\n" + door.log.String())
}

// fillStanding writes n decisions that stand in a cluster, as the engine does.
func fillStanding(ctx context.Context, path string, n int) error {
	db, err := store.Open(ctx, "sqlite:"+path)
	if err != nil {
		return err
	}
	defer db.Close()
	vsa := []byte(`{"payload":"` + strings.Repeat("A", 1600) + `"}`) // a statement's size
	checks, err := json.Marshal([]map[string]any{{"name": "signatures/release", "pass": true, "expected": "a signature of " + benchSubject, "found": benchSubject, "evidence": []string{"att_" + strings.Repeat("a", 64)}}})
	if err != nil {
		return err
	}
	const batch = 5000
	for from := 0; from < n; from += batch {
		if err := db.Update(ctx, func(tx *store.Tx) error {
			until := store.Micros(tx.Now().Add(24 * time.Hour))
			for i := from; i < min(from+batch, n); i++ {
				digest, id := artifact.SHA256Of(fmt.Appendf(nil, "image %d", i)), "dec_"+artifact.SHA256Of(fmt.Appendf(nil, "decision %d", i)).Hex()
				scope := fmt.Sprintf("admission/edge/ns-%03d/production@bench-%03d/app", i%100, i%100)
				if _, err := tx.Exec(ctx, `INSERT INTO decision (id, digest, scope_id, verdict, mode, policy, policy_hash, facts_id, trust_epoch, decided, checks, vsa) VALUES (?, ?, ?, 'allow', 'enforce', 'release', ?, ?, 1000, ?, ?, ?)`,
					id, string(digest), scope, strings.Repeat("b", 64), "facts_"+digest.Hex(), store.Micros(tx.Now()), string(checks), vsa); err != nil {
					return err
				}
				if _, err := tx.Exec(ctx, `INSERT INTO current_decision (digest, scope_id, decision_id, trust_epoch, valid_until, checked) VALUES (?, ?, ?, 1000, ?, ?)`,
					string(digest), scope, id, until, store.Micros(tx.Now())); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}
