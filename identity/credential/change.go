package credential

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"assay/event"
	"assay/identity"
	"assay/internal/fault"
	"assay/store"
)

// Issued is a robot's token that was just made. The secret is told once.
type Issued struct {
	Robot   string    `json:"robot"`
	ID      string    `json:"id"`
	Secret  string    `json:"secret"`
	Expires time.Time `json:"expires"`
}

// update runs a change, tells the other replicas, and puts it in force here
// before it returns.
func (s *Store) update(ctx context.Context, fn func(tx *store.Tx) error) error {
	if err := s.o.DB.Update(ctx, func(tx *store.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return changed(ctx, tx)
	}); err != nil {
		return err
	}
	// The change is durable; who asked may hang up without leaving it unread.
	return s.load(context.WithoutCancel(ctx), false)
}

func (s *Store) life(ttl time.Duration) error {
	if ttl < time.Minute || ttl > s.o.MaxLife {
		return fault.Newf(fault.Invalid, "life of the robot's token %s: want from 1m to %s (identity.robot_max_life)", ttl, s.o.MaxLife)
	}
	return nil
}

// robotBody is the body of events about robots.
type robotBody struct {
	Robot   string   `json:"robot"`
	Action  string   `json:"action"` // created, rotated, revoked, deleted
	Token   string   `json:"token,omitempty"`
	Expires string   `json:"expires,omitempty"`
	Rights  []string `json:"rights,omitempty"`
	Reason  string   `json:"reason,omitempty"`
}

func rightsText(rights []Right) []string {
	out := make([]string, len(rights))
	for i, r := range rights {
		out[i] = string(r.Role) + " " + r.Scope
	}
	return out
}

// Create makes a robot and its first token, whose secret is in the answer and
// nowhere else. Errors are [fault.Invalid] and [fault.Conflict].
func (s *Store) Create(ctx context.Context, r Robot, ttl time.Duration, actor string) (*Issued, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	if err := s.life(ttl); err != nil {
		return nil, err
	}
	text, id, hash := newSecret()
	out := &Issued{Robot: r.Name, ID: id, Secret: text}
	return out, s.update(ctx, func(tx *store.Tx) error {
		r.CreatedAt, r.CreatedBy = tx.Now(), actor
		if err := insertRobot(ctx, tx, r); err != nil {
			return err
		}
		if err := s.insertToken(ctx, tx, out, hash[:], ttl, actor); err != nil {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.RobotChanged, Actor: actor, Body: robotBody{
			Robot: r.Name, Action: "created", Token: id, Expires: out.Expires.Format(time.RFC3339), Rights: rightsText(r.Rights),
		}})
	})
}

func (s *Store) insertToken(ctx context.Context, tx *store.Tx, out *Issued, hash []byte, ttl time.Duration, actor string) error {
	out.Expires = tx.Now().Add(ttl).UTC().Truncate(time.Second)
	_, err := tx.Exec(ctx, `INSERT INTO credential_token (id, robot, hash, created_at, created_by, expires_at, revoked_at, last_used) VALUES (?, ?, ?, ?, ?, ?, 0, 0)`,
		out.ID, out.Robot, hash, store.Micros(tx.Now()), actor, store.Micros(out.Expires))
	return err
}

// Rotate gives a robot another token. Those that it has end after keep; 0: at
// once.
func (s *Store) Rotate(ctx context.Context, name string, ttl, keep time.Duration, actor string) (*Issued, error) {
	if err := s.life(ttl); err != nil {
		return nil, err
	}
	if keep < 0 || keep > 7*24*time.Hour {
		return nil, fault.Newf(fault.Invalid, "keep %s: want from 0s to 168h", keep)
	}
	text, id, hash := newSecret()
	out := &Issued{Robot: name, ID: id, Secret: text}
	return out, s.update(ctx, func(tx *store.Tx) error {
		r, err := s.get(ctx, tx, name)
		if err != nil {
			return err
		}
		if live := slices.DeleteFunc(r.Tokens, func(t Token) bool { return !t.Live }); keep > 0 && len(live) >= maxTokens {
			return fault.Newf(fault.Conflict, "robot %s has %d tokens in force: rotate without --keep, or revoke some", name, len(live))
		}
		if keep == 0 {
			err = revokeTokens(ctx, tx, tx.Now(), `robot = ?`, name)
		} else {
			end := store.Micros(tx.Now().Add(keep))
			_, err = tx.Exec(ctx, `UPDATE credential_token SET expires_at = ? WHERE robot = ? AND revoked_at = 0 AND expires_at > ?`, end, name, end)
		}
		if err != nil {
			return err
		}
		if err := s.insertToken(ctx, tx, out, hash[:], ttl, actor); err != nil {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.RobotChanged, Actor: actor, Body: robotBody{
			Robot: name, Action: "rotated", Token: id, Expires: out.Expires.Format(time.RFC3339),
		}})
	})
}

