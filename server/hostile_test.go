package server

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"assay/client"
	"assay/internal/fault"
	"assay/internal/vectors"
)

// TestThreat_Archive_HostileAtTheDoors gives the shared hostile archives to every
// door that takes an archive: each refuses them, soon and without inflating them,
// and nothing of them is there afterwards.
func TestThreat_Archive_HostileAtTheDoors(t *testing.T) {
	a, b := newSite(t, true, nil), airGapped(t, nil)
	pin := a.pinned()
	for _, name := range []string{"absolute.tar", "symlink-escape.tar", "bomb-1GiB.gz", "zipslip.zip"} {
		file := vectors.Read(t, "hostile/archive", name)
		vectors.Within(t, 5*time.Second, 32<<20, func() {
			if _, err := b.imports(file, client.BundleImport{Root: pin}); err == nil {
				t.Errorf("%s was imported as a bundle", name)
			}
			if _, err := a.admin.UploadFeed(t.Context(), "osv", bytes.NewReader(file)); !errors.Is(err, fault.Invalid) {
				t.Errorf("%s as a feed: %v, want that it is invalid", name, err)
			}
		})
	}
	nothing(t, b)
}
