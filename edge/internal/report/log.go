// Package report tells control what happens at a node's connections: numbered
// events of each loop, sent in reports that are heartbeats, too, and snapshots of
// what is so.
package report

import (
	"sync"

	"nabat/proto/buspb"
)

// Bounds of what waits for a report: beyond them events are dropped, numbers move
// on, and control sees the hole.
const (
	maxEvents     = 1 << 16
	maxEventBytes = 16 << 20
)

// Log numbers the events of one loop from 1, and holds them until the next report.
// It costs nothing for a connection to which nothing happens.
type Log struct {
	wake func() // something waits; never blocks

	// mu guards the fields below.
	mu     sync.Mutex
	number uint64 // of the last event
	events []*buspb.Event
	bytes  int
	lost   uint64 // events dropped
}

// NewLog returns the log of one loop; wake is called when events begin to wait.
func NewLog(wake func()) *Log { return &Log{wake: wake} }

// Add appends an event, which is kept.
func (l *Log) Add(e *buspb.Event) {
	l.mu.Lock()
	l.number++
	first := len(l.events) == 0
	l.bytes += eventSize(e)
	if len(l.events) >= maxEvents || l.bytes > maxEventBytes {
		l.lost += uint64(len(l.events)) + 1
		l.events, l.bytes = nil, 0
	} else {
		l.events = append(l.events, e)
	}
	l.mu.Unlock()
	if first {
		l.wake()
	}
}

// eventSize is about what an event takes in a report.
func eventSize(e *buspb.Event) int {
	const fixed = 32
	return fixed + len(e.Room) + len(e.User) + len(e.Info) + len(e.Reason)
}

// Number is that of the last event.
func (l *Log) Number() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.number
}

// take empties the log.
func (l *Log) take() *buspb.Segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &buspb.Segment{After: l.number - uint64(len(l.events)), Events: l.events}
	l.events, l.bytes = nil, 0
	return s
}

// drop counts events that could not be sent.
func (l *Log) drop(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost += uint64(n)
}

func (l *Log) dropped() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}
