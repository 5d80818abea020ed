package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"nabat/loadtest/checker"
)

// pulse is what the fleet says when it is asked: how its clients fared since the
// last time.
type pulse struct {
	Present   int
	Published int
	Absences  []time.Duration // shortest first
	Talk      talk
}

// question is what it is asked.
type question string

const (
	howAreYou question = "pulse"
	finish    question = "finish"
)

// outcome is the end of a fleet.
type outcome struct {
	Report checker.Report
	Talk   talk
}

// fleetPlan is what a fleet does.
type fleetPlan struct {
	Check   checker.Plan
	Talkers int // clients that publish to each other besides
	Edge    string
}

// fleet is many clients in a process of their own, in the network of the test.
type fleet struct {
	cmd     *exec.Cmd
	ask     *json.Encoder
	answers *json.Decoder
	in      io.Closer
}

// startFleet runs a fleet.
func (c *cluster) startFleet(p fleetPlan) (*fleet, error) {
	text, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := command(append(enter(routerNS), self, "-fleet", string(text))...)
	log, err := os.Create(filepath.Join(c.logs(), "fleet.log"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the fleet has its own
	cmd.Stderr = log
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &fleet{cmd: cmd, ask: json.NewEncoder(in), answers: json.NewDecoder(out), in: in}, nil
}

// pulse asks how the clients are.
func (f *fleet) pulse() (p pulse, err error) {
	if err := f.ask.Encode(howAreYou); err != nil {
		return p, fmt.Errorf("ask the fleet: %w", err)
	}
	return p, f.answers.Decode(&p)
}

// finish ends the fleet and returns what it found.
func (f *fleet) finish() (o outcome, err error) {
	if err := f.ask.Encode(finish); err != nil {
		return o, fmt.Errorf("ask the fleet: %w", err)
	}
	return o, errors.Join(f.answers.Decode(&o), f.in.Close(), f.cmd.Wait())
}

// kill ends it without a word.
func (f *fleet) kill() {
	_ = f.cmd.Process.Kill() // it may have ended
	_ = f.cmd.Wait()
}

// settleTime is how long the clients may take to have everything at the end.
const settleTime = 2 * time.Minute

// beFleet is the process of a fleet: it answers questions until it is told to
// finish or its input ends.
func beFleet(ctx context.Context, args []string) error {
	var p fleetPlan
	if len(args) != 1 {
		return errors.New("-fleet needs a plan")
	}
	if err := json.Unmarshal([]byte(args[0]), &p); err != nil {
		return err
	}
	run, err := checker.Start(ctx, p.Check)
	if err != nil {
		return err
	}
	talkers, err := startTalkers(ctx, p.Edge, p.Talkers)
	if err != nil {
		return err
	}
	asked, answer := json.NewDecoder(bufio.NewReader(os.Stdin)), json.NewEncoder(os.Stdout)
	for {
		var q question
		if err := asked.Decode(&q); err != nil {
			return fmt.Errorf("the test has gone: %w", err)
		}
		if q == finish {
			break
		}
		err := answer.Encode(pulse{Present: run.Present(), Published: run.Published(), Absences: run.Absences(), Talk: talkers.count()})
		if err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	return answer.Encode(outcome{Talk: talkers.finish(ctx), Report: *run.Finish(ctx)})
}
