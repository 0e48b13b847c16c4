package pkcs11

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"assay/internal/fault"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	slot := uint(7)
	for text, want := range map[string]*URI{
		"pkcs11:token=My%20HSM;object=log;type=private?module-path=/usr/lib/m.so&pin-source=file:/run/pin": {
			Token: "My HSM", Object: "log", ModulePath: "/usr/lib/m.so", PINSource: "/run/pin",
		},
		"pkcs11:serial=00a1;manufacturer=M;model=X;slot-id=7;id=%01%ff?module-path=%2Fm.so&pin-source=file:///run/pin": {
			Serial: "00a1", Manufacturer: "M", Model: "X", Slot: &slot, ID: []byte{1, 0xff}, ModulePath: "/m.so", PINSource: "/run/pin",
		},
		"pkcs11:token=a;object=b?module-path=/m&pin-source=/run/pin": {Token: "a", Object: "b", ModulePath: "/m", PINSource: "/run/pin"},
	} {
		got, err := Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", text, d)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const q = "?module-path=/m"
	for text, says := range map[string]string{
		"":                                                  "want pkcs11:",
		"http://x":                                          "want pkcs11:",
		"pkcs11:" + q:                                       "object=LABEL",
		"pkcs11:object=a" + q:                               "token=LABEL",
		"pkcs11:token=a;object=b":                           "module-path",
		"pkcs11:token=a;object=b?module-path=m":             "absolute",
		"pkcs11:token=a;token=b;object=c" + q:               "twice",
		"pkcs11:token=a;object=b;type=cert" + q:             "want private",
		"pkcs11:token=a;object=%zz" + q:                     "percent-encoded",
		"pkcs11:token;object=b" + q:                         "NAME=VALUE",
		"pkcs11:token=a;object=b;slot-id=-1" + q:            "want a number",
		"pkcs11:token=a;object=b;library-description=x" + q: "unknown",
		"pkcs11:token=a;object=b" + q + "&pin-value=1234":   "does not stand in a URI",
		"pkcs11:token=a;object=b" + q + "&pin-source=|cat":  "file:/absolute",
		"pkcs11:token=a;object=b" + q + "&x=y":              "unknown",
		"pkcs11:token=" + strings.Repeat("a", maxURI) + q:   "want pkcs11:",
	} {
		_, err := Parse(text)
		if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%.60q: %v, want invalid saying %q", text, err, says)
		}
		if err != nil && strings.Contains(err.Error(), "1234") {
			t.Errorf("the error has the PIN: %v", err)
		}
	}
}

func TestPIN(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pin")
	u := &URI{PINSource: path}
	if _, err := u.pin(); !errors.Is(err, fault.Invalid) {
		t.Errorf("absent: %v", err)
	}
	write := func(text string, perm os.FileMode) {
		if err := errors.Join(os.WriteFile(path, []byte(text), perm), os.Chmod(path, perm)); err != nil {
			t.Fatal(err)
		}
	}
	write("1234\n", 0o600)
	if pin, err := u.pin(); err != nil || pin != "1234" {
		t.Errorf("%q, %v", pin, err)
	}
	write("1234", 0o640)
	if _, err := u.pin(); !errors.Is(err, fault.Denied) {
		t.Errorf("mode 0640: %v", err)
	}
	write(strings.Repeat("1", maxPIN+1), 0o600)
	if _, err := u.pin(); !errors.Is(err, fault.Invalid) {
		t.Errorf("a long one: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("pkcs11:token=a;object=b?module-path=/m&pin-source=file:/p")
	f.Add("pkcs11:id=%01;slot-id=3?module-path=/m")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := Parse(text)
		if err == nil && (u.ModulePath == "" || u.Object == "" && u.ID == nil) {
			t.Errorf("%q: %+v", text, u)
		}
	})
}
