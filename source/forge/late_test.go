package forge

import (
	"testing"

	"assay/event"
	"assay/store"
	"assay/store/storetest"
)

// TestThreat_Source_ApprovedByWhoPushed: who moved the head of somebody else's
// change is one of its authors, and its approval is none.
func TestThreat_Source_ApprovedByWhoPushed(t *testing.T) {
	for name, one := range map[string]struct {
		pusher   int
		reviewed bool
	}{"who approved": {2, false}, "its author": {1, true}, "a third": {3, true}} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, storetest.Open(t, store.SQLite), hubSpec)
			b.send(GitHub, "pull_request", hubPull(idH, "", obj{"action": "synchronize", "sender": obj{"id": one.pusher, "login": "x"}}))
			b.send(GitHub, "pull_request_review", hubPull(idH, "", hubReview(2, idH, "approved")))
			b.send(GitHub, "push", hubPush(idA, idB, nil))
			b.send(GitHub, "pull_request", hubPull(idH, idB, nil))
			b.step()
			b.step()
			r := b.record(idB)
			if r.Reviewed != one.reviewed || len(r.Approvals) != 1 || r.Approvals[0].Pushed == one.reviewed || r.Approvals[0].Own {
				t.Errorf("%+v", r)
			}
			if got := b.kinds()[event.SourceUnreviewed] == 0; got != one.reviewed {
				t.Errorf("%v", b.kinds())
			}
		})
	}
}

// What a forge delivers late is taken into account: the merge and its review come
// after the push was judged. What was said after the merge still counts nothing,
// and no event is raised twice.
func TestLateNotices(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b := newBench(t, db, hubSpec)
		b.send(GitHub, "push", hubPush(idA, idB, nil))
		b.step()
		b.step()
		if b.record(idB).Reviewed || b.kinds()[event.SourceUnreviewed] != 1 {
			t.Fatalf("%v", b.kinds())
		}
		b.send(GitHub, "pull_request", hubPull(idH, idB, nil))
		after := hubReview(3, idH, "approved")
		after["review"].(obj)["submitted_at"] = "2026-01-04T00:00:00Z"
		b.send(GitHub, "pull_request_review", hubPull(idH, idB, after))
		b.step()
		b.stated = nil
		b.step()
		if len(b.stated) != 0 || b.kinds()[event.SourceUnreviewed] != 1 {
			t.Fatalf("%v, %v", b.stated, b.kinds())
		}
		b.send(GitHub, "pull_request_review", hubPull(idH, idB, hubReview(2, idH, "approved")))
		b.step()
		b.step()
		if r := b.record(idB); !r.Reviewed || r.Change == nil {
			t.Errorf("%+v", r)
		}
		if b.kinds()[event.SourceUnreviewed] != 1 {
			t.Errorf("%v", b.kinds())
		}
		m, err := b.r.Metrics(t.Context(), b.r.o.Clock().AddDate(-1, 0, 0))
		if err != nil || m[0].Pushes != 1 || m[0].Reviewed != 1 {
			t.Errorf("metrics %+v, %v", m, err)
		}
	})
}

// TestThreat_Source_DismissedLate: a push that counted as reviewed is judged again
// when its review is dismissed, be it told late or done after the merge; what is
// said then takes the place of what was said, and is told once.
func TestThreat_Source_DismissedLate(t *testing.T) {
	dismissed := func(link, at string) obj {
		d := hubReview(2, idH, "dismissed")
		d["action"] = "dismissed"
		d["review"].(obj)["html_url"], d["review"].(obj)["submitted_at"] = link, at
		return d
	}
	approved := func(who int, link string) obj {
		a := hubReview(who, idH, "approved")
		a["review"].(obj)["html_url"] = link
		return a
	}
	const one, two = "https://github.com/org/app/pull/7#pullrequestreview-1", "https://github.com/org/app/pull/7#pullrequestreview-2"
	for name, c := range map[string]struct {
		send     obj
		reviewed bool
	}{
		"of the same time":                   {dismissed(one, "2026-01-02T12:00:00Z"), false},
		"after the merge":                    {dismissed("", "2026-01-05T00:00:00Z"), false},
		"without a link":                     {dismissed("", "2026-01-02T12:00:00Z"), false},
		"of another review":                  {dismissed(two, "2026-01-02T12:00:00Z"), true},
		"another's word after the merge":     {hubReview(3, idH, "changes_requested"), true},
		"its own request after the approval": {obj{"review": obj{"user": obj{"id": 2, "login": "x"}, "state": "changes_requested", "commit_id": idH, "submitted_at": "2026-01-02T13:00:00Z"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Each(t, func(t *testing.T, db *store.DB) {
				b := newBench(t, db, hubSpec)
				b.send(GitHub, "pull_request_review", hubPull(idH, "", approved(2, one)))
				b.send(GitHub, "push", hubPush(idA, idB, nil))
				b.send(GitHub, "pull_request", hubPull(idH, idB, nil))
				b.step()
				b.step()
				if r := b.record(idB); !r.Reviewed || r.Revision != 0 {
					t.Fatalf("%+v", r)
				}
				b.stated = nil
				b.send(GitHub, "pull_request_review", hubPull(idH, idB, c.send))
				b.step()
				b.step()
				if c.reviewed {
					if len(b.stated) != 0 || b.kinds()[event.SourceReviewWithdrawn] != 0 {
						t.Errorf("%v, %v", b.stated, b.kinds())
					}
					return
				}
				if r := b.record(idB); r.Reviewed || r.Revision != 1 || len(r.Approvals) != 0 {
					t.Errorf("%+v", r)
				}
				if k := b.kinds(); k[event.SourceReviewWithdrawn] != 1 || k[event.SourceUnreviewed] != 0 {
					t.Errorf("%v", k)
				}
				m, err := b.r.Metrics(t.Context(), b.r.o.Clock().AddDate(-1, 0, 0))
				if err != nil || m[0].Pushes != 1 || m[0].Reviewed != 0 {
					t.Errorf("metrics %+v, %v", m, err)
				}
				// Another approval that was given in time, told later still.
				b.stated = nil
				b.send(GitHub, "pull_request_review", hubPull(idH, idB, approved(3, two)))
				b.step()
				b.step()
				if r := b.record(idB); !r.Reviewed || r.Revision != 2 {
					t.Errorf("%+v", r)
				}
				if k := b.kinds(); k[event.SourceReviewWithdrawn] != 1 {
					t.Errorf("%v", k)
				}
			})
		})
	}
}

// A forge that tells less than it did takes no review back.
func TestForgeThatForgets(t *testing.T) {
	if why := withdrawn(&Record{}, nil); why != "" {
		t.Error(why)
	}
}
