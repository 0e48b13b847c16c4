package source

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
	"google.golang.org/protobuf/proto"

	"assay/artifact"
	"assay/attestation"
	"assay/internal/clock"
	"assay/internal/fault"
	"assay/trust"
	"assay/trust/trusttest"
)

const (
	treeID = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
	person = "A U Thor <a@example.com> 1700000000 +0000"
	armour = "-----BEGIN SSH SIGNATURE-----\n U1NIU0lH\n -----END SSH SIGNATURE-----"
)

func commitOf(headers string) []byte { return []byte(headers + "\nmessage\n") }

// What git would not have written is refused before any cryptography.
func TestThreat_Git_MalformedObjects(t *testing.T) {
	good := "tree " + treeID + "\nauthor " + person + "\ncommitter " + person + "\n"
	for name, raw := range map[string][]byte{
		"duplicate tree":      commitOf("tree " + treeID + "\n" + good),
		"duplicate author":    commitOf("tree " + treeID + "\nauthor " + person + "\nauthor " + person + "\ncommitter " + person + "\n"),
		"late parent":         commitOf(good + "parent " + treeID + "\n"),
		"second committer":    commitOf(good + "committer " + person + "\n"),
		"NUL in message":      []byte(good + "\na\x00b"),
		"NUL in header":       commitOf(strings.Replace(good, "A U", "A\x00U", 1)),
		"two signatures":      commitOf(good + "gpgsig " + armour + "\ngpgsig " + armour + "\n"),
		"both signatures":     commitOf(good + "gpgsig " + armour + "\ngpgsig-sha256 " + armour + "\n"),
		"two armours":         commitOf(good + "gpgsig " + armour + "\n " + strings.ReplaceAll(armour, "\n ", "\n ") + "\n"),
		"sha256 of sha1":      commitOf(good + "gpgsig-sha256 " + armour + "\n"),
		"no armour":           commitOf(good + "gpgsig x\n"),
		"PGP message":         commitOf(good + "gpgsig -----BEGIN PGP MESSAGE-----\n x\n -----END PGP MESSAGE-----\n"),
		"encoding twice":      commitOf(good + "encoding a\nencoding b\n"),
		"no committer":        commitOf("tree " + treeID + "\nauthor " + person + "\n"),
		"headers do not end":  []byte(good),
		"empty":               nil,
		"continuation first":  commitOf(" x\n" + good),
		"no space":            commitOf(good + "gpgsig\n"),
		"upper case id":       commitOf(strings.ToUpper("tree "+treeID) + "\n"),
		"short parent":        commitOf("tree " + treeID + "\nparent abc\nauthor " + person + "\ncommitter " + person + "\n"),
		"two addresses":       commitOf(strings.Replace(good, "<a@example.com>", "<a@example.com> <b@example.com>", 1)),
		"time with zeros":     commitOf(strings.Replace(good, "1700000000", "01700000000", 1)),
		"negative time":       commitOf(strings.Replace(good, "1700000000", "-1", 1)),
		"no zone":             commitOf(strings.Replace(good, " +0000", "", 1)),
		"carriage return key": commitOf(good + "x\ry z\n"),
	} {
		if _, err := ParseCommit(raw); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
	if _, err := ParseCommit(bytes.Repeat([]byte("a"), MaxObject+1)); !errors.Is(err, fault.TooLarge) {
		t.Errorf("too large: %v", err)
	}
	c, err := ParseCommit(commitOf(good + "gpgsig " + armour + "\nencoding x\n"))
	if err != nil || string(c.Payload) != string(commitOf(good+"encoding x\n")) || formatOf(c.Signature) != FormatSSH {
		t.Errorf("payload %q, %v", c.Payload, err)
	}
	tag := "object " + treeID + "\ntype commit\ntag v1\ntagger " + person + "\n"
	for name, raw := range map[string]string{
		"two signatures": tag + "\nm\n" + strings.ReplaceAll(armour, "\n ", "\n") + "\n" + strings.ReplaceAll(armour, "\n ", "\n") + "\n",
		"after the end":  tag + "\nm\n" + strings.ReplaceAll(armour, "\n ", "\n") + "\nmore\n",
		"header after":   tag + "gpgsig x\n\nm\n",
		"twice":          "object " + treeID + "\n" + tag + "\nm\n",
	} {
		if _, err := ParseTag([]byte(raw)); !errors.Is(err, fault.Invalid) {
			t.Errorf("tag, %s: %v, want invalid", name, err)
		}
	}
}

func FuzzObject(f *testing.F) {
	good := "tree " + treeID + "\nauthor " + person + "\ncommitter " + person + "\n"
	f.Add(commitOf(good))
	f.Add(commitOf(good + "gpgsig " + armour + "\n"))
	f.Add([]byte("object " + treeID + "\ntype commit\ntag v1\n\nm\n" + strings.ReplaceAll(armour, "\n ", "\n") + "\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if c, err := ParseCommit(raw); err == nil {
			// Payload and signature are the object, cut once.
			if c.Signature == "" && !bytes.Equal(c.Payload, raw) || len(c.Payload) > len(raw) || bytes.IndexByte(raw, 0) >= 0 {
				t.Errorf("payload %q of %q", c.Payload, raw)
			}
		}
		if tag, err := ParseTag(raw); err == nil && !bytes.HasPrefix(raw, tag.Payload) {
			t.Errorf("payload %q of %q", tag.Payload, raw)
		}
	})
}

const edKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0bH7OjKXBEjDR6ZSrPHHmS3oO5C5n5tWW4rRjHHk5z"

func TestAllowedSigners(t *testing.T) {
	for line, want := range map[string]string{
		"a@example.com " + edKey: "",
		`a@example.com,*@b.example namespaces="git,file" ` + edKey + " comment":         "",
		`a cert-authority,valid-after="20260101",valid-before="202602010000Z" ` + edKey: "",
		`"a b" ` + edKey:            "",
		"# comment":                 "",
		"a":                         "ends early",
		"a x " + edKey:              "option",
		`a namespaces=git ` + edKey: "option",
		`a namespaces="git",namespaces="x" ` + edKey:                "twice",
		`a valid-after="2026" ` + edKey:                             "time",
		`a valid-after="20260201",valid-before="20260101" ` + edKey: "is not before",
		`a restrict="x" ` + edKey:                                   "is not known",
		`"a ` + edKey:                                               "not closed",
		"a ssh-ed25519 AAAA":                                        "key of type",
		"a ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIJ0bH7OjKXBEjDR6ZSrPHHmS3oO5C5n5tWW4rRjHHk5z": "and not",
		",a " + edKey: "patterns",
	} {
		_, err := ParseAllowedSigners([]byte(line + "\n"))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", line, err, want)
		}
	}
	for _, c := range []struct {
		list, text string
		want       bool
	}{{"*@example.com", "a@example.com", true}, {"*@example.com,!b@*", "b@example.com", false}, {"a?", "ab", true}, {"a?", "a", false}, {"!x", "y", false}, {strings.Repeat("*a", 40), strings.Repeat("a", 60) + "b", false}} {
		if got := anyPattern(strings.Split(c.list, ","), c.text); got != c.want {
			t.Errorf("%q on %q: %v", c.list, c.text, got)
		}
	}
}

func FuzzAllowedSigners(f *testing.F) {
	f.Add([]byte(`a@example.com namespaces="git" ` + edKey))
	f.Add([]byte(`"a b",!c cert-authority,valid-after="20260101" ` + edKey))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := ParseAllowedSigners(b)
		for _, s := range list {
			if err == nil && (s.Key == nil || len(s.Principals) == 0) {
				t.Errorf("a signer without key or principal of %q", b)
			}
		}
	})
}

