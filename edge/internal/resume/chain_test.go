package resume

import (
	"fmt"
	"strings"
	"testing"
)

// walk runs a script against a chain. A line is "what was called: what came
// out, what is asked for then"; live 7<5 is offset 7 with prev 5.
func walk(t *testing.T, script string) {
	t.Helper()
	var c Chain[uint64]
	for line := range strings.Lines(script) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		call, want, _ := strings.Cut(line, ":")
		var a, b uint64
		var out []Entry[uint64]
		var cut *Cut
		verb, args, _ := strings.Cut(call, " ")
		_, _ = fmt.Sscanf(strings.Replace(args, "<", " ", 1), "%d %d", &a, &b)
		switch verb {
		case "limit":
			c.SetLimit(int(a))
		case "base":
			out = c.Base(a)
		case "live":
			out = c.Live(Entry[uint64]{a, b, a})
		case "broken":
			c.Broken()
		case "stored":
			c.Stored(a)
		case "replay":
			out, cut = c.Replay(list(args), strings.Contains(args, "more"), strings.Contains(args, "provable"))
		case "give-up":
			out, cut = c.GiveUp()
		default:
			t.Fatalf("%q?", line)
		}
		got := ""
		if cut != nil {
			got += fmt.Sprintf(" cut %d-%d", cut.From, cut.To)
		}
		for _, e := range out {
			if e.Item != e.Offset {
				t.Fatalf("%s: entry %+v", line, e)
			}
			got += fmt.Sprintf(" %d", e.Offset)
		}
		got += [...]string{"", " base?", " read?"}[c.Ask()]
		if c.Verified() {
			got += " verified"
		}
		if strings.TrimSpace(got) != strings.TrimSpace(want) {
			t.Fatalf("%s: got%s", line, got)
		}
	}
}

func list(args string) (l []Entry[uint64]) {
	for _, word := range strings.Fields(args) {
		var offset uint64
		if _, err := fmt.Sscan(word, &offset); err == nil {
			l = append(l, Entry[uint64]{Offset: offset, Item: offset})
		}
	}
	return l
}

