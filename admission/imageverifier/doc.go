// Package imageverifier answers containerd before it pulls an image: may it?
//
//	-name REF -digest DIGEST < descriptor -> bootstrap list -> server -> signed bundle -> exit 0, or not
//
// containerd runs a program of its image verifier's bin_dir for every pull through
// its transfer service, so that static Pods and pulls by hand are decided about
// too, which no admission webhook sees. The server is asked; while it does not
// answer, the last bundle that it signed is, which is kept with the highest
// version that was seen. What is not known is refused.
package imageverifier
