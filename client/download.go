package client

import (
	"context"
	"net/http"
)

// Download is a program that the site gives away: GET /download/ lists them,
// and GET /download/NAME has the bytes. Neither wants a token.
type Download struct {
	Name   string `json:"name"` // assay-OS-ARCH
	OS     string `json:"os"`
	Arch   string `json:"arch"`
	Size   int64  `json:"size"`   // in bytes
	SHA256 string `json:"sha256"` // hex
}

// Downloads lists the programs.
func (c *Client) Downloads(ctx context.Context) (*List[Download], error) {
	var out List[Download]
	return &out, c.call(ctx, http.MethodGet, "/download/", nil, nil, &out)
}
