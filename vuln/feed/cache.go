package feed

import (
	"crypto/sha256"
	"sync"

	"assay/vuln"
)

// cache holds records as they were read, by what their bytes are: one question
// about an artifact meets the same record by its package, its name and its aliases.
// Records are shared, and nobody changes one.
type cache struct {
	mu    sync.Mutex
	known map[[sha256.Size]byte]cached
	bytes int
}

type cached struct {
	*vuln.Advisory
	size int
}

// maxCached bounds what is kept, by the length of the records' JSON.
const maxCached = 24 << 20

func (c *cache) get(key [sha256.Size]byte) *vuln.Advisory {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[key].Advisory
}

// put keeps a record; where there is no room, any others go first.
func (c *cache) put(key [sha256.Size]byte, a *vuln.Advisory, size int) {
	if size > maxCached/100 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil {
		c.known = map[[sha256.Size]byte]cached{}
	}
	if _, is := c.known[key]; is {
		return
	}
	for k, old := range c.known {
		if c.bytes+size <= maxCached {
			break
		}
		delete(c.known, k)
		c.bytes -= old.size
	}
	c.known[key] = cached{a, size}
	c.bytes += size
}