func FuzzCMS(f *testing.F) {
	f.Add([]byte("0\x00"))
	f.Fuzz(func(t *testing.T, der []byte) {
		_, _ = readCMS([]byte("x"), string(pem.EncodeToMemory(&pem.Block{Type: "SIGNED MESSAGE", Bytes: der})))
	})
}

// cms writes what gitsign writes: a detached SignedData by a short-lived
// certificate, with the log entry and a timestamp as unsigned attributes.
func cms(t *testing.T, w *trusttest.World, payload []byte, change func(*cmsParts)) string {
	t.Helper()
	p := &cmsParts{digest: sha256.Sum256(payload)}
	p.key, p.leaf = w.Issue(t, trusttest.Leaf{Subject: "alice@example.com", Issuer: "https://issuer.example"})
	if change != nil {
		change(p)
	}
	attr := func(b *cryptobyte.Builder, oid asn1.ObjectIdentifier, value func(*cryptobyte.Builder)) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oid)
			b.AddASN1(cbasn1.SET, value)
		})
	}
	attrs := func(b *cryptobyte.Builder) {
		attr(b, oidContentType, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidData) })
		attr(b, oidMessageDigest, func(b *cryptobyte.Builder) { b.AddASN1OctetString(p.digest[:]) })
	}
	var set cryptobyte.Builder
	set.AddASN1(cbasn1.SET, attrs)
	signed := set.BytesOrPanic()
	sum := sha256.Sum256(signed)
	sig, err := ecdsa.SignASN1(rand.Reader, p.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	entry := w.Log(t, trusttest.Body(t, signed, sig, p.leaf, p.key))
	raw, err := proto.Marshal(entry)
	if err != nil {
		t.Fatal(err)
	}
	var token struct {
		Status asn1.RawValue
		Token  asn1.RawValue
	}
	if _, err := asn1.Unmarshal(w.Timestamp(t, sig, w.Start.Add(2*time.Minute), true), &token); err != nil {
		t.Fatal(err)
	}
	oid := func(b *cryptobyte.Builder, id asn1.ObjectIdentifier) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(id) })
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oidSignedData)
		b.AddASN1(tag(0), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1Int64(1)
				b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) { oid(b, oidSHA256) })
				oid(b, oidData)
				b.AddASN1(tag(0), func(b *cryptobyte.Builder) { b.AddBytes(p.leaf.Raw) })
				b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
					b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddASN1Int64(1)
						b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
							b.AddBytes(p.leaf.RawIssuer)
							b.AddASN1BigInt(p.leaf.SerialNumber)
						})
						oid(b, oidSHA256)
						b.AddASN1(tag(0), attrs)
						oid(b, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2})
						b.AddASN1OctetString(sig)
						b.AddASN1(tag(1), func(b *cryptobyte.Builder) {
							if !p.noLog {
								attr(b, oidLogEntry, func(b *cryptobyte.Builder) { b.AddASN1OctetString(raw) })
							}
							attr(b, oidTimestamp, func(b *cryptobyte.Builder) { b.AddBytes(token.Token.FullBytes) })
						})
					})
				})
			})
		})
	})
	return string(pem.EncodeToMemory(&pem.Block{Type: "SIGNED MESSAGE", Bytes: b.BytesOrPanic()}))
}

type cmsParts struct {
	key    *ecdsa.PrivateKey
	leaf   *x509.Certificate
	digest [32]byte
	noLog  bool
}

