package vuln

// Later says whether version b of an ecosystem is later than a. What cannot be
// read is not known.
func Later(ecosystem, a, b string) (later, known bool) {
	f := family(ecosystem)
	c, err := parse(b, f).compare(parse(a, f))
	return c > 0, err == nil
}
