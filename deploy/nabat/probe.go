package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"nabat/client"
	"nabat/proto/subject"
)

// probe follows one message along the whole way.
type probe struct {
	app                        *app
	edge, token, prefix, room  string
	timeout                    time.Duration
	server                     *natsFlags
	asked, joined, came, start time.Time
}

func (a *app) probeCommand() *cobra.Command {
	p := &probe{app: a}
	cmd := &cobra.Command{
		Use:   "probe",
		Short: "Publish a message, receive it through an edge, and say how long that took",
		Long: "Publish a message, receive it through an edge, and say how long that took.\n\n" +
			"It goes the whole way: control issues a token, over NATS; an edge takes it and\n" +
			"joins a room that nobody else is in; a message is published to NATS; and the edge\n" +
			"delivers it. What is not there yet is waited for. It needs the rights of an\n" +
			"administrator at NATS, and leaves nothing behind.",
		Example: "  nabat probe --edge https://edge.example.com --nats-url nats://nats:4222",
		Args:    exactly(),
	}
	f := cmd.Flags()
	f.StringVar(&p.edge, "edge", "", "address of the edge (NABAT_EDGE; default "+defaultEdge+")")
	f.StringVar(&p.token, "token", "", "token that may subscribe to the room, instead of one from control (NABAT_TOKEN)")
	f.StringVar(&p.room, "room", "", "room; a new one below nabat-probe when empty")
	f.StringVar(&p.prefix, "subject-prefix", subject.RoomPrefix, "subject prefix of rooms")
	f.DurationVar(&p.timeout, "timeout", 30*time.Second, "how long to try")
	p.server = a.natsFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if p.timeout <= 0 {
			return usage(cmd, "--timeout %s: must be more than 0", p.timeout)
		}
		p.room = cmp.Or(p.room, "nabat-probe."+strings.ToLower(rand.Text()))
		if err := subject.CheckRoom(p.room); err != nil {
			return usage(cmd, "--room: %v", err)
		}
		return p.run(cmd)
	}
	return cmd
}

// run tries until the message came or the time is over, and then says what
// failed last.
func (p *probe) run(cmd *cobra.Command) error {
	p.edge = cmp.Or(p.edge, p.app.env("NABAT_EDGE"), defaultEdge)
	p.token = cmp.Or(p.token, p.app.env("NABAT_TOKEN"))
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	for {
		err := p.once(ctx)
		if err == nil {
			fmt.Fprintf(p.app.stdout, "one message went through NATS and %s: token %s, join %s, delivery %s\n", p.edge,
				brief(p.asked.Sub(p.start)), brief(p.joined.Sub(p.asked)), brief(p.came.Sub(p.joined)))
			return nil
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("not in %s: %w", p.timeout, err)
			}
			return err
		case <-time.After(time.Second):
			fmt.Fprintf(p.app.stderr, "nabat probe: %v: again\n", err)
		}
	}
}

func brief(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

// once goes the way once.
func (p *probe) once(ctx context.Context) error {
	const patience = 10 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	p.start = time.Now()
	token := p.token
	if token == "" {
		var err error
		if token, err = p.app.issue(ctx, &tokenRequest{User: "nabat-probe", TTL: "5m", Algorithm: "HS256", Subscribe: []string{p.room}}, p.server, patience); err != nil {
			return fmt.Errorf("token: %w", err)
		}
	}
	p.asked = time.Now()
	conn, err := client.Dial(ctx, p.edge, client.Options{Token: token, Rooms: []string{p.room}})
	if err != nil {
		return fmt.Errorf("join %s at %s: %w", p.room, p.edge, err)
	}
	defer conn.Close()
	p.joined = time.Now()
	body, err := p.publish(ctx)
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	for {
		select {
		case e, ok := <-conn.Events():
			switch {
			case !ok:
				return fmt.Errorf("the connection ended before the message came: %w", conn.Err())
			case e.Message != nil && string(e.Message.Body) == body:
				p.came = time.Now()
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("published to %s%s, and %s did not deliver it: %w", p.prefix, p.room, p.edge, ctx.Err())
		}
	}
}

// publish sends one message that no other run sends.
func (p *probe) publish(ctx context.Context) (string, error) {
	subj, err := subject.Encode(p.prefix, p.room)
	if err != nil {
		return "", err
	}
	nc, err := p.server.connect(p.app)
	if err != nil {
		return "", err
	}
	defer nc.Close()
	body := rand.Text()
	m := publication{text: true, user: "nabat-probe"}
	if err := nc.PublishMsg(m.message(subj, []byte(body))); err != nil {
		return "", err
	}
	if err := nc.FlushWithContext(ctx); err != nil {
		return "", fmt.Errorf("NATS did not confirm: %w", err)
	}
	return body, nc.LastError()
}
