package alert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
)

// jiraDone moves an issue to a status of the category "done", if its workflow
// has a way there from where it is: one to Done, Resolved or Closed before others
// such as Rejected. A workflow without one, or one that wants more of who closes,
// leaves the issue open; its last comment says that it is over.
func (m *message) jiraDone(ctx context.Context, transitions string, set func(http.Header)) error {
	b, err := m.call(ctx, http.MethodGet, transitions, nil, set)
	if err != nil {
		return forGood(err)
	}
	type way struct {
		ID string `json:"id"`
		To struct {
			Name     string `json:"name"`
			Category struct {
				Key string `json:"key"`
			} `json:"statusCategory"`
		} `json:"to"`
	}
	var answer struct {
		Transitions []way `json:"transitions"`
	}
	if err := json.Unmarshal(b, &answer); err != nil {
		return fmt.Errorf("the tracker's transitions cannot be read: %w", err)
	}
	done := slices.DeleteFunc(answer.Transitions, func(w way) bool { return w.ID == "" || w.To.Category.Key != "done" })
	if len(done) == 0 {
		return nil
	}
	best := max(0, slices.IndexFunc(done, func(w way) bool { return slices.Contains([]string{"Done", "Resolved", "Closed"}, w.To.Name) }))
	_, err = m.call(ctx, http.MethodPost, transitions, map[string]any{"transition": map[string]string{"id": done[best].ID}}, set)
	return forGood(err)
}

// answerError is an answer other than 2xx.
type answerError struct {
	status int
	text   string
}

func (e *answerError) Error() string {
	return fmt.Sprintf("the receiver answered %d: %s", e.status, e.text)
}

// forGood takes away an error that another attempt would only repeat.
func forGood(err error) error {
	var a *answerError
	if errors.As(err, &a) && a.status/100 == 4 && a.status != http.StatusRequestTimeout && a.status != http.StatusTooManyRequests && a.status != http.StatusUnauthorized {
		return nil
	}
	return err
}
