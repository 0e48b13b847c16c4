package baseline

// Observe gives what a runtime trace says, as text.
func Observe(b []byte) (out []string) {
	t, err := parseTrace(b)
	if err != nil {
		return nil
	}
	for _, o := range t.observations() {
		out = append(out, o.kind+" "+o.name+" "+o.value)
	}
	return out
}
