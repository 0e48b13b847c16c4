package event

// For the tests of the journal.

var ParseSegment = parseSegment

// Served says whether a sealer takes what comes.
func Served(j *Journal) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.sealer
}

// Serve has the journal taken for one that a sealer empties.
func Serve(j *Journal) { j.served(true) }

// Doubt has the outcome of the last sealing unknown.
func Doubt(j *Journal) {
	j.taking.Lock()
	defer j.taking.Unlock()
	j.doubt = true
}

// JournalEnd is where the next record of the first segment comes.
func JournalEnd(j *Journal) int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.seg[0].end
}

// BreakJournal takes the files away from under the journal.
func BreakJournal(j *Journal) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.seg {
		if err := s.file.Close(); err != nil {
			return err
		}
	}
	return nil
}
