package seats

import (
	"net/netip"
	"sync"
	"testing"
)

func TestWhoSharesASeat(t *testing.T) {
	for _, c := range []struct {
		rule, a, b string
		same       bool
	}{
		{"an address is itself", "192.0.2.1", "192.0.2.1", true},
		{"another IPv4 address is another", "192.0.2.1", "192.0.2.2", false},
		{"IPv4 in IPv6 is IPv4", "192.0.2.1", "::ffff:192.0.2.1", true},
		{"a /64 of IPv6 is one", "2001:db8:1:2::1", "2001:db8:1:2:ffff::9", true},
		{"another /64 is another", "2001:db8:1:2::1", "2001:db8:1:3::1", false},
		{"IPv6 that begins as IPv4 is written is another", "32.1.13.184", "2001:db8::", false},
	} {
		t.Run(c.rule, func(t *testing.T) {
			h := NewHeld(NewTable(1), nil)
			if !h.TakeAddress(0, netip.MustParseAddr(c.a)) {
				t.Fatal("the first was refused")
			}
			if h.Address(0) == 0 || h.Address(1) != 0 {
				t.Fatal("the first is not known, or the second is")
			}
			if got := h.TakeAddress(1, netip.MustParseAddr(c.b)); got == c.same {
				t.Fatalf("the second was taken: %v", got)
			}
		})
	}
}

func TestSeatsComeBackWithTheirConnection(t *testing.T) {
	addresses, users := NewTable(2), NewTable(1)
	h := NewHeld(addresses, users)
	a := netip.MustParseAddr("192.0.2.1")
	for slot := range uint32(2) {
		if !h.TakeAddress(slot, a) {
			t.Fatal("refused below the bound")
		}
	}
	if h.TakeAddress(2, a) {
		t.Fatal("taken above the bound")
	}
	h.Leave(2) // refused: it has nothing to give back
	if h.TakeAddress(2, a) {
		t.Fatal("a refused connection gave back another's seat")
	}
	for range 2 { // a connection may name its user again
		if !h.TakeUser(0, "alice") {
			t.Fatal("refused below the bound")
		}
	}
	if h.TakeUser(1, "alice") {
		t.Fatal("taken above the bound")
	}
	if !h.TakeUser(0, "bob") || !h.TakeUser(1, "alice") {
		t.Fatal("a connection that changes its user leaves the first")
	}
	for slot := range uint32(3) {
		h.Leave(slot)
		h.Leave(slot)
	}
	if n, m := addresses.Owners(), users.Owners(); n != 0 || m != 0 {
		t.Fatalf("%d addresses and %d users are left", n, m)
	}
}

func TestNothingIsKeptWhereNothingIsCounted(t *testing.T) {
	h := NewHeld(NewTable(0), NewTable(0))
	if !h.TakeAddress(1000, netip.MustParseAddr("192.0.2.1")) || !h.TakeUser(1000, "alice") {
		t.Fatal("refused without a bound")
	}
	if h.Leave(1000); h.addresses.owner != nil || h.users.owner != nil {
		t.Fatalf("%d and %d slots", len(h.addresses.owner), len(h.users.owner))
	}
}

func TestLoopsShareOneBound(t *testing.T) {
	const loops, each, bound = 8, 100, 50
	addresses := NewTable(bound)
	a := netip.MustParseAddr("2001:db8::1")
	got := make([]int, loops)
	held := make([]*Held, loops)
	var wg sync.WaitGroup
	for i := range loops {
		held[i] = NewHeld(addresses, nil)
		wg.Go(func() {
			for slot := range uint32(each) {
				if held[i].TakeAddress(slot, a) {
					got[i]++
				}
			}
		})
	}
	wg.Wait()
	sum := 0
	for _, n := range got {
		sum += n
	}
	if sum != bound {
		t.Fatalf("%d connections on %d loops, the bound is %d", sum, loops, bound)
	}
	for i := range loops {
		wg.Go(func() {
			for slot := range uint32(each) {
				held[i].Leave(slot)
			}
		})
	}
	if wg.Wait(); addresses.Owners() != 0 {
		t.Fatal("an owner is left")
	}
}
