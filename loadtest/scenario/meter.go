package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"

	"nabat/loadtest/report"
	"nabat/loadtest/swarm"
	"nabat/loadtest/target"
)

// Publishing says how messages are published.
type Publishing struct {
	Payload int           // bytes of a message
	Rounds  int           // of each measurement: the machine is rarely quiet
	Round   time.Duration // of publishing
	WarmUp  time.Duration // for the first message that reaches every member
}

func (p *Publishing) check() error {
	if p.Payload < swarm.MinPayload || p.Payload > swarm.MaxPayload {
		return fmt.Errorf("payload of %d bytes: must be %d to %d", p.Payload, swarm.MinPayload, swarm.MaxPayload)
	}
	if p.Rounds < 1 || p.Round <= 0 {
		return fmt.Errorf("%d rounds of %s: at least one, of more than no time", p.Rounds, p.Round)
	}
	return nil
}

// meter publishes to rooms of one target and counts. Not safe for concurrent
// use.
type meter struct {
	how       Publishing
	progress  *report.Progress
	target    *target.Target
	publisher target.Publisher
	clients   *swarm.Swarm
	spread    swarm.Spread
	run       uint32 // number of the last run
	members   int    // in it, once for each of their rooms
	sent      uint64 // to each room in it; set where it is of use
}

// rooms is how many rooms there are.
func (m *meter) rooms() int { return max(m.spread.Rooms, 1) }

// begin starts the next run.
func (m *meter) begin(ctx context.Context) error {
	m.run++
	var err error
	if m.members, err = m.clients.Begin(ctx, m.run); err != nil {
		return err
	}
	if m.members == 0 {
		p, _ := m.clients.Progress()
		return errors.New("no client is connected any more: " + failures(p))
	}
	return nil
}

// errLost says that nothing arrived for a while and messages are outstanding.
var errLost = errors.New("messages were lost")

// warmUp publishes until every member got one and the same message: members
// may still be joining, and every path is cold at first.
func (m *meter) warmUp(ctx context.Context) error {
	deadline := time.Now().Add(m.how.WarmUp)
	for {
		if err := m.begin(ctx); err != nil {
			return err
		}
		if err := m.publish(ctx, 1, swarm.Now()); err != nil {
			return err
		}
		err := m.wait(ctx, 1, time.Second)
		totals, failed := m.clients.Finish(ctx, 1)
		switch {
		case failed != nil:
			return failed
		case err == nil:
			return nil
		case !errors.Is(err, errLost):
			return err
		case time.Now().After(deadline) && totals.Received == 0:
			question := "does the target read from this NATS server, and this subject prefix?"
			if m.target.NATS == "" {
				question = "does what is posted reach the room " + swarm.RoomName(m.spread.First) + "?"
			}
			return fmt.Errorf("no client got any of the messages published within %s: %s", m.how.WarmUp, question)
		case time.Now().After(deadline):
			return fmt.Errorf("after %s a message still reaches only %d of %d members", m.how.WarmUp, totals.Received, m.members)
		}
	}
}

// publish sends message n to every room.
func (m *meter) publish(ctx context.Context, n uint64, at int64) error {
	for room := range m.rooms() {
		if err := m.one(ctx, room, n, at); err != nil {
			return err
		}
	}
	return nil
}

func (m *meter) one(ctx context.Context, room int, n uint64, at int64) error {
	return m.publisher.Publish(ctx, swarm.Stamp{Run: m.run, Sequence: n, At: at, Room: uint32(m.spread.First + room)}, m.how.Payload)
}

// look is how often a wait asks whether anything arrives.
const look = 250 * time.Millisecond

// wait returns when all members have the first n messages, errLost when
// nothing arrives for the time of patience.
func (m *meter) wait(ctx context.Context, n uint64, patience time.Duration) error {
	received, changed := uint64(0), time.Now()
	for {
		slice, cancel := context.WithTimeout(ctx, min(look, patience))
		err := m.clients.Wait(slice, n)
		cancel()
		if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return errors.Join(err, context.Cause(ctx))
		}
		p, err := m.clients.Progress()
		if err != nil {
			return err
		}
		if p.Received != received {
			received, changed = p.Received, time.Now()
		} else if time.Since(changed) >= patience {
			return errLost
		}
	}
}

