package config

import (
	"context"
	"fmt"

	"assay/store"
)

// Migrations holds the table of applied documents.
var Migrations = store.Migrations{Name: "config", Steps: []string{`
CREATE TABLE config_document (
	kind       TEXT   NOT NULL,
	name       TEXT   NOT NULL,
	text       BYTES  NOT NULL,
	updated_at BIGINT NOT NULL,
	PRIMARY KEY (kind, name)
)`}}

// Stored reads the documents in force.
func Stored(ctx context.Context, tx *store.Tx) ([]Document, error) {
	rows, err := tx.Query(ctx, `SELECT text FROM config_document ORDER BY kind, name`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var docs []Document
	for rows.Next() {
		var text []byte
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		d, err := ParseDocuments(text)
		if err != nil {
			return nil, fmt.Errorf("stored configuration: %w", err)
		}
		docs = append(docs, d...)
	}
	return docs, rows.Err()
}

// Put carries out a plan: wanted documents that changed are written, deleted
// ones go.
func Put(ctx context.Context, tx *store.Tx, wanted []Document, plan []Change) error {
	text := map[[2]string][]byte{}
	for _, d := range wanted {
		text[[2]string{d.Kind, d.Name}] = d.Text
	}
	for _, c := range plan {
		var err error
		switch c.Action {
		case "created", "updated":
			_, err = tx.Exec(ctx, `INSERT INTO config_document (kind, name, text, updated_at) VALUES (?, ?, ?, ?)
				ON CONFLICT (kind, name) DO UPDATE SET text = excluded.text, updated_at = excluded.updated_at`,
				c.Kind, c.Name, text[[2]string{c.Kind, c.Name}], store.Micros(tx.Now()))
		case "deleted":
			_, err = tx.Exec(ctx, `DELETE FROM config_document WHERE kind = ? AND name = ?`, c.Kind, c.Name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
