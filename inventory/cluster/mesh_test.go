package cluster

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"assay/internal/kube"
	"assay/inventory"
)

// apiServer answers lists of objects, by path; what is not there is not found, and
// what has no objects may not be read.
func apiServer(t *testing.T, objects map[string][]string) *kube.Client {
	t.Helper()
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all, ok := objects[r.URL.Path]
		switch {
		case !ok:
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"kind":"Status","code":404,"reason":"NotFound","message":"no such path"}`)
		case all == nil:
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"kind":"Status","code":403,"reason":"Forbidden","message":"may not"}`)
		case strings.Contains(r.URL.Path, "configmaps"):
			fmt.Fprint(w, all[0])
		default:
			fmt.Fprintf(w, `{"metadata":{},"items":[%s]}`, strings.Join(all, ","))
		}
	}))
	t.Cleanup(srv.Close)
	c, err := kube.New(kube.Options{Server: srv.URL, CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), Token: func() (string, error) { return "x", nil }})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const (
	spaces   = "/api/v1/namespaces"
	peers    = "/apis/security.istio.io/v1/peerauthentications"
	istioMap = "/api/v1/namespaces/istio-system/configmaps/istio"
	servers  = "/apis/policy.linkerd.io/v1beta3/servers"
	authz    = "/apis/policy.linkerd.io/v1alpha1/authorizationpolicies"
	oldAuthz = "/apis/policy.linkerd.io/v1beta1/serverauthorizations"
	shapes   = "/apis/spire.spiffe.io/v1alpha1/clusterspiffeids"
)

func object(namespace, name, created, spec string) string {
	return fmt.Sprintf(`{"metadata":{"namespace":%q,"name":%q,"creationTimestamp":%q},"spec":%s}`, namespace, name, created, spec)
}

func space(name, more string) string {
	return `{"metadata":{"name":"` + name + `"` + more + `}}`
}

var istioConfig = []string{`{"data":{"mesh":"defaultConfig:\n  trustDomain: no.such\nrootNamespace: \"istio-system\"\ntrustDomain: example.org # ours\n"}}`}

// sidecar is a Pod that has a mesh's proxy.
func sidecar(t *testing.T, proxy, more string) *member {
	t.Helper()
	p, err := readPod(json.RawMessage(`{"metadata":{"name":"p","namespace":"shop","labels":{"app":"web"}` + more + `},"spec":{"nodeName":"n1","serviceAccountName":"web","containers":[{"name":"app"},` + proxy + `]}}`))
	if err != nil {
		t.Fatal(err)
	}
	m := p.member()
	return &m
}

const istioProxy, linkerdProxy = `{"name":"istio-proxy"}`, `{"name":"linkerd-proxy","env":[{"name":"LINKERD2_PROXY_INBOUND_DEFAULT_POLICY","value":"all-unauthenticated"}]}`

