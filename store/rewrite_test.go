package store

import (
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTranslate(t *testing.T) {
	tests := []struct {
		name, in     string
		lite, pg     []string
		params       int
		writes       bool
		wantProblems bool
	}{
		{name: "placeholders", in: `SELECT a FROM t WHERE b=? AND c IN (?, ?)`,
			lite: []string{`SELECT a FROM t WHERE b=? AND c IN (?, ?)`},
			pg:   []string{`SELECT a FROM t WHERE b=$1 AND c IN ($2, $3)`}, params: 3},
		{name: "in literals and names they are text", in: `SELECT '?', 'it''s ?', "a?" FROM t WHERE b = ?`,
			lite: []string{`SELECT '?', 'it''s ?', "a?" FROM t WHERE b = ?`},
			pg:   []string{`SELECT '?', 'it''s ?', "a?" FROM t WHERE b = $1`}, params: 1},
		{name: "comments go", in: "SELECT a -- why? 'yes'\nFROM t /* ? \" */ WHERE b = ?",
			lite: []string{"SELECT a  \nFROM t   WHERE b = ?"},
			pg:   []string{"SELECT a  \nFROM t   WHERE b = $1"}, params: 1},
		{name: "comment marks in a literal are text", in: `SELECT '--', '/*', ? FROM t`,
			lite: []string{`SELECT '--', '/*', ? FROM t`}, pg: []string{`SELECT '--', '/*', $1 FROM t`}, params: 1},
		{name: "types", in: `CREATE TABLE t (a TEXT NOT NULL, b BIGINT, c BYTES, d DOUBLE PRECISION, bytes TEXT, PRIMARY KEY (a))`,
			lite:   []string{"CREATE TABLE t (a TEXT NOT NULL, b INTEGER, c BLOB, d REAL, bytes TEXT, PRIMARY KEY (a))\n STRICT"},
			pg:     []string{`CREATE TABLE t (a TEXT COLLATE "C" NOT NULL, b BIGINT, c BYTEA, d DOUBLE PRECISION, bytes TEXT COLLATE "C", PRIMARY KEY (a))`},
			writes: true},
		{name: "types are words in capitals", in: `SELECT bytes, BYTESX, "BYTES", 'BYTES', CAST(? AS BIGINT), CAST(a AS TEXT) FROM t`,
			lite: []string{`SELECT bytes, BYTESX, "BYTES", 'BYTES', CAST(? AS BIGINT), CAST(a AS TEXT) FROM t`},
			pg:   []string{`SELECT bytes, BYTESX, "BYTES", 'BYTES', CAST($1 AS BIGINT), CAST(a AS TEXT) FROM t`}, params: 1},
		{name: "a cast in an index takes no collation", in: `CREATE INDEX i ON t ((CAST(a AS TEXT)))`,
			lite: []string{`CREATE INDEX i ON t ((CAST(a AS TEXT)))`}, pg: []string{`CREATE INDEX i ON t ((CAST(a AS TEXT)))`}, writes: true},
		{name: "several", in: "CREATE TABLE t (a TEXT); -- done\n;; INSERT INTO t VALUES (';'); ",
			lite:   []string{"CREATE TABLE t (a TEXT)\n STRICT", "\nINSERT INTO t VALUES (';')"},
			pg:     []string{`CREATE TABLE t (a TEXT COLLATE "C")`, "INSERT INTO t VALUES (';')"},
			writes: true},
		{name: "strict after a comment", in: "CREATE TABLE t (a TEXT) -- end",
			lite: []string{"CREATE TABLE t (a TEXT)  \n STRICT"}, pg: []string{`CREATE TABLE t (a TEXT COLLATE "C")`}, writes: true},
		{name: "empty", in: " ; -- nothing\n"},
		{name: "operators", in: `UPDATE t SET a = a || ? WHERE b <> 1.5e3 AND c >= -2 AND d % 2 = 0`,
			lite: []string{`UPDATE t SET a = a || ? WHERE b <> 1.5e3 AND c >= -2 AND d % 2 = 0`},
			pg:   []string{`UPDATE t SET a = a || $1 WHERE b <> 1.5e3 AND c >= -2 AND d % 2 = 0`}, params: 1, writes: true},

		{name: "numbered placeholder", in: `SELECT ?1`, wantProblems: true},
		{name: "dollar placeholder", in: `SELECT $1`, wantProblems: true},
		{name: "named placeholder", in: `SELECT :a`, wantProblems: true},
		{name: "dollar quote", in: `SELECT $$a$$`, wantProblems: true},
		{name: "cast with colons", in: `SELECT a::text FROM t`, wantProblems: true},
		{name: "escape string", in: `SELECT E'\''`, wantProblems: true},
		{name: "blob literal", in: `SELECT x'00'`, wantProblems: true},
		{name: "bracket name", in: `SELECT [a] FROM t`, wantProblems: true},
		{name: "backtick name", in: "SELECT `a` FROM t", wantProblems: true},
		{name: "nested comment", in: `SELECT /* a /* b */ c */ 1`, wantProblems: true},
		{name: "open literal", in: `SELECT 'a`, wantProblems: true},
		{name: "open name", in: `SELECT "a`, wantProblems: true},
		{name: "open comment", in: `SELECT 1 /* a`, wantProblems: true},
		{name: "open parenthesis", in: `SELECT (1`, wantProblems: true},
		{name: "closed parenthesis", in: `SELECT 1)`, wantProblems: true},
		{name: "NUL", in: "SELECT 1\x00", wantProblems: true},
		{name: "NUL in a literal", in: "SELECT '\x00'", wantProblems: true},
		{name: "transaction", in: `COMMIT`, wantProblems: true},
		{name: "second statement a transaction", in: `SELECT 1; rollback`, wantProblems: true},
		{name: "pragma", in: `PRAGMA synchronous = OFF`, wantProblems: true},
		{name: "attach", in: `ATTACH '/etc/passwd' AS p`, wantProblems: true},
		{name: "set", in: `SET synchronous_commit = off`, wantProblems: true},
		{name: "copy", in: `COPY t TO PROGRAM 'sh'`, wantProblems: true},
		{name: "no verb", in: `(SELECT 1)`, wantProblems: false,
			lite: []string{`(SELECT 1)`}, pg: []string{`(SELECT 1)`}},
		{name: "without rowid", in: `CREATE TABLE t (a TEXT PRIMARY KEY) WITHOUT ROWID`, wantProblems: true},
		{name: "DOUBLE alone", in: `CREATE TABLE t (a DOUBLE)`, wantProblems: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, d := range []Dialect{SQLite, PostgreSQL} {
				want := tt.lite
				if d == PostgreSQL {
					want = tt.pg
				}
				got, err := translate(d, tt.in)
				if tt.wantProblems {
					if d == SQLite && err == nil {
						t.Errorf("%s: got %v, want an error", d, got)
					}
					continue
				}
				if err != nil {
					t.Fatalf("%s: %v", d, err)
				}
				var texts []string
				for _, st := range got {
					texts = append(texts, strings.TrimLeft(st.text, " "))
					if st.writes != tt.writes {
						t.Errorf("%s: writes: got %v, want %v", d, st.writes, tt.writes)
					}
					if st.params != tt.params {
						t.Errorf("%s: placeholders: got %d, want %d", d, st.params, tt.params)
					}
				}
				if diff := cmp.Diff(trimmed(want), trimmed(texts)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", d, diff)
				}
			}
		})
	}
}