// measure does all rounds of one mode.
func (m *meter) measure(ctx context.Context, how mode) (*result, error) {
	sum := new(result)
	phase := fmt.Sprintf("%s: %s", m.target.Name, how)
	total := float64(m.how.Rounds)
	started, last := time.Now(), sample{}
	for round := range m.how.Rounds {
		began := time.Now()
		stop := live(m.clients, func(p swarm.Progress) {
			ran := time.Since(began).Seconds()
			last = last.next(&sum.over, time.Since(started).Seconds(), p.Received)
			m.progress.Show(report.State{
				Phase: phase, Done: float64(round) + min(ran/m.how.Round.Seconds(), 1), Total: total, Of: "rounds",
				Detail: report.Format(float64(p.Received)/ran, report.PerSecond) + " deliveries", Errors: p.Closed,
			})
		})
		err := m.round(ctx, how, sum)
		stop()
		if err != nil {
			return nil, err
		}
	}
	m.progress.Show(report.State{
		Phase: phase, Done: total, Total: total, Of: "rounds", Detail: report.Format(median(sum.rate), report.PerSecond) + " deliveries",
	})
	return sum, nil
}

// round publishes for the time of one round, waits until everything has
// arrived, and adds the costs to sum.
func (m *meter) round(ctx context.Context, how mode, sum *result) error {
	if err := m.begin(ctx); err != nil {
		return err
	}
	server, err := cpu(m.target.PID)
	if err != nil {
		return err
	}
	swarmBefore, err := cpu(m.clients.PIDs()...)
	if err != nil {
		return err
	}
	began := time.Now()
	var sent uint64
	if how.inFlight > 0 {
		sent, err = m.window(ctx, uint64(how.inFlight))
	} else {
		sent, err = m.schedule(ctx, how.rate)
	}
	if err == nil {
		err = m.wait(ctx, sent, stalled)
	}
	if err != nil && !errors.Is(err, errLost) {
		return err
	}
	took := time.Since(began)
	if errors.Is(err, errLost) {
		took -= stalled // nothing happened in it
	}
	serverAfter, err := cpu(m.target.PID)
	if err != nil {
		return err
	}
	swarmAfter, err := cpu(m.clients.PIDs()...)
	if err != nil {
		return err
	}
	totals, err := m.clients.Finish(ctx, sent)
	if err != nil {
		return err
	}
	if totals.Received == 0 {
		return errors.New("a round in which nothing arrived")
	}
	if m.target.PID != 0 {
		sum.perDelivery = append(sum.perDelivery, float64(serverAfter-server)/float64(totals.Received))
	}
	sum.clientCost = append(sum.clientCost, float64(swarmAfter-swarmBefore)/float64(totals.Received))
	sum.rate = append(sum.rate, float64(totals.Received)/took.Seconds())
	sum.messages += sent * uint64(m.rooms())
	return sum.totals.Add(totals)
}

// window keeps up to size messages in flight for the time of a round. It
// returns how many were sent.
func (m *meter) window(ctx context.Context, size uint64) (sent uint64, err error) {
	deadline := time.Now().Add(m.how.Round)
	for time.Now().Before(deadline) {
		sent++
		if err := m.publish(ctx, sent, swarm.Now()); err != nil {
			return sent, err
		}
		if sent < size {
			continue
		}
		if err := m.wait(ctx, sent-size+1, stalled); err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// schedule publishes at a fixed rate for the time of a round, whatever the
// target does, to one room after the other. Each message is stamped with the
// time at which it was due, so that one which had to wait, here or there,
// counts as late. It returns how many each room got.
func (m *meter) schedule(ctx context.Context, rate float64) (sent uint64, err error) {
	return m.until(ctx, rate, func(offset time.Duration) bool { return offset >= m.how.Round })
}

// until is schedule with another end: after the last room has got as many as
// the others, when ended says so. Its argument is the time since the start.
func (m *meter) until(ctx context.Context, rate float64, ended func(time.Duration) bool) (sent uint64, err error) {
	interval := float64(time.Second) / rate
	start := swarm.Now()
	for n := 0; ; n++ {
		offset := int64(float64(n) * interval)
		room := n % m.rooms()
		if room == 0 && n > 0 && ended(time.Duration(offset)) {
			return sent, nil
		}
		due := start + offset
		if ahead := time.Duration(due - swarm.Now()); ahead > 0 {
			select {
			case <-time.After(ahead):
			case <-ctx.Done():
				return sent, context.Cause(ctx)
			}
		}
		if room == 0 {
			sent++
		}
		if err := m.one(ctx, room, sent, due); err != nil {
			return sent, err
		}
	}
}

// sample is a count at a time; the difference of two gives a rate.
type sample struct{ at, count float64 }

// next adds the rate since s to the line. A smaller count is of another round.
func (s sample) next(line *report.Line, at float64, received uint64) sample {
	now := sample{at, float64(received)}
	if now.count >= s.count && now.at > s.at && s.at > 0 {
		line.X, line.Y = append(line.X, now.at), append(line.Y, (now.count-s.count)/(now.at-s.at))
	}
	return now
}
