package assess

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// BenchmarkAssess400 looks at 400 digests of a registry of our own on the same machine,
// each signed, with provenance and a bill of materials of 100 components.
func BenchmarkAssess400(b *testing.B) {
	p := newPlace(b)
	const n = 400
	list := make([]string, n)
	var purls []string
	for i := range 100 {
		purls = append(purls, fmt.Sprintf("pkg:npm/part-%d@1.%d.0", i, i))
	}
	var all sync.WaitGroup
	slots := make(chan struct{}, 4)
	for i := range n {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			ref := p.image(fmt.Sprintf("team/app-%d", i%40), fmt.Sprintf("v%d", i), fmt.Sprint(i))
			p.whole(p.world, ci, ref, purls...)
			list[i] = ref.String()
		})
	}
	all.Wait()
	o := p.options(ours)
	o.Verifier = p.verifier()
	o.Feeds, o.Exploits = feeds(b)
	for b.Loop() {
		p.sent = nil
		r := newRun(b, o)
		r.Images(b.Context(), "list", "bench", list)
		began := time.Now()
		got := r.Look(b.Context())
		if _, err := got.HTML(); err != nil {
			b.Fatal(err)
		}
		if got.Summary.Allowed != n {
			b.Fatalf("%+v %s %+v", got.Summary, got.Incomplete, got.Causes)
		}
		b.ReportMetric(time.Since(began).Seconds(), "s/400")
		b.ReportMetric(float64(len(p.sent))/n, "requests/digest")
	}
}
