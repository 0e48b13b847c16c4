package rbac

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"assay/internal/fault"

	"github.com/google/go-cmp/cmp"
)

// cluster is read from lines: a role ("ClusterRole n" or "Role ns/n", then rules
// "verbs|groups|resources|names"), or a binding ("bind [ns/]name Kind role to subjects").
func cluster(t *testing.T, lines ...string) *Cluster {
	t.Helper()
	c := &Cluster{}
	list := func(s string) []string {
		if s == "" {
			return nil
		}
		return strings.Split(strings.ReplaceAll(s, "core", ""), ",")
	}
	for _, l := range lines {
		f := strings.Fields(l)
		switch f[0] {
		case "bind":
			var b Binding
			ns, name, ok := strings.Cut(f[1], "/")
			if !ok {
				ns, name = "", f[1]
			}
			b.Metadata = Meta{Name: name, Namespace: ns}
			b.Role.Kind, b.Role.Name = f[2], f[3]
			for _, s := range f[5:] {
				kind, who, _ := strings.Cut(s, "=")
				sub := Subject{Kind: kind, Name: who}
				if n, m, ok := strings.Cut(who, "/"); ok && kind == "ServiceAccount" {
					sub.Namespace, sub.Name = n, m
				}
				b.Subjects = append(b.Subjects, sub)
			}
			c.Bindings = append(c.Bindings, b)
		case "Role", "ClusterRole":
			r := Role{Metadata: Meta{Name: f[1]}}
			if ns, name, ok := strings.Cut(f[1], "/"); ok {
				r.Metadata = Meta{Name: name, Namespace: ns}
			}
			for _, x := range f[2:] {
				if label, ok := strings.CutPrefix(x, "label="); ok {
					r.Metadata.Labels = map[string]string{label: "true"}
					continue
				}
				if label, ok := strings.CutPrefix(x, "aggregates="); ok {
					r.Aggregation = &Aggregation{Selectors: []Selector{{Labels: map[string]string{label: "true"}}}}
					continue
				}
				p := append(strings.Split(x, "|"), "", "", "")
				r.Rules = append(r.Rules, Rule{Verbs: list(p[0]), Groups: list(p[1]), Resources: list(p[2]), ResourceNames: list(p[3])})
			}
			c.Roles = append(c.Roles, r)
		default:
			t.Fatalf("line %q", l)
		}
	}
	return c
}

const adm = "admissionregistration.k8s.io"

