package swarm

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/gobwas/ws"
)

// frame handles one frame of size bytes, its head included, that was read at
// arrival.
func (l *loop) frame(c *client, f frame, size int, arrival int64) error {
	switch f.code {
	case ws.OpPing:
		return c.pong(f.payload)
	case ws.OpPong:
		return nil
	case ws.OpClose:
		return errors.New(closeReason(f.payload))
	}
	if l.plan.pinged(f.payload) {
		if err := c.send(l.plan.masked(l.plan.Pong)); err != nil || len(f.payload) == len(l.plan.Ping) {
			return err
		}
	}
	if c.state == greeting {
		greeted, err := l.greeted(c, f.payload)
		if err != nil || !greeted {
			return err
		}
		l.opened(c)
	}
	l.messages(c, f.payload, size, arrival)
	return nil
}

// events takes what a stream of server-sent events brought, chunk heads and
// all: a stamp that a chunk head cuts in two is not found and shows as missing.
func (l *loop) events(c *client, in []byte) error {
	if c.state == greeting {
		if !bytes.Contains(in, []byte(l.plan.Greeting)) {
			c.keep(in)
			return nil
		}
		l.opened(c)
	}
	end := l.messages(c, in, len(in), Now())
	c.keep(in[max(end, len(in)-stampBytes):])
	return nil
}

// messages counts the messages in text, of which size bytes were on the wire.
// It returns where the last one ends.
func (l *loop) messages(c *client, text []byte, size int, arrival int64) int {
	counted, at := false, 0
	for {
		stamp, end := findStamp(text, at)
		if end < 0 {
			break
		}
		at = end
		if stamp.Run != l.number || l.number == 0 {
			l.totals.Strays++
			continue
		}
		slot := l.plan.Spread.slot(int(c.number), int(stamp.Room))
		if slot < 0 {
			l.totals.Strays++
			continue
		}
		counted = counted || c.member
		l.message(c, slot, stamp, arrival)
		if c.at != nil {
			c.at[slot].advance(text)
		}
	}
	if counted {
		l.totals.Frames++
		l.totals.Bytes += uint64(size)
	}
	return at
}

func (l *loop) message(c *client, slot int, s Stamp, arrival int64) {
	verdict := c.in(slot).Take(s.Sequence)
	if !c.member {
		return
	}
	switch verdict {
	case Duplicate:
		l.totals.Duplicates++
		return
	case Late:
		l.totals.Late++
	}
	l.totals.Received++
	l.fresh++
	record(l.totals.histogram, arrival-s.At)
}

// opened moves c out of its handshake.
func (l *loop) opened(c *client) {
	c.state = open
	l.pending--
	l.stand.Connected++
	l.stand.Dialing = time.Duration(Now() - l.pace.start)
}

// pong answers a ping.
func (c *client) pong(payload []byte) error {
	answer, err := pong(payload)
	if err == nil {
		err = c.send(answer)
	}
	if err != nil {
		return fmt.Errorf("pong: %w", err)
	}
	return nil
}
