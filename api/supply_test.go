package api_test

const inventoryDoc = `{"version":1,"provider":"gitea","url":"https://git.example","targets":["o/r"],"at":"2026-06-01T00:00:00Z","items":[{"scope":"o/r","kind":"repository","name":"o/r"}],"unknown":[],"findings":[]}`

// stocked gives the site a scan of a forge.
func (s *site) stocked() {
	s.t.Helper()
	x, err := s.admin.AddSupplyScan(s.t.Context(), []byte(inventoryDoc))
	if err != nil {
		s.t.Fatal(err)
	}
	s.ids["/api/v1/supply/scans/{id}"] = x.ID
	s.ids["/api/v1/supply/scans/{id}/inventory"] = x.ID + "/inventory"
}

func (s *site) supplyRequest(method, path string) (query string, header map[string]string, body []byte, ok bool) {
	switch method + " " + path {
	case "POST /api/v1/supply/scans":
		return "", jsonBody, []byte(inventoryDoc), true
	case "POST /api/v1/supply/accept":
		return "", jsonBody, []byte(`{"id":"` + s.ids["/api/v1/supply/scans/{id}"] + `","reason":"looked at"}`), true
	}
	return "", nil, nil, false
}
