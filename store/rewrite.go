package store

import (
	"strconv"
	"strings"

	"assay/internal/fault"
)

// statement is one SQL statement in a dialect's own text.
type statement struct {
	text   string
	params int  // placeholders
	writes bool // not a SELECT, VALUES or EXPLAIN; WITH counts by its main verb's presence
}

// verbs are the statements that domains may use. Transactions, pragmas and
// sessions are this package's business.
var verbs = map[string]bool{ // true: writes
	"SELECT": false, "VALUES": false, "WITH": false, "EXPLAIN": false,
	"INSERT": true, "UPDATE": true, "DELETE": true,
	"CREATE": true, "ALTER": true, "DROP": true,
}

// translate splits q at its semicolons and rewrites each statement for d. What
// only one of the databases understands is an error, with the reason.
func translate(d Dialect, q string) ([]statement, error) {
	s := &scanner{d: d, in: q}
	var all []statement
	for {
		st, ok, err := s.statement()
		if err != nil {
			return nil, fault.Newf(fault.Internal, "SQL text at byte %d: %w: %s", s.pos, err, brief(q))
		}
		if !ok {
			return all, nil
		}
		all = append(all, st)
	}
}

// scanner walks the bytes of a text. Multi-byte runes need no care: every byte
// that means something to it is ASCII.
type scanner struct {
	d   Dialect
	in  string
	pos int

	out    strings.Builder
	words  []string // the first three words, in capitals
	prev   string   // the word before
	params int
	last   byte // last byte of a token
	depth  int  // open parentheses
}

// statement reads up to the next semicolon or the end; false when only blanks
// and comments are left.
func (s *scanner) statement() (statement, bool, error) {
	s.out.Reset()
	s.words, s.prev, s.params, s.last, s.depth = s.words[:0], "", 0, 0, 0
	for s.pos < len(s.in) {
		if s.in[s.pos] == ';' {
			s.pos++
			if s.last != 0 {
				return s.finish()
			}
			s.out.Reset() // an empty statement; its comments go with it
			continue
		}
		if err := s.token(); err != nil {
			return statement{}, false, err
		}
	}
	if s.last == 0 {
		return statement{}, false, nil
	}
	return s.finish()
}

func (s *scanner) finish() (statement, bool, error) {
	if s.depth != 0 {
		return statement{}, false, fault.Newf(fault.Internal, "parentheses do not match")
	}
	if len(s.words) == 0 {
		return statement{}, false, fault.Newf(fault.Internal, "a statement starts with its verb")
	}
	writes, known := verbs[s.words[0]]
	if !known {
		return statement{}, false, fault.Newf(fault.Internal, "%s is not a statement for domains (SELECT, INSERT, UPDATE, DELETE, WITH, CREATE, ALTER, DROP)", s.words[0])
	}
	if len(s.words) > 1 && s.words[0] == "CREATE" && s.words[1] == "TABLE" {
		if s.last != ')' {
			return statement{}, false, fault.Newf(fault.Internal, "CREATE TABLE ends with its column list")
		}
		if s.d == SQLite {
			// At the end of the text a line comment may still be open.
			s.out.WriteString("\n STRICT")
		}
	}
	return statement{text: s.out.String(), params: s.params, writes: writes}, true, nil
}

// token copies or rewrites one token.
func (s *scanner) token() error {
	c := s.in[s.pos]
	switch {
	case c == 0:
		return fault.Newf(fault.Internal, "NUL byte")
	case c == ' ' || c == '\t' || c == '\n' || c == '\r':
		s.out.WriteByte(c)
		s.pos++
		return nil
	case c == '\'' || c == '"':
		return s.quoted(c)
	case c == '-' && s.peek(1) == '-':
		return s.lineComment()
	case c == '/' && s.peek(1) == '*':
		return s.blockComment()
	case c == '?':
		return s.placeholder()
	case isWordStart(c):
		return s.word()
	case c >= '0' && c <= '9':
		return s.number()
	case strings.IndexByte("()", c) >= 0:
		if c == '(' {
			s.depth++
		} else if s.depth--; s.depth < 0 {
			return fault.Newf(fault.Internal, "parentheses do not match")
		}
	case strings.IndexByte(",.=<>+-*/%|&!~", c) >= 0:
	default:
		return fault.Newf(fault.Internal, "%q is not in both dialects", c)
	}
	s.out.WriteByte(c)
	s.last, s.prev = c, ""
	s.pos++
	return nil
}

func (s *scanner) peek(n int) byte {
	if s.pos+n < len(s.in) {
		return s.in[s.pos+n]
	}
	return 0
}

