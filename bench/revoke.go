package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"assay/artifact"
	"assay/client"
	"assay/store"
)

// planAttestations is how many attestations a revocation concerns.
const planAttestations = 100_000

// revokePlan measures how long a running site takes to say what a revocation
// would take, and to revoke, when 100,000 attestations about as many artifacts
// are concerned. Their rows are written straight into the database: what is
// measured does not read the bundles.
func (b *bench) revokePlan(ctx context.Context) error {
	n := planAttestations
	if b.quick {
		n = 2000
	}
	dir := b.folder("revoke-site")
	s, err := up(ctx, b.assay, dir)
	if err != nil {
		return err
	}
	issuer := s.Services.OIDC
	s.stop()
	if err := fillEvidence(ctx, filepath.Join(dir, "assay.db"), issuer, n); err != nil {
		return err
	}
	if s, err = up(ctx, b.assay, dir); err != nil {
		return err
	}
	defer s.stop()
	since := time.Unix(0, 0)
	entries := map[string]client.Revocation{
		"identity": {Kind: "identity", Match: "exact", Issuer: issuer, Subject: planSubject},
		"pattern":  {Kind: "identity", Match: "pattern", Issuer: "**", Subject: "ci@*"},
		"key":      {Kind: "key", Key: planKey},
		"builder":  {Kind: "builder", Builder: planBuilder},
		"log":      {Kind: "log", LogID: planLog, From: new(int64)},
	}
	var worst samples
	m := startMeter(nil)
	if err := b.turns(ctx, func(int) error {
		slowest := 0.0
		for name, e := range entries {
			e.InvalidSince, e.Reason = since, "bench"
			began := time.Now()
			a, err := s.admin.Revoke(ctx, client.RevokeRequest{Entries: []client.Revocation{e}, Plan: true})
			if err != nil {
				return fmt.Errorf("plan of %s: %w", name, err)
			}
			if a.Attestations != n || a.Artifacts != n {
				return fmt.Errorf("plan of %s: %d attestations of %d artifacts, want %d of each", name, a.Attestations, a.Artifacts, n)
			}
			slowest = max(slowest, float64(time.Since(began).Microseconds())/1000)
		}
		worst = append(worst, slowest)
		return nil
	}); err != nil {
		return err
	}
	f := figure("revoke.plan", "ms", worst, &Aim{"<=", 1000})
	f.Others = m.stop(b.processors).others
	f.Note = fmt.Sprintf("what a revocation would take, over HTTP: %d attestations of as many artifacts, the slowest of key, identity, pattern, builder and log range", n)
	b.add(f)
	return nil
}

const planSubject, planBuilder = "ci@plan.example", "https://builder.example/plan"

var (
	planKey = string(artifact.SHA256Of([]byte("plan")))
	planLog = strings.Repeat("ab", 32)
)

// fillEvidence writes n rows of evidence as ingest does, without bundles.
func fillEvidence(ctx context.Context, path, issuer string, n int) error {
	db, err := store.Open(ctx, "sqlite:"+path)
	if err != nil {
		return err
	}
	defer db.Close()
	const chunk = 5000
	for at := 0; at < n; at += chunk {
		if err := db.Update(ctx, func(tx *store.Tx) error {
			for i := at; i < min(at+chunk, n); i++ {
				bundle, subject := artifact.SHA256Of(fmt.Appendf(nil, "bundle %d", i)), artifact.SHA256Of(fmt.Appendf(nil, "artifact %d", i))
				id, when := "att_"+bundle.Hex(), store.Micros(tx.Now())+int64(i)
				if _, err := tx.Exec(ctx, `INSERT INTO evidence_bundle (id, scheme, predicate_type, issuer, identity, key, root, trusted_time, time_source,
						log_id, log_index, legacy, size, trust_epoch, ingested_at, repository, source, payload, content, serial, authority, builder, subject)
					VALUES (?, 'dsse', 'https://slsa.dev/provenance/v1', ?, ?, ?, 'site', ?, 'tsa', ?, ?, 0, 4096, 1, ?, 'team/app', 'bench', NULL, ?, ?, 'CN=bench', ?, ?)`,
					id, issuer, planSubject, planKey, when, planLog, i, when, make([]byte, 4096), fmt.Sprintf("%x", i+1), planBuilder, string(subject)); err != nil {
					return err
				}
				if _, err := tx.Exec(ctx, `INSERT INTO evidence_subject (subject, ingested_at, id) VALUES (?, ?, ?)`, string(subject), when, id); err != nil {
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
