package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"time"

	"assay/artifact"
	"assay/attestation"
	"assay/blob"
	"assay/blob/sweep"
	"assay/event"
	"assay/evidence"
	"assay/policy"
	"assay/store"
	"assay/trust"
	"assay/verify"
)

// evidence measures, in this process, what the server does with bundles that a
// running site has made: ingest, verification and decisions, on SQLite.
func (b *bench) evidence(ctx context.Context) error {
	n := 2000
	if b.quick {
		n = 200
	}
	s, err := up(ctx, b.assay, b.folder("evidence-site"))
	if err != nil {
		return err
	}
	defer s.stop()
	m := startMeter(s.process)
	bundles, err := attest(ctx, s, n)
	if err != nil {
		return fmt.Errorf("sign %d attestations: %w", n, err)
	}
	got := m.stop(b.processors)
	f := figure("sign.keyless", "1/s", samples{float64(n) / got.wall.Seconds()}, nil)
	f.CPU, f.Others = round(float64(got.server.Microseconds())/float64(n)), got.others
	f.Note = "attestations signed by a running site over HTTP, 64 at once: certificate with SCT, timestamp, log entry"
	b.add(f)
	trusted, err := s.admin.TrustExport(ctx)
	if err != nil {
		return err
	}
	wanted := wantSigner(s)
	// The site has nothing more to do, and its idle workers are not measured.
	s.stop()
	kept, err := b.ingest(ctx, trusted, bundles)
	if err != nil {
		return err
	}
	defer kept.close()
	if err := b.verification(ctx, kept, trusted, bundles, wanted); err != nil {
		return err
	}
	return b.decisions(ctx, kept, trusted, bundles, wanted)
}

// local is an evidence store on a database and a folder of this run.
type local struct {
	dir   string
	db    *store.DB
	blobs *blob.Dir
	*evidence.Store
}

func openLocal(ctx context.Context, dir string, trusted []byte) (_ *local, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	l := &local{dir: dir}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.db, err = store.Open(ctx, "sqlite:"+filepath.Join(dir, "assay.db")); err != nil {
		return nil, err
	}
	if err = l.db.Migrate(ctx, event.Migrations, sweep.Migrations, trust.Migrations, evidence.Migrations, verify.Migrations); err != nil {
		return nil, err
	}
	if l.blobs, err = blob.NewDir(filepath.Join(dir, "blobs"), blob.Options{}); err != nil {
		return nil, err
	}
	v, err := newVerifier(trusted)
	if err != nil {
		return nil, err
	}
	l.Store, err = evidence.New(evidence.Options{DB: l.db, Blobs: l.blobs, Verifier: v})
	return l, err
}

func (l *local) close() {
	if l.Store != nil {
		_ = l.Store.Close()
	}
	if l.blobs != nil {
		_ = l.blobs.Close()
	}
	if l.db != nil {
		_ = l.db.Close()
	}
}

// newVerifier has seen no certificate and no checkpoint yet.
func newVerifier(trusted []byte) (*verify.Verifier, error) {
	root, err := trust.ParseTrustedRoot(trusted, trust.WithName("site"))
	if err != nil {
		return nil, err
	}
	return verify.NewVerifier(verify.VerifierOptions{Roots: []*trust.Root{root}})
}

// ingest verifies and stores all bundles, each round in a fresh store; it gives
// the last one.
func (b *bench) ingest(ctx context.Context, trusted []byte, bundles []signed) (kept *local, err error) {
	const callers = 64
	var rates, cpu samples
	var others float64
	err = b.turns(ctx, func(i int) error {
		if kept != nil {
			kept.close()
			_ = os.RemoveAll(kept.dir)
		}
		if kept, err = openLocal(ctx, b.folder(fmt.Sprintf("ingest-%d", i)), trusted); err != nil {
			return err
		}
		flushDisk()
		runtime.GC()
		got, err := b.measured(fmt.Sprintf("ingest-%d", i), func() error {
			return inParallel(callers, len(bundles), func(n int) error {
				_, isNew, err := kept.Ingest(ctx, bundles[n].bundle, evidence.Origin{Repository: benchRepository, Source: "api", Actor: benchSubject})
				if err == nil && !isNew {
					err = errors.New("an attestation was there before it was ingested")
				}
				return err
			})
		})
		if err != nil {
			return err
		}
		rates = append(rates, float64(len(bundles))/got.wall.Seconds())
		cpu = append(cpu, float64(got.own.Microseconds())/float64(len(bundles)))
		others = max(others, got.others)
		return nil
	})
	if err != nil {
		if kept != nil {
			kept.close()
		}
		return nil, err
	}
	f := figure("evidence.ingest", "1/s", rates, &Aim{">=", 2000})
	f.CPU, f.Others, f.Note = round(cpu.median()), others, "distinct keyless attestations verified and durable, 64 callers, SQLite"
	b.add(f)
	return kept, nil
}

