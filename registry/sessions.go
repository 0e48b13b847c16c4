package registry

import (
	"sync"
	"time"

	"assay/internal/fault"
)

// sessions counts the uploads that each principal has begun and not ended. Each
// costs a file, or a multipart upload of a bucket, until it lies still for a day;
// without an end to them one pusher would use up all names of a file system. It
// lives in memory: a restart, or another replica, counts anew.
type sessions struct {
	most int

	mu sync.Mutex
	of map[string]map[string]time.Time // by owner and id: when it began
}

// sessionWindow is how long one that was left counts.
const sessionWindow = time.Hour

func newSessions(most int) *sessions {
	return &sessions{most: most, of: map[string]map[string]time.Time{}}
}

// room says whether an owner may begin another.
func (s *sessions) room(owner string, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	own := s.of[owner]
	if len(own) < s.most {
		return nil
	}
	for id, at := range own {
		if now.Sub(at) > sessionWindow {
			delete(own, id)
		}
	}
	if len(own) < s.most {
		return nil
	}
	return failf("TOOMANYREQUESTS", fault.TooMany, "%d uploads of yours are begun and not ended: end them (PUT) or cancel them (DELETE), or try again within the hour", len(own))
}

func (s *sessions) begin(owner, id string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	own := s.of[owner]
	if own == nil {
		own = map[string]time.Time{}
		s.of[owner] = own
	}
	own[id] = now
}

func (s *sessions) end(owner, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	own := s.of[owner]
	if delete(own, id); len(own) == 0 {
		delete(s.of, owner)
	}
}
