package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// BackupSignature answers POST /v1/backup/sign on the admin socket.
type BackupSignature struct {
	Fingerprint string          `json:"fingerprint"`        // of the site's key for backups
	Key         string          `json:"key,omitempty"`      // PEM
	Envelope    json.RawMessage `json:"envelope,omitempty"` // DSSE
}

// SignBackup has the site sign the manifest of a backup, and record it; nil asks
// for the key's fingerprint alone. Admin socket only.
func (c *Client) SignBackup(ctx context.Context, manifest []byte) (BackupSignature, error) {
	var a BackupSignature
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.Base+"/v1/backup/sign", bytes.NewReader(manifest))
	if err != nil {
		return a, err
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return a, fmt.Errorf("sign the backup: %w", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 128<<20))
	if err != nil {
		return a, fmt.Errorf("sign the backup: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return a, answerError("the server", resp, b)
	}
	return a, json.Unmarshal(b, &a)
}