// verification reads each bundle from the store and verifies it in full, for
// its artifact and its signer. No certificate is met twice by one verifier.
func (b *bench) verification(ctx context.Context, from *local, trusted []byte, bundles []signed, wanted []trust.IdentityMatch) error {
	var cpu, wall samples
	var others float64
	err := b.turns(ctx, func(i int) error {
		root, err := trust.ParseTrustedRoot(trusted)
		if err != nil {
			return err
		}
		runtime.GC()
		got, err := b.measured(fmt.Sprintf("verify-%d", i), func() error {
			for _, s := range bundles {
				items, _, err := from.Evidence(ctx, s.subject)
				if err != nil || len(items) != 1 {
					return fmt.Errorf("evidence about %s: want one bundle, found %d (%w)", s.subject, len(items), err)
				}
				bundle, err := attestation.ParseBundle(items[0].Bundle, attestation.Limits{})
				if err != nil {
					return err
				}
				if _, err := root.VerifyBundle(ctx, bundle, trust.VerifyOptions{Artifact: s.subject.Set(), Identity: wanted}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		n := float64(len(bundles))
		cpu = append(cpu, float64(got.own.Microseconds())/n/1000)
		wall = append(wall, float64(got.wall.Microseconds())/n/1000)
		others = max(others, got.others)
		return nil
	})
	if err != nil {
		return err
	}
	f := figure("verify.keyless.cpu", "ms", cpu, &Aim{"<=", 1.3})
	f.Others, f.Note = others, "processor time of one verification: read from the evidence store, parse, log entry, timestamp, SCT, certificate path, signature, statement, identity"
	b.add(f)
	f = figure("verify.keyless", "ms", wall, nil)
	f.Others = others
	b.add(f)
	return nil
}

// decisions makes a decision for each artifact, then reads them.
func (b *bench) decisions(ctx context.Context, from *local, trusted []byte, bundles []signed, wanted []trust.IdentityMatch) error {
	v, err := newVerifier(trusted)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	o := verify.Options{
		DB: from.db, Source: from, Key: key, VerifierID: "https://assay.example.com", Host: "assay.example.com",
		Trust: func() verify.TrustState { return verify.TrustState{Verifier: v} },
	}
	warm, err := verify.New(o)
	if err != nil {
		return err
	}
	// One that remembers nothing: each read is one of the database.
	o.CacheEntries, o.CacheAge = 1, time.Nanosecond
	cold, err := verify.New(o)
	if err != nil {
		return err
	}
	p, err := policy.ParseRequirements(fmt.Appendf(nil, benchPolicy, wanted[0].Issuer, wanted[0].Subject))
	if err != nil {
		return err
	}
	got, err := b.measured("decide", func() error {
		return inParallel(16, len(bundles), func(i int) error {
			t := verify.Target{Digest: bundles[i].subject, Kind: policy.Image, Repository: benchRepository}
			d, err := warm.Decide(ctx, t, policy.Scope{ID: benchScope}, p)
			if err == nil {
				err = d.Err()
			}
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("decide: %w", err)
	}
	f := figure("decision.make", "1/s", samples{float64(len(bundles)) / got.wall.Seconds()}, nil)
	f.CPU, f.Others = round(float64(got.own.Microseconds())/float64(len(bundles))), got.others
	f.Note = "from a digest to a signed, stored decision, 16 at once: evidence read and verified, facts, policy, signature, commit"
	b.add(f)
	if err := b.reads(ctx, "decision.read", "current decision, from memory", warm, bundles, 100, &Aim{"<=", 20}); err != nil {
		return err
	}
	return b.reads(ctx, "decision.read.database", "the same when this process has not read it within the last second: one indexed read", cold, bundles, 1, nil)
}

const benchScope = "production"

const benchPolicy = `apiVersion: assay/v1
kind: Policy
metadata: {name: bench}
spec:
  requirements:
    attestations:
      - name: provenance
        predicateType: https://slsa.dev/provenance/v1
        identities: [{issuer: %q, subject: %q}]
`

// reads looks every decision up, over and over; each reads once before the
// clock runs.
func (b *bench) reads(ctx context.Context, name, note string, e *verify.Engine, bundles []signed, times int, aim *Aim) error {
	var wall, cpu samples
	var others float64
	pass := func(d artifact.Digest) error {
		got, err := e.Current(ctx, d, benchScope)
		if err == nil && (got.Digest != d || !got.Allowed()) {
			err = fmt.Errorf("the decision about %s is %s about %s", d, got.Verdict, got.Digest)
		}
		return err
	}
	err := b.turns(ctx, func(i int) error {
		for _, s := range bundles {
			if err := pass(s.subject); err != nil {
				return err
			}
		}
		got, err := b.measured(fmt.Sprintf("%s-%d", name, i), func() error {
			for range times {
				for _, s := range bundles {
					if err := pass(s.subject); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		n := float64(times * len(bundles))
		wall = append(wall, float64(got.wall.Nanoseconds())/n/1000)
		cpu = append(cpu, float64(got.own.Nanoseconds())/n/1000)
		others = max(others, got.others)
		return nil
	})
	if err != nil {
		return err
	}
	f := figure(name, "µs", wall, aim)
	f.CPU, f.Others, f.Note = round(cpu.median()), others, note
	b.add(f)
	return nil
}

// measured runs f with the clock, and under the profiler where -profile says
// so.
func (b *bench) measured(name string, f func() error) (slot, error) {
	if b.profiles != "" {
		if err := os.MkdirAll(b.profiles, 0o755); err != nil {
			return slot{}, err
		}
		out, err := os.Create(filepath.Join(b.profiles, name+".pprof"))
		if err != nil {
			return slot{}, err
		}
		defer out.Close()
		if err := pprof.StartCPUProfile(out); err != nil {
			return slot{}, err
		}
		defer pprof.StopCPUProfile()
	}
	m := startMeter(nil)
	err := f()
	return m.stop(b.processors), err
}
