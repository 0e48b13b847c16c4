package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"assay/artifact"
	"assay/client"
	"assay/store"
)

const (
	inventoryWorkloads  = 10_000
	inventoryNamespaces = 100
	// inventoryHistory is how many containers ran before, over as many days.
	inventoryHistory = 300_000
	inventoryDays    = 60
	inventoryPage    = 100
)

// inventories measures a running server that is told of 10,000 workloads: how soon a
// revocation is told of for each, and how long questions take about what runs and
// what ran.
func (b *bench) inventories(ctx context.Context) error {
	n, past := inventoryWorkloads, inventoryHistory
	if b.quick {
		n, past = 1000, 5000
	}
	dir := b.folder("inventory-site")
	defer os.RemoveAll(dir)
	port, err := freePort()
	if err != nil {
		return err
	}
	env := []string{fmt.Sprintf("ASSAY_ADMISSION_LISTEN=127.0.0.1:%d", port), "ASSAY_ADMISSION_CLUSTER=bench", "ASSAY_ADMISSION_ENVIRONMENT=production"}
	s, err := upWith(ctx, b.assay, dir, env...)
	if err != nil {
		return err
	}
	images, err := b.reviewedImages(ctx, s, dir)
	s.stop()
	if err != nil {
		return err
	}
	end := time.Now()
	if err := fillHistory(ctx, filepath.Join(dir, "assay.db"), past, end); err != nil {
		return err
	}
	if s, err = upWith(ctx, b.assay, dir, env...); err != nil {
		return err
	}
	defer s.stop()
	for i, image := range images { // it has another port now
		_, rest, _ := strings.Cut(image, "/")
		images[i] = s.Services.Registry + "/" + rest
	}
	if err := b.revokedRunning(ctx, s, images, n); err != nil {
		return err
	}
	return b.questions(ctx, s, n, past, end)
}

// benchWorkloads are n workloads of an image, over 100 namespaces.
func benchWorkloads(image string, d artifact.Digest, n int) (out []client.ReportedWorkload) {
	for i := range n {
		out = append(out, client.ReportedWorkload{
			Namespace: fmt.Sprintf("ns-%03d", i%inventoryNamespaces), Kind: "Deployment", Name: fmt.Sprintf("app-%05d", i), Instance: fmt.Sprintf("app-%05d-x", i), Container: "app",
			Image: image, Digest: d, Node: fmt.Sprintf("node-%03d", i%200),
		})
	}
	return out
}

// revokedRunning has all workloads run one image, revokes it, and sees when each was
// told of; each round takes another image.
func (b *bench) revokedRunning(ctx context.Context, s *site, images []string, n int) error {
	var reports, reach, cpu samples
	var others float64
	if err := b.turns(ctx, func(i int) error {
		if i >= len(images) {
			return nil
		}
		image := images[i]
		_, d, _ := strings.Cut(image, "@")
		began := time.Now()
		done, err := s.admin.ReportWorkloads(ctx, client.WorkloadReport{Cluster: "bench", Complete: true, Workloads: benchWorkloads(image, artifact.Digest(d), n)})
		if err != nil || done.Started != n {
			return fmt.Errorf("report: %+v: %w", done, err)
		}
		reports = append(reports, float64(time.Since(began).Milliseconds()))
		if err := runningIs(ctx, s, "allowed", image); err != nil {
			return err
		}
		if err := quiet(ctx, s); err != nil { // what the report set going is done
			return err
		}
		m := startMeter(s.process)
		if _, err := s.admin.Revoke(ctx, client.RevokeRequest{Entries: []client.Revocation{{Kind: "artifact", Digest: artifact.Digest(d), InvalidSince: time.Unix(0, 0), Reason: "bench"}}}); err != nil {
			return err
		}
		if err := deniedAll(ctx, s, artifact.Digest(d), n); err != nil {
			return err
		}
		used := m.stop(b.processors)
		others, cpu = max(others, used.others), append(cpu, float64(used.server.Microseconds())/float64(n))
		reach = append(reach, float64(used.wall.Milliseconds()))
		return nil
	}); err != nil {
		return err
	}
	f := figure("inventory.report", "ms", reports, nil)
	f.Note = fmt.Sprintf("a whole report of %d workloads that all changed, over HTTP, with their events", n)
	b.add(f)
	f = figure("inventory.revoked", "ms", reach, &Aim{"<=", 5000})
	f.Others, f.CPU = others, cpu.median()
	f.Note = fmt.Sprintf("from the revocation's request to the last event workload.denied of %d workloads in %d namespaces that run the image; the processor's time is for one workload", n, inventoryNamespaces)
	b.add(f)
	return nil
}

// runningIs waits until all images that run are in a state.
func runningIs(ctx context.Context, s *site, state, image string) error {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		page, err := s.admin.RunningImages(ctx, "bench", state, "", 0)
		if err != nil {
			return err
		}
		if len(page.Items) == inventoryNamespaces && !slices.ContainsFunc(page.Items, func(r client.RunningImage) bool { return r.Image != image }) {
			return nil
		}
	}
	page, err := s.admin.RunningImages(ctx, "bench", "", "", 1)
	return fmt.Errorf("what runs is not all %s within a minute, for example %+v, %w", state, page.Items, err)
}

// quiet waits until the server has nothing to do.
func quiet(ctx context.Context, s *site) error {
	const look = 500 * time.Millisecond
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		used := processCPU(s.pid())
		select {
		case <-time.After(look):
		case <-ctx.Done():
			return ctx.Err()
		}
		if processCPU(s.pid())-used < look/5 {
			return nil
		}
	}
	return errors.New("the server is busy for a minute after a report")
}

