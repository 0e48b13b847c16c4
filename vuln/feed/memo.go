package feed

import (
	"fmt"
	"strings"
	"sync"
)

// memo is what readers worked out of the records in force.
type memo struct {
	mu    sync.Mutex
	of    string
	known *sync.Map
}

// Memo keeps what is worked out of the records in force: it gives the same map
// until any feed is of another operation. sources are those read before the
// records are.
func (s *Store) Memo(sources []Source) *sync.Map {
	var b strings.Builder
	for _, f := range sources {
		fmt.Fprintf(&b, "%q %q %d %d %d\n", f.Name, f.Ecosystem, f.Operation, f.Records, f.Changed.UnixMicro())
	}
	s.memo.mu.Lock()
	defer s.memo.mu.Unlock()
	if s.memo.known == nil || s.memo.of != b.String() {
		s.memo.of, s.memo.known = b.String(), &sync.Map{}
	}
	return s.memo.known
}
