package swarm

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"
)

// frame handles one frame of size bytes, its head included, that was read at
// arrival.
func (l *loop) frame(c *client, f frame, size int, arrival int64) error {
	switch f.code {
	case ws.OpPing:
		return l.pong(c, f.payload)
	case ws.OpPong:
		return nil
	case ws.OpClose:
		return errors.New(closeReason(f.payload))
	}
	if c.state == greeting {
		if !bytes.Contains(f.payload, []byte(l.plan.Greeting)) {
			return fmt.Errorf("the target's first message is not %q but %q", l.plan.Greeting, clip(string(f.payload), 120))
		}
		l.opened(c)
	}
	counted := false
	for at := 0; ; {
		stamp, end := findStamp(f.payload, at)
		if end < 0 {
			break
		}
		at = end
		if stamp.Run != l.number || l.number == 0 {
			l.totals.Strays++
			continue
		}
		counted = true
		l.message(c, stamp, arrival)
	}
	if counted {
		l.totals.Frames++
		l.totals.Bytes += uint64(size)
	}
	return nil
}

func (l *loop) message(c *client, s Stamp, arrival int64) {
	switch c.order.Take(s.Sequence) {
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

// pong answers a ping. A socket too full for a few bytes is a broken client.
func (l *loop) pong(c *client, payload []byte) error {
	answer, err := pong(payload)
	if err != nil {
		return fmt.Errorf("pong: %w", err)
	}
	if n, err := unix.Write(c.fd, answer); err != nil || n < len(answer) {
		return fmt.Errorf("pong: %d of %d bytes sent: %w", n, len(answer), err)
	}
	return nil
}
