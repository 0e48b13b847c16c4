package kubetest

import (
	"os"
	"testing"
	"time"
)

// TestCluster runs a Pod. It is skipped where the programs are not there: CI has
// them in the tests of e2e/cluster.
func TestCluster(t *testing.T) {
	if m := Missing(); len(m) > 0 {
		t.Skipf("not on PATH: %v (tools/install.sh kubernetes)", m)
	}
	dir, err := os.MkdirTemp("", "kubetest-") //nolint:usetesting // short paths
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	c, err := Start(t.Context(), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Stop()
	t.Logf("ready in %s", c.ReadyIn)
	out, errs, err := c.Kubectl(t.Context(), "", "run", "p", "--image", "r.example/a/b:c")
	if err != nil {
		t.Fatal(out, errs, err)
	}
	began := time.Now()
	out, errs, err = c.Kubectl(t.Context(), "", "wait", "--for", "condition=Ready", "--timeout", "20s", "pod/p")
	if err != nil {
		out2, _, _ := c.Kubectl(t.Context(), "", "get", "pod", "p", "-o", "yaml")
		t.Fatal(out, errs, err, out2, c.Logs(3000))
	}
	t.Logf("a Pod runs after %s", time.Since(began))
}