// trimmed ignores blanks around statements.
func trimmed(all []string) []string {
	var out []string
	for _, s := range all {
		out = append(out, strings.TrimSpace(s))
	}
	return out
}

var literals = regexp.MustCompile(`'(?:[^']|'')*'|"(?:[^"]|"")*"`)
var numbered = regexp.MustCompile(`\$[0-9]+`)

// FuzzTranslate checks what makes rewriting safe: literals and quoted names
// come out byte for byte, in order; each placeholder becomes one number, in
// order, and stands outside of them; both dialects agree.
func FuzzTranslate(f *testing.F) {
	for _, s := range []string{
		`SELECT a FROM t WHERE b=? AND c IN (?, ?)`, `SELECT '?', 'it''s ?', "a?""" FROM t WHERE b = ?`,
		"SELECT a -- why? '\nFROM t /* ? \" */ WHERE b = ?", `CREATE TABLE t (a TEXT, d DOUBLE PRECISION); INSERT INTO t VALUES (?)`,
		`SELECT '--', '/*', ?`, `SELECT $1, :a, ?1`, `(SELECT E'\'')`, "SELECT 'é\u2028?' , ?",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, q string) {
		lite, err := translate(SQLite, q)
		pg, perr := translate(PostgreSQL, q)
		if err != nil {
			return // stricter for SQLite's types; the other may pass
		}
		if perr != nil || len(pg) != len(lite) {
			t.Fatalf("SQLite accepts %q as %d statements, PostgreSQL %d: %v", q, len(lite), len(pg), perr)
		}
		for i := range lite {
			a, b := lite[i], pg[i]
			// The collation is the one quoted name that translation adds.
			want := literals.FindAllString(a.text, -1)
			got := literals.FindAllString(strings.ReplaceAll(b.text, `TEXT COLLATE "C"`, `TEXT`), -1)
			if !strings.Contains(q, `COLLATE "C"`) && !cmp.Equal(want, got) {
				t.Fatalf("%q: literals differ: %q and %q", q, want, got)
			}
			for _, l := range want {
				if !strings.Contains(q, l) {
					t.Fatalf("%q: literal %q was made up", q, l)
				}
			}
			liteRest, pgRest := literals.ReplaceAllString(a.text, "''"), literals.ReplaceAllString(b.text, "''")
			if n := strings.Count(liteRest, "?"); n != a.params || b.params != a.params {
				t.Fatalf("%q: %d placeholders stand in %q, counted %d and %d", q, n, liteRest, a.params, b.params)
			}
			if strings.Contains(pgRest, "?") {
				t.Fatalf("%q: a placeholder is left in %q", q, pgRest)
			}
			for n, s := range numbered.FindAllString(pgRest, -1) {
				if s != "$"+strconv.Itoa(n+1) {
					t.Fatalf("%q: placeholder %d is %s", q, n+1, s)
				}
			}
			for _, s := range []string{liteRest, pgRest} {
				if strings.Contains(s, ";") || strings.Contains(s, "--") && !strings.Contains(q, "-") {
					t.Fatalf("%q: %q holds a separator or a comment", q, s)
				}
			}
		}
	})
}