// deniedAll waits until an event of each workload can be read.
func deniedAll(ctx context.Context, s *site, d artifact.Digest, n int) error {
	read, after := 0, ""
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		page, err := s.admin.RunningImages(ctx, "bench", "denied", "", 0)
		if err != nil {
			return err
		}
		if len(page.Items) < inventoryNamespaces {
			continue
		}
		// Only what came since the page before is read again.
		part := 0
		for {
			got, err := s.admin.Audit(ctx, client.AuditFilter{Kind: "workload.denied", Digest: d, After: after, Limit: 1000})
			if err != nil {
				return err
			}
			if got.Next == "" {
				part = len(got.Items)
				break
			}
			read += len(got.Items)
			after = got.Next
		}
		if read+part == n {
			return nil
		}
	}
	return errors.New("not each workload was told of within a minute")
}

// questions measures what is asked of the inventory: pages of what runs, by cursors to
// the end, what ran at a time, and where a digest ran.
func (b *bench) questions(ctx context.Context, s *site, n, past int, end time.Time) error {
	asks := []struct {
		name string
		note string
		ask  func(i int) error
	}{
		{"inventory.pages", fmt.Sprintf("pages of %d of %d workloads that run, by cursors to the end, over HTTP", inventoryPage, n), nil},
		{"inventory.then", fmt.Sprintf("what ran at a day's noon, the first %d, among %d that ran in %d days", inventoryPage, past, inventoryDays), func(i int) error {
			got, err := s.admin.Workloads(ctx, client.WorkloadQuery{At: end.AddDate(0, 0, -1-i%(inventoryDays-2)), Limit: inventoryPage})
			if err == nil && len(got.Items) == 0 {
				err = errors.New("nothing ran")
			}
			return err
		}},
		{"inventory.then.digest", "where a digest ran at a time", func(i int) error {
			_, err := s.admin.Workloads(ctx, client.WorkloadQuery{At: end.AddDate(0, 0, -1-i%(inventoryDays-2)), Digest: pastDigest(i), Limit: inventoryPage})
			return err
		}},
		{"inventory.then.namespace", "what ran in a namespace at a time", func(i int) error {
			_, err := s.admin.Workloads(ctx, client.WorkloadQuery{At: end.AddDate(0, 0, -1-i%(inventoryDays-2)), Cluster: "past", Namespace: fmt.Sprintf("ns-%03d", i%inventoryNamespaces), Limit: inventoryPage})
			return err
		}},
		{"inventory.running", fmt.Sprintf("pages of %d of the images that run, and whether they may", inventoryPage), nil},
	}
	after := ""
	asks[0].ask = func(int) error {
		got, err := s.admin.Workloads(ctx, client.WorkloadQuery{Cluster: "bench", After: after, Limit: inventoryPage})
		if err != nil {
			return err
		}
		after = got.Next
		return nil
	}
	place := ""
	asks[4].ask = func(int) error {
		got, err := s.admin.RunningImages(ctx, "", "", place, inventoryPage)
		if err != nil {
			return err
		}
		place = got.Next
		return nil
	}
	for _, a := range asks {
		m := startMeter(s.process)
		var times samples
		for i := range 200 {
			began := time.Now()
			if err := a.ask(i); err != nil {
				return fmt.Errorf("%s: %w", a.name, err)
			}
			times = append(times, float64(time.Since(began).Microseconds())/1000)
		}
		used := m.stop(b.processors)
		f := figure(a.name+".p99", "ms", samples{times.quantile(0.99)}, &Aim{"<=", 100})
		f.Min, f.Max, f.Rounds = round(slices.Min(times)), round(slices.Max(times)), len(times)
		f.Others, f.CPU, f.Note = used.others, float64(used.server.Microseconds())/float64(len(times)), a.note
		b.add(f)
	}
	return nil
}

// pastDigest is one of a thousand that ran before.
func pastDigest(i int) artifact.Digest { return artifact.SHA256Of(fmt.Appendf(nil, "past %d", i%1000)) }

// fillHistory writes n containers that ran before, evenly over the days, as the
// inventory writes them; each ran for four days.
func fillHistory(ctx context.Context, path string, n int, end time.Time) error {
	db, err := store.Open(ctx, "sqlite:"+path)
	if err != nil {
		return err
	}
	defer db.Close()
	const chunk = 10_000
	step := inventoryDays * 24 * time.Hour / time.Duration(n)
	for at := 0; at < n; at += chunk {
		if err := db.Update(ctx, func(tx *store.Tx) error {
			for i := at; i < min(at+chunk, n); i++ {
				first := end.Add(-inventoryDays*24*time.Hour + time.Duration(i)*step)
				ended := first.Add(4 * 24 * time.Hour)
				if ended.After(end) {
					ended = end
				}
				name := fmt.Sprintf("app-%05d", i%5000)
				if _, err := tx.Exec(ctx, `INSERT INTO inventory_workload (cluster, namespace, kind, name, instance, container, first_seen, digest, image, node, service, team, environment, ended)
					VALUES ('past', ?, 'Deployment', ?, ?, 'app', ?, ?, ?, 'node-1', '', '', 'production', ?)`,
					fmt.Sprintf("ns-%03d", i%inventoryNamespaces), name, fmt.Sprintf("%s-%06d", name, i), store.Micros(first), string(pastDigest(i)), "registry.example/past/"+name+":v1", store.Micros(ended)); err != nil {
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
