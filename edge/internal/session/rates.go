package session

import (
	"time"

	"nabat/edge/internal/rate"
	"nabat/proto/wire"
)

// Rates bound what one session may ask for in a time. Those that are zero do
// not.
type Rates struct {
	Messages    rate.Limit // inbound objects
	Bytes       rate.Limit // of those
	Subscribes  rate.Limit // rooms in subscribe
	Calls       rate.Limit // rpc
	Shared      [Uses]bool // with others: Host.Within knows them
	MaxRefusals int        // by these, before the connection is closed with 4103
}

// Use is what a rate that connections share is of.
type Use uint8

// The uses.
const (
	OfFrames     Use = iota // n is the bytes of one
	OfSubscribes            // n is rooms
	OfCalls
	Uses
)

// meter is what a session has used of its rates.
type meter struct {
	messages, bytes, subscribes, calls rate.Bucket
	refused                            uint16 // less those that passed since
}

func (s *Session) metered() *meter {
	if s.wait == nil {
		s.wait = new(waiting)
	}
	if s.wait.meter == nil {
		s.wait.meter = new(meter)
	}
	return s.wait.meter
}

// withinRates takes one inbound object from the buckets, or refuses it.
func (c call) withinRates(text []byte) bool {
	if !withinOwn(c, text) {
		return false
	}
	reason, wait := within(c, OfFrames, len(text))
	if wait == 0 {
		return true
	}
	var cmd wire.Command
	_ = c.Encoding.Parse(text, &cmd) // only for its id
	c.overRate(&cmd, reason, wait)
	return false
}

// within takes n from what the client shares with others.
func within(c call, use Use, n int) (reason string, wait int64) {
	if !c.limits.Rates.Shared[use] {
		return "", 0
	}
	return c.host.Within(c.ref, c.identity, use, n)
}

func withinOwn(c call, text []byte) bool {
	r := &c.limits.Rates
	if !r.Messages.On() && !r.Bytes.On() {
		return true
	}
	m, now, size := c.metered(), c.host.Elapsed(), int64(len(text))
	messages, bytes := m.messages.Wait(r.Messages, 1, now), m.bytes.Wait(r.Bytes, size, now)
	if messages == 0 && bytes == 0 {
		m.messages.Spend(r.Messages, 1, now)
		m.bytes.Spend(r.Bytes, size, now)
		return true
	}
	var cmd wire.Command
	_ = c.Encoding.Parse(text, &cmd) // only for its id
	if messages >= bytes {
		c.overRate(&cmd, "this connection sends too many messages in a second", messages)
	} else {
		c.overRate(&cmd, "this connection sends too many bytes in a second", bytes)
	}
	return false
}

// withinRate takes n from the bucket of a verb that has a rate of its own, and
// from those of the same use that others share, or refuses the command. What it
// took from the first is lost when the others refuse.
func (c call) withinRate(cmd *wire.Command, r rate.Limit, bucket func(*meter) *rate.Bucket, n int64, reason string, use Use) bool {
	if r.On() {
		b, now := bucket(c.metered()), c.host.Elapsed()
		if wait := b.Wait(r, n, now); wait > 0 {
			c.overRate(cmd, reason, wait)
			return false
		}
		b.Spend(r, n, now)
	}
	if reason, wait := within(c, use, int(n)); wait > 0 {
		c.overRate(cmd, reason, wait)
		return false
	}
	c.forgive()
	return true
}

// forgive lets a command that passed make up for one that was refused: whoever
// keeps near the rate is never closed, whoever ignores refusals is.
func (s *Session) forgive() {
	if s.wait != nil && s.wait.meter != nil && s.wait.meter.refused > 0 {
		s.wait.meter.refused--
	}
}

func (c call) overRate(cmd *wire.Command, reason string, wait int64) {
	m := c.metered()
	m.refused++
	const ms = int64(time.Millisecond)
	c.refuse(cmd, &wire.Error{Code: wire.RateLimited, Reason: reason, RetryMS: int((wait + ms - 1) / ms)})
	if int(m.refused) >= c.limits.Rates.MaxRefusals {
		c.end(wire.CloseRateLimited)
	}
}
