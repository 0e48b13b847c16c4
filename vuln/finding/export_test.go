package finding

// SetMaxMatches is for tests; what it gives takes it back.
func SetMaxMatches(n int) (back func()) {
	was := maxMatches
	maxMatches = n
	return func() { maxMatches = was }
}
