package migrate

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/config"
)

// What a rule of Harbor's becomes, and which have no like here. One without a
// like takes the others along: it keeps what theirs would delete.
func TestRetentionOfHarbor(t *testing.T) {
	const all = `"tag_selectors":[{"kind":"doublestar","decoration":"matches","pattern":"**","extras":"{\"untagged\":true}"}]`
	const some = `"tag_selectors":[{"kind":"doublestar","decoration":"matches","pattern":"{v*,stable}"}]`
	last := `{"action":"retain","template":"latestPushedK","params":{"latestPushedK":10},` + all + `}`
	for name, c := range map[string]struct {
		rules string
		want  []config.RetentionSpec
		notes []string
	}{
		"the last of all": {rules: last, want: []config.RetentionSpec{{Repositories: []string{"team/**"}, KeepLast: 10}}},
		"by age, in some repositories": {
			rules: `{"action":"retain","template":"nDaysSinceLastPush","params":{"nDaysSinceLastPush":30},` + all + `,
				"scope_selectors":{"repository":[{"kind":"doublestar","decoration":"repoMatches","pattern":"{app,lib-*}"}]}}`,
			want: []config.RetentionSpec{{Repositories: []string{"team/app", "team/lib-*"}, KeepFor: 720 * time.Hour}},
		},
		"tags are kept rather than counted": {
			rules: `{"action":"retain","template":"latestPushedK","params":{"latestPushedK":3},` + some + `}`,
			want:  []config.RetentionSpec{{Repositories: []string{"team/**"}, KeepLast: 3, KeepTags: []string{"v*", "stable"}}},
		},
		"two are two, and a disabled one none": {
			rules: last + `,{"disabled":true,"action":"retain","template":"latestPulledN"},{"action":"retain","template":"nDaysSinceLastPush","params":{"nDaysSinceLastPush":1},` + all + `}`,
			want:  []config.RetentionSpec{{Repositories: []string{"team/**"}, KeepLast: 10}, {Repositories: []string{"team/**"}, KeepFor: 24 * time.Hour}},
		},
		"by pulls": {rules: last + `,{"action":"retain","template":"nDaysSinceLastPull","params":{"nDaysSinceLastPull":7},` + all + `}`,
			notes: []string{"none by pulls", "would delete what the rules above keep"}},
		"tagged alone":     {rules: strings.ReplaceAll(last, "true", "false"), notes: []string{"tagged artifacts alone"}},
		"all is kept":      {rules: `{"action":"retain","template":"always",` + all + `}`, notes: []string{"keeps everything"}},
		"tags alone":       {rules: `{"action":"retain","template":"always",` + some + `}`, notes: []string{"say which"}},
		"what is excluded": {rules: strings.ReplaceAll(last, "matches", "excludes"), notes: []string{"excludes tags"}},
		"no number":        {rules: strings.ReplaceAll(last, ":10", ":-1"), notes: []string{"no number"}},
		"half a number":    {rules: strings.ReplaceAll(last, ":10", ":1.5"), notes: []string{"no number"}},
		"another action":   {rules: strings.ReplaceAll(last, `"retain"`, `"delete"`), notes: []string{"not retain"}},
	} {
		t.Run(name, func(t *testing.T) {
			var rules []harborRule
			if err := json.Unmarshal([]byte("["+c.rules+"]"), &rules); err != nil {
				t.Fatal(err)
			}
			kept, notes := keeps("team", rules)
			if len(notes) != len(c.notes) {
				t.Fatalf("notes %q, want %d", notes, len(c.notes))
			}
			for i, n := range c.notes {
				if !strings.Contains(notes[i], n) {
					t.Errorf("note %q, want %q in it", notes[i], n)
				}
			}
			path := filepath.Join(t.TempDir(), "docs.yaml")
			if err := WriteDocuments(path, "harbor.example", nil, kept); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			docs, err := config.ParseDocuments(b)
			if err != nil && len(kept) > 0 {
				t.Fatalf("%v\n%s", err, b)
			}
			var got []config.RetentionSpec
			for _, d := range docs {
				if d.Retention == nil || d.Retention.Class != config.ClassImages || d.Retention.KeepRunning == nil || *d.Retention.KeepRunning {
					t.Fatalf("%s", b)
				}
				s := *d.Retention
				s.Class, s.KeepRunning = "", nil
				got = append(got, s)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s\n%s", diff, b)
			}
		})
	}
}
