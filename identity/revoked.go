package identity

// RevokedError refuses a credential that was proven, and that was revoked: who
// tries it is known. Its kind is that of Err, fault.Unauthenticated.
type RevokedError struct {
	Principal Principal // whose it was
	Err       error
}

// Error implements error.
func (e *RevokedError) Error() string { return e.Err.Error() }

// Unwrap gives the error that says what to do.
func (e *RevokedError) Unwrap() error { return e.Err }
