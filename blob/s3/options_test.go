package s3

import (
	"strings"
	"testing"
)

func TestParseCredentials(t *testing.T) {
	v, err := parseCredentials([]byte("# made by hand\n[default]\naws_access_key_id = A=B\nAWS_SECRET_ACCESS_KEY=s/+=\naws_session_token = t\n"))
	if err != nil || v.AccessKeyID != "A=B" || v.SecretAccessKey != "s/+=" || v.SessionToken != "t" {
		t.Fatalf("%+v, %v", v, err)
	}
	for _, bad := range []string{
		"", "x", "aws_access_key_id = A", "aws_secret_access_key = TOPSECRET", "aws_access_key_id=\naws_secret_access_key=TOPSECRET",
		"[a]\naws_access_key_id=A\naws_secret_access_key=TOPSECRET\n[b]\naws_access_key_id=C\n",
		"aws_access_key_id=A\naws_access_key_id=B\naws_secret_access_key=TOPSECRET", "aws_access_key_id=A\naws_secret_access_key=TOPSECRET\nregion=x\n",
	} {
		if _, err := parseCredentials([]byte(bad)); err == nil || strings.Contains(err.Error(), "TOPSECRET") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzParseCredentials(f *testing.F) {
	f.Add([]byte("[default]\naws_access_key_id = A\naws_secret_access_key = B\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := parseCredentials(b)
		if err == nil && (v.AccessKeyID == "" || v.SecretAccessKey == "") {
			t.Fatalf("%q gave no key and no error", b)
		}
	})
}

// A blob of 5 TiB does not fit, one of 250 GiB does.
func TestPartSizes(t *testing.T) {
	var total int64
	for n := range maxParts {
		size := (&Store{}).partSize(n)
		if size < 5<<20 {
			t.Fatalf("part %d has %d bytes, S3 wants 5 MiB", n, size)
		}
		total += size
	}
	if total < 250<<30 {
		t.Fatalf("%d bytes fit", total)
	}
}
