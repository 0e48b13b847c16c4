package alert

import (
	"net/http"
	"sync"
)

// connections are HTTP clients, by what a receiver's connection depends on.
type connections struct {
	mu  sync.Mutex
	all map[string]*http.Client
}
