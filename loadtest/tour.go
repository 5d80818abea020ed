package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"nabat/loadtest/report"
	"nabat/loadtest/scenario"
)

// tourSize makes the tour take about a minute on two processors.
var tourSize = struct {
	clients, rounds int
	round           time.Duration
	rate            float64
}{2000, 3, 1500 * time.Millisecond, 20}

const welcome = `This is a tour of one minute: it starts "nabat dev" (NATS, control and an edge in one
process), connects %d clients, lets them be idle, then publishes to all of them, and does
the same to the floor, a program that makes the same system calls and nothing else.
"loadtest --help" shows everything else.

`

// tour is what runs without arguments.
func (a *app) tour(cmd *cobra.Command) error {
	_, _ = fmt.Fprintf(a.stdout, welcome, tourSize.clients)
	c := new(common)
	c.setting.Clients, c.setting.Loops, c.setting.Timeout = tourSize.clients, 1, 10*time.Second
	progress := report.NewProgress(a.stderr)
	launcher := a.prepare(c, progress)
	c.setting.Targets = []scenario.Starter{{Name: "nabat dev", Own: true, Start: launcher.Dev}}
	for _, part := range []func(context.Context) (*report.Report, error){
		(&scenario.Idle{Setting: c.setting, Rooms: 2, Settle: 4 * time.Second}).Run,
		(&scenario.Fanout{Setting: c.setting, InFlight: []int{1, 16}, Rate: tourSize.rate,
			Publishing: scenario.Publishing{Payload: 128, Rounds: tourSize.rounds, Round: tourSize.round, WarmUp: 15 * time.Second}}).Run,
	} {
		r, err := part(cmd.Context())
		progress.End()
		if err != nil {
			return err
		}
		if err := a.deliver(r, "", ""); err != nil {
			return err
		}
	}
	_, _ = fmt.Fprint(a.stdout, "\nHere NATS and control are on the edge's bill, because nabat dev is one process; the other\ncommands start them apart. Next: loadtest fanout --peer nabat,gorilla,gws\n")
	return nil
}
