package store

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"assay/internal/fault"
)

// Table is a table as both databases have it.
type Table struct {
	Name    string   `json:"name"`
	Columns []Column `json:"columns"` // in the order of their definition
	Key     []string `json:"key"`     // primary key
}

// Column is a column; Type is TEXT, BIGINT, BYTES or DOUBLE PRECISION.
type Column struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// Step is a step of a set of migrations that a database has.
type Step struct {
	Set     string `json:"set"`
	Version int    `json:"version"`
	Hash    string `json:"hash"` // hex SHA-256 of its text
}

var columnTypes = map[string]string{
	"TEXT": "TEXT", "text": "TEXT", "INTEGER": "BIGINT", "INT": "BIGINT", "BIGINT": "BIGINT", "bigint": "BIGINT",
	"BLOB": "BYTES", "bytea": "BYTES", "REAL": "DOUBLE PRECISION", "double precision": "DOUBLE PRECISION",
}

// Tables lists the tables of all domains by name, without those that hold the
// versions: [Tx.Steps] gives these.
func (tx *Tx) Tables(ctx context.Context) ([]Table, error) {
	names := `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name`
	columns := `SELECT name, type, pk FROM pragma_table_info(?) ORDER BY cid`
	if tx.db.dialect == PostgreSQL {
		names = `SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema() AND table_type = 'BASE TABLE' ORDER BY table_name`
		columns = `SELECT c.column_name, c.data_type, COALESCE(k.ordinal_position, 0)
			FROM information_schema.columns c
			LEFT JOIN information_schema.table_constraints t ON t.table_schema = c.table_schema AND t.table_name = c.table_name AND t.constraint_type = 'PRIMARY KEY'
			LEFT JOIN information_schema.key_column_usage k ON k.constraint_schema = t.constraint_schema AND k.constraint_name = t.constraint_name
				AND k.table_name = c.table_name AND k.column_name = c.column_name
			WHERE c.table_schema = current_schema() AND c.table_name = ? ORDER BY c.ordinal_position`
	}
	var tables []Table
	if err := tx.each(ctx, names, func(scan func(...any) error) error {
		var t Table
		err := scan(&t.Name)
		if !strings.HasPrefix(t.Name, "schema_") {
			tables = append(tables, t)
		}
		return err
	}); err != nil {
		return nil, err
	}
	for i := range tables {
		t, keys := &tables[i], map[int]string{}
		if err := tx.each(ctx, columns, func(scan func(...any) error) error {
			var c Column
			var key int
			if err := scan(&c.Name, &c.Type, &key); err != nil {
				return err
			}
			found := c.Type
			if c.Type = columnTypes[found]; c.Type == "" {
				return fault.Newf(fault.Internal, "column %s of %s has type %q, which no migration makes", c.Name, t.Name, found)
			}
			t.Columns = append(t.Columns, c)
			if key > 0 {
				keys[key] = c.Name
			}
			return nil
		}, t.Name); err != nil {
			return nil, err
		}
		for k := 1; k <= len(keys); k++ {
			t.Key = append(t.Key, keys[k])
		}
	}
	return tables, nil
}

