package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"nabat/internal/bus"
	"nabat/proto/subject"
)

// follower prints the stream of lifecycle events.
type follower struct {
	app          *app
	server       *natsFlags
	kind, room   string
	since        time.Duration
	limit        int
	follow, json bool
	timeout      time.Duration
	printed      uint64
}

var eventKinds = []string{"connect", "disconnect", "join", "leave", "occupied", "vacated", "node_started", "node_stopped"}

func eventsCommand(a *app) *cobra.Command {
	e := &follower{app: a}
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Print lifecycle events: who connected, joined, left and disconnected",
		Long: "Print lifecycle events out of the stream NABAT_EVENTS: connect, disconnect, join,\n" +
			"leave, occupied, vacated, node_started and node_stopped. Backends read the same with a\nJetStream consumer.",
		Example: "  nabat events --since 10m\n  nabat events --follow --kind join --room chat.42",
		Args:    exactly(),
	}
	f := cmd.Flags()
	f.BoolVar(&e.follow, "follow", false, "go on with what happens, until ctrl-C")
	f.DurationVar(&e.since, "since", time.Hour, "begin so long ago")
	f.StringVar(&e.kind, "kind", "", "only events of this kind")
	f.StringVar(&e.room, "room", "", "only events of this room")
	f.IntVar(&e.limit, "limit", 0, "end after so many events; 0 for no bound")
	f.BoolVar(&e.json, "json", false, "print one JSON object a line, as it is stored")
	f.DurationVar(&e.timeout, "timeout", 10*time.Second, "how long to wait for NATS")
	e.server = a.natsFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return e.run(cmd) }
	return cmd
}

// filters are the subjects that are wanted.
func (e *follower) filters(cmd *cobra.Command) ([]string, error) {
	known := e.kind == ""
	var list []string
	for _, kind := range eventKinds {
		if e.kind != "" && e.kind != kind {
			continue
		}
		known = true
		if e.room == "" {
			list = append(list, bus.EventPrefix+kind+".>")
			continue
		}
		subj, err := subject.Encode(bus.EventPrefix+kind+".", e.room)
		if err != nil {
			return nil, usage(cmd, "--room: %v", err)
		}
		if kind != "connect" && kind != "disconnect" { // those are of nodes
			list = append(list, subj)
		}
	}
	switch {
	case !known:
		return nil, usage(cmd, "--kind %q: must be connect, disconnect, join, leave, occupied, vacated, node_started or node_stopped", e.kind)
	case len(list) == 0:
		return nil, usage(cmd, "--kind %s and --room exclude each other", e.kind)
	}
	return list, nil
}

func (e *follower) run(cmd *cobra.Command) error {
	filters, err := e.filters(cmd)
	switch {
	case err != nil:
		return err
	case e.since < 0:
		return usage(cmd, "--since %s: must not be negative", e.since)
	case e.limit < 0:
		return usage(cmd, "--limit %d: must be 0 or more", e.limit)
	case e.timeout <= 0:
		return usage(cmd, "--timeout %s: must be more than 0", e.timeout)
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	nc, err := e.server.connect(e.app)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	limited, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	stream, err := js.Stream(limited, bus.StreamEvents)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return errors.New("there is no stream NABAT_EVENTS: start nabat control (nabat dev has one)")
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", bus.StreamEvents, err)
	}
	start := time.Now().Add(-e.since)
	consumer, err := stream.OrderedConsumer(limited, jetstream.OrderedConsumerConfig{FilterSubjects: filters,
		DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &start, InactiveThreshold: 10 * time.Second})
	if err != nil {
		return fmt.Errorf("read %s: %w", bus.StreamEvents, err)
	}
	return e.read(ctx, consumer)
}

func (e *follower) read(ctx context.Context, c jetstream.Consumer) error {
	info, err := c.Info(ctx)
	if err != nil {
		return fmt.Errorf("read %s: %w", bus.StreamEvents, err)
	}
	waiting := info.NumPending
	it, err := c.Messages()
	if err != nil {
		return fmt.Errorf("read %s: %w", bus.StreamEvents, err)
	}
	defer context.AfterFunc(ctx, it.Stop)()
	defer it.Stop()
	for e.follow || e.printed < waiting {
		if e.limit > 0 && e.printed >= uint64(e.limit) {
			return nil
		}
		m, err := it.Next()
		switch {
		case ctx.Err() != nil || errors.Is(err, jetstream.ErrMsgIteratorClosed):
			return nil
		case err != nil:
			return fmt.Errorf("read %s: %w", bus.StreamEvents, err)
		}
		e.printed++
		if err := e.print(m.Data()); err != nil {
			return err
		}
	}
	return nil
}

func (e *follower) print(body []byte) error {
	line := string(body)
	if !e.json {
		var v struct {
			Kind, Room, User, Session, Node, Reason string
			At                                      int64
			Users                                   *uint32
		}
		if err := json.Unmarshal(body, &v); err != nil {
			return fmt.Errorf("an event that is none: %.200q", body)
		}
		who := v.User
		if who == "" && (v.Kind == "connect" || v.Kind == "disconnect") {
			who = "(anonymous)"
		}
		line = fmt.Sprintf("%s  %-12s", time.UnixMilli(v.At).UTC().Format("2006-01-02T15:04:05.000Z"), v.Kind)
		for _, part := range []string{v.Room, who, v.Reason} {
			if part != "" {
				line += "  " + plain(part)
			}
		}
		if v.Users != nil {
			line += "  (" + counted(*v.Users, "user") + ")"
		} else {
			line += "  at " + plain(v.Node)
		}
	}
	if _, err := fmt.Fprintln(e.app.stdout, line); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}
