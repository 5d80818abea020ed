package main

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
)

func TestRPCCallsABackend(t *testing.T) {
	_, at := startDev(t, nil)
	nc, err := nats.Connect(at.nats)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for method, answer := range map[string]func(*nats.Msg) *nats.Msg{
		"echo": func(m *nats.Msg) *nats.Msg {
			return &nats.Msg{Data: []byte(m.Header.Get("Nabat-Body") + " " + string(m.Data)), Header: nats.Header{"Nabat-Body": {"text"}}}
		},
		"fails": func(*nats.Msg) *nats.Msg {
			return &nats.Msg{Data: []byte("out of stock"), Header: nats.Header{"Nabat-Error": {"sold_out"}}}
		},
	} {
		if _, err := nc.Subscribe("rpc."+method, func(m *nats.Msg) { _ = m.RespondMsg(answer(m)) }); err != nil { // whoever asked may be gone
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		rule, stdin string
		args        []string
		code        int
		stdout      string
		stderr      string
	}{
		{"JSON is JSON", "", []string{"echo", `{"n":1}`}, 0, "json {\"n\":1}\n", ""},
		{"what is not JSON is a text", "", []string{"echo", "hi there"}, 0, "text hi there\n", ""},
		{"JSON may be a text", "", []string{"echo", "12", "--text"}, 0, "text 12\n", ""},
		{"data may come from standard input", "[1]", []string{"echo", "-"}, 0, "json [1]\n", ""},
		{"bytes are bytes", "\xff", []string{"echo", "-"}, 0, "binary \xff\n", ""},
		{"nothing is an empty text", "", []string{"echo"}, 0, "text \n", ""},
		{"an error of the backend", "", []string{"fails"}, 1, "", "nabat rpc: rpc_failed: out of stock (the backend's code is sold_out)\n"},
		{"nobody answers", "", []string{"nobody"}, 1, "", "nabat rpc: no_responders: no backend answers nobody now\n"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			r := nabat(t, c.stdin, []string{"NABAT_EDGE=" + at.edges[0]}, append([]string{"rpc"}, c.args...)...)
			if r.code != c.code || strings.ToValidUTF8(r.stdout, "?") != strings.ToValidUTF8(c.stdout, "?") || r.stderr != c.stderr {
				t.Errorf("%+v", r)
			}
		})
	}
}