// Delete takes a robot away with all its tokens. Its name can be given again.
func (s *Store) Delete(ctx context.Context, name, actor string) error {
	return s.update(ctx, func(tx *store.Tx) error {
		if _, err := s.get(ctx, tx, name); err != nil {
			return err
		}
		// The tokens' rows stay, revoked: the audit trail names them.
		if err := revokeTokens(ctx, tx, tx.Now(), `robot = ?`, name); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM credential_robot WHERE name = ?`, name); err != nil {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.RobotChanged, Actor: actor, Body: robotBody{Robot: name, Action: "deleted"}})
	})
}

// Revocation ends credentials: a robot's tokens or one of them, one credential
// by the id that the audit trail shows, or all that an identity has obtained so
// far. What was done with them from Since on was not right.
type Revocation struct {
	ID         string    `json:"id"` // rev_…
	At         time.Time `json:"at"`
	Since      time.Time `json:"since"` // not after At
	Robot      string    `json:"robot,omitempty"`
	Credential string    `json:"credential,omitempty"` // robot:… or jwt:…
	Issuer     string    `json:"issuer,omitempty"`
	Name       string    `json:"name,omitempty"` // as grants and the audit trail have it
	Actor      string    `json:"actor"`
	Reason     string    `json:"reason"`
	// Served is how many pulls of Since and later were served before this
	// revocation was in force.
	Served int64 `json:"served"`
}

func (r *Revocation) validate(now time.Time) error {
	set := 0
	for _, b := range []bool{r.Robot != "", r.Credential != "", r.Issuer != "" && r.Name != ""} {
		if b {
			set++
		}
	}
	if set != 1 || (r.Issuer == "") != (r.Name == "") {
		return fault.Newf(fault.Invalid, "revocation: want exactly one of a robot, a credential, or an issuer with an identity")
	}
	if r.Reason == "" || len(r.Reason) > maxText || len(r.Issuer) > 2048 || len(r.Name) > 1024 || len(r.Credential) > 128 {
		return fault.Newf(fault.Invalid, "revocation: want a reason of 1 to %d bytes, and names of a bearable length", maxText)
	}
	if r.Credential != "" && !strings.HasPrefix(r.Credential, "jwt:") && !strings.HasPrefix(r.Credential, "robot:") {
		return fault.Newf(fault.Invalid, "credential %.60q: want jwt:… or robot:…, as the audit trail shows it", r.Credential)
	}
	if r.Since.After(now) {
		return fault.Newf(fault.Invalid, "since %s is to come; a revocation holds from now on, and since says from when on earlier use was not right", r.Since.Format(time.RFC3339))
	}
	return nil
}

// Revoke carries out r, at once here and within a second elsewhere. Pulls that
// were served since r.Since are told of in an event pull.unauthorized.
func (s *Store) Revoke(ctx context.Context, r Revocation, actor string) (*Revocation, error) {
	if err := r.validate(s.now()); err != nil {
		return nil, err
	}
	if s.o.Settle != nil {
		// What is on record elsewhere counts too.
		if err := s.o.Settle(ctx); err != nil {
			return nil, err
		}
	}
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	r.ID, r.Actor = "rev_"+hex.EncodeToString(b[:]), actor
	return &r, s.update(ctx, func(tx *store.Tx) error {
		r.At = tx.Now()
		if r.Since.IsZero() {
			r.Since = r.At
		}
		if err := s.endTokens(ctx, tx, r); err != nil {
			return err
		}
		credential, issuer, name := r.Credential, r.Issuer, r.Name
		if r.Robot != "" {
			issuer, name = RobotIssuer, r.Robot
		}
		if _, err := tx.Exec(ctx, `INSERT INTO credential_revocation (id, at, since, credential, issuer, name, actor, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
			r.ID, store.Micros(r.At), store.Micros(r.Since), credential, issuer, name, actor, r.Reason); err != nil {
			return err
		}
		if err := event.Append(ctx, tx, event.Event{Kind: event.CredentialRevoked, Actor: actor, Body: map[string]any{
			"id": r.ID, "credential": credential, "issuer": issuer, "identity": name, "since": r.Since.UTC().Format(time.RFC3339), "reason": r.Reason,
		}}); err != nil {
			return err
		}
		return s.tellServed(ctx, tx, &r)
	})
}

