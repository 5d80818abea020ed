package checker

import (
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

func at(offset uint64) place { return place{"k1", offset} }

func got(offset uint64, number int) event {
	return event{kind: message, place: place{offset: offset}, number: number, then: 10}
}

// Offsets 2, 4 … 20 of epoch k1 hold the messages 0 to 9 of the room, of which
// the policy keeps 8; offsets 1 and 2 of epoch k2 hold 10 and 11.
func exampleLedger() *ledger {
	l := newLedger([]string{"a"})
	for n := range 10 {
		l.add("a", n, &jetstream.PubAck{Stream: "NABAT_x_k1", Sequence: uint64(2 * (n + 1))})
	}
	return l
}

func TestEveryBrokenPromiseIsFound(t *testing.T) {
	end := event{kind: joined, place: at(20), then: 10}
	resume := func(from uint64, e event) event {
		e.kind, e.before, e.then = resumed, at(from), 10
		return e
	}
	for _, c := range []struct {
		rule string // of the violation; "" for none
		what string
		log  []event
		lost int
	}{
		{"", "everything once, in order", []event{{kind: joined, place: at(14)}, got(16, 7), got(18, 8), got(20, 9)}, 0},
		{"", "away and back", []event{{kind: joined, place: at(14)}, got(16, 7), {kind: left}, resume(16, event{recovered: true, place: at(16)}), got(18, 8), got(20, 9)}, 0},
		{RuleGap, "a message is missing", []event{{kind: joined, place: at(14)}, got(16, 7), got(20, 9)}, 0},
		{RuleGap, "recovered, and a message is missing", []event{resume(14, event{recovered: true, place: at(14)}), got(18, 8), got(20, 9)}, 0},
		{RuleDuplicate, "a message twice", []event{{kind: joined, place: at(16)}, got(18, 8), got(18, 8), got(20, 9)}, 0},
		{RuleDuplicate, "a message again after coming back", []event{{kind: joined, place: at(16)}, got(18, 8), got(20, 9), {kind: left}, resume(20, event{recovered: true, place: at(20)}), got(20, 9)}, 0},
		{RuleOrder, "a message behind a later one", []event{{kind: joined, place: at(16)}, got(20, 9), got(18, 8)}, 0},
		{RuleContent, "another message", []event{{kind: joined, place: at(18)}, got(20, 8)}, 0},
		{RuleContent, "an offset that was never stored", []event{{kind: joined, place: at(18)}, got(19, 8), got(20, 9)}, 0},
		{RuleTail, "the newest is missing", []event{{kind: joined, place: at(16)}, got(18, 8)}, 0},
		{RuleTail, "gone at the end", []event{end, {kind: left}}, 0},
		{RuleUnexpected, "a message of a room that was left", []event{end, {kind: stranger, place: place{offset: 20}}}, 0},
		{RuleEpoch, "recovered elsewhere", []event{resume(14, event{recovered: true, place: at(20)})}, 0},
		{RuleEpoch, "lagging behind what did not come", []event{{kind: joined, place: at(16)}, {kind: lagging, place: at(20)}, got(18, 8), got(20, 9)}, 0},
		{"", "lagging where the client is", []event{{kind: joined, place: at(16)}, {kind: lagging, place: at(16)}, got(18, 8), got(20, 9)}, 0},
		{"", "told of the loss of what is no longer kept", []event{resume(4, event{place: at(6), reason: "history_cut"}), got(8, 3), got(10, 4), got(12, 5), got(14, 6), got(16, 7), got(18, 8), got(20, 9)}, 1},
		{RuleNeedless, "told of the loss of what is kept", []event{resume(14, event{place: at(16), reason: "history_cut"}), got(18, 8), got(20, 9)}, 1},
		{RuleNeedless, "told of a loss where there was none", []event{resume(20, event{place: at(20), reason: "ahead_of_history"})}, 0},
		{RuleNeedless, "a gap over what is kept", []event{{kind: joined, place: at(14)}, {kind: gap, to: 18, reason: "history_unavailable", then: 10}, got(18, 8), got(20, 9)}, 1},
		{RuleNeedless, "a gap without bounds", []event{end, {kind: gap, reason: "bus_reconnected"}}, 0},
		{RuleNeedless, "nobody knows where the room stands", []event{resume(20, event{reason: "history_unavailable"})}, 0},
		{"", "a message while nothing is stored", []event{{kind: joined, place: at(14)}, got(16, 7), {kind: gap, reason: notStored}, got(0, 8), got(20, 9)}, 0},
		{"", "the newest while nothing is stored", []event{{kind: joined, place: at(16)}, {kind: gap, reason: notStored}, got(0, 8), got(0, 9)}, 0},
		{"", "such a message once more after coming back", []event{{kind: joined, place: at(16)}, {kind: gap, reason: notStored}, got(0, 8), {kind: left}, resume(16, event{recovered: true, place: at(16)}), got(18, 8), got(20, 9)}, 0},
		{RuleDuplicate, "such a message once more without coming back", []event{{kind: joined, place: at(16)}, {kind: gap, reason: notStored}, got(0, 8), got(18, 8), got(20, 9)}, 0},
		{RuleDuplicate, "such a message twice", []event{{kind: joined, place: at(16)}, {kind: gap, reason: notStored}, got(0, 8), got(0, 8), got(20, 9)}, 0},
		{RuleDuplicate, "such a message that had come before", []event{{kind: joined, place: at(16)}, got(18, 8), {kind: gap, reason: notStored}, got(0, 8), got(20, 9)}, 0},
		{RuleGap, "another message is missing while nothing is stored", []event{{kind: joined, place: at(14)}, {kind: gap, reason: notStored}, got(0, 8), got(20, 9)}, 0},
		{RuleGap, "such a message does not come back to a client that does", []event{{kind: joined, place: at(16)}, {kind: gap, reason: notStored}, got(0, 8), {kind: left}, resume(16, event{recovered: true, place: at(16)}), got(20, 9)}, 0},
		{RuleContent, "such a message that nobody published", []event{end, {kind: gap, reason: notStored}, got(0, 99)}, 0},
		{RuleContent, "a message without an offset that nobody told of", []event{{kind: joined, place: at(18)}, got(0, 9)}, 0},
		{"", "a new epoch", []event{end, {kind: reset, place: place{"k2", 0}, then: 10}, got(1, 10), got(2, 11)}, 0},
	} {
		t.Run(c.what, func(t *testing.T) {
			l := exampleLedger()
			if c.what == "a new epoch" {
				for n := range 2 {
					l.add("a", 10+n, &jetstream.PubAck{Stream: "NABAT_x_k2", Sequence: uint64(n + 1)})
				}
			}
			report := newReport()
			(&judge{room: "a", story: l.rooms["a"], window: 8, report: report}).run(c.log)
			switch {
			case c.rule == "" && report.Broken > 0:
				t.Errorf("nothing is wrong: %s", report)
			case c.rule != "" && !found(report, c.rule):
				t.Errorf("want %s: %s", c.rule, report)
			}
			if report.Lost != c.lost {
				t.Errorf("%d messages lost, want %d", report.Lost, c.lost)
			}
		})
	}
}

func found(r *Report, rule string) bool {
	return slices.ContainsFunc(r.Violations, func(v Violation) bool { return v.Rule == rule })
}

// After a purge clients may be told of the loss, and must be.
func TestAPurgeExcusesWhoSaysSo(t *testing.T) {
	for what, c := range map[string]struct {
		log  []event
		rule string
	}{
		"told":     {[]event{{kind: resumed, before: at(14), place: at(18), reason: "history_cut", then: 10}, got(20, 9)}, ""},
		"not told": {[]event{{kind: resumed, before: at(14), place: at(14), recovered: true, then: 10}, got(20, 9)}, RuleGap},
	} {
		l := exampleLedger()
		l.purge("a", "NABAT_x_k1", 18)
		report := newReport()
		(&judge{room: "a", story: l.rooms["a"], window: 8, report: report}).run(c.log)
		if (report.Broken > 0) != (c.rule != "") || (c.rule != "" && !found(report, c.rule)) {
			t.Errorf("%s: %s", what, report)
		}
	}
}

func TestAReportListsTheFirstViolations(t *testing.T) {
	r := newReport()
	for range maxViolations + 3 {
		r.fault(Violation{1, "a", RuleGap, "x"})
	}
	if s := r.String(); strings.Count(s, "room a: gap: x") != maxViolations || !strings.HasSuffix(s, "and 3 more") {
		t.Error(s)
	}
}
