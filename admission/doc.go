// Package admission answers the Kubernetes API server: may this object's images
// run here?
//
//	AdmissionReview -> images -> digests -> decisions -> allowed, pinned, warned, refused
//
// [Webhook] is the HTTP door. It finds every image of a Pod (containers, init
// and ephemeral containers, image volumes) and of whatever holds a pod template,
// asks a [Judge] about each, once, and answers. The Judge looks decisions up
// ([Local], over verify.Engine); it resolves a tag once, and what it resolved is
// what is written into the Pod.
//
// What the object says of itself is never believed: annotations, owner
// references and a deletion timestamp change nothing. What cannot be found out
// in time is refused. Only the namespaces that the cluster itself lives from are
// never refused, so that nothing can lock the cluster out of its own repair.
package admission