func (tx *Tx) each(ctx context.Context, q string, fn func(scan func(...any) error) error, args ...any) error {
	rows, err := tx.Query(ctx, q, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := fn(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (t Table) names() string {
	names := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		names[i] = c.Name
	}
	return strings.Join(names, ", ")
}

// Rows gives every row of a table as one line of JSON, in the order of its key,
// the same on both databases: TEXT is a string, BIGINT and DOUBLE PRECISION are
// numbers, BYTES is base64, NULL is null. The line is valid until fn returns.
func (tx *Tx) Rows(ctx context.Context, t Table, fn func(line []byte) error) error {
	order := t.Key
	if len(order) == 0 {
		for _, c := range t.Columns {
			order = append(order, c.Name)
		}
	}
	// SQLite's driver gives an empty BYTES as NULL, so what is NULL is asked for.
	cells, columns, empty := make([]any, len(t.Columns)), t.names(), make([]int, len(t.Columns))
	var asked []any
	for i, c := range t.Columns {
		switch c.Type {
		case "TEXT":
			cells[i] = new(sql.NullString)
		case "BIGINT":
			cells[i] = new(sql.NullInt64)
		case "BYTES":
			cells[i] = new([]byte)
			columns += ", CASE WHEN " + c.Name + " IS NULL THEN 0 ELSE 1 END"
			asked = append(asked, &empty[i])
		default:
			cells[i] = new(sql.NullFloat64)
		}
	}
	var line []byte
	asked = append(slices.Clone(cells), asked...)
	return tx.each(ctx, `SELECT `+columns+` FROM `+t.Name+` ORDER BY `+strings.Join(order, ", "), func(scan func(...any) error) error {
		if err := scan(asked...); err != nil {
			return err
		}
		line = append(line[:0], '[')
		for i, c := range cells {
			if i > 0 {
				line = append(line, ',')
			}
			if b, ok := c.(*[]byte); ok && *b == nil && empty[i] == 1 {
				*b = []byte{}
			}
			var err error
			if line, err = appendCell(line, c); err != nil {
				return fmt.Errorf("column %s of %s: %w", t.Columns[i].Name, t.Name, err)
			}
		}
		line = append(line, ']', '\n')
		return fn(line)
	})
}

func appendCell(line []byte, c any) ([]byte, error) {
	switch v := c.(type) {
	case *sql.NullString:
		if v.Valid {
			b, err := json.Marshal(v.String)
			return append(line, b...), err
		}
	case *sql.NullInt64:
		if v.Valid {
			return strconv.AppendInt(line, v.Int64, 10), nil
		}
	case *sql.NullFloat64:
		if v.Valid {
			b, err := json.Marshal(v.Float64)
			return append(line, b...), err
		}
	case *[]byte:
		if *v != nil {
			line = append(line, '"')
			line = base64.StdEncoding.AppendEncode(line, *v)
			return append(line, '"'), nil
		}
	}
	return append(line, "null"...), nil
}

// Insert puts rows into a table that [Tx.Rows] gave, one line each.
func (tx *Tx) Insert(ctx context.Context, t Table, lines [][]byte) error {
	rowsAtOnce := max(1, 900/max(1, len(t.Columns))) // the databases bound placeholders
	row := "(?" + strings.Repeat(", ?", len(t.Columns)-1) + ")"
	for part := range slices.Chunk(lines, rowsAtOnce) {
		args := make([]any, 0, len(part)*len(t.Columns))
		for _, line := range part {
			cells, err := t.parse(line)
			if err != nil {
				return err
			}
			args = append(args, cells...)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO `+t.Name+` (`+t.names()+`) VALUES `+row+strings.Repeat(", "+row, len(part)-1), args...); err != nil {
			return err
		}
	}
	return nil
}

// parse reads a line; what does not fit the columns is [fault.Tampered].
func (t Table) parse(line []byte) ([]any, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal(line, &raw); err != nil || len(raw) != len(t.Columns) {
		return nil, fault.Newf(fault.Tampered, "a row of %s does not read as %d cells", t.Name, len(t.Columns))
	}
	cells := make([]any, len(raw))
	for i, r := range raw {
		if string(r) == "null" {
			if t.Columns[i].Type == "BYTES" {
				cells[i] = []byte(nil)
			}
			continue
		}
		var err error
		switch t.Columns[i].Type {
		case "TEXT":
			cells[i], err = into[string](r)
		case "BIGINT":
			cells[i], err = into[int64](r)
		case "BYTES":
			var b []byte
			b, err = into[[]byte](r)
			if b == nil {
				b = []byte{}
			}
			cells[i] = b
		case "DOUBLE PRECISION":
			cells[i], err = into[float64](r)
		default:
			err = fault.Newf(fault.Tampered, "type %q", t.Columns[i].Type)
		}
		if err != nil {
			return nil, fault.Newf(fault.Tampered, "column %s of %s: %w", t.Columns[i].Name, t.Name, err)
		}
	}
	return cells, nil
}

func into[T any](r json.RawMessage) (T, error) {
	var v T
	err := json.Unmarshal(r, &v)
	return v, err
}

// Delete empties a table, before rows are put into it that belong together.
func (tx *Tx) Delete(ctx context.Context, t Table) error {
	_, err := tx.Exec(ctx, `DELETE FROM `+t.Name)
	return err
}