// quoted copies a string literal or a quoted identifier; a doubled quote
// stands for itself.
func (s *scanner) quoted(q byte) error {
	for i := s.pos + 1; i < len(s.in); i++ {
		switch {
		case s.in[i] == 0:
			return fault.Newf(fault.Internal, "NUL byte")
		case s.in[i] != q:
		case i+1 < len(s.in) && s.in[i+1] == q:
			i++
		default:
			s.out.WriteString(s.in[s.pos : i+1])
			s.pos, s.last, s.prev = i+1, q, ""
			return nil
		}
	}
	return fault.Newf(fault.Internal, "quote %c does not end", q)
}

func (s *scanner) lineComment() error {
	end := strings.IndexByte(s.in[s.pos:], '\n')
	if end < 0 {
		s.pos = len(s.in)
	} else {
		s.pos += end // the line break itself is copied next
	}
	s.out.WriteByte(' ')
	return nil
}

func (s *scanner) blockComment() error {
	end := strings.Index(s.in[s.pos+2:], "*/")
	if end < 0 {
		return fault.Newf(fault.Internal, "comment does not end")
	}
	// PostgreSQL nests comments and SQLite does not.
	if strings.Contains(s.in[s.pos+2:s.pos+2+end], "/*") {
		return fault.Newf(fault.Internal, "comment within a comment")
	}
	s.pos += end + 4
	s.out.WriteByte(' ')
	return nil
}

func (s *scanner) placeholder() error {
	if n := s.peek(1); n >= '0' && n <= '9' || n == '?' {
		return fault.Newf(fault.Internal, "placeholders are a plain ? each")
	}
	s.params++
	if s.d == PostgreSQL {
		s.out.WriteByte('$')
		s.out.WriteString(strconv.Itoa(s.params))
	} else {
		s.out.WriteByte('?')
	}
	s.pos++
	s.last, s.prev = '?', ""
	// "?a" would be a placeholder and a name in one dialect only.
	if isWordStart(s.peek(0)) {
		return fault.Newf(fault.Internal, "a blank must follow ?")
	}
	return nil
}

func (s *scanner) number() error {
	start := s.pos
	for s.pos < len(s.in) && (isWordStart(s.in[s.pos]) || s.in[s.pos] >= '0' && s.in[s.pos] <= '9' || s.in[s.pos] == '.') {
		s.pos++
	}
	s.out.WriteString(s.in[start:s.pos])
	s.last, s.prev = '0', ""
	return nil
}

// word copies a keyword or a name, or rewrites a type. Only capitals are
// types, so a column may be called bytes or text.
func (s *scanner) word() error {
	start := s.pos
	for s.pos < len(s.in) && (isWordStart(s.in[s.pos]) || s.in[s.pos] >= '0' && s.in[s.pos] <= '9') {
		s.pos++
	}
	w := s.in[start:s.pos]
	if s.peek(0) == '\'' {
		// E'..', X'..', B'..', N'..' differ between the dialects.
		return fault.Newf(fault.Internal, "%s'...' is not in both dialects: use a placeholder", w)
	}
	if len(s.words) < 3 {
		s.words = append(s.words, strings.ToUpper(w))
	}
	afterAS := s.prev == "AS" // CAST(x AS TEXT) takes no collation
	ddl := s.words[0] == "CREATE" || s.words[0] == "ALTER"
	s.last, s.prev = 'a', strings.ToUpper(w)
	switch {
	case w == "BYTES" && s.d == SQLite:
		w = "BLOB"
	case w == "BYTES":
		w = "BYTEA"
	case w == "BIGINT" && s.d == SQLite && ddl:
		w = "INTEGER" // the one spelling that STRICT tables know
	case w == "TEXT" && s.d == PostgreSQL && ddl && !afterAS:
		w = `TEXT COLLATE "C"`
	case w == "DOUBLE" && s.d == SQLite && ddl:
		rest := strings.TrimLeft(s.in[s.pos:], " \t\r\n")
		if !strings.HasPrefix(rest, "PRECISION") {
			return fault.Newf(fault.Internal, "DOUBLE wants PRECISION")
		}
		s.pos = len(s.in) - len(rest) + len("PRECISION")
		w = "REAL"
	}
	s.out.WriteString(w)
	return nil
}

func isWordStart(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c >= 0x80
}

// brief is q on one line, short enough for a message.
func brief(q string) string {
	q = strings.Join(strings.Fields(q), " ")
	if len(q) > 160 {
		q = q[:160] + "…"
	}
	return q
}
