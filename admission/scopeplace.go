package admission

import "strings"

// PlaceOfScope reads the place out of the id of a scope of admission; false: it is
// the id of another scope.
func PlaceOfScope(id string) (Place, bool) {
	rest, is := strings.CutPrefix(id, scopePrefix)
	cluster, _, more := strings.Cut(rest, "/")
	if !is || !more {
		return Place{}, false
	}
	return placeOf(id, cluster), true
}
