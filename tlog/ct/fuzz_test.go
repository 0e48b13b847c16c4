package ct

import "testing"

// FuzzEntry reads what a monitor is given as an entry.
func FuzzEntry(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x02\x30\x00\x00\x08\x00\x00\x05\x00\x00\x00\x00\x07\x00\x00"))
	f.Add(make([]byte, 64))
	f.Fuzz(func(_ *testing.T, b []byte) {
		e, err := ParseEntry(b)
		if err != nil {
			return
		}
		_, _ = e.Certificate() // must not panic
	})
}
