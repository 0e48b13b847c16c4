package alert

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net/smtp"
	"net/url"
	"strings"
	"time"

	"assay/internal/fault"
)

// email sends by SMTP (RFC 5321): TLS from the start on smtps, STARTTLS on smtp.
// Without TLS it sends only to a receiver on a private network, and no password.
func (m *message) email(ctx context.Context) error {
	u, err := url.Parse(m.r.URL)
	if err != nil {
		return err
	}
	conf, err := m.r.tls()
	if err != nil {
		return err
	}
	conf.ServerName = u.Hostname()
	conn, err := m.r.dialer().DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return err
	}
	defer conn.Close()
	if until, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(until); err != nil {
			return err
		}
	}
	if u.Scheme == "smtps" {
		conn = tls.Client(conn, conf)
	}
	c, err := smtp.NewClient(conn, u.Hostname())
	if err != nil {
		return err
	}
	defer c.Close()
	secure := u.Scheme == "smtps"
	if ok, _ := c.Extension("STARTTLS"); ok && !secure {
		if err := c.StartTLS(conf); err != nil {
			return err
		}
		secure = true
	}
	if !secure && (!m.r.AllowPrivate || m.secret != "") {
		return fault.Newf(fault.Denied, "%s offers no STARTTLS: mail goes without TLS only on private networks (allowPrivate), and no password does", u.Host)
	}
	if m.secret != "" {
		user, password, ok := strings.Cut(m.secret, ":")
		if !ok {
			return fault.Newf(fault.Invalid, "the secret of an email receiver is not USER:PASSWORD")
		}
		if err := c.Auth(smtp.PlainAuth("", user, password, u.Hostname())); err != nil {
			return err
		}
	}
	if err := c.Mail(m.r.From); err != nil {
		return err
	}
	for _, to := range m.r.To {
		if err := c.Rcpt(to); err != nil {
			return err
		}
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(m.mail()); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	_ = c.Quit() // it has the message
	return nil
}

// mail is the message (RFC 5322). Its Message-ID is the same for every attempt,
// and all of a group are one thread.
func (m *message) mail() []byte {
	id := func(s string) string {
		sum := sha256.Sum256([]byte(s))
		host := "assay"
		if u, err := url.Parse(m.n.Site); err == nil && u.Hostname() != "" {
			host = u.Hostname()
		}
		return "<" + hex.EncodeToString(sum[:16]) + "@" + host + ">"
	}
	var b bytes.Buffer
	line := func(name, value string) { fmt.Fprintf(&b, "%s: %s\r\n", name, value) }
	line("From", m.r.From)
	line("To", strings.Join(m.r.To, ", "))
	line("Subject", mime.QEncoding.Encode("utf-8", m.title))
	line("Date", m.n.At.Format(time.RFC1123Z))
	line("Message-ID", id(m.key))
	line("References", id(m.n.Group.ID))
	line("Auto-Submitted", "auto-generated")
	line("MIME-Version", "1.0")
	line("Content-Type", "text/plain; charset=utf-8")
	line("Content-Transfer-Encoding", "quoted-printable")
	b.WriteString("\r\n")
	q := quotedprintable.NewWriter(&b)
	_, _ = q.Write([]byte(m.text + "\n")) // a buffer takes everything
	_ = q.Close()
	return b.Bytes()
}
