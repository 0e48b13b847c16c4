package event

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"assay/internal/durable"
	"assay/internal/fault"
)

// A segment is a file of fixed size that holds records from its start, each
//
//	length  4 bytes, of the event
//	sum     4 bytes, CRC-32C of all that follows
//	run     8 bytes, random, of the process that wrote it
//	number  8 bytes, one more than that of the record before
//	event   canonical JSON, its number 0
//
// all little-endian. What follows the last record is zeros, or what is left of
// records that lay there before: these have another run or a smaller number. A
// record of which a part was not written has another sum.
const (
	segmentSize  = 512 << 10
	recordHeader = 24
	maxRecord    = 8*MaxBody + 16*maxField // quoting makes texts longer
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type segment struct {
	file *os.File
	end  int64 // where the next record comes
	held int   // records in it that are not in the database yet
}

// openSegment opens a segment, or makes one. Its bytes exist from the beginning:
// to write over them takes no space and changes nothing of the file but them.
func openSegment(path string) (_ *segment, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	if err := durable.CheckPrivate(path); err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if n := st.Size(); n < segmentSize {
		if _, err := f.WriteAt(make([]byte, segmentSize-n), n); err != nil {
			return nil, err
		}
		if err := errors.Join(f.Sync(), durable.SyncDir(filepath.Dir(path))); err != nil {
			return nil, err
		}
	}
	return &segment{file: f}, nil
}

// clear lets the segment begin anew once all of it is in the database. It need not
// be durable at once: whoever finds the old records finds them in the database, too.
func (s *segment) clear() error {
	s.end = 0
	_, err := s.file.WriteAt(make([]byte, recordHeader), 0)
	return err
}

// appendRecord adds a record to b.
func appendRecord(b []byte, run, number uint64, e Event) ([]byte, error) {
	at := len(b)
	b = append(b, make([]byte, recordHeader)...)
	b, err := e.appendLeaf(b, e.rawBody())
	if err != nil {
		return nil, err
	}
	r := b[at:]
	if len(r)-recordHeader > maxRecord {
		return nil, fault.Newf(fault.TooLarge, "a record of %d bytes, want at most %d", len(r)-recordHeader, maxRecord)
	}
	binary.LittleEndian.PutUint32(r, uint32(len(r)-recordHeader))
	binary.LittleEndian.PutUint64(r[8:], run)
	binary.LittleEndian.PutUint64(r[16:], number)
	binary.LittleEndian.PutUint32(r[4:], crc32.Checksum(r[8:], castagnoli))
	return b, nil
}

// readSegment gives the events of the records in r.
func readSegment(r io.Reader) ([]Event, error) {
	b, err := io.ReadAll(io.LimitReader(r, segmentSize))
	if err != nil {
		return nil, err
	}
	return parseSegment(b)
}

// parseSegment ends at the first record that is not whole or not the next. One
// that is whole and holds no event is [fault.Tampered].
func parseSegment(b []byte) ([]Event, error) {
	var events []Event
	var run, number uint64
	for len(b) >= recordHeader {
		n := uint64(binary.LittleEndian.Uint32(b))
		if n == 0 || n > maxRecord || n > uint64(len(b)-recordHeader) {
			break
		}
		r := b[:recordHeader+int(n)]
		if crc32.Checksum(r[8:], castagnoli) != binary.LittleEndian.Uint32(r[4:]) {
			break
		}
		thisRun, this := binary.LittleEndian.Uint64(r[8:]), binary.LittleEndian.Uint64(r[16:])
		if len(events) > 0 && (thisRun != run || this != number+1) {
			break
		}
		run, number = thisRun, this
		var e Event
		if err := e.UnmarshalJSON(r[recordHeader:]); err != nil {
			return nil, fault.Newf(fault.Tampered, "record %d: %w", len(events)+1, err)
		}
		if err := e.kept(); err != nil {
			return nil, fault.Newf(fault.Tampered, "record %d: %w", len(events)+1, err)
		}
		events, b = append(events, e), b[len(r):]
	}
	return events, nil
}

// kept checks what must hold of an event that is to be sealed.
func (e Event) kept() error {
	if e.Seq != 0 || e.ID == "" || len(e.ID) > maxField || e.Time.IsZero() {
		return fault.Newf(fault.Invalid, "number %d, id %.60q, time %s: want an event that is not sealed", e.Seq, e.ID, e.Time)
	}
	_, err := e.check()
	return err
}

func newRun() (uint64, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, fmt.Errorf("begin a journal: %w", err)
	}
	return binary.LittleEndian.Uint64(b[:]), nil
}
