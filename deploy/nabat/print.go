package main

import (
	"fmt"
	"strings"
)

// printTable prints rows in columns; the first is the head.
func printTable(a *app, rows ...[]string) {
	t := newTable(a.stdout, rows[0]...)
	for _, row := range rows[1:] {
		t.row(row...)
	}
	t.flush()
}

// obeyed is what nodes did with an order.
type obeyed struct {
	Affected int
	Nodes    []struct {
		Node     string
		Affected int
		Error    *struct{ Code, Reason string }
	}
	Missing []string
}

// show prints what became of an order; done says what was done to connections.
func (o *obeyed) show(a *app, done string) {
	fmt.Fprintf(a.stdout, "%s %d connections\n", done, o.Affected)
	for _, n := range o.Nodes {
		fmt.Fprintf(a.stdout, "  %s: %d\n", n.Node, n.Affected)
		if n.Error != nil {
			fmt.Fprintf(a.stderr, "note: %s refused some: %s: %s\n", n.Node, n.Error.Code, n.Error.Reason)
		}
	}
	if len(o.Missing) > 0 {
		fmt.Fprintf(a.stderr, "note: no answer from %s: they may or may not have obeyed\n", strings.Join(o.Missing, ", "))
	}
}
