package ui

import (
	"fmt"
	"html/template"
	"net/url"
	"strconv"
	"strings"
	"time"

	"assay/artifact"
)

// Page is what a page shows, apart from how. The same page is rendered as HTML
// and exported as JSON or CSV, so that no number is on a screen alone.
type Page struct {
	Title    string
	Here     string // entry of the navigation that it belongs to
	Crumbs   []Link
	State    Cell   // of the whole, beside the title; zero: none
	Lead     string // a sentence below the title
	Notice   string // of what was just done
	Filter   *Filter
	Stats    []Stat
	Sections []Section
	Live     bool // renewed when something happens
}

// Link is a text that leads somewhere; without URL it is text alone.
type Link struct{ Text, URL string }

// Stat is one number of a dashboard, with what it is a share of.
type Stat struct {
	Name  string
	Value Cell
	Of    string // denominator or unit, in words
	Goal  string // what it should be, in words
	State Cell
	Chart *Chart // small; its table is on the page behind URL
	URL   string
}

// Section is one part of a page. What is zero is not shown.
type Section struct {
	ID      string
	Title   string
	Note    string
	Problem string // why nothing is known: shown as unknown, never as empty
	Line    []Stop
	Facts   []Fact
	Table   *Table
	Chart   *Chart
	Raw     string
	RawOpen bool
	HTML    template.HTML // of our own documents alone
	Forms   []Form
	More    Link
}

// Fact is a named value.
type Fact struct {
	Name  string
	Value Cell
}

// Stop is one place of the line from commit to workload.
type Stop struct {
	Name  string
	State Cell
	Lines []Cell
}

// Table is rows of cells under columns.
type Table struct {
	Columns []Column
	Rows    [][]Cell
	Empty   string // what no rows mean
	Next    string // address of the next page
	First   string // address of the first, on later ones
}

// Column names a column: Key in exports.
type Column struct {
	Key, Name string
	Number    bool
}

// Filter is a form that asks for the same page otherwise.
type Filter struct{ Fields []Field }

// Field is an input. With Options it is a choice of them.
type Field struct {
	Name, Label, Value, Hint string
	Options                  []string
	Check, Checked           bool
	Area                     bool
	Required                 bool
	Hidden                   bool
	Secret                   bool
}

// Form is something that can be done.
type Form struct {
	Title, Action, Button string
	Note                  string
	Fields                []Field
}

// Mark is a state: its shape and colour; the word is the cell's text.
type Mark string

// The marks.
const (
	Good    Mark = "ok"
	Bad     Mark = "bad"
	Warn    Mark = "warn"
	Unknown Mark = "unknown"
	Info    Mark = "info"
)

// Cell is one value: as people read it, and as programs do.
type Cell struct {
	Text  string
	Value any // exported; nil: Text
	URL   string
	Mark  Mark
	Mono  bool
	Long  bool   // may break within words
	Sub   string // after it, dimmed
	Title string // on hover, and for what is cut short
	Time  time.Time
}

// Zero says that there is nothing to show.
func (c Cell) Zero() bool { return c.Text == "" && c.Mark == "" }

// Stamp is the time for machines.
func (c Cell) Stamp() string { return c.Time.UTC().Format(time.RFC3339) }

func (c Cell) export() any {
	switch {
	case c.Value != nil:
		return c.Value
	case !c.Time.IsZero():
		return c.Stamp()
	case c.Mark == Unknown && c.Text == "":
		return nil
	}
	return c.Text
}

func text(s string) Cell { return Cell{Text: s} }

func mono(s string) Cell { return Cell{Text: s, Mono: true} }

func link(s, to string) Cell { return Cell{Text: s, URL: to} }

func mark(m Mark, word string) Cell { return Cell{Text: word, Mark: m} }

// unknown is what is not known, in a word; never a zero.
func unknown(why string) Cell { return Cell{Text: "unknown", Mark: Unknown, Title: why} }

func orUnknown(s, why string) Cell {
	if s == "" {
		return unknown(why)
	}
	return text(s)
}

func orNone(s string) Cell {
	if s == "" {
		return Cell{Text: "–", Value: ""}
	}
	return text(s)
}

type integer interface{ ~int | ~int64 | ~uint64 }

