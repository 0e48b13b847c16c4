package gatekeeper

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	providers "github.com/open-policy-agent/frameworks/constraint/pkg/apis/externaldata/unversioned"
	templatesv1 "github.com/open-policy-agent/frameworks/constraint/pkg/apis/templates/v1"
	constraints "github.com/open-policy-agent/frameworks/constraint/pkg/client"
	"github.com/open-policy-agent/frameworks/constraint/pkg/client/drivers/rego"
	"github.com/open-policy-agent/frameworks/constraint/pkg/client/reviews"
	"github.com/open-policy-agent/frameworks/constraint/pkg/core/templates"
	"github.com/open-policy-agent/frameworks/constraint/pkg/externaldata"
	"github.com/open-policy-agent/gatekeeper/v3/pkg/target"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/certwatcher"
	"sigs.k8s.io/yaml"

	"assay/tools/admission-oracle/site"
)

// point is Gatekeeper's webhook, among the places where constraints hold.
const point = "validation.gatekeeper.sh"

// gatekeeper is Gatekeeper's validation as its manager puts it together: its
// driver, its target and its enforcement point, with external data by its client
// certificate, and without its cache of answers.
type gatekeeper struct {
	t         *testing.T
	client    *constraints.Client
	providers *externaldata.ProviderCache
}

// authority makes an authority's file and the folder with the certificate that
// Gatekeeper shows.
func authority(t *testing.T) (ca, certs string) {
	t.Helper()
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	write := func(path, kind string, der []byte) {
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	now, root, leaf := time.Now(), key(), key()
	of := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gatekeeper-ca"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	rawCA, err := x509.CreateCertificate(rand.Reader, of, of, root.Public(), root)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "gatekeeper-webhook-service.gatekeeper-system.svc"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, of, leaf.Public(), root)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(leaf)
	if err != nil {
		t.Fatal(err)
	}
	certs = t.TempDir()
	ca = filepath.Join(certs, "ca.crt")
	write(ca, "CERTIFICATE", rawCA)
	write(filepath.Join(certs, "tls.crt"), "CERTIFICATE", raw)
	write(filepath.Join(certs, "tls.key"), "PRIVATE KEY", der)
	return ca, certs
}

func newGatekeeper(t *testing.T, certs string) *gatekeeper {
	t.Helper()
	g := &gatekeeper{t: t, providers: externaldata.NewCache()}
	args := []rego.Arg{rego.Tracing(false), rego.AddExternalDataProviderCache(g.providers), rego.Externs()}
	if certs != "" {
		w, err := certwatcher.New(filepath.Join(certs, "tls.crt"), filepath.Join(certs, "tls.key"))
		if err != nil {
			t.Fatal(err)
		}
		args = append(args, rego.EnableExternalDataClientAuth(), rego.AddExternalDataClientCertWatcher(w))
	}
	driver, err := rego.New(args...)
	if err != nil {
		t.Fatal(err)
	}
	g.client, err = constraints.NewClient(constraints.Targets(&target.K8sValidationTarget{}), constraints.Driver(driver), constraints.EnforcementPoints(point))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// apply takes the manifests of a folder in, as Gatekeeper's controllers do.
func (g *gatekeeper) apply(dir string) {
	g.t.Helper()
	scheme := runtime.NewScheme()
	if err := templatesv1.AddToScheme(scheme); err != nil {
		g.t.Fatal(err)
	}
	for _, name := range []string{"provider.yaml", "template.yaml", "constraint.yaml"} {
		b, err := os.ReadFile(filepath.Join(dir, "gatekeeper", name))
		if err != nil {
			g.t.Fatal(err)
		}
		var u unstructured.Unstructured
		if err := yaml.UnmarshalStrict(b, &u.Object); err != nil {
			g.t.Fatalf("%s: %v", name, err)
		}
		switch {
		case name == "provider.yaml":
			var p providers.Provider
			if err := yaml.UnmarshalStrict(b, &p); err != nil {
				g.t.Fatal(err)
			}
			err = g.providers.Upsert(&p)
		case u.GetKind() == "ConstraintTemplate":
			var v1 templatesv1.ConstraintTemplate
			var tmpl templates.ConstraintTemplate
			if err = errors.Join(yaml.UnmarshalStrict(b, &v1), scheme.Convert(&v1, &tmpl, nil)); err == nil {
				_, err = g.client.AddTemplate(g.t.Context(), &tmpl)
			}
		default:
			_, err = g.client.AddConstraint(g.t.Context(), &u)
		}
		if err != nil {
			g.t.Fatalf("%s: %v", name, err)
		}
	}
}

// review asks about a Pod; what it is denied for comes back.
func (g *gatekeeper) review(namespace string, pod *corev1.Pod) []string {
	g.t.Helper()
	pod.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	pod.Name, pod.Namespace = "p", namespace
	raw, err := json.Marshal(pod)
	if err != nil {
		g.t.Fatal(err)
	}
	resp, err := g.client.Review(g.t.Context(), &target.AugmentedReview{
		AdmissionRequest: &admissionv1.AdmissionRequest{
			UID: "u", Kind: metav1.GroupVersionKind{Version: "v1", Kind: "Pod"}, Resource: metav1.GroupVersionResource{Version: "v1", Resource: "pods"},
			Name: "p", Namespace: namespace, Operation: admissionv1.Create, Object: runtime.RawExtension{Raw: raw},
		},
		Namespace:   &corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: namespace}},
		IsAdmission: true,
	}, reviews.EnforcementPoint(point))
	if err != nil {
		g.t.Fatal(err)
	}
	var out []string
	for _, r := range resp.Results() {
		if r.EnforcementAction != "deny" {
			g.t.Errorf("action %s", r.EnforcementAction)
		}
		out = append(out, r.Msg)
	}
	return out
}

