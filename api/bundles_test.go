package api_test

import (
	"archive/tar"
	"bytes"

	"assay/client"
)

// bundleRequest is a request about bundles between sites, for those who may.
func (s *site) bundleRequest(method, path string) (query string, header map[string]string, body []byte, ok bool) {
	switch method + " " + path {
	case "POST /api/v1/bundles":
		return "", map[string]string{"Content-Type": "application/json"}, []byte(`{"target":"plant-7","full":false,"repositories":[],"policies":true}`), true
	case "GET /api/v1/bundles/{target}/{sequence}":
		s.ids[path] = "there/1"
		if _, err := s.admin.MakeBundle(s.t.Context(), client.BundleExport{Target: "there", Repositories: []string{"team/**"}}); err != nil {
			s.t.Fatal(err)
		}
		return "", nil, nil, true
	case "POST /api/v1/bundles/feeds":
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: "a.json", Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
			s.t.Fatal(err)
		}
		_ = w.Close()
		return "?name=osv", map[string]string{"Content-Type": "application/x-tar"}, b.Bytes(), true
	case "POST /api/v1/bundles/import":
		return "", map[string]string{"Content-Type": client.BundleMediaType}, []byte("no bundle"), true
	}
	return "", nil, nil, false
}
