package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"nabat/loadtest/report"
	"nabat/loadtest/swarm"
	"nabat/loadtest/target"
)

// Fanout is one room, many members, messages published over NATS; or many
// rooms, each with few members.
type Fanout struct {
	Setting
	Publishing
	Rooms    int     // 0: 1
	Each     int     // rooms of each client; 0: 1
	InFlight []int   // messages in flight, in each room; a measurement for each
	Rate     float64 // messages per second of a further measurement, over all rooms; 0: none
}

// stalled is how long nothing may arrive before messages count as lost.
const stalled = 3 * time.Second

// frameHead is the head of a frame of 126 bytes to 64 KiB: what the floor adds
// to a payload when there is no target to imitate.
const frameHead = 4

// mode is one way to publish.
type mode struct {
	inFlight int
	rate     float64 // when inFlight is 0
}

func (m mode) String() string {
	switch {
	case m.inFlight == 1:
		return "one message at a time"
	case m.inFlight > 1:
		return fmt.Sprintf("%d messages in flight", m.inFlight)
	}
	return fmt.Sprintf("%g messages a second, latency from the intended time", m.rate)
}

func (f *Fanout) check() error {
	f.Rooms, f.Each = max(f.Rooms, 1), max(f.Each, 1)
	if f.Each > maxRooms || f.Each > f.Rooms || f.Rooms >= 1<<24 {
		return fmt.Errorf("each client in %d of %d rooms: at most %d, and not more than there are", f.Each, f.Rooms, maxRooms)
	}
	for _, n := range f.InFlight {
		if n < 1 || n > 10_000 {
			return fmt.Errorf("%d messages in flight: must be 1 to 10000", n)
		}
	}
	if f.Rate < 0 {
		return fmt.Errorf("%g messages a second: must not be negative", f.Rate)
	}
	if len(f.InFlight) == 0 && f.Rate == 0 {
		return errors.New("nothing to measure: neither messages in flight nor a rate")
	}
	if err := f.Publishing.check(); err != nil {
		return err
	}
	return f.Setting.check()
}

// result is what one measurement of one target gave.
type result struct {
	perDelivery []float64 // server's nanoseconds, by round; empty when the process is unknown
	clientCost  []float64 // the same for the swarm
	rate        []float64 // deliveries per second, by round
	totals      swarm.Totals
	messages    uint64
	over        report.Line // deliveries per second over time
}

