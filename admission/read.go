package admission

import (
	"context"
	"io"
	"net/http"
	"slices"

	"assay/internal/fault"
)

// Whoever reaches the listener may send reviews: API servers show no certificate
// unless they are told to. What they send is bounded in size, in time and in number,
// and reviews of a usual size never wait for large ones.
const (
	// smallReview is more than a Pod has, with the one before it.
	smallReview = 256 << 10
	maxLarge    = 4
)

// read reads a review within the context's time. done gives its place free; it is
// called when the review was answered.
func (h *Webhook) read(ctx context.Context, w http.ResponseWriter, r *http.Request) (b []byte, done func(), err error) {
	done = func() {}
	if end, ok := ctx.Deadline(); ok {
		_ = http.NewResponseController(w).SetReadDeadline(end) // who reads from memory knows none
	}
	body := http.MaxBytesReader(w, r.Body, MaxReview)
	head, err := io.ReadAll(io.LimitReader(body, smallReview+1))
	if err != nil {
		return nil, done, fault.Newf(fault.TooLarge, "the review could not be read in time, or is over 8 MiB")
	}
	if len(head) <= smallReview {
		return head, done, nil
	}
	select {
	case h.large <- struct{}{}:
		done = func() { <-h.large }
	case <-ctx.Done():
		return nil, done, fault.Newf(fault.Unavailable, "too many reviews of over %d KiB are under way: try again", smallReview>>10)
	}
	rest, err := io.ReadAll(body)
	if err != nil {
		return nil, done, fault.Newf(fault.TooLarge, "the review could not be read in time, or is over 8 MiB")
	}
	return slices.Concat(head, rest), done, nil
}