var chainRules = []struct{ rule, script string }{
	{"an offset at or below last is a duplicate", `
		base 5:
		live 7<5: 7
		live 7<5:
		live 6<5:
		live 0<0:`},
	{"prev at last is next", `
		base 5:
		live 8<5: 8
		live 11<8: 11`},
	{"prev above last is a gap: hold and read", `
		base 5:
		live 9<8: read?
		live 12<9: read?
		replay 5 7 8: 7 8 9 12`},
	{"prev below last is next in an unbroken run", `
		base 5:
		live 7<5: 7
		live 20<0: 20
		live 30<7: 30`},
	{"prev below last proves nothing after a break", `
		base 5:
		live 7<5: 7
		broken:
		live 20<0: read?
		replay 20: cut 7-20 20
		live 30<0: 30`},
	{"what can be proved to be all needs no cut", `
		base 5:
		broken:
		live 20<0: read?
		replay 20 provable: 20`},
	{"prev at last is next after a break too", `
		base 5:
		live 7<5: 7
		broken:
		live 9<7: 9
		live 20<0: 20`},
	{"the next offset of all leaves no room for a loss", `
		base 5:
		broken:
		live 6<0: 6
		broken:
		live 9<0: read?
		replay 7 9: 7 9`},
	{"a repeated message carries the run over a break", `
		base 5:
		live 7<5: 7
		broken:
		live 7<5:
		live 20<0: 20`},
	{"a base that was not seen live does not begin a run", `
		base 5:
		live 20<0: read?
		replay 5 20: 20
		live 30<0: 30`},
	{"an empty room begins with any first message", `
		base 0:
		live 7<0: 7`},
	{"an empty room after a break does not", `
		base 0:
		broken:
		live 7<0: read?
		replay 7: cut 0-7 7`},
	{"a break while opening counts", `
		broken: base?
		base 0:
		live 7<0: read?`},
	{"live messages are held until the base is known", `
		live 7<5: base?
		live 8<7: base?
		base 5: 7 8`},
	{"held messages at or below the base are dropped", `
		live 7<5: base?
		live 8<7: base?
		base 7: 8
		live 20<0: 20`},
	{"a base behind is found by prev", `
		live 7<5: base?
		base 4: read?
		replay 4 5: 5 7`},
	{"a base behind is found by the newest offset", `
		base 4:
		stored 5: read?
		replay 4 5: 5 verified`},
	{"a second base is a newest offset", `
		base 4:
		base 5: read?`},
	{"a stale read is asked for again", `
		base 5:
		live 9<8: read?
		replay : read?
		replay 5: read?
		replay 5 7: 7 read?
		replay 7 8: 8 9`},
	{"a read passes over held messages", `
		base 5:
		live 9<8: read?
		live 12<9: read?
		replay 5 8 9: 8 9 12`},
	{"a held message that a read has brought carries its run", `
		base 5:
		live 9<8: read?
		live 30<0: read?
		replay 5 8 9: 8 9 30`},
	{"a replayed last is no part of the run", `
		base 5:
		live 9<7: read?
		live 30<0: read?
		replay 9 15: cut 5-9 9 15 read?
		replay 15 30: 30`},
	{"held messages that were taken meanwhile are still handed out", `
		base 5:
		live 9<8: read?
		live 12<9: read?
		replay 5 8 12: 8 9 12`},
	{"batches follow until the end", `
		base 5:
		stored 20: read?
		replay 5 7 more: 7 read?
		replay 7 20 more: 20 read? 
		replay 20: verified`},
	{"live goes on in order while the store is read", `
		base 5:
		stored 20: read?
		live 7<5: 7 read?
		live 20<7: 20 verified`},
	{"a read from an earlier last still proves", `
		base 5:
		stored 20: read?
		live 7<5: 7 read?
		replay 5 7 20: 20 verified`},
	{"an answer that nobody asks for any more is ignored", `
		base 5:
		stored 7: read?
		live 7<5: 7 verified
		replay 9 12: verified`},
	{"the missing message may come late by itself", `
		base 5:
		live 7<5: 7
		live 9<8: read?
		live 8<7: 8 9`},
	{"a late message shows that its run was lossy", `
		base 5:
		live 9<8: read?
		live 30<0: read?
		live 20<0: read?
		live 8<5: 8 9 read?
		replay 9 20: 20 read?
		replay 20 30: 30`},
	{"last gone and nothing known is a cut", `
		base 5:
		live 9<8: read?
		replay 8: cut 5-8 8 9`},
	{"a cut ends at the oldest message there is, held or stored", `
		base 5:
		live 9<8: read?
		live 12<9: read?
		live 20<18: read?
		replay 18: cut 5-9 9 12 read?
		replay 18: cut 12-18 18 20`},
	{"what a read has shown behind a cut is asked for", `
		base 5:
		live 9<8: read?
		replay 18: cut 5-9 9 read?
		live 30<0: read?
		replay 18 30: cut 9-18 18 30`},
	{"held messages do not follow over what a read has shown", `
		base 0:
		live 20<11: read?
		live 40<0: read?
		replay 21: cut 0-20 20 21 read?
		replay 21 40: 40`},
	{"an old newest offset says nothing", `
		base 5:
		stored 4:
		stored 5: verified
		broken:
		stored 0:
		stored 5: verified`},
	{"a message known to be stored and not seen breaks the run", `
		base 5:
		live 7<5: 7
		stored 9: read?
		live 20<0: read?
		replay 20: cut 7-20 20 verified`},
	{"the oldest held above the limit are read", `
		limit 2: base?
		base 5:
		live 9<8: read?
		live 12<9: read?
		live 13<12: read?
		live 14<13: read?
		replay 5 8 9 more: 8 9 read?
		replay 9 12: 12 13 14`},
	{"a message forgotten while opening is missed", `
		limit 1: base?
		live 7<0: base?
		live 9<0: base?
		base 0: read?
		replay 7 9 provable: 7 9`},
	{"giving up tells each cut", `
		base 5:
		live 9<8: read?
		live 10<9: read?
		live 13<12: read?
		give-up: cut 5-9 9 10 read?
		give-up: cut 10-13 13
		live 20<0: 20
		give-up:`},
	{"giving up with nothing held stays in place", `
		base 5:
		stored 9: read?
		give-up:
		stored 9: read?
		replay 5 9: 9 verified`},
	{"giving up does not forget what was missed", `
		base 5:
		live 7<5: 7
		stored 9: read?
		give-up:
		live 7<5:
		live 20<0: read?`},
	{"without a base the next message is the beginning", `
		give-up: cut 0-0
		live 9<8: 9
		live 20<0: 20`},
	{"without a base the newest offset is one", `
		give-up: cut 0-0
		stored 9:
		live 20<9: 20`},
	{"without a base held messages begin the room", `
		live 9<8: base?
		give-up: cut 0-9 9`},
	{"the first offset of a stream has nothing before it", `
		live 1<0: base?
		give-up: 1`},
}

func TestChainRules(t *testing.T) {
	for _, r := range chainRules {
		t.Run(r.rule, func(t *testing.T) { walk(t, r.script) })
	}
}

func TestMessagesInOrderCostNoAllocation(t *testing.T) {
	var c Chain[*int]
	c.Base(1)
	e := Entry[*int]{Offset: 1}
	allocs := testing.AllocsPerRun(1000, func() {
		e.Prev, e.Offset = e.Offset, e.Offset+3
		if out := c.Live(e); len(out) != 1 || out[0].Offset != e.Offset {
			t.Fatal(out)
		}
	})
	if allocs != 0 {
		t.Fatalf("%v allocations a message", allocs)
	}
}
