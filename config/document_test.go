package config

import (
	"context"
	"errors"
	"strings"
	"testing"

	"assay/identity"
	"assay/internal/fault"
	"assay/store"
	"assay/store/storetest"

	"github.com/google/go-cmp/cmp"
)

func grant(name, scope string) string {
	return "apiVersion: assay/v1\nkind: Grant\nmetadata: {name: " + name + "}\nspec: {issuer: \"https://ci.example.com\", subject: me@example.com, role: publisher, scope: " + scope + "}\n"
}

func issuer(name, url string) string {
	return "apiVersion: assay/v1\nkind: Issuer\nmetadata: {name: " + name + "}\nspec: {url: \"" + url + "\", type: email, client_id: sigstore}\n"
}

func repository(name, spec string) string {
	return "apiVersion: assay/v1\nkind: Repository\nmetadata: {name: " + name + "}\nspec: " + spec + "\n"
}

const signed = `apiVersion: assay/v1
kind: Policy
metadata: {name: signed}
spec:
  requirements:
    signatures:
      - name: ci
        identities: [{issuer: "https://ci.example.com", subject: me@example.com}]
`

func join(docs ...string) []byte { return []byte(strings.Join(docs, "---\n")) }

func parse(t *testing.T, docs ...string) []Document {
	t.Helper()
	d, err := ParseDocuments(join(docs...))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestParseDocuments(t *testing.T) {
	docs := parse(t, "# a comment alone\n", grant("g", "team/**"), issuer("i", "https://ci.example.com"), repository("r", "{pattern: team/**, anonymousPull: true}"), signed,
		`{"apiVersion": "assay/v1", "kind": "Grant", "metadata": {"name": "as-json"}, "spec": {"issuer": "https://x.example", "group": "admins", "role": "admin", "scope": "**"}}`+"\n")
	var got []string
	for _, d := range docs {
		got = append(got, d.Kind+"/"+d.Name)
		if (d.Grant != nil) != (d.Kind == KindGrant) || (d.Issuer != nil) != (d.Kind == KindIssuer) || (d.Repository != nil) != (d.Kind == KindRepository) || (d.Policy != nil) != (d.Kind == KindPolicy) {
			t.Errorf("%s/%s holds another kind's content", d.Kind, d.Name)
		}
		// What is stored reads again as the same.
		again, err := ParseDocuments(d.Text)
		if err != nil || len(again) != 1 || string(again[0].Text) != string(d.Text) {
			t.Errorf("%s/%s does not survive its own text: %v", d.Kind, d.Name, err)
		}
	}
	if d := cmp.Diff([]string{"Grant/g", "Issuer/i", "Repository/r", "Policy/signed", "Grant/as-json"}, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestParseDocumentsRefuses(t *testing.T) {
	for _, tt := range []struct{ name, text, says string }{
		{"nothing", "", "no document"},
		{"comments alone", "# nothing\n---\n# still nothing\n", "no document"},
		{"no kind", "apiVersion: assay/v1\n", "want Contract, Grant"},
		{"an unknown kind", "apiVersion: assay/v1\nkind: Role\n", `"Role"`},
		{"the server's own file", head, "assay serve --config"},
		{"a kind in a text", "apiVersion: assay/v1\nnote: |\n  kind: Grant\nkind: Nothing\n", `"Nothing"`},
		{"a list", "- kind: Grant\n", "document at line 1"},
		{"a text", "Grant\n", "document at line 1"},
		{"an unknown field", strings.Replace(grant("g", "x"), "role:", "rolle:", 1), "rolle"},
		{"a field twice", grant("g", "x") + "kind: Grant\n", "stands at line"},
		{"another version", strings.Replace(grant("g", "x"), "assay/v1", "assay/v2", 1), "apiVersion assay/v1"},
		{"no name", strings.Replace(grant("g", "x"), "name: g", "name: \"\"", 1), "metadata.name"},
		{"an upper-case name", grant("G", "x"), "metadata.name"},
		{"a path for a name", grant("../g", "x"), "metadata.name"},
		{"an unknown role", strings.Replace(grant("g", "x"), "publisher", "root", 1), `role "root"`},
		{"an issuer that is a pattern", strings.Replace(grant("g", "x"), "https://ci.example.com", "https://*", 1), "must be exact"},
		{"a scope that says nothing", strings.Replace(grant("g", "x"), "scope: x", "scope: \"\"", 1), "empty pattern"},
		{"an issuer in the clear", issuer("i", "http://ci.example.com"), "document at line 1"},
		{"a repository without pattern", repository("r", "{anonymousPull: true}"), "empty pattern"},
		{"two of one name", grant("g", "x") + "---\n" + grant("g", "y"), `Grant "g" stands twice`},
		{"an alias bomb", "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", "anchors"},
		{"a policy without requirements", "apiVersion: assay/v1\nkind: Policy\nmetadata: {name: p}\nspec: {}\n", "document at line 1"},
	} {
		_, err := ParseDocuments([]byte(tt.text))
		if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want invalid saying %q", tt.name, err, tt.says)
		}
	}
	if _, err := ParseDocuments(make([]byte, 5<<20)); !errors.Is(err, fault.TooLarge) {
		t.Errorf("5 MiB: %v", err)
	}
}

func TestCompile(t *testing.T) {
	site := []identity.IssuerConfig{{URL: "https://site.example", Type: identity.TypeEmail, ClientID: "x"}}
	d, err := Compile(parse(t, grant("g", "team/**"), issuer("i", "https://ci.example.com"), signed,
		repository("open", "{pattern: public/**, anonymousPull: true}"), repository("closed", "{pattern: team/**}")), site)
	if err != nil {
		t.Fatal(err)
	}
	want := []identity.Grant{
		{Issuer: "https://ci.example.com", Subject: "me@example.com", Role: identity.RolePublisher, Scope: "team/**"},
		{Anonymous: true, Role: identity.RoleViewer, Scope: "public/**", Actions: []identity.Action{identity.ActPull}},
	}
	if diff := cmp.Diff(want, d.Grants); diff != "" {
		t.Errorf("grants (-want +got):\n%s", diff)
	}
	if len(d.Issuers) != 2 || d.Issuers[0].URL != "https://site.example" || d.Issuers[1].URL != "https://ci.example.com" || d.Policies == nil {
		t.Errorf("issuers %v, policies %v", d.Issuers, d.Policies)
	}
	if len(site) != 1 {
		t.Error("the site's own issuers grew")
	}
	for name, docs := range map[string][]Document{
		"an issuer twice":              parse(t, issuer("a", "https://ci.example.com"), issuer("b", "https://ci.example.com")),
		"the site's issuer once more":  parse(t, issuer("a", "https://site.example")),
		"two words about one pattern":  parse(t, repository("a", "{pattern: x, anonymousPull: true}"), repository("b", "{pattern: x}")),
		"two words, the other way":     parse(t, repository("a", "{pattern: x}"), repository("b", "{pattern: x, anonymousPull: true}")),
		"the same word twice, as well": parse(t, repository("a", "{pattern: x}"), repository("b", "{pattern: x}")),
	} {
		if _, err := Compile(docs, site); !errors.Is(err, fault.Conflict) {
			t.Errorf("%s: %v, want a conflict", name, err)
		}
	}
	if d, err := Compile(nil, nil); err != nil || len(d.Grants)+len(d.Issuers) != 0 || d.Policies == nil {
		t.Errorf("nothing: %+v, %v", d, err)
	}
}

// TestApply plans and carries out on both databases: what Plan says, Put does,
// and After foretold.
func TestApply(t *testing.T) {
	for _, tt := range []struct {
		name           string
		stored, wanted []string
		prune          bool
		plan, after    []string
	}{
		{"from nothing", nil, []string{grant("a", "x"), signed}, false, []string{"created Grant/a", "created Policy/signed"}, []string{"Grant/a x", "Policy/signed"}},
		{"the same again", []string{grant("a", "x")}, []string{grant("a", "x")}, false, []string{"unchanged Grant/a"}, []string{"Grant/a x"}},
		{"another comment is a change", []string{grant("a", "x")}, []string{"# why\n" + grant("a", "x")}, false, []string{"updated Grant/a"}, []string{"Grant/a x"}},
		{"a change", []string{grant("a", "x")}, []string{grant("a", "y")}, false, []string{"updated Grant/a"}, []string{"Grant/a y"}},
		{"the rest stays", []string{grant("a", "x"), grant("b", "x")}, []string{grant("a", "y")}, false, []string{"updated Grant/a", "unmanaged Grant/b"}, []string{"Grant/a y", "Grant/b x"}},
		{"the rest goes", []string{grant("a", "x"), grant("b", "x")}, []string{grant("a", "y")}, true, []string{"updated Grant/a", "deleted Grant/b"}, []string{"Grant/a y"}},
		{"a name of two kinds", []string{grant("a", "x")}, []string{repository("a", "{pattern: x}")}, false, []string{"unmanaged Grant/a", "created Repository/a"}, []string{"Grant/a x", "Repository/a"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			storetest.Each(t, func(t *testing.T, db *store.DB) {
				ctx := t.Context()
				if err := db.Migrate(ctx, Migrations); err != nil {
					t.Fatal(err)
				}
				if tt.stored != nil {
					apply(t, db, parse(t, tt.stored...), false)
				}
				plan, foretold := apply(t, db, parse(t, tt.wanted...), tt.prune)
				if d := cmp.Diff(tt.plan, plan); d != "" {
					t.Errorf("plan (-want +got):\n%s", d)
				}
				stored := names(read(t, db))
				if d := cmp.Diff(tt.after, stored); d != "" {
					t.Errorf("stored (-want +got):\n%s", d)
				}
				seen := map[string]bool{}
				for _, n := range foretold {
					seen[n] = true
				}
				for _, n := range stored {
					if !seen[n] || len(foretold) != len(stored) {
						t.Errorf("After foretold %q, stored is %q", foretold, stored)
						break
					}
				}
			})
		})
	}
}

func names(docs []Document) []string {
	var out []string
	for _, d := range docs {
		n := d.Kind + "/" + d.Name
		if d.Grant != nil {
			n += " " + d.Grant.Scope
		}
		out = append(out, n)
	}
	return out
}

func read(t *testing.T, db *store.DB) (docs []Document) {
	t.Helper()
	if err := db.View(t.Context(), func(tx *store.Tx) (err error) {
		docs, err = Stored(t.Context(), tx)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return docs
}

func apply(t *testing.T, db *store.DB, wanted []Document, prune bool) (plan, after []string) {
	t.Helper()
	if err := db.Update(t.Context(), func(tx *store.Tx) error {
		plan, after = nil, nil
		stored, err := Stored(t.Context(), tx)
		if err != nil {
			return err
		}
		changes := Plan(stored, wanted, prune)
		for _, c := range changes {
			plan = append(plan, c.Action+" "+c.Kind+"/"+c.Name)
			if changed := c.Action != "unchanged" && c.Action != "unmanaged"; changed != (c.Diff != "") {
				t.Errorf("%s %s/%s with difference %q", c.Action, c.Kind, c.Name, c.Diff)
			}
		}
		after = names(After(stored, wanted, changes))
		return Put(t.Context(), tx, wanted, changes)
	}); err != nil {
		t.Fatal(err)
	}
	return plan, after
}

// A row that does not read any more stops the site: fewer grants or policies
// than were applied would be worse.
func TestStoredDamage(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		if err := db.Migrate(ctx, Migrations); err != nil {
			t.Fatal(err)
		}
		apply(t, db, parse(t, grant("a", "x")), false)
		for _, text := range []string{"kind: Grant", "", "apiVersion: assay/v9"} {
			if err := db.Update(ctx, func(tx *store.Tx) error {
				_, err := tx.Exec(ctx, `UPDATE config_document SET text = ?`, []byte(text))
				return err
			}); err != nil {
				t.Fatal(err)
			}
			err := db.View(ctx, func(tx *store.Tx) error {
				_, err := Stored(context.WithoutCancel(ctx), tx)
				return err
			})
			if err == nil {
				t.Errorf("stored %q reads", text)
			}
		}
	})
}

func TestDiff(t *testing.T) {
	for _, tt := range []struct{ a, b, want string }{
		{"", "", ""},
		{"a\n", "a\n", ""},
		{"", "a\nb\n", "+ a\n+ b\n"},
		{"a\nb\n", "", "- a\n- b\n"},
		{"a\nb\nc\n", "a\nx\nc\n", "- b\n+ x\n"},
		{"a\nb\n", "b\na\n", "- a\n+ a\n"},
	} {
		if d := cmp.Diff(tt.want, diff([]byte(tt.a), []byte(tt.b))); d != "" {
			t.Errorf("%q to %q (-want +got):\n%s", tt.a, tt.b, d)
		}
	}
	long := []byte(strings.Repeat("x\n", 1<<16))
	if got := diff(long, append(long, 'y')); got != "(too long to compare)\n" {
		t.Errorf("two long documents: %.80q", got)
	}
}

func FuzzParseDocuments(f *testing.F) {
	f.Add([]byte(grant("g", "team/**")))
	f.Add(join(issuer("i", "https://ci.example.com"), repository("r", "{pattern: x}"), signed))
	f.Add([]byte("kind: Grant\nspec: [*a]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		docs, err := ParseDocuments(b)
		if err != nil {
			return
		}
		for _, d := range docs {
			again, err := ParseDocuments(d.Text)
			if err != nil || len(again) != 1 || again[0].Kind != d.Kind || again[0].Name != d.Name {
				t.Fatalf("stored as %q, which reads as something else: %v", d.Text, err)
			}
		}
	})
}