func count[T integer](n T) Cell {
	return Cell{Text: thousands(strconv.FormatInt(int64(n), 10)), Value: int64(n)}
}

func number(x float64, digits int) Cell {
	return Cell{Text: strconv.FormatFloat(x, 'f', digits, 64), Value: x}
}

// share is a part of a whole, in percent; of nothing it is unknown.
func share(part, whole float64) Cell {
	if whole <= 0 {
		return unknown("there is nothing to count yet")
	}
	return Cell{Text: strconv.FormatFloat(100*part/whole, 'f', 1, 64) + " %", Value: part / whole}
}

func thousands(s string) string {
	sign := ""
	if strings.HasPrefix(s, "-") {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return sign + s
}

func when(t time.Time) Cell {
	if t.IsZero() {
		return Cell{Text: "–", Value: ""}
	}
	return Cell{Text: t.UTC().Format("2006-01-02 15:04"), Time: t}
}

func whenPtr(t *time.Time) Cell {
	if t == nil {
		return Cell{Text: "–", Value: ""}
	}
	return when(*t)
}

// age is a duration in its two largest units.
func age(d time.Duration) Cell {
	c := Cell{Value: int64(d / time.Second)}
	if d < 0 {
		d = -d
	}
	day := 24 * time.Hour
	switch {
	case d >= 2*365*day:
		c.Text = fmt.Sprintf("%d y", d/(365*day))
	case d >= 2*day:
		c.Text = fmt.Sprintf("%d d", d/day)
	case d >= time.Hour:
		c.Text = fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		c.Text = fmt.Sprintf("%d min", d/time.Minute)
	default:
		c.Text = fmt.Sprintf("%d s", d/time.Second)
	}
	return c
}

func bytesOf(n int64) Cell {
	c := Cell{Value: n}
	switch {
	case n >= 1<<30:
		c.Text = fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		c.Text = fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		c.Text = fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	default:
		c.Text = fmt.Sprintf("%d B", n)
	}
	return c
}

// digest is a digest cut short, that leads to its artifact.
func digest(d artifact.Digest, repository string) Cell {
	if d == "" {
		return unknown("no digest was told")
	}
	return Cell{Text: short(string(d)), Value: string(d), Title: string(d), Mono: true, URL: artifactURL(d, repository)}
}

func short(d string) string {
	if alg, hex, ok := strings.Cut(d, ":"); ok && len(hex) > 12 {
		return alg + ":" + hex[:12]
	}
	return clip(d, 24)
}

// clip cuts a text short, between runes.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// clipped is a text that may be long, whole on hover and in exports.
func clipped(s string, n int) Cell {
	if len(s) <= n {
		return text(s)
	}
	return Cell{Text: clip(s, n), Value: s, Title: s, Long: n >= 100}
}

// command is what somebody could type.
func command(s string, n int) Cell {
	if s == "" {
		return Cell{Text: "–", Value: ""}
	}
	return Cell{Text: clip(s, n), Value: s, Title: s, Mono: true, Long: true}
}

// who names an actor, "issuer#name", by the name.
func who(actor string) Cell {
	_, name, ok := strings.Cut(actor, "#")
	if kind, rest, owner := strings.Cut(actor, " "); owner && !ok {
		// As uploads are owned: "user ISSUER NAME".
		if _, name, ok = strings.Cut(rest, " "); ok && kind == "" {
			ok = false
		}
	}
	if !ok || name == "" {
		return orNone(actor)
	}
	return Cell{Text: clip(name, 60), Value: actor, Title: actor}
}

func artifactURL(d artifact.Digest, repository string) string {
	u := root + "artifacts/" + url.PathEscape(string(d))
	if repository != "" {
		u += "?repository=" + url.QueryEscape(repository)
	}
	return u
}

// local makes an address below the UI: pairs of names and values are its query.
func local(path string, pairs ...string) string {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	if len(q) == 0 {
		return root + path
	}
	return root + path + "?" + q.Encode()
}

func columns(names ...string) (out []Column) {
	for _, n := range names {
		name, num := strings.CutSuffix(n, "#")
		out = append(out, Column{Key: keyOf(name), Name: name, Number: num})
	}
	return out
}

func keyOf(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToLower(name))
}
