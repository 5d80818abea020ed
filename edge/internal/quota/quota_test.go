package quota

import (
	"fmt"
	"testing"

	"nabat/edge/internal/rate"
)

const second = int64(1e9)

func TestOwnersHaveBucketsOfTheirOwn(t *testing.T) {
	table, l := NewTable(1000), rate.Limit{PerSecond: 2, Burst: 2}
	alice, bob := table.Owner("user", "alice"), table.Owner("user", "bob")
	for _, p := range []struct {
		owner uint64
		now   int64
		wait  int64
	}{
		{alice, 0, 0}, {alice, 0, 0}, {alice, 0, second / 2}, {bob, 0, 0}, {alice, second / 2, 0}, {alice, second / 2, second / 2}, {bob, second / 2, 0},
	} {
		if wait := table.Take(p.owner, l, 1, p.now); wait != p.wait {
			t.Errorf("%+v: waits %d", p, wait)
		}
	}
	if table.Owner("user", "a") == table.Owner("address", "a") || table.Owner("ab", "c") == table.Owner("a", "bc") {
		t.Error("owners of two groups are one")
	}
	if table.Take(alice, rate.Limit{}, 1000, 0) != 0 {
		t.Error("no limit limits")
	}
}

func TestATableIsBounded(t *testing.T) {
	table, l := NewTable(640), rate.Limit{PerSecond: 1, Burst: 1}
	for i := range 10000 {
		table.Take(table.Owner("user", fmt.Sprint(i)), l, 1, 0)
	}
	if n := table.Owners(); n > 640 {
		t.Errorf("%d owners, none of whom has paid", n)
	}
	// Those who have paid make room first: this one has not.
	late := table.Owner("user", "late")
	table.Take(late, l, 1, 10*second)
	for i := range 10000 {
		table.Take(table.Owner("address", fmt.Sprint(i)), rate.Limit{PerSecond: 1000, Burst: 1}, 1, 10*second+int64(i)*second/100)
		if now := 10*second + int64(i)*second/100; now < 11*second && table.Take(late, l, 1, now) == 0 {
			t.Fatal("who has not paid was forgotten while others had")
		}
	}
}
