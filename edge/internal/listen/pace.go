package listen

import (
	"math/rand/v2"

	"golang.org/x/sys/unix"

	"nabat/edge/internal/loop"
	"nabat/edge/internal/rate"
	"nabat/proto/wire"
)

const (
	// TooManyRetry is the least that a client waits whose address or user has
	// too many connections, in milliseconds.
	TooManyRetry = 10_000

	// refusalsAtOnce are made by relieve, which runs twice in its first turn.
	refusalsAtOnce = acceptsPerTurn / 2

	stormRetry = 2_000 // milliseconds, of those who are refused in a storm
)

// Spread is a delay of ms to twice ms, by chance: clients that are refused
// together must not come back together.
func Spread(ms int) int { return ms + rand.IntN(ms+1) }

// pace is how fast an acceptor takes connections. Those that come faster wait in
// the kernel, and cost nothing there.
type pace struct {
	bucket  rate.Bucket
	now     int64 // ns since the loop began, at the last accept
	resting bool  // the listening socket is not watched
}

// spend counts one connection.
func (p *pace) spend(l rate.Limit) { p.bucket.Spend(l, 1, p.now) }

// keepsPace reports whether one more may be taken now. If not, it lets the
// listening socket rest.
func (a *Acceptor) keepsPace() bool {
	if !a.limits.Rate.On() {
		return true
	}
	a.pace.now = a.clock()
	if a.pace.bucket.Wait(a.limits.Rate, 1, a.pace.now) == 0 {
		return true
	}
	if a.loop.Unwatch(a.fd) == nil {
		a.pace.resting = true
		a.loop.After(loop.Tick, a.wakeUp)
	}
	return false
}

func (a *Acceptor) wakeUp() {
	if !a.open || !a.pace.resting {
		return
	}
	if a.pace.bucket.Wait(a.limits.Rate, 1, a.clock()) == 0 && a.loop.Watch(a.fd, a.accept) == nil {
		a.pace.resting = false
		return
	}
	a.relieve()
	a.loop.After(loop.Tick, a.wakeUp)
}

// relieve refuses what would have to wait too long in the kernel, so that those
// clients learn of it: a full backlog drops them without a word. It goes on in
// the next turn, that others have theirs.
func (a *Acceptor) relieve() {
	if !a.open || !a.pace.resting {
		return
	}
	surplus := a.surplus()
	for range min(surplus, refusalsAtOnce) {
		fd, _, errno := accept4(a.fd)
		if errno != 0 {
			return
		}
		a.counts.Accepted.Add(1)
		a.refuseNow(fd, "accept_rate", &wire.Error{Code: wire.Overloaded, RetryMS: Spread(stormRetry),
			Reason: "more clients connect than this node takes in a second"})
	}
	if surplus > refusalsAtOnce {
		// An error means that the loop has stopped.
		_ = a.loop.Post(a.relieve)
	}
}

// surplus is how many connections wait in the kernel beyond the bound.
func (a *Acceptor) surplus() int {
	info, err := unix.GetsockoptTCPInfo(a.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	// Of a listening socket these are the length of its queue and the kernel's
	// bound on it. Beyond that bound connections are lost without a word.
	waiting, backlog := int(info.Unacked), int(info.Sacked)
	return waiting - min(a.limits.MaxWaiting, backlog*3/4)
}
