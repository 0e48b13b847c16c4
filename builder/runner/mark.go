package runner

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"assay/internal/strictjson"
)

// Place is a folder outside of the build's own in which a mark is left.
type Place struct {
	Name string // home, cache, tmp, var or shm
	Dir  string
}

// markName is the file in each place. It is the same for all users, so that a
// machine that another one used shows.
const markName = ".assay-runner-mark"

// maxMark bounds a mark that somebody else may have written, in bytes.
const maxMark = 4 << 10

// DefaultPlaces are the places that a clean-up of a runner forgets one by one:
// the home and cache folders, /var/tmp (which outlives a boot), /tmp and
// /dev/shm (which do not).
func DefaultPlaces() []Place {
	places := []Place{{"tmp", os.TempDir()}, {"var", "/var/tmp"}, {"shm", "/dev/shm"}}
	if dir, err := os.UserHomeDir(); err == nil {
		places = append(places, Place{"home", dir})
	}
	if dir, err := os.UserCacheDir(); err == nil {
		places = append(places, Place{"cache", dir})
	}
	return places
}

// mark is a mark's content.
type mark struct {
	Version int       `json:"version"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	Builds  int       `json:"builds"`
}

// lookAndMark reads the marks of earlier builds and leaves this one's.
func lookAndMark(places []Place, workspace string, leave bool, now time.Time, problem func(string)) Use {
	u := Use{}
	unreadable, left := false, false
	work, err := filepath.Abs(workspace)
	if err != nil {
		work = workspace
	}
	for _, p := range places {
		if p.Dir == work || strings.HasPrefix(p.Dir+string(filepath.Separator), work+string(filepath.Separator)) {
			continue // a folder that each build has for itself says nothing
		}
		if st, err := os.Stat(p.Dir); err != nil || !st.IsDir() {
			continue
		}
		m := Mark{Place: p.Name}
		got, err := readMark(filepath.Join(p.Dir, markName))
		switch {
		case err == nil:
			m.State = "present"
			u.Builds = max(u.Builds, got.Builds)
			if u.First.IsZero() || got.First.Before(u.First) {
				u.First = got.First
			}
			if got.Last.After(u.Last) {
				u.Last = got.Last
			}
		case errors.Is(err, fs.ErrNotExist):
			m.State = "absent"
		default:
			// Something lies there: an earlier build, or one who hides it.
			m.State, unreadable = "unreadable", true
		}
		u.Marks = append(u.Marks, m)
	}
	if unreadable {
		u.Builds = max(u.Builds, 1)
	}
	if !leave {
		return u
	}
	first := u.First
	if first.IsZero() {
		first = now
	}
	for i, k := 0, 0; i < len(places) && k < len(u.Marks); i++ {
		if places[i].Name != u.Marks[k].Place {
			continue
		}
		err := writeMark(places[i].Dir, mark{Version: 1, First: first.UTC().Truncate(time.Second), Last: now.UTC().Truncate(time.Second), Builds: u.Builds + 1})
		u.Marks[k].Left = err == nil
		left = left || err == nil
		k++
	}
	if !left {
		problem("no mark could be left: whether the machine is used again will not show")
	}
	u.Fresh = u.Builds == 0 && left
	return u
}

func readMark(path string) (*mark, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxMark {
		return nil, errors.New("no mark")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxMark+1))
	if err != nil {
		return nil, err
	}
	return parseMark(b)
}

func parseMark(b []byte) (*mark, error) {
	var m mark
	if err := strictjson.Unmarshal(b, &m, strictjson.WithMaxBytes(maxMark), strictjson.WithMaxDepth(2)); err != nil {
		return nil, err
	}
	if m.Version < 1 || m.Builds < 1 || m.Builds > 1e9 || m.First.IsZero() || m.Last.Before(m.First) || m.Last.Year() > 9000 {
		return nil, errors.New("no mark")
	}
	return &m, nil
}

// writeMark replaces a mark as a whole. The temporary file is made with O_EXCL
// and moved over what lies there, so that a link that others left in a shared
// folder is replaced and never followed.
func writeMark(dir string, m mark) error {
	b, err := strictjson.Marshal(m)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, markName+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, markName))
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
