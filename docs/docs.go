// Package docs holds the documents of this folder, so that the pages of the UI
// show those of the very version that runs.
package docs

import "embed"

// Files are the documents, Markdown.
//
//go:embed *.md */*
var Files embed.FS
