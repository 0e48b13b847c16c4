package config

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"assay/internal/fault"
)

const linkDigest = "sha256:00ff"

// TestDeepLinks: each kind of system gets an address that it reads, and values
// stay values.
func TestDeepLinks(t *testing.T) {
	const plain = "https://ci.example/runs/1?a=b&q=evil#frag"
	hostile := `x"},{"a":1}&q=evil#frag/../{digest} '!)`
	for _, kind := range []string{"loki", "tempo", "jaeger", "splunk", "elastic"} {
		for _, of := range linkFor {
			l := Link{Name: kind, For: of, Kind: kind, Base: "https://host.example/base/", Source: "src"}
			if err := validateLinks([]Link{l}); err != nil {
				t.Errorf("%s for %s: %v", kind, of, err)
				continue
			}
			v := LinkValues{Digest: linkDigest, TraceID: "0af7651916cd43dd8448eb211c80319c", BuildID: hostile, Commit: "abc"}
			if hidden := DeepLinks([]Link{l}, LinkBuild, v); hidden != nil {
				t.Errorf("%s: a value with quotes would leave its query: %v", kind, hidden)
			}
			v.BuildID = plain
			out := DeepLinks([]Link{l}, of, v)
			if len(out) != 1 {
				t.Errorf("%s for %s: %v", kind, of, out)
				continue
			}
			u, err := url.Parse(out[0].URL)
			if err != nil || u.Host != "host.example" || u.Scheme != "https" || !strings.HasPrefix(u.Path, "/base/") {
				t.Errorf("%s for %s: %s", kind, of, out[0].URL)
				continue
			}
			want := map[string]string{LinkDigest: linkDigest, LinkTrace: v.TraceID, LinkBuild: plain, LinkCommit: "abc"}[of]
			text, _ := url.PathUnescape(out[0].URL)
			if !strings.Contains(text, want) {
				t.Errorf("%s for %s: %s does not hold %s", kind, of, text, want)
			}
			if panes := u.Query().Get("panes"); (kind == "loki" || kind == "tempo") && !json.Valid([]byte(panes)) {
				t.Errorf("%s for %s: panes %s", kind, of, panes)
			}
			if u.Query().Has("evil") || len(u.Query()["q"]) > 1 || u.Fragment != "" && kind != "elastic" {
				t.Errorf("%s for %s: a value left its place: %s", kind, of, out[0].URL)
			}
		}
	}
	own := []Link{{Name: "CI", For: LinkBuild, URL: "https://ci.example/runs/{build_id}?repo={repository}"}}
	if got := DeepLinks(own, LinkBuild, LinkValues{BuildID: "a/b ?c", Repository: "team/app"}); len(got) != 1 || got[0].URL != "https://ci.example/runs/a%2Fb%20%3Fc?repo=team%2Fapp" {
		t.Errorf("%v", got)
	}
	if got := DeepLinks(own, LinkBuild, LinkValues{Repository: "team/app"}); got != nil {
		t.Errorf("without a build: %v", got)
	}
}

func TestThreat_Config_LinksLeadWhereTheOperatorSays(t *testing.T) {
	for name, l := range map[string]Link{
		"host from a value":   {Name: "a", For: LinkBuild, URL: "https://{build_id}/x"},
		"host's end":          {Name: "a", For: LinkBuild, URL: "https://host.{build_id}/x"},
		"no slash":            {Name: "a", For: LinkBuild, URL: "https://host{build_id}"},
		"scheme":              {Name: "a", For: LinkBuild, URL: "javascript:alert({build_id})"},
		"scheme from a value": {Name: "a", For: LinkBuild, URL: "{build_id}://x/"},
		"credentials":         {Name: "a", For: LinkBuild, URL: "https://u:p@host/{build_id}"},
		"unknown value":       {Name: "a", For: LinkBuild, URL: "https://host/{secret}"},
		"without its value":   {Name: "a", For: LinkBuild, URL: "https://host/{digest}"},
		"open brace":          {Name: "a", For: LinkBuild, URL: "https://host/{build_id"},
		"for":                 {Name: "a", For: "pod", URL: "https://host/{build_id}"},
		"kind":                {Name: "a", For: LinkBuild, Kind: "kibana", Base: "https://host"},
		"both":                {Name: "a", For: LinkBuild, Kind: "loki", Base: "https://host", URL: "https://host/{build_id}"},
		"no name":             {For: LinkBuild, URL: "https://host/{build_id}"},
	} {
		if err := validateLinks([]Link{l}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
