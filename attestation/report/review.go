package report

import (
	"slices"
	"time"

	"assay/internal/fault"
	"assay/internal/strictjson"
)

// ReviewView is what reviewers came to: of each the last word, and never the
// author's own.
type ReviewView struct {
	Commit    string
	Approvals []string // distinct reviewers whose last word on this commit approves, sorted
	Rejected  []string // those whose last word wants changes
}

// reviewDocument is a review as `assay attest --type review` takes it.
type reviewDocument struct {
	Commit  string         `json:"commit"` // what was reviewed: the whole hash
	Author  string         `json:"author"`
	Reviews []reviewRecord `json:"reviews"`
}

type reviewRecord struct {
	Reviewer string `json:"reviewer"`
	State    string `json:"state"`            // approved, changes_requested or commented
	Commit   string `json:"commit,omitempty"` // that the reviewer saw; absent: the document's
	At       string `json:"at,omitempty"`     // RFC 3339, as claimed; orders the words of one reviewer
}

type reviewPredicate struct {
	head
	Review reviewDocument `json:"review"`
}

func (d *reviewDocument) validate() error {
	if !isHash(d.Commit) {
		return fault.Newf(fault.Invalid, "commit %.80q: want the whole hash of the commit that was reviewed", d.Commit)
	}
	if d.Author == "" || len(d.Author) > maxName {
		return fault.Newf(fault.Invalid, "author: want who wrote the change, whose own review does not count")
	}
	if len(d.Reviews) == 0 || len(d.Reviews) > maxNamed {
		return fault.Newf(fault.Invalid, "%d reviews, want 1 to %d", len(d.Reviews), maxNamed)
	}
	for i, r := range d.Reviews {
		if r.Reviewer == "" || len(r.Reviewer) > maxName || clean(r.Reviewer, maxName) != r.Reviewer {
			return fault.Newf(fault.Invalid, "reviews[%d]: want a reviewer of at most %d printable bytes", i, maxName)
		}
		if !slices.Contains([]string{"approved", "changes_requested", "commented"}, r.State) {
			return fault.Newf(fault.Invalid, "reviews[%d]: state %.40q, want approved, changes_requested or commented", i, r.State)
		}
		if r.Commit != "" && !isHash(r.Commit) {
			return fault.Newf(fault.Invalid, "reviews[%d]: commit %.80q, want a whole hash", i, r.Commit)
		}
		if r.At != "" {
			if _, err := time.Parse(time.RFC3339, r.At); err != nil {
				return fault.Newf(fault.Invalid, "reviews[%d]: at %.40q, want RFC 3339", i, r.At)
			}
		}
	}
	return nil
}

func isHash(s string) bool {
	if len(s) != 40 && len(s) != 64 {
		return false
	}
	for _, c := range s {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// view takes each reviewer's last word. An approval of another commit is none:
// the change was changed after it. A wish for changes stands until it is taken
// back, whatever commit it was about.
func (d *reviewDocument) view() *ReviewView {
	ordered := slices.Clone(d.Reviews)
	slices.SortStableFunc(ordered, func(a, b reviewRecord) int {
		at, _ := time.Parse(time.RFC3339, a.At)
		bt, _ := time.Parse(time.RFC3339, b.At)
		return at.Compare(bt)
	})
	last := map[string]reviewRecord{}
	for _, r := range ordered {
		if r.State != "commented" && r.Reviewer != d.Author {
			last[r.Reviewer] = r
		}
	}
	v := &ReviewView{Commit: d.Commit}
	for who, r := range last {
		switch {
		case r.State == "changes_requested":
			v.Rejected = append(v.Rejected, who)
		case r.Commit == "" || r.Commit == d.Commit:
			v.Approvals = append(v.Approvals, who)
		}
	}
	slices.Sort(v.Approvals)
	slices.Sort(v.Rejected)
	return v
}

func readReview(doc []byte, h *head) (any, error) {
	h.Format, h.Report.MediaType = "assay-review", "application/json"
	p := &reviewPredicate{head: *h}
	if err := strictjson.Unmarshal(doc, &p.Review, strictjson.RejectUnknown(), strictjson.WithMaxBytes(4<<20)); err != nil {
		return nil, fault.Newf(fault.Invalid, "%w", err)
	}
	return p, p.Review.validate()
}