func (g *gatekeeper) expect(what, namespace string, pod *corev1.Pod, want ...string) {
	g.t.Helper()
	got := g.review(namespace, pod)
	text := strings.Join(got, "\n")
	if (len(want) == 0) != (len(got) == 0) {
		g.t.Errorf("%s: %q", what, got)
	}
	for _, w := range want {
		if !strings.Contains(text, w) {
			g.t.Errorf("%s: %q, want %q", what, got, w)
		}
	}
}

func pod(images ...string) *corev1.Pod {
	p := &corev1.Pod{}
	for i, image := range images {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: fmt.Sprint("c", i), Image: image})
	}
	return p
}

// TestGatekeeper has Gatekeeper's own code take in what `assay admission manifests
// --gatekeeper` writes, and ask a running site.
func TestGatekeeper(t *testing.T) {
	ca, certs := authority(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	door := l.Addr().String()
	l.Close()
	s := site.New(t, "ASSAY_ADMISSION_LISTEN="+door, "ASSAY_ADMISSION_GATEKEEPER_CA="+ca)
	s.Assay("apply", "-f", s.Write("policy.yaml", fmt.Sprintf("apiVersion: assay/v1\nkind: Policy\nmetadata: {name: shop}\nspec:\n  requirements:\n    signatures: [{name: who, identities: [{issuer: %q, subject: me@example.com}]}]\n", s.Services.OIDC)))
	at := func(repository string, sign bool) string {
		return s.Services.Registry + "/" + repository + "@" + s.Push(repository+":v1", sign).String()
	}
	good, bad := at("shop/app", true), at("shop/bad", false)
	out := filepath.Join(s.Dir, "out")
	s.Assay("admission", "manifests", "--url", "https://"+door, "--gatekeeper", "--dir", out)

	// Without its certificate Gatekeeper is told nothing, and refuses. First, since a
	// driver's built-in is the whole process's.
	stranger := newGatekeeper(t, "")
	stranger.apply(out)
	stranger.expect("no certificate", "shop", pod(good), "nothing could be decided, so it is refused", "want a client certificate")
	externaldata.DefaultClientCache().Invalidate("assay")

	g := newGatekeeper(t, certs)
	g.apply(out)
	g.expect("signed", "shop", pod(good))
	g.expect("unsigned", "shop", pod(good, bad), "signatures/who: expected 1 signature by me@example.com", "to mend it: assay sign")
	g.expect("by a tag", "shop", pod(s.Services.Registry+"/shop/app:v1"), "is named by a tag, which can move")
	g.expect("of another registry", "shop", pod("docker.io/library/nginx:latest"), "of registry docker.io")
	g.expect("in an exempt namespace", "kube-system", pod(bad))
	hidden := pod(good)
	hidden.Spec.InitContainers = []corev1.Container{{Name: "i", Image: bad}}
	g.expect("an init container", "shop", hidden, "signatures/who")
	hidden = pod(good)
	hidden.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", Image: bad}}}
	g.expect("an ephemeral container", "shop", hidden, "signatures/who")
	hidden = pod(good)
	hidden.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: bad}}}}
	g.expect("an image volume", "shop", hidden, "signatures/who")
	var many []string
	for range 50 {
		many = append(many, good)
	}
	g.expect("one image fifty times", "shop", pod(many...))

	s.Kill()
	began := time.Now()
	g.expect("Assay is down", "shop", pod(good), "nothing could be decided, so it is refused")
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("it took %s", d)
	}
	g.expect("Assay is down, an exempt namespace", "kube-system", pod(good))
	// Somebody else listens there, and says nothing.
	if l, err = net.Listen("tcp", door); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	g.expect("Assay hangs", "shop", pod(good), "nothing could be decided, so it is refused")
	if err := g.providers.Upsert(&providers.Provider{ObjectMeta: metav1.ObjectMeta{Name: "other"}, Spec: providers.ProviderSpec{URL: "https://" + door, Timeout: 1, CABundle: "eA=="}}); err == nil {
		t.Error("a provider without an authority was taken in")
	}
	g.providers.Remove("assay")
	g.expect("the Provider was deleted", "shop", pod(good), "nothing could be decided, so it is refused")
}
