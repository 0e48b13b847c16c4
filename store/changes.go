package store

import (
	"strings"
	"sync/atomic"
)

// Changes tells whether what a transaction read of some tables still holds, for
// those who remember it. It knows the commits of this process only, and with
// PostgreSQL, where others commit too, it knows nothing.
type Changes struct {
	index int
	word  string
	// n is odd while a transaction that touches the tables is being committed: what
	// it wrote may be seen then, or not. The writer alone raises it.
	n atomic.Uint64
}

// maxChanges bounds what [DB.Changes] is asked for.
const maxChanges = 4

// Changes counts the commits that touch tables whose names begin with prefix. It
// is to be called before the database is used.
func (db *DB) Changes(prefix string) *Changes {
	db.changesMu.Lock()
	defer db.changesMu.Unlock()
	known := db.known()
	for _, c := range known {
		if c.word == prefix {
			return c
		}
	}
	c := &Changes{index: len(known), word: prefix}
	if db.dialect != SQLite || len(known) == maxChanges {
		c.index = -1
		return c
	}
	c.n.Store(2) // 0 is that of a View that began before
	known = append(known[:len(known):len(known)], c)
	db.changes.Store(&known)
	return c
}

func (db *DB) known() []*Changes {
	if p := db.changes.Load(); p != nil {
		return *p
	}
	return nil
}

// At gives the state of the tables when tx, a View, began; false when that is not
// known. Its statements see this state or a later one.
func (c *Changes) At(tx *Tx) (uint64, bool) {
	if c.index < 0 || !tx.readOnly {
		return 0, false
	}
	n := tx.states[c.index]
	return n, n != 0 && n%2 == 0
}

// Still says whether the state is what it was: what was read since then is of it.
func (c *Changes) Still(n uint64) bool { return c.n.Load() == n }

// notice takes the states when a View begins.
func (tx *Tx) notice() {
	for _, c := range tx.db.known() {
		tx.states[c.index] = c.n.Load()
	}
}

// touch notes what a statement of an Update may change. A statement that only
// reads counts too: texts are not parsed.
func (tx *Tx) touch(q string) {
	for _, c := range tx.db.known() {
		if bit := uint8(1) << c.index; tx.touched&bit == 0 && strings.Contains(q, c.word) {
			tx.touched |= bit
		}
	}
}

// changing raises the states of what jobs have touched: before and after their
// commit.
func (w *writer) changing(ran []*job) {
	var touched uint8
	for _, j := range ran {
		if j.tx != nil {
			touched |= j.tx.touched
		}
	}
	if touched == 0 {
		return
	}
	for _, c := range w.db.known() {
		if touched&(1<<c.index) != 0 {
			c.n.Add(1)
		}
	}
}
