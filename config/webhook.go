package config

import "assay/webhook"

// KindWebhook is a document that says whom to tell of what happens:
// webhook.Spec.
const KindWebhook = "Webhook"

// hooks compiles the hooks among documents, in their order.
func hooks(docs []Document) (out []*webhook.Hook, err error) {
	for _, d := range docs {
		if d.Webhook == nil {
			continue
		}
		h, err := webhook.Compile(d.Name, *d.Webhook)
		if err != nil {
			return nil, err
		}
		out = append(out, h)
	}
	return out, nil
}
