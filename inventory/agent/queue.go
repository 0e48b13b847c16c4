package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"assay/internal/durable"
	"assay/internal/fault"
)

// maxQueue bounds the executions that wait for the server.
const maxQueue = 10_000

// queue keeps executions until the server has them: a file for each, durable
// before put returns.
type queue struct {
	dir   string
	mu    sync.Mutex
	names []string // sorted
	next  uint64
}

func openQueue(dir string) (*queue, error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := durable.CheckPrivate(dir); err != nil {
		return nil, err
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	q := &queue{dir: dir}
	for _, e := range list {
		var n uint64
		if _, err := fmt.Sscanf(e.Name(), "%016x.json", &n); err == nil && strings.HasSuffix(e.Name(), ".json") {
			q.names = append(q.names, e.Name())
			q.next = max(q.next, n+1)
		}
	}
	slices.Sort(q.names)
	return q, nil
}

func (q *queue) length() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.names)
}

func (q *queue) put(x *Execution) error {
	b, err := json.Marshal(x)
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.names) >= maxQueue {
		return fault.Newf(fault.TooMany, "%d wait already", maxQueue)
	}
	name := fmt.Sprintf("%016x.json", q.next)
	if err := durable.WriteFile(filepath.Join(q.dir, name), b, 0o600); err != nil {
		return err
	}
	q.next++
	q.names = append(q.names, name)
	return nil
}

// oldest gives the first; nil: there is none. What cannot be read is dropped, with
// the error said once.
func (q *queue) oldest() (string, *Execution, error) {
	q.mu.Lock()
	if len(q.names) == 0 {
		q.mu.Unlock()
		return "", nil, nil
	}
	name := q.names[0]
	q.mu.Unlock()
	b, err := os.ReadFile(filepath.Join(q.dir, name))
	if err != nil {
		return "", nil, err
	}
	x := new(Execution)
	if err := json.Unmarshal(b, x); err != nil {
		return "", nil, errors.Join(fmt.Errorf("%s of the queue: %w", name, err), q.drop(name))
	}
	return name, x, nil
}

func (q *queue) drop(name string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := os.Remove(filepath.Join(q.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	q.names = slices.DeleteFunc(q.names, func(n string) bool { return n == name })
	return nil
}
