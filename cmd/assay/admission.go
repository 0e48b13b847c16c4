package main

import (
	"os"
	"path/filepath"

	"assay/admission"

	"github.com/spf13/cobra"
)

func (a *app) admissionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "admission",
		Short: "The webhook by which a Kubernetes cluster asks what may run",
		Long: `A server with admission.listen in its configuration answers the API servers of
Kubernetes clusters: every image of a Pod is decided about, and the digest that
was decided about is what runs. See docs/admission.md.`,
		Example: `  assay admission manifests --data ./data --url https://127.0.0.1:8443 | kubectl apply -f -`,
	}
	cmd.AddCommand(a.admissionServeCommand(), a.admissionManifestsCommand(), a.admissionRBACCommand(), a.admissionAuthorityCommand())
	return cmd
}

func (a *app) admissionManifestsCommand() *cobra.Command {
	var o admission.ManifestOptions
	var ca, dir string
	cmd := &cobra.Command{
		Use:   "manifests (--url URL | --service NAME --namespace NAMESPACE)",
		Short: "Write what is installed in a cluster",
		Long: `Write the webhook configurations, a ValidatingAdmissionPolicy that lets only
digests run also without the webhook, the rights that Assay needs, and a
PodDisruptionBudget.

With --static they are manifests of the API server's own (Kubernetes 1.37,
names *.static.k8s.io): files on its hosts, which nobody can delete through it.

With --gatekeeper they are for Gatekeeper instead: a Provider of external data, a
ConstraintTemplate and a Constraint, which refuses whatever is no allow
(docs/gatekeeper.md).

The certificate in them is of the webhook's authority, which lives ten years:
ca/admission.pem in the data folder, or --ca.`,
		Example: `  assay admission manifests --data ./data --url https://127.0.0.1:8443 | kubectl apply -f -
  assay admission manifests --ca admission.pem --service assay --namespace assay-system --workload rollouts.argoproj.io
  assay admission manifests --data ./data --url https://10.0.0.5:8443 --static --dir /etc/kubernetes/assay
  assay admission manifests --data ./data --url https://10.0.0.5:8443 --gatekeeper --dir ./gatekeeper`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if ca == "" {
				if a.data == "" {
					return usagef("want --ca FILE, or --data DIR of a server that has admission.listen")
				}
				ca = filepath.Join(a.data, "ca", "admission.pem")
			}
			if o.Static && dir == "" {
				return usagef("--static: want --dir DIR, since they are files in several folders")
			}
			var err error
			if o.CA, err = os.ReadFile(ca); err != nil {
				return usagef("the webhook's authority: %w; it is made when a server with admission.listen starts", err)
			}
			all, err := admission.Manifests(o)
			if err != nil {
				return err
			}
			if dir == "" {
				for i, m := range all {
					if i > 0 {
						a.printf("---\n")
					}
					a.printf("%s", m.YAML)
				}
				return nil
			}
			for _, m := range all {
				path := filepath.Join(dir, m.Name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					return err
				}
				if err := os.WriteFile(path, m.YAML, 0o644); err != nil {
					return err
				}
				a.printf("%s\n", path)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.URL, "url", "", "the webhook's address, https://HOST[:PORT]")
	f.StringVar(&o.Service, "service", "", "a Service in front of it, port 443, in place of --url")
	f.StringVar(&o.Namespace, "namespace", "", "the namespace that Assay runs in: nothing is refused there")
	f.StringSliceVar(&o.Never, "never", nil, "further namespaces in which nothing is refused, besides kube-system")
	f.StringSliceVar(&o.Workloads, "workload", nil, "further resources with pod templates to warn of, RESOURCE.GROUP")
	f.BoolVar(&o.Audit, "audit", false, "failurePolicy Ignore: nothing is held up by a webhook that does not answer")
	f.BoolVar(&o.NoPin, "no-pin", false, "validate only: without the mutating webhook and the policy of digests")
	f.BoolVar(&o.Static, "static", false, "manifests of the API server's own, *.static.k8s.io")
	f.BoolVar(&o.Gatekeeper, "gatekeeper", false, "for Gatekeeper: Provider, ConstraintTemplate and Constraint, in place of webhooks")
	f.StringVar(&ca, "ca", "", "certificate of the webhook's authority, PEM (default ca/admission.pem of --data)")
	f.StringVar(&dir, "dir", "", "write files into this folder instead of printing")
	return cmd
}
