package tlsconn

import (
	"crypto/tls"
	"sync"
	"time"

	"nabat/edge/internal/metrics"
)

// Engine is TLS on one loop: the handshakes that have a place, those that wait
// for one, and the two buffers that open connections share. Owner: the loop.
type Engine struct {
	// Set at creation, never changed.
	server *Server
	post   func(func()) error
	now    func() time.Time
	counts *metrics.Loop
	places int
	group  sync.WaitGroup // goroutines of handshakes

	// Owned by loop.
	plain   []byte // what Next returns
	sealed  []byte // what Seal writes into
	running map[*handshake]struct{}
	queue   []*handshake // by age; those given up are skipped
	waiting int          // of queue, those not given up
}

// NewEngine returns the TLS side of a loop: post runs a function on it, now is
// its clock, and places bounds the handshakes that are under way at a time.
func NewEngine(s *Server, places int, post func(func()) error, now func() time.Time, counts *metrics.Loop) *Engine {
	const overhead = 1 << 10 // of a record
	return &Engine{server: s, post: post, now: now, counts: counts, places: places,
		plain: make([]byte, MaxRecord), sealed: make([]byte, 0, MaxRecord+overhead), running: make(map[*handshake]struct{})}
}

// Accept begins a connection.
func (e *Engine) Accept(owner Owner) *Conn {
	c := &Conn{engine: e}
	c.shaking = &handshake{conn: c, owner: owner}
	e.counts.TLSPending.Add(1)
	return c
}

// admit gives hs a place, or lets it wait for one.
func (e *Engine) admit(hs *handshake) {
	if len(e.running) < e.places {
		e.start(hs)
		return
	}
	hs.stage = queued
	e.waiting++
	e.queue = append(e.queue, hs)
}

func (e *Engine) start(hs *handshake) {
	hs.stage = running
	hs.wake, hs.ended = make(chan struct{}, 1), make(chan struct{})
	hs.conn.tls = tls.Server((*shim)(hs.conn), e.server.config)
	e.running[hs] = struct{}{}
	e.group.Add(1)
	go hs.run()
}

// finished runs on the loop after hs's goroutine has ended.
func (e *Engine) finished(hs *handshake, err error) {
	delete(e.running, hs)
	e.next()
	if hs.stage != running {
		return // given up
	}
	hs.takeOut()
	if err != nil {
		hs.fail(failureOf(err))
		hs.owner.Progress()
		return
	}
	hs.leave()
	c := hs.conn
	// Plaintext may be here already: in what was fed, or in what crypto/tls has
	// read ahead.
	c.shaking, c.in, c.unread = nil, hs.in, true
	e.counts.TLSHandshakes.Add(1)
	if c.tls.ConnectionState().DidResume {
		e.counts.TLSResumed.Add(1)
	}
	hs.owner.Progress()
}

// next gives free places to those who wait longest.
func (e *Engine) next() {
	for len(e.queue) > 0 && len(e.running) < e.places {
		hs := e.queue[0]
		e.queue[0] = nil
		e.queue = e.queue[1:]
		if hs.stage == queued {
			e.waiting--
			e.start(hs)
		}
	}
	if len(e.queue) == 0 {
		e.queue = nil
	}
}

// Stop gives up the handshakes that are under way. Call Wait afterwards.
func (e *Engine) Stop() {
	e.places = 0
	for hs := range e.running {
		if hs.stage == running {
			hs.giveUp()
		}
	}
}

// Wait returns when no goroutine is left after Stop. Not for use on the loop.
func (e *Engine) Wait() { e.group.Wait() }
