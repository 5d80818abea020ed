package main

import (
	"regexp"
	"strings"
	"testing"

	"nabat/internal/natsdev"
)

func TestProbeGoesTheWholeWay(t *testing.T) {
	_, at := startDev(t, nil)
	r := nabat(t, "", []string{"NABAT_EDGE=" + at.edges[0], "NABAT_NATS_URL=" + at.nats}, "probe")
	if want := `^one message went through NATS and ` + regexp.QuoteMeta(at.edges[0]) + `: token \S+, join \S+, delivery \S+\n$`; r.code != 0 || r.stderr != "" || !regexp.MustCompile(want).MatchString(r.stdout) {
		t.Errorf("%+v", r)
	}
	// A message on another prefix reaches nobody.
	r = nabat(t, "", nil, "probe", "--edge", at.edges[0], "--nats-url", at.nats, "--subject-prefix", "other.", "--room", "a", "--timeout", "1s")
	if want := "nabat probe: not in 1s: published to other.a, and " + at.edges[0] + " did not deliver it: "; r.code != 1 || !strings.HasPrefix(r.stderr, want) {
		t.Errorf("%+v", r)
	}
}

func TestProbeSaysWhatIsMissing(t *testing.T) {
	server, err := natsdev.Start(natsdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Shutdown()
	for _, c := range []struct {
		rule string
		args []string
		code int
		want string // in standard error
	}{
		{"control", []string{"--timeout", "100ms"}, 1, "nabat probe: not in 100ms: token: "},
		{"an edge", []string{"--timeout", "100ms", "--token", "t", "--edge", "http://127.0.0.1:1", "--room", "r"}, 1, "nabat probe: not in 100ms: join r at http://127.0.0.1:1: "},
		{"time", []string{"--timeout", "0"}, 2, "nabat probe: --timeout 0s: must be more than 0\n"},
		{"a room", []string{"--room", "a..b"}, 2, "nabat probe: --room: "},
	} {
		t.Run(c.rule, func(t *testing.T) {
			r := nabat(t, "", nil, append([]string{"probe", "--nats-url", server.URL()}, c.args...)...)
			if r.code != c.code || !strings.Contains(r.stderr, c.want) {
				t.Errorf("%+v", r)
			}
		})
	}
}
