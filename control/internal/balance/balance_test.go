package balance

import (
	"fmt"
	"testing"
)

func TestSurplus(t *testing.T) {
	for _, c := range []struct {
		rule      string
		spread    map[string]int
		tolerance int
		want      string
	}{
		{"one node has nobody to give to", map[string]int{"a": 100}, 5, "map[]"},
		{"within the tolerance nobody moves", map[string]int{"a": 105, "b": 95}, 5, "map[]"},
		{"above it everything above the mean moves", map[string]int{"a": 120, "b": 80}, 5, "map[a:20]"},
		{"an empty node is filled", map[string]int{"a": 10, "b": 10, "c": 0}, 5, "map[a:3 b:3]"},
		{"a difference of one is even", map[string]int{"a": 1, "b": 0}, 1, "map[]"},
		{"no connections", map[string]int{"a": 0, "b": 0}, 5, "map[]"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			if got := fmt.Sprint(surplus(c.spread, c.tolerance)); got != c.want {
				t.Fatalf("%s, want %s", got, c.want)
			}
		})
	}
}
