package main

import (
	"runtime/debug"
	"strings"
	"testing"
)

func TestVersionSaysWhatWasBuilt(t *testing.T) {
	for rule, c := range map[string]struct {
		info *debug.BuildInfo
		want string
	}{
		"a release": {
			&debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: []debug.BuildSetting{
				{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.time", Value: "2026-01-02T03:04:05Z"}, {Key: "vcs.modified", Value: "false"},
			}},
			"nabat     v1.2.3\ncommit    0123456789ab, 2026-01-02T03:04:05Z\nprotocol  v1\n",
		},
		"a changed checkout": {
			&debug.BuildInfo{Main: debug.Module{Version: "(devel)"}, Settings: []debug.BuildSetting{
				{Key: "vcs.revision", Value: "0123"}, {Key: "vcs.time", Value: "2026-01-02T03:04:05Z"}, {Key: "vcs.modified", Value: "true"},
			}},
			"nabat     development\ncommit    0123 with changes, 2026-01-02T03:04:05Z\nprotocol  v1\n",
		},
		"a build that knows nothing": {nil, "nabat     development\ncommit    not recorded\nprotocol  v1\n"},
	} {
		if got := describe(c.info); !strings.HasPrefix(got, c.want+"go        1.") {
			t.Errorf("%s: %q", rule, got)
		}
	}
	if r := nabat(t, "", nil, "version"); r.code != 0 || !strings.HasPrefix(r.stdout, "nabat ") {
		t.Errorf("nabat version: %+v", r)
	}
}
