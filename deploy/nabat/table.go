package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// ask sends a request and reads the answer into reply, unless it was wanted as
// JSON: then it is printed.
func (q *asker) ask(cmd *cobra.Command, verb string, request, reply any) (printed bool, err error) {
	printed = true
	err = q.run(cmd, verb, request, reply, func() { printed = false })
	return printed, err
}

// table prints rows under a heading, in columns.
func (q *asker) table(heading []string, rows [][]string) error {
	w := tabwriter.NewWriter(q.app.stdout, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{heading}, rows...) {
		if _, err := fmt.Fprintln(w, strings.Join(row, "\t")); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	return w.Flush()
}

// say prints one line.
func (q *asker) say(format string, args ...any) error {
	if _, err := fmt.Fprintf(q.app.stdout, format+"\n", args...); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// plain makes a text of somebody else's fit for a terminal.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '�'
		}
		return r
	}, text)
}

// counted is a number and its noun, in the plural where it belongs.
func counted[N int | uint32](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
