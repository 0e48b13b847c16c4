package secret_test

import (
	"strings"
	"testing"
	"time"

	"assay/internal/secret"
)

func TestThreat_Logs_SecretsRedacted(t *testing.T) {
	token := "ghp_" + strings.Repeat("a1", 18)
	for in, want := range map[string]string{
		"cloning with " + token + " now":                      "cloning with [REDACTED] now",
		"export AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG":  "export AWS_SECRET_ACCESS_KEY=[REDACTED]",
		`{"password": "hunter2hunter2"}`:                      `{"password": "[REDACTED]"}`,
		"fetch https://bob:s3cret@host/x":                     "fetch https://bob:[REDACTED]@host/x",
		"Authorization: Bearer abcdefghijkl":                  "Authorization: [REDACTED] [REDACTED]",
		"api-key: 0123456789":                                 "api-key: [REDACTED]",
		"known value topsecretvalue here":                     "known value [REDACTED] here",
		"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.sig-part x": "[REDACTED] x",
		"go build ./... took 3.2s":                            "go build ./... took 3.2s",
		"PWD=/home/user/project":                              "PWD=/home/user/project",
		"https://example.com/path?x=1":                        "https://example.com/path?x=1",
		"sha256:0123456789abcdef0123456789abcdef":             "sha256:0123456789abcdef0123456789abcdef",
	} {
		r := secret.NewRedactor([]string{"topsecretvalue", "x"})
		got := r.Line(in)
		if strings.Contains(in, "Bearer") {
			if strings.Contains(got, "abcdefghijkl") {
				t.Errorf("%q: %q", in, got)
			}
			continue
		}
		if got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
		if (got != in) != (r.Count > 0) {
			t.Errorf("%q: counted %d", in, r.Count)
		}
	}
	r := secret.NewRedactor(nil)
	var out []string
	for _, l := range []string{"before", "-----BEGIN RSA PRIVATE KEY-----", "MIIEow", "-----END RSA PRIVATE KEY-----", "after"} {
		out = append(out, r.Line(l))
	}
	if got := strings.Join(out, "|"); got != "before|[REDACTED]|[REDACTED]|[REDACTED]|after" {
		t.Errorf("key: %q", got)
	}
}

func FuzzRedact(f *testing.F) {
	f.Add("password=abcdefgh", "zzzzzzzz")
	f.Add("://a:b@", "b")
	f.Fuzz(func(t *testing.T, s, known string) {
		got := secret.NewRedactor([]string{known}).Line(s)
		if len(known) >= 6 && !strings.Contains(secret.Redacted, known) && strings.Contains(got, known) && !strings.Contains(known, "REDACTED") && !strings.ContainsAny(known, "[]") {
			t.Errorf("%q is still in %q", known, got)
		}
	})
}

// TestThreat_Logs_SlowLines: no line takes long, however it is made.
func TestThreat_Logs_SlowLines(t *testing.T) {
	for _, unit := range []string{"://a:", "a=", "bearer ", "eyJ", "token=", "token://", "token=[REDACTED]", "token:a ", "ghp_a", ":", "x", "basic basic", `"password":"`} {
		s := strings.Repeat(unit, 256<<10/len(unit)) + "@"
		began := time.Now()
		secret.NewRedactor([]string{"://a:://"}).Line(s)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%d bytes of %q took %s", len(s), unit, took)
		}
	}
}

func BenchmarkRedact(b *testing.B) {
	lines := []string{
		"2026-05-01T12:00:00Z compiling module example.com/app/internal/x (12 of 340)",
		"go: downloading golang.org/x/net v0.40.0", "PASS: TestThing (0.02s) at thing_test.go:42", `{"level":"info","msg":"request","path":"/v2/","status":200}`,
	}
	r := secret.NewRedactor(nil)
	n := 0
	for _, l := range lines {
		n += len(l)
	}
	b.SetBytes(int64(n))
	for b.Loop() {
		for _, l := range lines {
			r.Line(l)
		}
	}
}
