package main

import (
	"testing"
	"time"
)

func TestSinceTime(t *testing.T) {
	now := time.Date(2026, 5, 2, 12, 0, 0, 5, time.UTC)
	for text, want := range map[string]string{
		"now": "2026-05-02T12:00:00Z", "always": "1970-01-01T00:00:00Z", "2h": "2026-05-02T10:00:00Z", "7d": "2026-04-25T12:00:00Z",
		"2026-05-01": "2026-05-01T00:00:00Z", "2026-05-01T08:00:00+02:00": "2026-05-01T06:00:00Z", "90m": "2026-05-02T10:30:00Z",
		"": "", "-2h": "", "0h": "", "2": "", "yesterday": "", "99999d": "", "1960-01-01": "",
	} {
		got, err := sinceTime(text, now)
		if want == "" {
			if err == nil {
				t.Errorf("%q was taken as %s", text, got)
			}
			continue
		}
		if err != nil || got.Format(time.RFC3339) != want {
			t.Errorf("%q: %s, %v; want %s", text, got.Format(time.RFC3339), err, want)
		}
	}
}