func keylessPolicy(t *testing.T, subject string) *Policy {
	t.Helper()
	p, err := ParsePolicy(t.Context(), []byte("apiVersion: assay/v1\nkind: SourcePolicy\nspec:\n  branch: main\n  identities:\n  - name: alice\n    keyless: [{issuer: https://issuer.example, subject: "+subject+"}]\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A commit by gitsign verifies over its raw bytes, with certificate, log entry
// and timestamp under our roots, and not without them.
func TestGitsign(t *testing.T) {
	w := trusttest.New(t)
	root := w.Root(t)
	bundles := func(ctx context.Context, b *attestation.Bundle) (*trust.Verified, error) {
		return root.VerifyBundle(ctx, b, trust.VerifyOptions{AnyArtifact: true, AnyIdentity: true})
	}
	payload := commitOf("tree " + treeID + "\nauthor " + person + "\ncommitter " + person + "\n")
	signed := func(sig string) []byte {
		i := bytes.Index(payload, []byte("\n\n")) + 1
		head := "gpgsig " + strings.ReplaceAll(strings.TrimSuffix(sig, "\n"), "\n", "\n ") + "\n"
		return append(append(append([]byte{}, payload[:i]...), head...), payload[i:]...)
	}
	for name, c := range map[string]struct {
		policy string
		raw    []byte
		roots  bool
		want   Status
	}{
		"good":          {"alice@example.com", signed(cms(t, w, payload, nil)), true, Good},
		"another":       {"bob@example.com", signed(cms(t, w, payload, nil)), true, Unknown},
		"other bytes":   {"alice@example.com", signed(cms(t, w, append(payload, 'x'), nil)), true, Bad},
		"not logged":    {"alice@example.com", signed(cms(t, w, payload, func(p *cmsParts) { p.noLog = true })), true, Bad},
		"without roots": {"alice@example.com", signed(cms(t, w, payload, nil)), false, Undecided},
		"other key":     {"alice@example.com", signed(cms(t, w, payload, func(p *cmsParts) { p.key = trusttest.NewKey(t) })), true, Bad},
	} {
		check := Checker{Policy: keylessPolicy(t, c.policy), Clock: clock.System}
		if c.roots {
			check.Bundles = bundles
		}
		_, s := check.Commit(t.Context(), c.raw, false)
		if s.Status != c.want {
			t.Errorf("%s: %+v, want %s", name, s, c.want)
		}
		if s.Status == Good && (s.TimeSource == "claimed" || s.Signer != "alice") {
			t.Errorf("%s: %+v, want a trusted time", name, s)
		}
	}
	// One octet of the message makes it another commit.
	raw := signed(cms(t, w, payload, nil))
	raw[len(raw)-2] ^= 1
	check := Checker{Policy: keylessPolicy(t, "alice@example.com"), Bundles: bundles}
	if _, s := check.Commit(t.Context(), raw, false); s.Status != Bad {
		t.Errorf("altered message: %+v", s)
	}
}

// repo runs git and ssh-keygen in a folder of its own.
type repo struct {
	t   *testing.T
	dir string
}

func newRepo(t *testing.T) *repo {
	t.Helper()
	for _, tool := range []string{"git", "ssh-keygen"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	r := &repo{t, t.TempDir()}
	r.run("git", "init", "-q", "-b", "main")
	r.run("git", "config", "gpg.format", "ssh")
	return r
}

func (r *repo) run(name string, args ...string) string {
	r.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "HOME="+r.dir, "GIT_CONFIG_NOSYSTEM=1", "GNUPGHOME="+filepath.Join(r.dir, ".gnupg"),
		"GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@example.com")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r *repo) file(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *repo) status(signers string, extra string) Signature {
	r.t.Helper()
	p, err := ParsePolicy(r.t.Context(), []byte("apiVersion: assay/v1\nkind: SourcePolicy\nspec:\n  branch: main\n  allowedSigners: s\n"+extra), func(context.Context, string) ([]byte, error) { return []byte(signers), nil })
	if err != nil {
		r.t.Fatal(err)
	}
	g, err := OpenRepository(r.t.Context(), r.dir)
	if err != nil {
		r.t.Fatal(err)
	}
	defer g.Close()
	id, err := g.CommitOf(r.t.Context(), "HEAD")
	if err != nil {
		r.t.Fatal(err)
	}
	o, err := g.Object(r.t.Context(), id, MaxObject)
	if err != nil {
		r.t.Fatal(err)
	}
	_, s := (&Checker{Policy: p}).Commit(r.t.Context(), o.Raw, false)
	return s
}

// Signatures of real ssh-keygen: each key type, namespaces, windows,
// certificates and revoked keys.
func TestSSHKeygen(t *testing.T) {
	r := newRepo(t)
	for _, k := range [][]string{{"ed25519"}, {"ecdsa", "-b", "256"}, {"rsa", "-b", "2048"}, {"ed25519", "ca"}} {
		name := k[0]
		if len(k) == 2 {
			name = "ca"
		}
		args := []string{"-q", "-t", k[0], "-N", "", "-f", name}
		if len(k) == 3 {
			args = append(args, k[1:]...)
		}
		r.run("ssh-keygen", args...)
	}
	pub := func(name string) string {
		b, err := os.ReadFile(filepath.Join(r.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	commit := func(key string) {
		r.run("git", "-c", "user.signingkey="+filepath.Join(r.dir, key), "commit", "-q", "--allow-empty", "-S", "-m", key)
	}
	for _, name := range []string{"ed25519", "ecdsa", "rsa"} {
		commit(name + ".pub")
		if s := r.status("a@example.com "+pub(name+".pub"), ""); s.Status != Good {
			t.Errorf("%s: %+v", name, s)
		}
	}
	commit("ed25519.pub")
	key := pub("ed25519.pub")
	fp := strings.Fields(r.run("ssh-keygen", "-l", "-f", "ed25519.pub"))[1]
	for name, c := range map[string]struct {
		signers, extra string
		want           Status
	}{
		"namespace":         {`a namespaces="git" ` + key, "", Good},
		"another namespace": {`a namespaces="file" ` + key, "", Bad},
		"over":              {`a valid-before="20200101" ` + key, "", Bad},
		"not yet":           {`a valid-after="20990101" ` + key, "", Bad},
		"as an authority":   {`a cert-authority ` + key, "", Unknown},
		"another key":       {"a " + pub("ecdsa.pub"), "", Unknown},
		"revoked":           {"a " + key, "  revoked: [\"" + fp + "\"]\n", Bad},
		"committer":         {"b@example.com " + key, "  requireCommitter: true\n", Bad},
	} {
		if s := r.status(c.signers, c.extra); s.Status != c.want {
			t.Errorf("%s: %+v, want %s", name, s, c.want)
		}
	}
	// A certificate: by the authority, for the principal, within its time.
	r.run("ssh-keygen", "-q", "-s", "ca", "-I", "x", "-n", "a@example.com", "-V", "-1h:+1h", "ed25519.pub")
	commit("ed25519-cert.pub")
	for name, c := range map[string]struct {
		signers string
		want    Status
	}{
		"certificate":       {"*@example.com cert-authority " + pub("ca.pub"), Good},
		"another principal": {"*@example.org cert-authority " + pub("ca.pub"), Bad},
		"no authority":      {"*@example.com " + pub("ca.pub"), Unknown},
		"bare key's line":   {"*@example.com " + key, Unknown},
	} {
		if s := r.status(c.signers, ""); s.Status != c.want {
			t.Errorf("%s: %+v, want %s", name, s, c.want)
		}
	}
	r.run("ssh-keygen", "-q", "-s", "ca", "-I", "x", "-n", "a@example.com", "-V", "20200101:20200201", "ed25519.pub")
	commit("ed25519-cert.pub")
	if s := r.status("*@example.com cert-authority "+pub("ca.pub"), ""); s.Status != Bad {
		t.Errorf("a certificate that is over: %+v", s)
	}
	// A signature of the same bytes for another purpose is none.
	raw := r.run("git", "cat-file", "commit", "HEAD~1")
	c, err := ParseCommit([]byte(raw + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	r.file("payload", string(c.Payload))
	r.run("ssh-keygen", "-q", "-Y", "sign", "-n", "file", "-f", "ed25519", "payload")
	if _, err := verifySSH(c.Payload, pub("payload.sig")+"\n"); err == nil || !strings.Contains(err.Error(), "namespace") {
		t.Errorf("namespace file: %v", err)
	}
}

// Signatures of real gpg.
func TestGPG(t *testing.T) {
	if _, err := exec.LookPath("gpg"); err != nil {
		t.Skip("gpg is not installed")
	}
	r := newRepo(t)
	if err := os.Mkdir(filepath.Join(r.dir, ".gnupg"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.run("gpgconf", "--kill", "all") })
	for _, who := range []string{"a@example.com", "m@example.com"} {
		r.run("gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "", "--quick-generate-key", who, "ed25519", "sign", "1d")
	}
	key := func(who string) string {
		return "  identities:\n  - name: " + who + "\n    gpg: |\n      " + strings.ReplaceAll(r.run("gpg", "--armor", "--export", who), "\n", "\n      ") + "\n"
	}
	r.run("git", "-c", "gpg.format=openpgp", "-c", "user.signingkey=a@example.com", "commit", "-q", "--allow-empty", "-S", "-m", "one")
	other := "z " + edKey
	if s := r.status(other, key("a@example.com")); s.Status != Good || s.Format != FormatPGP || len(s.Key) != 40 {
		t.Errorf("gpg: %+v", s)
	}
	if s := r.status(other, key("m@example.com")); s.Status == Good {
		t.Errorf("another key: %+v", s)
	}
	// Git writes the time before it asks for the signature.
	for _, c := range []struct {
		before time.Duration
		good   bool
	}{{30 * time.Second, true}, {time.Hour, false}} {
		at := time.Now().Add(-c.before).UTC().Format(time.RFC3339)
		r.run("env", "GIT_COMMITTER_DATE="+at, "git", "-c", "gpg.format=openpgp", "-c", "user.signingkey=a@example.com", "commit", "-q", "--allow-empty", "-S", "-m", "two")
		if s := r.status(other, key("a@example.com")); (s.Status == Good) != c.good {
			t.Errorf("signed %v after the commit's time: %+v", c.before, s)
		}
	}
}

// A commit's attributes name a filter, and the configuration of the repository
// what it runs. To look at a repository executes nothing of it.
func TestThreat_Git_RepositoryRunsNothing(t *testing.T) {
	r := newRepo(t)
	marks := t.TempDir()
	r.file(".gitattributes", "* filter=evil\n*.b filter=a=b.c\n")
	r.file("f", "text\n")
	r.file("g.b", "text\n")
	r.run("git", "add", ".")
	r.run("git", "commit", "-q", "-m", "x")
	r.run("git", "tag", "v1")
	archive := filepath.Join(t.TempDir(), "a.tar")
	r.run("git", "archive", "--prefix=a-1/", "-o", archive, "v1")
	script := filepath.Join(marks, "hook")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"$0\" >> "+marks+"/ran\ncat\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{
		"filter.evil.smudge", "filter.evil.clean", "filter.evil.process", "filter.a=b.c.smudge", "core.fsmonitor", "core.sshCommand", "core.pager",
		"diff.external", "gpg.program", "tar.tar.command", "core.alternateRefsCommand", "uploadpack.packObjectsHook", "core.editor",
	} {
		r.run("git", "config", key, script)
	}
	r.run("git", "config", "filter.evil.required", "true")
	b, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	repository, err := OpenRepository(t.Context(), r.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = repository.Close() }()
	c, err := Compare(t.Context(), repository, CompareRequest{Name: "a.tar", Archive: bytes.NewReader(b), Size: int64(len(b)), Digest: artifact.SHA256Of(b), Tag: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Differs || c.Same != 3 {
		t.Errorf("%+v, want the same three files", c)
	}
	if ran, err := os.ReadFile(filepath.Join(marks, "ran")); err == nil {
		t.Errorf("commands of the repository's configuration ran: %s", ran)
	}
}