func TestIstio(t *testing.T) {
	strict := `{"mtls":{"mode":"STRICT"}}`
	permissive := `{"mtls":{"mode":"PERMISSIVE"}}`
	web := func(rest string) string { return `{"selector":{"matchLabels":{"app":"web"}}` + rest + `}` }
	for name, tt := range map[string]struct {
		policies  []string // nil: may not be read
		more      string   // of the Pod's metadata
		proxy     string
		mode      inventory.MTLS
		namespace inventory.MTLS
	}{
		"nothing said":                          {[]string{}, "", istioProxy, "permissive", "permissive"},
		"the whole mesh":                        {[]string{object("istio-system", "default", "1", strict)}, "", istioProxy, "strict", "strict"},
		"the namespace is weaker":               {[]string{object("istio-system", "default", "1", strict), object("shop", "default", "2", permissive)}, "", istioProxy, "permissive", "permissive"},
		"the namespace is stronger":             {[]string{object("shop", "default", "2", strict)}, "", istioProxy, "strict", "strict"},
		"another namespace's":                   {[]string{object("other", "default", "2", strict)}, "", istioProxy, "permissive", "permissive"},
		"UNSET inherits":                        {[]string{object("istio-system", "default", "1", strict), object("shop", "default", "2", `{"mtls":{"mode":"UNSET"}}`)}, "", istioProxy, "strict", "strict"},
		"no mtls inherits":                      {[]string{object("istio-system", "default", "1", strict), object("shop", "default", "2", `{}`)}, "", istioProxy, "strict", "strict"},
		"UNSET for the mesh":                    {[]string{object("istio-system", "default", "1", `{"mtls":{"mode":"UNSET"}}`)}, "", istioProxy, "permissive", "permissive"},
		"the oldest of two counts":              {[]string{object("shop", "a", "2", strict), object("shop", "z", "1", permissive)}, "", istioProxy, "permissive", "permissive"},
		"the workload's own":                    {[]string{object("shop", "default", "1", permissive), object("shop", "web", "2", web(`,"mtls":{"mode":"STRICT"}`))}, "", istioProxy, "strict", "permissive"},
		"another workload's":                    {[]string{object("shop", "default", "1", strict), object("shop", "db", "2", `{"selector":{"matchLabels":{"app":"db"}},"mtls":{"mode":"DISABLE"}}`)}, "", istioProxy, "strict", "disabled"},
		"the workload's inherits, with a port":  {[]string{object("shop", "default", "1", strict), object("shop", "web", "2", web(`,"portLevelMtls":{"8080":{"mode":"DISABLE"}}`))}, "", istioProxy, "permissive", "permissive"},
		"a port that inherits":                  {[]string{object("shop", "default", "1", strict), object("shop", "web", "2", web(`,"portLevelMtls":{"8080":{"mode":"UNSET"}}`))}, "", istioProxy, "strict", "strict"},
		"a strict port does not make it strict": {[]string{object("shop", "web", "2", web(`,"portLevelMtls":{"8080":{"mode":"STRICT"}}`))}, "", istioProxy, "permissive", "permissive"},
		"a port without selector is nothing":    {[]string{object("shop", "default", "1", `{"mtls":{"mode":"STRICT"},"portLevelMtls":{"8080":{"mode":"DISABLE"}}}`)}, "", istioProxy, "strict", "strict"},
		"disabled":                              {[]string{object("shop", "default", "1", `{"mtls":{"mode":"DISABLE"}}`)}, "", istioProxy, "disabled", "disabled"},
		"a selector in the root is nothing":     {[]string{object("istio-system", "web", "1", web(`,"mtls":{"mode":"STRICT"}`))}, "", istioProxy, "permissive", "permissive"},
		"an unknown word":                       {[]string{object("shop", "default", "1", `{"mtls":{"mode":"MUTUAL"}}`)}, "", istioProxy, "unknown", "unknown"},
		"may not be read":                       {nil, "", istioProxy, "unknown", "unknown"},
		"no proxy":                              {[]string{object("shop", "default", "1", strict)}, "", `{"name":"x"}`, "none", "strict"},
		"ports past the proxy":                  {[]string{object("shop", "default", "1", strict)}, `,"annotations":{"traffic.sidecar.istio.io/excludeInboundPorts":"8080"}`, istioProxy, "permissive", "strict"},
		"a few ports through it":                {[]string{object("shop", "default", "1", strict)}, `,"annotations":{"traffic.sidecar.istio.io/includeInboundPorts":"80"}`, istioProxy, "permissive", "strict"},
		"not intercepted":                       {[]string{object("shop", "default", "1", strict)}, `,"annotations":{"sidecar.istio.io/interceptionMode":"NONE"}`, istioProxy, "none", "strict"},
		"ambient, taken in":                     {[]string{object("shop", "default", "1", strict)}, `,"labels":{"istio.io/dataplane-mode":"ambient"},"annotations":{"ambient.istio.io/redirection":"enabled"}`, `{"name":"x"}`, "strict", "strict"},
		"ambient, not taken in":                 {[]string{object("shop", "default", "1", strict)}, `,"labels":{"istio.io/dataplane-mode":"ambient"}`, `{"name":"x"}`, "none", "strict"},
		"ambient, by its own word alone":        {[]string{object("shop", "default", "1", strict)}, `,"annotations":{"ambient.istio.io/redirection":"enabled"}`, `{"name":"x"}`, "none", "strict"},
	} {
		objects := map[string][]string{spaces: {space("shop", `,"labels":{"istio-injection":"enabled"}`)}, istioMap: istioConfig, peers: tt.policies}
		m, err := readMesh(t.Context(), apiServer(t, objects), MeshOptions{})
		if err != nil {
			t.Fatal(err)
		}
		id := m.identity(sidecar(t, tt.proxy, tt.more))
		if id.MTLS != tt.mode {
			t.Errorf("%s: %s, want %s", name, id.MTLS, tt.mode)
		}
		if id.Mesh == "istio" && (id.Source != inventory.ByIstio || !slices.Equal(id.SPIFFEIDs, []string{"spiffe://example.org/ns/shop/sa/web"})) {
			t.Errorf("%s: %+v", name, id)
		}
		if got := m.ofNamespace(m.namespaces["shop"]); got.MTLS != tt.namespace || got.Mesh != "istio" {
			t.Errorf("%s: the namespace %+v, want %s", name, got, tt.namespace)
		}
	}
}

