package imageverifier

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"assay/admission"
	"assay/event"
	"assay/internal/durable"
	"assay/internal/fault"
)

// state is the verifier's folder: the last bundle, the highest version that was
// seen, and events that the server does not have yet. Processes share it.
type state struct{ dir string }

const (
	fileBundle  = "bundle"
	fileSeen    = "seen"    // its time of change is when the server was last asked for a bundle
	fileRecords = "records" // a line for each event
	fileLock    = "lock"
	fileTried   = "tried" // its time of change is when a call last began what comes after its answer

	fileSending  = "records.sending"
	fileSendLock = "lock.sending"

	maxRecords = 4 << 20
	lockWithin = 500 * time.Millisecond
	tryAgain   = time.Minute
)

func openState(dir string) (*state, error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return &state{dir}, durable.CheckPrivate(dir)
}

func (s *state) path(name string) string { return filepath.Join(s.dir, name) }

// locked runs f as the only process; fault.Conflict when others keep the lock.
func (s *state) locked(f func() error) error {
	end := time.Now().Add(lockWithin)
	for {
		l, err := durable.Lock(s.path(fileLock))
		if err == nil {
			return errors.Join(f(), l.Close())
		}
		if !errors.Is(err, fault.Conflict) || time.Now().After(end) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// seen is the highest version of a bundle that was seen, and when it was last
// looked for a newer one.
func (s *state) seen() (version int64, at time.Time, err error) {
	b, err := os.ReadFile(s.path(fileSeen))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, time.Time{}, nil
	}
	if err != nil {
		return 0, time.Time{}, err
	}
	st, err := os.Stat(s.path(fileSeen))
	if err != nil {
		return 0, time.Time{}, err
	}
	if version, err = strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err != nil || version < 0 {
		return 0, time.Time{}, fault.Newf(fault.Tampered, "%s: want the number of a bundle", s.path(fileSeen))
	}
	return version, st.ModTime(), nil
}

// bundle opens the last one; nil: there is none. One that is older than the
// highest that was seen is refused.
func (s *state) bundle(authority []byte, cluster string) (*admission.Bundle, error) {
	version, _, err := s.seen()
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(s.path(fileBundle))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // nothing was fetched yet
	}
	if err == nil && st.Size() > admission.MaxBundle {
		err = fault.Newf(fault.TooLarge, "%s has %d bytes, at most %d are a bundle", s.path(fileBundle), st.Size(), admission.MaxBundle)
	}
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(s.path(fileBundle))
	if err != nil {
		return nil, err
	}
	return admission.OpenBundle(raw, authority, cluster, version)
}

// keep checks a bundle and makes it the last one. A crash between its two files
// leaves the newer bundle under the older number, which refuses nothing wrongly.
func (s *state) keep(raw, authority []byte, cluster string) error {
	return s.locked(func() error {
		version, _, err := s.seen()
		if err != nil {
			return err
		}
		b, err := admission.OpenBundle(raw, authority, cluster, version)
		if err != nil {
			return err
		}
		if err := durable.WriteFile(s.path(fileBundle), raw, 0o600); err != nil {
			return err
		}
		return s.looked(b.Version)
	})
}

// tried says whether another call began less than a while ago and did not end well,
// and notes this one if not.
func (s *state) tried(now time.Time, while time.Duration) bool {
	if st, err := os.Stat(s.path(fileTried)); err == nil && now.Sub(st.ModTime()) < while && !now.Before(st.ModTime()) {
		return true
	}
	_ = os.WriteFile(s.path(fileTried), []byte("\n"), 0o600) // without it, it is tried at every call
	return false
}

// triedWell lets the next call do what comes after its answer at once.
func (s *state) triedWell() { _ = os.Remove(s.path(fileTried)) }

// looked writes the highest version, and with the file's time that it was looked.
func (s *state) looked(version int64) error {
	return durable.WriteFile(s.path(fileSeen), []byte(strconv.FormatInt(version, 10)+"\n"), 0o600)
}

// record is an event as the file has it.
type record struct {
	Kind   event.Kind      `json:"kind"`
	Digest string          `json:"digest,omitempty"`
	Env    string          `json:"environment,omitempty"`
	Body   json.RawMessage `json:"body"`
}

// queue keeps an event for the server. Beyond 4 MiB it is refused: what cannot be
// told is for the caller's log.
func (s *state) queue(e event.Event) error {
	b, err := json.Marshal(e.Body)
	if err != nil {
		return err
	}
	line, err := json.Marshal(record{e.Kind, string(e.Digest), e.Env, b})
	if err != nil {
		return err
	}
	return s.locked(func() error {
		f, err := os.OpenFile(s.path(fileRecords), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return err
		}
		if st.Size()+int64(len(line)) > maxRecords {
			return fault.Newf(fault.NoSpace, "%d bytes of events wait for the server", st.Size())
		}
		if _, err := f.Write(append(line, '\n')); err != nil {
			return err
		}
		return f.Sync()
	})
}

// waiting says whether events wait.
func (s *state) waiting() bool {
	for _, name := range []string{fileRecords, fileSending} {
		if st, err := os.Stat(s.path(name)); err == nil && st.Size() > 0 {
			return true
		}
	}
	return false
}

// handOn gives what waits to send, at most 500 at a time, and keeps what was not
// taken. Only one process does at a time; others go on queueing meanwhile. A line
// that a crash cut is left out.
func (s *state) handOn(send func([]record) error) error {
	l, err := durable.Lock(s.path(fileSendLock))
	if errors.Is(err, fault.Conflict) {
		return nil // another one does
	}
	if err != nil {
		return err
	}
	defer l.Close()
	b, err := os.ReadFile(s.path(fileSending))
	if errors.Is(err, fs.ErrNotExist) {
		if err := s.locked(func() error { return os.Rename(s.path(fileRecords), s.path(fileSending)) }); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		b, err = os.ReadFile(s.path(fileSending))
	}
	if err != nil {
		return err
	}
	lines := bytes.SplitAfter(b, []byte("\n"))
	for len(lines) > 0 {
		n := min(len(lines), 500)
		var list []record
		for _, l := range lines[:n] {
			var r record
			if json.Unmarshal(l, &r) == nil && len(r.Body) > 0 {
				list = append(list, r)
			}
		}
		if len(list) > 0 {
			if err := send(list); err != nil {
				return errors.Join(err, durable.WriteFile(s.path(fileSending), bytes.Join(lines, nil), 0o600))
			}
		}
		lines = lines[n:]
	}
	return os.Remove(s.path(fileSending))
}
