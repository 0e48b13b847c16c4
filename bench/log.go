package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// logClients is how many clients the aim speaks of.
const logClients = 1024

// log measures appends over HTTP: POST /api/v2/log/entries answers when the
// entry is integrated and its checkpoint published and durable.
func (b *bench) log(ctx context.Context) error {
	s, err := up(ctx, b.assay, b.folder("log"))
	if err != nil {
		return err
	}
	defer s.stop()
	l, err := newLogLoad(s.Services.Rekor + "/api/v2/log/entries")
	if err != nil {
		return err
	}
	if err := b.logMany(ctx, s, l); err != nil {
		return err
	}
	return b.logSingle(ctx, s, l)
}

func (b *bench) logMany(ctx context.Context, s *site, l *logLoad) error {
	slotTime := 2 * b.slot
	// Enough for twice the aim; a faster server ends its slot earlier.
	capacity := int(6000*slotTime.Seconds()) + logClients
	warm, err := l.requests(2 * logClients)
	if err != nil {
		return err
	}
	if _, err := l.send(ctx, logClients, warm, time.Minute); err != nil {
		return err
	}
	var rates, cpu, mid, slow samples
	var others float64
	err = b.turns(ctx, func(int) error {
		bodies, err := l.requests(capacity)
		if err != nil {
			return err
		}
		before, err := s.admin.Status(ctx)
		if err != nil {
			return err
		}
		runtime.GC()
		m := startMeter(s.process)
		took, err := l.send(ctx, logClients, bodies, slotTime)
		if err != nil {
			return err
		}
		got := m.stop(b.processors)
		after, err := s.admin.Status(ctx)
		if err != nil {
			return err
		}
		// The server logs the heads of its own audit trail, too.
		if grown := int(after.LogSize - before.LogSize); grown < len(took) {
			return fmt.Errorf("%d entries were acknowledged, but the log grew by %d", len(took), grown)
		}
		rates = append(rates, float64(len(took))/got.wall.Seconds())
		cpu = append(cpu, float64(got.server.Microseconds())/float64(len(took)))
		mid, slow = append(mid, took.median()), append(slow, took.quantile(0.99))
		others = max(others, got.others)
		return nil
	})
	if err != nil {
		return err
	}
	f := figure("log.append.1024", "1/s", rates, &Aim{">=", 3000})
	f.CPU, f.Others, f.Note = round(cpu.median()), others, "durable entries, 1,024 clients over HTTP, requests signed beforehand"
	b.add(f)
	for _, q := range []struct {
		name string
		s    samples
	}{{"median", mid}, {"p99", slow}} {
		f := figure("log.append.1024."+q.name, "ms", q.s, nil)
		f.Others = others
		b.add(f)
	}
	return nil
}

// logSingle is one client alone, one entry after the other.
func (b *bench) logSingle(ctx context.Context, s *site, l *logLoad) error {
	bodies, err := l.requests(400)
	if err != nil {
		return err
	}
	m := startMeter(s.process)
	took, err := l.send(ctx, 1, bodies, 2*b.slot)
	if err != nil {
		return err
	}
	got := m.stop(b.processors)
	f := figure("log.append.1", "ms", took, &Aim{"<=", 150})
	f.CPU = round(float64(got.server.Microseconds()) / float64(len(took)))
	f.Others, f.Note = got.others, "one client alone, one entry after the other; rounds are entries"
	b.add(f)
	p99 := figure("log.append.1.p99", "ms", samples{took.quantile(0.99)}, nil)
	p99.Others = got.others
	b.add(p99)
	return nil
}

// logLoad makes requests for a log and sends them.
type logLoad struct {
	url  string
	http *http.Client
	keys []*ecdsa.PrivateKey
	spki [][]byte
}

func newLogLoad(url string) (*logLoad, error) {
	l := &logLoad{url: url, http: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		MaxIdleConns: logClients, MaxIdleConnsPerHost: logClients, MaxConnsPerHost: logClients,
	}}}
	for range 16 {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKIXPublicKey(k.Public())
		if err != nil {
			return nil, err
		}
		l.keys, l.spki = append(l.keys, k), append(l.spki, der)
	}
	return l, nil
}

// requests makes n distinct requests for hashedrekord entries, each a valid
// signature over random bytes.
func (l *logLoad) requests(n int) ([][]byte, error) {
	out := make([][]byte, n)
	return out, inParallel(runtime.NumCPU(), n, func(i int) error {
		var content [32]byte
		_, _ = rand.Read(content[:])
		sum := sha256.Sum256(content[:])
		k := i % len(l.keys)
		sig, err := l.keys[k].Sign(rand.Reader, sum[:], crypto.SHA256)
		if err != nil {
			return err
		}
		out[i], err = json.Marshal(map[string]any{"hashedRekordRequestV002": map[string]any{
			"digest": sum[:],
			"signature": map[string]any{"content": sig, "verifier": map[string]any{
				"keyDetails": "PKIX_ECDSA_P256_SHA_256", "publicKey": map[string]any{"rawBytes": l.spki[k]},
			}},
		}})
		return err
	})
}

// send lets n clients send the bodies for a time, or until there are no more,
// and gives each entry's latency in ms. Every answer must be 201.
func (l *logLoad) send(ctx context.Context, n int, bodies [][]byte, slot time.Duration) (samples, error) {
	end := time.Now().Add(slot)
	var next atomic.Int64
	var mu sync.Mutex
	var all samples
	err := inParallel(n, n, func(int) error {
		var own samples
		defer func() {
			mu.Lock()
			all = append(all, own...)
			mu.Unlock()
		}()
		for time.Now().Before(end) && ctx.Err() == nil {
			i := int(next.Add(1)) - 1
			if i >= len(bodies) {
				break
			}
			began := time.Now()
			if err := l.post(ctx, bodies[i]); err != nil {
				return err
			}
			own = append(own, float64(time.Since(began).Microseconds())/1000)
		}
		return nil
	})
	if err == nil {
		err = ctx.Err()
	}
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("no entry was acknowledged within %s", slot)
	}
	return all, err
}

func (l *logLoad) post(ctx context.Context, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := l.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusCreated {
		said, _ := io.ReadAll(io.LimitReader(res.Body, 500))
		return fmt.Errorf("POST %s answers %d, want 201: %s", l.url, res.StatusCode, said)
	}
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

// inParallel calls f for 0..n-1 from so many goroutines; the first error ends
// it.
func inParallel(workers, n int, f func(i int) error) error {
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for failed.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := f(i); err != nil {
					failed.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}