// TestIstioUnknown: where it is not known what the mesh says, what is handed on to it
// is unknown, and so is an identity without trust domain. Older versions are read too.
func TestIstioUnknown(t *testing.T) {
	old := strings.Replace(peers, "/v1/", "/v1beta1/", 1)
	m, err := readMesh(t.Context(), apiServer(t, map[string][]string{spaces: {space("shop", "")}, istioMap: nil, old: {object("istio-system", "default", "1", `{"mtls":{"mode":"STRICT"}}`)}}), MeshOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if id := m.identity(sidecar(t, istioProxy, "")); id.MTLS != inventory.MTLSUnknown || id.Source != inventory.Unread {
		t.Errorf("%+v", id)
	}
	m.o = MeshOptions{TrustDomain: "example.org", RootNamespace: "istio-system"}
	if id := m.identity(sidecar(t, istioProxy, "")); id.MTLS != inventory.MTLSStrict || id.Source != inventory.ByIstio {
		t.Errorf("told: %+v", id)
	}
	if id := m.identity(&member{meta: meta{Namespace: "shop"}, hostNetwork: true, istioProxy: true}); id.MTLS != inventory.MTLSNone {
		t.Errorf("in the host's network: %+v", id)
	}
}

func TestLinkerd(t *testing.T) {
	server := func(name, access, labels string) string {
		return object("shop", name, "1", `{"port":80,"accessPolicy":`+access+`,"podSelector":{"matchLabels":{`+labels+`}}}`)
	}
	policy := func(target, required string) string {
		return object("shop", "p", "1", `{"targetRef":`+target+`,"requiredAuthenticationRefs":[`+required+`]}`)
	}
	const all, tls, net = `"app":"web"`, `{"group":"policy.linkerd.io","kind":"MeshTLSAuthentication","name":"a"}`, `{"group":"policy.linkerd.io","kind":"NetworkAuthentication","name":"b"}`
	const web, ns = `{"group":"policy.linkerd.io","kind":"Server","name":"web"}`, `{"kind":"Namespace","name":"shop"}`
	const authenticated = `,"annotations":{"config.linkerd.io/default-inbound-policy":"all-authenticated"}`
	for name, tt := range map[string]struct {
		servers, policies, old []string
		more                   string
		want                   inventory.MTLS
	}{
		"as it was injected":                  {[]string{}, []string{}, []string{}, "", "permissive"},
		"an annotation":                       {[]string{}, []string{}, []string{}, authenticated, "strict"},
		"in the cluster":                      {[]string{}, []string{}, []string{}, `,"annotations":{"config.linkerd.io/default-inbound-policy":"cluster-authenticated"}`, "strict"},
		"denied":                              {[]string{}, []string{}, []string{}, `,"annotations":{"config.linkerd.io/default-inbound-policy":"deny"}`, "strict"},
		"audit lets all in":                   {[]string{}, []string{}, []string{}, `,"annotations":{"config.linkerd.io/default-inbound-policy":"audit"}`, "permissive"},
		"a word that is not known":            {[]string{}, []string{}, []string{}, `,"annotations":{"config.linkerd.io/default-inbound-policy":"some"}`, "unknown"},
		"a Server denies what is not allowed": {[]string{server("web", `"deny"`, all)}, []string{policy(web, tls)}, []string{}, authenticated, "strict"},
		"both are required":                   {[]string{server("web", `"deny"`, all)}, []string{policy(web, net+","+tls)}, []string{}, authenticated, "strict"},
		"a network alone is required":         {[]string{server("web", `"deny"`, all)}, []string{policy(web, net)}, []string{}, authenticated, "permissive"},
		"nothing is required":                 {[]string{server("web", `"deny"`, all)}, []string{policy(web, "")}, []string{}, authenticated, "permissive"},
		"another Server is open":              {[]string{server("web", `"deny"`, all)}, []string{policy(`{"group":"policy.linkerd.io","kind":"Server","name":"other"}`, net)}, []string{}, authenticated, "strict"},
		"the namespace is open":               {[]string{server("web", `"deny"`, all)}, []string{policy(ns, net)}, []string{}, authenticated, "permissive"},
		"a route is open":                     {[]string{server("web", `"deny"`, all)}, []string{policy(`{"group":"policy.linkerd.io","kind":"HTTPRoute","name":"r"}`, net)}, []string{}, authenticated, "permissive"},
		"a service account is TLS":            {[]string{server("web", `"deny"`, all)}, []string{policy(web, `{"kind":"ServiceAccount","name":"x"}`)}, []string{}, authenticated, "strict"},
		"a Server that lets all in":           {[]string{server("web", `"all-unauthenticated"`, all)}, []string{}, []string{}, authenticated, "permissive"},
		"a Server of other Pods":              {[]string{server("db", `"all-unauthenticated"`, `"app":"db"`)}, []string{}, []string{}, authenticated, "strict"},
		"the older form, open":                {[]string{server("web", `"deny"`, all)}, []string{}, []string{object("shop", "a", "1", `{"server":{"name":"web"},"client":{"unauthenticated":true}}`)}, authenticated, "permissive"},
		"the older form, TLS":                 {[]string{server("web", `"deny"`, all)}, []string{}, []string{object("shop", "a", "1", `{"server":{"name":"web"},"client":{"meshTLS":{"identities":["*"]}}}`)}, authenticated, "strict"},
		"the older form, by a selector":       {[]string{server("web", `"deny"`, all)}, []string{}, []string{object("shop", "a", "1", `{"server":{"selector":{}},"client":{"networks":[{"cidr":"0.0.0.0/0"}]}}`)}, authenticated, "permissive"},
		"ports past the proxy":                {[]string{}, []string{}, []string{}, `,"annotations":{"config.linkerd.io/default-inbound-policy":"all-authenticated","config.linkerd.io/skip-inbound-ports":"25"}`, "permissive"},
		"one may not be read":                 {[]string{}, nil, []string{}, authenticated, "unknown"},
		"an operator that is none":            {[]string{object("shop", "web", "1", `{"podSelector":{"matchExpressions":[{"key":"app","operator":"Near","values":["x"]}]}}`)}, []string{}, []string{}, authenticated, "unknown"},
	} {
		m, err := readMesh(t.Context(), apiServer(t, map[string][]string{spaces: {space("shop", "")}, servers: tt.servers, authz: tt.policies, oldAuthz: tt.old}), MeshOptions{})
		if err != nil {
			t.Fatal(err)
		}
		id := m.identity(sidecar(t, linkerdProxy, tt.more))
		if id.MTLS != tt.want || id.Mesh != "linkerd" || id.Source != inventory.NoIdentity {
			t.Errorf("%s: %+v, want %s", name, id, tt.want)
		}
	}
	m, err := readMesh(t.Context(), apiServer(t, map[string][]string{spaces: {space("shop", `,"annotations":{"linkerd.io/inject":"enabled","config.linkerd.io/default-inbound-policy":"deny"}`), space("plain", `,"annotations":{"linkerd.io/inject":"enabled"}`), space("out", "")}}), MeshOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]inventory.MTLS{"shop": "strict", "plain": "unknown", "out": "none"} {
		if got := m.ofNamespace(m.namespaces[name]); got.MTLS != want {
			t.Errorf("namespace %s: %+v", name, got)
		}
	}
}

func TestSPIRE(t *testing.T) {
	shape := func(name, template, more string) string {
		return `{"metadata":{"name":"` + name + `"},"spec":{"spiffeIDTemplate":` + fmt.Sprintf("%q", template) + more + `}}`
	}
	const usual = "spiffe://{{ .TrustDomain }}/ns/{{ .PodMeta.Namespace }}/sa/{{ .PodSpec.ServiceAccountName }}"
	const own = "spiffe://example.org/ns/shop/sa/web"
	for name, tt := range map[string]struct {
		shapes []string
		more   string
		want   []string
		source inventory.IdentitySource
	}{
		"none":                          {[]string{}, "", nil, "none"},
		"of all":                        {[]string{shape("a", usual, "")}, "", []string{own}, "spire"},
		"tight":                         {[]string{shape("a", "spiffe://example.org/{{.PodMeta.Name}}/{{-  .PodSpec.NodeName -}}", "")}, "", []string{"spiffe://example.org/p/n1"}, "spire"},
		"of these Pods":                 {[]string{shape("a", usual, `,"podSelector":{"matchLabels":{"app":"web"}}`)}, "", []string{own}, "spire"},
		"of other Pods":                 {[]string{shape("a", usual, `,"podSelector":{"matchExpressions":[{"key":"app","operator":"NotIn","values":["web"]}]}`)}, "", nil, "none"},
		"of this namespace":             {[]string{shape("a", usual, `,"namespaceSelector":{"matchLabels":{"team":"blue"}}`)}, "", []string{own}, "spire"},
		"of another namespace":          {[]string{shape("a", usual, `,"namespaceSelector":{"matchExpressions":[{"key":"team","operator":"DoesNotExist"}]}`)}, "", nil, "none"},
		"two":                           {[]string{shape("b", usual, ""), shape("a", "spiffe://example.org/app/{{ index .PodMeta.Labels \"app\" }}", "")}, "", []string{"spiffe://example.org/app/web", own}, "spire"},
		"a fallback beside another":     {[]string{shape("a", usual, ""), shape("b", "spiffe://example.org/rest", `,"fallback":true`)}, "", []string{own}, "spire"},
		"a fallback alone":              {[]string{shape("a", usual, `,"podSelector":{"matchLabels":{"app":"db"}}`), shape("b", "spiffe://example.org/rest", `,"fallback":true`)}, "", []string{"spiffe://example.org/rest"}, "spire"},
		"a program":                     {[]string{shape("a", "spiffe://example.org/{{ range 9 }}x{{ end }}", "")}, "", nil, "unknown"},
		"a member that is not known":    {[]string{shape("a", "spiffe://example.org/{{ .NodeSpec.ProviderID }}", "")}, "", nil, "unknown"},
		"a label that is not there":     {[]string{shape("a", "spiffe://example.org/{{ .PodMeta.Labels.team }}", "")}, "", nil, "unknown"},
		"no identity":                   {[]string{shape("a", "https://example.org/x", "")}, "", nil, "unknown"},
		"may not be read":               {nil, "", nil, "unknown"},
		"a claim":                       {[]string{}, `,"annotations":{"spiffe.io/spiffe-id":"spiffe://example.org/admin"}`, []string{"spiffe://example.org/admin"}, "claimed"},
		"a path that is claimed":        {[]string{}, `,"annotations":{"spiffe.io/spiffe-id":"admin"}`, []string{"spiffe://example.org/admin"}, "claimed"},
		"a claim beside what is given":  {[]string{shape("a", usual, "")}, `,"annotations":{"spiffe.io/spiffe-id":"spiffe://example.org/admin"}`, []string{own}, "spire"},
		"a claim that is no SPIFFE ID":  {[]string{}, `,"annotations":{"spiffe.io/spiffe-id":"spiffe://A B"}`, nil, "unknown"},
		"an operator that is not known": {[]string{shape("a", usual, `,"podSelector":{"matchExpressions":[{"key":"app","operator":"Near"}]}`)}, "", nil, "unknown"},
	} {
		m, err := readMesh(t.Context(), apiServer(t, map[string][]string{spaces: {space("shop", `,"labels":{"team":"blue"}`)}, shapes: tt.shapes}), MeshOptions{TrustDomain: "example.org"})
		if err != nil {
			t.Fatal(err)
		}
		id := m.identity(sidecar(t, `{"name":"x"}`, tt.more))
		if id.Source != tt.source || !slices.Equal(id.SPIFFEIDs, tt.want) {
			t.Errorf("%s: %+v, want %q by %s", name, id, tt.want, tt.source)
		}
	}
	// Without the trust domain, a template that names it says nothing.
	m, err := readMesh(t.Context(), apiServer(t, map[string][]string{spaces: {space("shop", "")}, shapes: {shape("a", usual, "")}}), MeshOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if id := m.identity(sidecar(t, `{"name":"x"}`, "")); id.Source != inventory.Unread {
		t.Errorf("%+v", id)
	}
}

// TestThreat_Mesh_ForgedByThePod: what a Pod says of itself makes it neither strict
// nor somebody.
func TestThreat_Mesh_ForgedByThePod(t *testing.T) {
	m, err := readMesh(t.Context(), apiServer(t, map[string][]string{spaces: {space("shop", "")}, shapes: {}, istioMap: istioConfig, peers: {object("istio-system", "default", "1", `{"mtls":{"mode":"STRICT"}}`)}}), MeshOptions{TrustDomain: "example.org"})
	if err != nil {
		t.Fatal(err)
	}
	id := m.identity(sidecar(t, `{"name":"x"}`, `,"annotations":{"sidecar.istio.io/status":"{}","sidecar.istio.io/inject":"true","ambient.istio.io/redirection":"enabled","linkerd.io/proxy-version":"x","config.linkerd.io/default-inbound-policy":"deny","spiffe.io/spiffe-id":"spiffe://example.org/ns/bank/sa/vault"}`))
	if id.MTLS != inventory.MTLSNone || id.Source != inventory.ByClaim {
		t.Errorf("%+v", id)
	}
}

// TestFollowerIdentities: the worst of a workload's instances counts, and what
// changed is told alone.
func TestFollowerIdentities(t *testing.T) {
	objects := map[string][]string{spaces: {space("shop", "")}, istioMap: istioConfig, peers: {object("istio-system", "default", "1", `{"mtls":{"mode":"STRICT"}}`)}}
	c := apiServer(t, objects)
	f, err := NewFollower(Options{Client: c, Cluster: "c1", Logger: slog.New(slog.DiscardHandler), Report: func(context.Context, inventory.Snapshot) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	read := func() {
		t.Helper()
		if f.mesh, err = readMesh(t.Context(), c, MeshOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	doc := func(name, proxy string) json.RawMessage {
		return podDoc(name, owned, `"serviceAccountName":"web","containers":[{"name":"app","image":"x"}`+proxy+`]`, `"phase":"Running","containerStatuses":[`+running("app", "x@"+one)+`]`)
	}
	f.Reset()
	_ = f.Set(doc("a", ","+istioProxy))
	_ = f.Synced()
	s, keys, ids, ok := f.snapshot()
	if !ok || len(s.Identities) != 0 {
		t.Fatalf("before meshes were read: %+v", s.Identities)
	}
	f.told, f.toldIDs = keys, ids
	next := func() []inventory.Identity {
		t.Helper()
		s, keys, ids, ok := f.snapshot()
		if !ok {
			return nil
		}
		if err := s.Validate(); err != nil {
			t.Fatal(err)
		}
		f.told, f.toldIDs = keys, ids
		slices.SortFunc(s.Identities, func(a, b inventory.Identity) int { return strings.Compare(a.Kind, b.Kind) })
		return s.Identities
	}
	read()
	web := inventory.Identity{Namespace: "shop", Kind: "Deployment", Name: "web", SPIFFEIDs: []string{"spiffe://example.org/ns/shop/sa/web"}, Source: "istio", Mesh: "istio", MTLS: "strict"}
	if diff := cmp.Diff([]inventory.Identity{web, {Namespace: "shop", Kind: "Namespace", Name: "shop", Source: "none", MTLS: "none"}}, next()); diff != "" {
		t.Error(diff)
	}
	read()
	if got := next(); got != nil {
		t.Errorf("nothing changed: %+v", got)
	}
	_ = f.Set(doc("b", "")) // an instance without proxy
	web.MTLS, web.Mesh, web.Source = "none", "", "none"
	if diff := cmp.Diff([]inventory.Identity{web}, next()); diff != "" {
		t.Error(diff)
	}
	_ = f.Deleted(doc("b", ""))
	web.MTLS, web.Mesh, web.Source = "strict", "istio", "istio"
	if diff := cmp.Diff([]inventory.Identity{web}, next()); diff != "" {
		t.Error(diff)
	}
	objects[peers] = []string{}
	read()
	web.MTLS = "permissive"
	if diff := cmp.Diff([]inventory.Identity{web}, next()); diff != "" {
		t.Error(diff)
	}
}

// FuzzTemplate: a ClusterSPIFFEID's template is rendered or not, in bounded time, and
// what is rendered is checked before it counts.
func FuzzTemplate(f *testing.F) {
	f.Add("spiffe://{{ .TrustDomain }}/ns/{{ .PodMeta.Namespace }}")
	f.Add("{{ index .PodMeta.Labels \"a\" }}{{")
	m := &meshState{o: MeshOptions{TrustDomain: "example.org"}}
	f.Fuzz(func(t *testing.T, template string) {
		out, ok := m.render(template, &member{meta: meta{Name: "p", Namespace: "shop", Labels: map[string]string{"a": "{{ .TrustDomain }}"}}})
		if ok && strings.Contains(out, "{{") {
			t.Errorf("%q renders as %q", template, out)
		}
	})
}