// endTokens revokes the robot's tokens that r is about.
func (s *Store) endTokens(ctx context.Context, tx *store.Tx, r Revocation) error {
	if r.Robot != "" {
		if _, err := s.get(ctx, tx, r.Robot); err != nil {
			return err
		}
		return revokeTokens(ctx, tx, r.At, `robot = ?`, r.Robot)
	}
	id, ok := strings.CutPrefix(r.Credential, "robot:")
	if !ok {
		return nil
	}
	var robot string
	if err := tx.QueryRow(ctx, `SELECT robot FROM credential_token WHERE id = ?`, id).Scan(&robot); err != nil {
		return fmt.Errorf("credential %.60s: %w", r.Credential, err)
	}
	return revokeTokens(ctx, tx, r.At, `id = ?`, id)
}

// actor is how r's identity stands in the audit trail.
func (r *Revocation) actor() string {
	if r.Robot != "" {
		return identity.Principal{Issuer: RobotIssuer, Subject: r.Robot, Name: r.Robot, Kind: identity.KindRobot}.Actor()
	}
	if r.Issuer != "" {
		return r.identity().Actor()
	}
	return ""
}

// tellServed counts the pulls that r makes unauthorised, sealed or on their
// way, and tells of them.
func (s *Store) tellServed(ctx context.Context, tx *store.Tx, r *Revocation) error {
	if !r.Since.Before(r.At) {
		return nil
	}
	for _, kind := range []event.Kind{event.ArtifactPulled, event.BlobRead} {
		n, err := event.CountSince(ctx, tx, kind, r.Since, r.actor(), r.Credential, "")
		if err != nil {
			return err
		}
		r.Served += n
	}
	if r.Served == 0 {
		return nil
	}
	return event.Append(ctx, tx, event.Event{Kind: event.PullUnauthorized, Actor: r.Actor, Body: map[string]any{
		"revocation": r.ID, "count": r.Served, "since": r.Since.UTC().Format(time.RFC3339), "credential": r.Credential, "identity": r.actor(), "reason": r.Reason,
	}})
}

// Revocations lists all, oldest first, after an id.
func (s *Store) Revocations(ctx context.Context, after string, limit int) ([]Revocation, error) {
	var out []Revocation
	err := s.o.DB.View(ctx, func(tx *store.Tx) error {
		out = nil
		rows, err := tx.Query(ctx, `SELECT id, at, since, credential, issuer, name, actor, reason FROM credential_revocation
			WHERE ? = '' OR (at, id) > (SELECT at, id FROM credential_revocation WHERE id = ?) ORDER BY at, id LIMIT ?`, after, after, limit)
		return each(rows, err, func() error {
			var r Revocation
			var at, since int64
			if err := rows.Scan(&r.ID, &at, &since, &r.Credential, &r.Issuer, &r.Name, &r.Actor, &r.Reason); err != nil {
				return err
			}
			r.At, r.Since = store.Time(at), store.Time(since)
			if r.Issuer == RobotIssuer {
				r.Robot, r.Issuer, r.Name = r.Name, "", ""
			}
			out = append(out, r)
			return nil
		})
	})
	return out, err
}

// Matches says whether a pull by an actor with a credential at a time falls
// under r.
func (r *Revocation) Matches(actor, credential string, at time.Time) bool {
	if at.Before(r.Since) || at.After(r.At) {
		return false
	}
	if r.Credential != "" {
		return credential == r.Credential
	}
	return actor != "" && actor == r.actor()
}

const glassPrefix = "break-glass:"

// BreakGlass opens a session of the break-glass administrator: the local
// issuer's subject that has role admin until the session ends. It is an alert
// and stands in the audit trail, both committed before it returns.
func (s *Store) BreakGlass(ctx context.Context, reason string, ttl time.Duration, actor string) (subject string, err error) {
	if len(strings.TrimSpace(reason)) < 8 || len(reason) > maxText {
		return "", fault.Newf(fault.Invalid, "break-glass: want a reason of 8 to %d bytes; it goes into the audit trail", maxText)
	}
	var b [8]byte
	_, _ = rand.Read(b[:])
	subject = glassPrefix + hex.EncodeToString(b[:])
	return subject, s.update(ctx, func(tx *store.Tx) error {
		end := tx.Now().Add(ttl)
		if _, err := tx.Exec(ctx, `INSERT INTO credential_glass (subject, at, expires_at, actor, reason) VALUES (?, ?, ?, ?, ?)`,
			subject, store.Micros(tx.Now()), store.Micros(end), actor, reason); err != nil {
			return err
		}
		return event.Append(ctx, tx, event.Event{Kind: event.BreakGlass, Actor: actor, Body: map[string]any{
			"subject": subject, "reason": reason, "expires": end.UTC().Format(time.RFC3339),
		}})
	})
}
