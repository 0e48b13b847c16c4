package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"assay/artifact"
)

// Ticket is what an owner is told of an artifact that the gate holds back: GET
// /api/v1/tickets.
type Ticket struct {
	ID         string          `json:"id"` // tkt_…
	Digest     artifact.Digest `json:"digest"`
	Cause      string          `json:"cause"` // gate:REPOSITORY, quarantined or revoked
	Repository string          `json:"repository,omitempty"`
	Service    string          `json:"service,omitempty"`
	Team       string          `json:"team,omitempty"`
	Owned      bool            `json:"owned"` // false: nobody owns it, so that it went to the platform's team
	Contacts   []string        `json:"contacts,omitempty"`
	Reason     string          `json:"reason"`
	Decision   string          `json:"decision,omitempty"`
	Mend       []string        `json:"mend,omitempty"` // commands
	Upgrades   []TicketUpgrade `json:"upgrades,omitempty"`
	Opened     time.Time       `json:"opened"`
	Closed     *time.Time      `json:"closed,omitempty"`
	Why        string          `json:"why,omitempty"` // it was closed
}

// TicketUpgrade is the smallest version of a component that mends it.
type TicketUpgrade struct {
	Component string   `json:"component"`
	To        string   `json:"to"`
	Flaws     []string `json:"flaws,omitempty"`
	Left      []string `json:"left,omitempty"`
}

// TicketQuery says which tickets are asked for; empty members ask for all.
type TicketQuery struct {
	Closed  bool // also those that are closed
	Team    string
	Service string
	Digest  artifact.Digest
	Unowned bool
	Limit   int
}

// Tickets lists tickets, the newest first.
func (c *Client) Tickets(ctx context.Context, f TicketQuery) (*List[Ticket], error) {
	q := url.Values{}
	for k, v := range map[string]string{"team": f.Team, "service": f.Service, "digest": string(f.Digest)} {
		if v != "" {
			q.Set(k, v)
		}
	}
	for k, v := range map[string]bool{"closed": f.Closed, "unowned": f.Unowned} {
		if v {
			q.Set(k, "true")
		}
	}
	if f.Limit > 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	var out List[Ticket]
	return &out, c.call(ctx, http.MethodGet, "/api/v1/tickets", q, nil, &out)
}

// Ticket gives one.
func (c *Client) Ticket(ctx context.Context, id string) (*Ticket, error) {
	var out Ticket
	return &out, c.call(ctx, http.MethodGet, "/api/v1/tickets/"+url.PathEscape(id), nil, nil, &out)
}
