package store

import (
	"slices"
	"sync"
)

// watchers wakes goroutines of this process that wait for changes.
type watchers struct {
	mu    sync.Mutex
	topic map[string]map[chan struct{}]bool
}

// Signal wakes, after the commit, those of this process that [DB.Watch] the
// topic.
func (tx *Tx) Signal(topic string) {
	if !slices.Contains(tx.signals, topic) {
		tx.signals = append(tx.signals, topic)
	}
}

// Signal wakes those of this process that [DB.Watch] the topic.
func (db *DB) Signal(topic string) {
	db.watchers.mu.Lock()
	defer db.watchers.mu.Unlock()
	for c := range db.watchers.topic[topic] {
		select {
		case c <- struct{}{}:
		default: // it has a wake-up to come already
		}
	}
}

// Watch gives a channel that gets a value soon after each [Tx.Signal] of the
// topic in this process; several may come as one. It is a hint that saves
// polling and never the only way to learn of a change: other processes change
// the database too. Call stop when done.
func (db *DB) Watch(topic string) (wake <-chan struct{}, stop func()) {
	c := make(chan struct{}, 1)
	db.watchers.mu.Lock()
	defer db.watchers.mu.Unlock()
	if db.watchers.topic == nil {
		db.watchers.topic = map[string]map[chan struct{}]bool{}
	}
	if db.watchers.topic[topic] == nil {
		db.watchers.topic[topic] = map[chan struct{}]bool{}
	}
	db.watchers.topic[topic][c] = true
	return c, func() {
		db.watchers.mu.Lock()
		defer db.watchers.mu.Unlock()
		delete(db.watchers.topic[topic], c)
	}
}