func TestAudit(t *testing.T) {
	o := Options{Namespace: "assay-system", Never: []string{"break-glass"}}
	for name, tt := range map[string]struct {
		lines []string
		want  []string // "subject: power where why", by name; without system:masters
	}{
		"nobody":                          {nil, nil},
		"reads only":                      {[]string{"ClusterRole r get,list,watch|*|validatingwebhookconfigurations,namespaces,pods", "bind b ClusterRole r to User=ann"}, nil},
		"a role that is not there":        {[]string{"bind b ClusterRole none to User=ann"}, nil},
		"edits webhooks":                  {[]string{"ClusterRole r patch|" + adm + "|validatingwebhookconfigurations", "bind b ClusterRole r to User=ann"}, []string{"User ann: webhooks [] patch validatingwebhookconfigurations"}},
		"another group of the API":        {[]string{"ClusterRole r patch|example.com|validatingwebhookconfigurations", "bind b ClusterRole r to User=ann"}, nil},
		"webhooks of others by name":      {[]string{"ClusterRole r update|" + adm + "|validatingwebhookconfigurations|istiod", "bind b ClusterRole r to User=ann"}, nil},
		"ours by name":                    {[]string{"ClusterRole r update|" + adm + "|validatingwebhookconfigurations|istiod,assay", "bind b ClusterRole r to User=ann"}, []string{"User ann: webhooks [] update validatingwebhookconfigurations"}},
		"a name bounds no create":         {[]string{"ClusterRole r create|" + adm + "|validatingwebhookconfigurations|assay", "bind b ClusterRole r to User=ann"}, nil},
		"policies":                        {[]string{"ClusterRole r *|" + adm + "|validatingadmissionpolicybindings", "bind b ClusterRole r to Group=ops"}, []string{"Group ops: policies [] create validatingadmissionpolicybindings"}},
		"labels namespaces by status":     {[]string{"ClusterRole r patch|core|namespaces/status", "bind b ClusterRole r to User=ann"}, []string{"User ann: namespaces [] patch namespaces/status"}},
		"status of all":                   {[]string{"ClusterRole r patch|*|*/status", "bind b ClusterRole r to User=ann"}, []string{"User ann: namespaces [] patch namespaces/status"}},
		"labels one namespace from in it": {[]string{"Role shop/r patch|core|namespaces", "bind shop/b Role r to User=ann"}, []string{"User ann: namespaces [shop] patch namespaces"}},
		"webhooks by a RoleBinding":       {[]string{"ClusterRole r *|" + adm + "|*", "bind shop/b ClusterRole r to User=ann"}, nil},
		"pods where nothing is refused":   {[]string{"ClusterRole r create|core|pods", "bind break-glass/b ClusterRole r to User=ann"}, []string{"User ann: exempt [break-glass] create pods"}},
		"pods elsewhere":                  {[]string{"ClusterRole r create|core|pods", "bind shop/b ClusterRole r to User=ann"}, nil},
		"secrets of Assay":                {[]string{"Role assay-system/r get|core|secrets", "bind assay-system/b Role r to ServiceAccount=shop/ci"}, []string{"ServiceAccount shop/ci: secrets [assay-system] get secrets"}},
		"writes where Assay runs":         {[]string{"Role assay-system/r patch|core|configmaps", "bind assay-system/b Role r to User=ann"}, []string{"User ann: assay [assay-system] patch configmaps"}},
		"bind":                            {[]string{"ClusterRole r bind|rbac.authorization.k8s.io|clusterroles", "bind b ClusterRole r to User=ann"}, []string{"User ann: escalate [] bind clusterroles"}},
		"bind of what gives nothing": {[]string{
			"ClusterRole view get|core|pods", "ClusterRole r bind|rbac.authorization.k8s.io|clusterroles|view", "bind b ClusterRole r to User=ann",
		}, nil},
		"bind of what gives all": {[]string{
			"ClusterRole all *|*|*", "ClusterRole r bind|rbac.authorization.k8s.io|clusterroles|all", "bind b ClusterRole r to User=ann",
		}, []string{"User ann: escalate [] bind clusterroles"}},
		"impersonate": {[]string{"ClusterRole r impersonate|core|groups", "bind b ClusterRole r to User=ann"}, []string{"User ann: escalate [] impersonate groups"}},
		"aggregated, not copied yet": {[]string{
			"ClusterRole part patch|" + adm + "|mutatingwebhookconfigurations label=to-edit", "ClusterRole edit aggregates=to-edit", "bind b ClusterRole edit to User=ann",
		}, []string{"User ann: webhooks [] patch mutatingwebhookconfigurations by part"}},
		"aggregated and copied": {[]string{
			"ClusterRole part patch|" + adm + "|mutatingwebhookconfigurations label=to-edit", "ClusterRole edit aggregates=to-edit patch|" + adm + "|mutatingwebhookconfigurations", "bind b ClusterRole edit to User=ann",
		}, []string{"User ann: webhooks [] patch mutatingwebhookconfigurations by part"}},
		"acts as who can": {[]string{
			"ClusterRole r patch|" + adm + "|validatingwebhookconfigurations", "bind b ClusterRole r to ServiceAccount=gitops/sync",
			"ClusterRole dev create|apps|deployments", "bind gitops/d ClusterRole dev to User=ann", "bind shop/d ClusterRole dev to User=bob",
			// and of whom that is true in turn
			"bind gitops/c ClusterRole dev to ServiceAccount=ci/run", "bind ci/d ClusterRole dev to User=cid",
		}, []string{
			"ServiceAccount ci/run: assume [gitops] create deployments: acts as gitops/sync",
			"ServiceAccount gitops/sync: webhooks [] patch validatingwebhookconfigurations",
			"User ann: assume [gitops] create deployments: acts as gitops/sync",
			"User cid: assume [ci] create deployments: acts as ci/run",
		}},
		"a service account without a namespace is the binding's": {[]string{
			"Role assay-system/r get|core|secrets", "bind assay-system/b Role r to ServiceAccount=ci",
		}, []string{"ServiceAccount assay-system/ci: secrets [assay-system] get secrets"}},
		"wildcards": {[]string{"ClusterRole r *|*|*", "bind b ClusterRole r to User=root"}, []string{
			"User root: webhooks [] create validatingwebhookconfigurations", "User root: policies [] create validatingadmissionpolicies", "User root: namespaces [] update namespaces",
			"User root: exempt [kube-system break-glass] create pods", "User root: assay [assay-system] create pods", "User root: secrets [assay-system] get secrets", "User root: escalate [] bind clusterroles",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, h := range Audit(cluster(t, tt.lines...), o) {
				if h.Subject.Name == "system:masters" {
					if !h.Standard || len(h.Powers) == 0 {
						t.Errorf("system:masters: %+v", h)
					}
					continue
				}
				for _, p := range h.Paths {
					s := fmt.Sprintf("%s: %s %v %s", h.Subject, p.Power, p.Where, p.Why)
					if _, part, ok := strings.Cut(p.Role, ", by its part "); ok {
						s += " by " + part
					}
					got = append(got, s)
				}
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	all := Audit(cluster(t, "ClusterRole r *|*|*", "bind b ClusterRole r to User=ann Group=ops ServiceAccount=kube-system/namespace-controller ServiceAccount=shop/namespace-controller"), Options{Namespace: "assay"})
	if n, _ := Judge(all, nil); n != 3 { // not the controller
		t.Errorf("%d unexpected", n)
	}
	e, err := ParseExpectation([]byte("apiVersion: assay/v1\nkind: RBACExpectation\nspec:\n  subjects:\n  - {kind: User, name: ann, powers: ['*']}\n  - {kind: Group, name: ops, powers: [webhooks]}\n  - {kind: User, name: gone, powers: [assay]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	n, unused := Judge(all, e)
	if n != 2 || len(unused) != 1 || unused[0].Name != "gone" {
		t.Errorf("%d unexpected, unused %v", n, unused)
	}
	for _, h := range all {
		if h.Subject.Name == "ops" && (slices.Contains(h.Unexpected, Webhooks) || !slices.Contains(h.Unexpected, Policies)) {
			t.Errorf("ops: unexpected %v", h.Unexpected)
		}
	}
	// What is written expects all that there is.
	b, err := Allow(all)
	if err != nil {
		t.Fatal(err)
	}
	if e, err = ParseExpectation(b); err != nil {
		t.Fatal(err)
	}
	if n, unused := Judge(all, e); n != 0 || len(unused) != 0 {
		t.Errorf("%d unexpected, unused %v by\n%s", n, unused, b)
	}
}

func TestParseExpectation(t *testing.T) {
	head := "apiVersion: assay/v1\nkind: RBACExpectation\nspec: {subjects: ["
	for text, want := range map[string]string{
		"kind: Grant": "want apiVersion",
		head + "{kind: Robot, name: a, powers: ['*']}]}":                                     "want User, Group",
		head + "{kind: User, powers: ['*']}]}":                                               "want a name",
		head + "{kind: User, name: a, namespace: b, powers: ['*']}]}":                        "want a namespace for a ServiceAccount",
		head + "{kind: ServiceAccount, name: a, powers: ['*']}]}":                            "want a namespace for a ServiceAccount",
		head + "{kind: User, name: a}]}":                                                     "powers: want some of",
		head + "{kind: User, name: a, powers: [all]}]}":                                      `"all"`,
		head + "{kind: User, name: a, powers: ['*'], power: x}]}":                            "power",
		head + "{kind: User, name: a, powers: ['*']}]}\n# " + strings.Repeat("x", maxExpect): "at most",
	} {
		if _, err := ParseExpectation([]byte(text)); err == nil || fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%.100q: %v, want %q", text, err, want)
		}
	}
}

func FuzzParseExpectation(f *testing.F) {
	f.Add([]byte("apiVersion: assay/v1\nkind: RBACExpectation\nspec: {subjects: [{kind: User, name: a, powers: ['*']}]}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := ParseExpectation(b); (err == nil) != (e != nil) {
			t.Errorf("%v %v", e, err)
		}
	})
}

func FuzzAudit(f *testing.F) {
	f.Add([]byte(`{"metadata":{"name":"r"},"rules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}],"aggregationRule":{"clusterRoleSelectors":[{}]}}`), []byte(`{"metadata":{"name":"b"},"roleRef":{"kind":"ClusterRole","name":"r"},"subjects":[{"kind":"User","name":"a"}]}`))
	f.Fuzz(func(t *testing.T, role, binding []byte) {
		var r Role
		var b Binding
		if json.Unmarshal(role, &r) != nil || json.Unmarshal(binding, &b) != nil {
			return
		}
		if got := Audit(&Cluster{Roles: []Role{r, r}, Bindings: []Binding{b}}, Options{Namespace: "assay"}); len(got) == 0 {
			t.Error("system:masters is always there")
		}
	})
}
