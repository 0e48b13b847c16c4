package blob_test

import (
	"testing"

	"assay/blob"
	"assay/blob/blobtest"
)

func TestDir(t *testing.T) {
	blobtest.Run(t, func(t *testing.T, place string) blob.Store {
		d, err := blob.NewDir(place, blob.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		return d
	})
}
