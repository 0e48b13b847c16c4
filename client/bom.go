package client

import (
	"context"
	"net/http"
)

// BOMUpload is what clients of Dependency-Track send: PUT /api/v1/bom.
type BOMUpload struct {
	ProjectName    string `json:"projectName,omitempty"`
	ProjectVersion string `json:"projectVersion,omitempty"`
	Project        string `json:"project,omitempty"` // Dependency-Track's number; not known here
	AutoCreate     bool   `json:"autoCreate,omitempty"`
	BOM            string `json:"bom"` // the document, in base64
}

// BOMToken asks how far an upload is: GET /api/v1/bom/token/{token}.
type BOMToken struct {
	Token string `json:"token"`
}

// BOMState says whether an upload is still being looked up.
type BOMState struct {
	Processing bool `json:"processing"`
}

// UploadBOM hands in a bill of materials about a project.
func (c *Client) UploadBOM(ctx context.Context, u BOMUpload) (*BOMToken, error) {
	var out BOMToken
	return &out, c.call(ctx, http.MethodPut, "/api/v1/bom", nil, u, &out)
}
