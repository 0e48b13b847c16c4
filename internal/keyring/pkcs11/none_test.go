//go:build !pkcs11 || !cgo

package pkcs11

import (
	"errors"
	"strings"
	"testing"

	"assay/internal/fault"
)

// Without the tag a token is an error that says what to do. The tests with a
// token run as: make pkcs11-test.
func TestNotInThisBuild(t *testing.T) {
	_, err := Open(t.Context(), "pkcs11:token=a;object=b?module-path=/m")
	if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "-tags pkcs11") {
		t.Errorf("%v", err)
	}
}
