package store

import "testing"

func TestExpands(t *testing.T) {
	for step, want := range map[string]bool{
		`CREATE TABLE a (k TEXT NOT NULL PRIMARY KEY); CREATE INDEX i ON a (k); -- a comment; with a semicolon` + "\n": true,
		`CREATE TABLE a (k TEXT); CREATE UNIQUE INDEX i ON a (k); INSERT INTO a (k) VALUES ('x')`:                      true,
		`CREATE INDEX i ON old (k) WHERE k <> ''`:                                                                      true,
		`CREATE UNIQUE INDEX i ON old (k)`:                                                                             false,
		`ALTER TABLE old ADD COLUMN v TEXT NOT NULL DEFAULT ''`:                                                        true,
		`ALTER TABLE old ADD COLUMN v BIGINT`:                                                                          true,
		`ALTER TABLE old ADD COLUMN v TEXT NOT NULL`:                                                                   false,
		`ALTER TABLE old DROP COLUMN v`:                                                                                false,
		`ALTER TABLE old RENAME COLUMN v TO w`:                                                                         false,
		`INSERT INTO old (k) VALUES ('x')`:                                                                             false,
		`UPDATE old SET k = ''`:                                                                                        false,
		`DROP INDEX plain; CREATE INDEX i ON old (k)`:                                                                  true,
		`DROP INDEX one`: false,
		`DROP TABLE old`: false,
		`CREATE TABLE a (k TEXT); DROP TABLE old`:                         false,
		"-- expand: the older binary never reads v\nUPDATE old SET v = 1": true,
	} {
		if got := expands(step, map[string]bool{"one": true}); got != want {
			t.Errorf("%q: expands %t, want %t", step, got, want)
		}
	}
}
