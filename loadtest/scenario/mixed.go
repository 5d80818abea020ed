package scenario

import (
	"context"
	"fmt"
	"strings"
	"time"

	"nabat/loadtest/chat"
	"nabat/loadtest/report"
	"nabat/loadtest/swarm"
	"nabat/loadtest/target"
)

// Mixed is a chat: clients publish, leave and join rooms, and page back.
type Mixed struct {
	Setting
	Plan chat.Plan
}

func (m *Mixed) check() error {
	p := &m.Plan
	if p.Rooms < 1 || p.RoomsEach < 1 || p.RoomsEach > p.Rooms || p.RoomsEach > maxRooms {
		return fmt.Errorf("each client in %d of %d rooms: at least one, at most %d, and not more than there are", p.RoomsEach, p.Rooms, maxRooms)
	}
	if p.Rate <= 0 || p.For <= 0 || p.Payload < 0 || p.Leave < 0 || p.Page < 0 {
		return fmt.Errorf("%g acts a second for %s: must be more than none", p.Rate, p.For)
	}
	return m.Setting.check()
}

// Run measures targets that speak Nabat's protocol.
func (m *Mixed) Run(ctx context.Context) (*report.Report, error) {
	m.Floor = nil // nothing in it could be asked
	if err := m.check(); err != nil {
		return nil, err
	}
	p := &m.Plan
	p.Clients, p.Now, p.Patience = m.Clients, swarm.Now, m.Timeout
	r := m.newReport("mixed", fmt.Sprintf("%s clients, each in %d of %d rooms, do %g things a second for %s", report.Thousands(float64(p.Clients)), p.RoomsEach, p.Rooms, p.Rate, p.For),
		map[string]any{"clients": p.Clients, "rooms": p.Rooms, "rooms_each": p.RoomsEach, "rate": p.Rate, "for_seconds": p.For.Seconds()})
	err := m.each(ctx, nil, func(ctx context.Context, t *target.Target) error { return m.target(ctx, t, r) })
	r.Notes = append(r.Notes, "Latency is from the time at which an act was due.",
		"A message is lost when it was acknowledged and did not come back to its sender, who had stayed in the room.")
	return r, err
}

func (m *Mixed) target(ctx context.Context, t *target.Target, r *report.Report) error {
	p := m.Plan
	p.URL = t.URL
	m.Progress.Show(report.State{Phase: t.Name + ": connecting"})
	c, err := chat.Start(ctx, p)
	if err != nil {
		return err
	}
	before, err := cpu(t.PID)
	if err != nil {
		c.Close()
		return err
	}
	began, ended, shown := time.Now(), make(chan struct{}), make(chan struct{})
	go func() { // ends with the chat
		defer close(shown)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
			}
			stored, delivered, failed := c.Snapshot()
			m.Progress.Show(report.State{Phase: t.Name + ": chatting", Done: min(time.Since(began), p.For).Seconds(), Total: p.For.Seconds(), Of: "seconds",
				Detail: fmt.Sprintf("%d messages stored, %d delivered", stored, delivered), Errors: failed})
		}
	}()
	totals, err := c.Finish(ctx)
	close(ended)
	<-shown
	if err != nil {
		return err
	}
	after, err := cpu(t.PID)
	if err != nil {
		return err
	}
	m.show(r, t, totals, float64(after-before))
	return nil
}

func (m *Mixed) show(r *report.Report, t *target.Target, c *chat.Totals, used float64) {
	section := r.Section("messages")
	section.Set(t.Name, "stored", report.Count, float64(c.Acked))
	section.Set(t.Name, "delivered", report.Count, float64(c.Delivered))
	section.Set(t.Name, "  lost", report.Count, float64(c.Lost))
	section.Set(t.Name, "  twice or out of order", report.Count, float64(c.Disorder))
	if t.PID != 0 && c.Delivered > 0 {
		section.Set(t.Name, "server CPU per delivery, all acts included", report.Nanoseconds, used/float64(c.Delivered))
	}
	showLatency(section, t.Name, c.Delivery)
	plotLatency(r, "delivery", t.Name, c.Delivery)
	answers := r.Section("answers")
	answers.Set(t.Name, "publish, p50", report.Nanoseconds, float64(c.Ack.ValueAtQuantile(50))*1000)
	answers.Set(t.Name, "publish, p99", report.Nanoseconds, p99(c.Ack))
	answers.Set(t.Name, "rooms left", report.Count, float64(c.Left))
	answers.Set(t.Name, "rooms joined again", report.Count, float64(c.Joined))
	answers.Set(t.Name, "  p99", report.Nanoseconds, p99(c.Join))
	answers.Set(t.Name, "pages of history", report.Count, float64(c.Paged))
	answers.Set(t.Name, "  p99 ", report.Nanoseconds, p99(c.Page))
	answers.Set(t.Name, "connections lost", report.Count, float64(c.Closed))
	if c.Lost+c.Disorder > 0 || c.Closed > 0 || len(c.Errors) > 0 {
		r.Faults = append(r.Faults, fmt.Sprintf("%s: %d messages lost, %d twice or out of order, %d connections closed; errors: %s",
			t.Name, c.Lost, c.Disorder, c.Closed, strings.Join(c.Failures(), ", ")))
	}
}