// Run measures all targets and the floor.
func (f *Fanout) Run(ctx context.Context) (*report.Report, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	name, who := "fanout", report.Thousands(float64(f.Clients))+" members of 1 room"
	if f.Rooms > 1 {
		name, who = "rooms", fmt.Sprintf("%s clients, each in %d of %s rooms", report.Thousands(float64(f.Clients)), f.Each, report.Thousands(float64(f.Rooms)))
	}
	r := f.newReport(name, fmt.Sprintf("%s, messages of %d bytes, %d rounds of %s", who, f.Payload, f.Rounds, f.Round), map[string]any{
		"members": f.Clients, "rooms": f.Rooms, "rooms_each": f.Each, "payload_bytes": f.Payload, "in_flight": f.InFlight, "rate": f.Rate, "rounds": f.Rounds, "round_seconds": f.Round.Seconds(),
	})
	frameBytes := f.Payload + frameHead
	floor, floorOpening := 0.0, 0.0
	err := f.each(ctx, func() int { return frameBytes }, func(ctx context.Context, t *target.Target) error {
		if t.Publisher == nil {
			return target.ErrUnpublished
		}
		one, err := f.target(ctx, t, r)
		if err != nil {
			return err
		}
		if t.Name == target.NameFloor {
			floor = slices.Min(one.perDelivery)
			floorOpening = r.Section(sectionOpening).Row(rowOpening).Values[t.Name]
		} else if one.totals.Frames > 0 {
			frameBytes = int(one.totals.Bytes / one.totals.Frames)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	f.ratios(r, floor)
	openingRatios(r, floorOpening)
	return r, nil
}

// target measures one target in all modes and returns the first result.
func (f *Fanout) target(ctx context.Context, t *target.Target, r *report.Report) (first *result, err error) {
	before, err := cpu(t.PID)
	if err != nil {
		return nil, err
	}
	spread := swarm.Spread{Rooms: f.Rooms, Each: f.Each}
	if t.Name == target.NameFloor {
		spread = swarm.Spread{} // it knows no rooms
	}
	clients, p, err := f.connect(ctx, t, f.options(t, spread))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, clients.Close()) }()
	if err := showOpening(r, t, before, p); err != nil {
		return nil, err
	}
	m := &meter{how: f.Publishing, progress: f.Progress, target: t, publisher: t.Publisher, clients: clients, spread: spread}
	if err := m.warmUp(ctx); err != nil {
		return nil, err
	}
	for _, mode := range f.modes(t) {
		one, err := m.measure(ctx, mode)
		if err != nil {
			return nil, err
		}
		if first == nil {
			first = one
		}
		if err := show(r, mode.String(), t.Name, one); err != nil {
			return nil, err
		}
		if !one.totals.Correct() {
			r.Faults = append(r.Faults, fmt.Sprintf("%s, %s: of %d messages to each of %d members %d deliveries are missing, %d came twice, %d out of order",
				t.Name, mode, one.messages, m.members, one.totals.Missing, one.totals.Duplicates, one.totals.Late))
		}
	}
	if now, err := clients.Progress(); err != nil {
		return nil, err
	} else if now.Closed > p.Closed {
		r.Faults = append(r.Faults, fmt.Sprintf("%s lost connections: %s", t.Name, failures(now)))
	}
	return first, nil
}

// modes of a target. The floor has one: its figure is the same in all.
func (f *Fanout) modes(t *target.Target) []mode {
	if t.Name == target.NameFloor {
		return []mode{{inFlight: 1}}
	}
	var list []mode
	for _, n := range f.InFlight {
		list = append(list, mode{inFlight: n})
	}
	if f.Rate > 0 {
		list = append(list, mode{rate: f.Rate})
	}
	return list
}

// Names of rows.
const (
	rowCost      = "server CPU per delivery, best round"
	rowFloors    = "  in floors (F)"
	rowMedian    = "  median round"
	rowRate      = "deliveries, median round"
	rowFrame     = "frame on the wire"
	rowCoalesced = "messages per read of a client"
	rowClient    = "client CPU per delivery"
	rowP99Floors = "  p99 / (members × F / processors)"
)

// show adds one result to a report.
func show(r *report.Report, title, column string, one *result) error {
	section := r.Section(title)
	if len(one.perDelivery) > 0 {
		section.Set(column, rowCost, report.Nanoseconds, slices.Min(one.perDelivery))
		section.Set(column, rowMedian, report.Nanoseconds, median(one.perDelivery))
	}
	section.Set(column, rowRate, report.PerSecond, median(one.rate))
	latency, err := one.totals.Histogram()
	if err != nil {
		return err
	}
	showLatency(section, column, latency)
	plotLatency(r, title, column, latency)
	one.over.Name = column
	r.Plot(title+": deliveries", "time", report.Nanoseconds, report.PerSecond).Add(one.over, 1e9)
	t := &one.totals
	section.Set(column, "messages", report.Count, float64(one.messages))
	section.Set(column, "deliveries", report.Count, float64(t.Received))
	section.Set(column, "  missing", report.Count, float64(t.Missing))
	section.Set(column, "  duplicates", report.Count, float64(t.Duplicates))
	section.Set(column, "  out of order", report.Count, float64(t.Late))
	if t.Frames > 0 {
		section.Set(column, rowFrame, report.Bytes, float64(t.Bytes)/float64(t.Frames))
	}
	if t.Reads > 0 {
		section.Set(column, rowCoalesced, report.Decimal, float64(t.Received)/float64(t.Reads))
	}
	section.Set(column, rowClient, report.Nanoseconds, median(one.clientCost))
	return nil
}

func showLatency(section *report.Section, column string, h *hdrhistogram.Histogram) {
	for _, q := range []struct {
		name     string
		quantile float64
	}{{"latency p50", 50}, {"latency p99", 99}, {"latency max", 100}} {
		section.Set(column, q.name, report.Nanoseconds, float64(h.ValueAtQuantile(q.quantile))*1000)
	}
}

// plotLatency adds the distribution to the plot of its kind.
func plotLatency(r *report.Report, title, column string, h *hdrhistogram.Histogram) {
	line := report.Line{Name: column}
	for _, q := range []float64{1, 10, 25, 50, 60, 70, 80, 90, 95, 97.5, 99, 99.5, 99.9, 99.99, 100} {
		line.X, line.Y = append(line.X, q), append(line.Y, float64(h.ValueAtQuantile(q))*1000)
	}
	r.Plot(title+": latency by percentile", "percentile", report.Decimal, report.Nanoseconds).Add(line, 1)
}

// ratios adds the rows that need the floor's figure, which comes last.
func (f *Fanout) ratios(r *report.Report, floor float64) {
	for _, section := range r.Sections {
		if section.Title == sectionOpening {
			continue
		}
		inFloors(section, rowFloors, rowCost, floor)
		if section.Title == (mode{inFlight: 1}).String() && f.Rooms == 1 {
			inFloors(section, rowP99Floors, "latency p99", floor*float64(f.Clients)/float64(r.Machine.CPUs))
		}
		section.Sort(rowCost, rowFloors, rowMedian, rowRate, "latency p50", "latency p99", rowP99Floors, "latency max")
	}
	r.Notes = append(r.Notes,
		"Server CPU is the kernel's account of the process that serves the clients, system calls and loopback included.",
		"The floor sends a frame of the same size to every member in turn, by the same system call, and does nothing else.")
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
