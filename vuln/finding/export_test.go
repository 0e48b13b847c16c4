package finding

import "context"

// SetMaxMatches is for tests; what it gives takes it back.
func SetMaxMatches(n int) (back func()) {
	was := maxMatches
	maxMatches = n
	return func() { maxMatches = was }
}

// AgainBy is Again by a matcher of another version.
func (m *Matcher) AgainBy(ctx context.Context, version string) (bool, error) {
	return m.again(ctx, version)
}
