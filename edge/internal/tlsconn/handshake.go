package tlsconn

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// Owner is the connection behind a Conn while it shakes hands.
type Owner interface {
	// Progress reports that the outbox may have filled, and that the handshake
	// may be over: see Open and Failure. Called on the loop.
	Progress()
}

// Failure is why a handshake came to nothing. It is also the metric label.
type Failure string

// The failures.
const (
	PlainHTTP   Failure = "plain_http"  // a request without TLS
	NotTLS      Failure = "not_tls"     // neither TLS nor HTTP
	Gone        Failure = "gone"        // the client left
	Timeout     Failure = "timeout"     // it took too long
	Stalled     Failure = "stalled"     // it kept others waiting
	Overloaded  Failure = "overloaded"  // sent away to make room
	Version     Failure = "version"     // the client's versions are too old
	ALPN        Failure = "alpn"        // the client wants another protocol, such as h2
	Parameters  Failure = "parameters"  // no cipher suite, group or signature in common
	Certificate Failure = "certificate" // the client does not accept ours
	Alert       Failure = "alert"       // the client gave up for another reason
	Broken      Failure = "broken"      // what the client sent is no valid handshake
)

// Patience is how long a client may leave the edge waiting while others wait for
// its place: longer than any honest round trip.
const Patience = time.Second

const (
	// maxUnread bounds what a client may send ahead of its handshake.
	maxUnread = 32 << 10
	// maxFirst bounds the first record: nobody else is heard before it is whole.
	maxFirst = 16<<10 + 256
)

type stage uint8

const (
	gathering stage = iota // the first record: costs bytes only
	queued                 // for a place
	running                // on a goroutine
	over
)

var errGivenUp = errors.New("tlsconn: given up")

// handshake is what a Conn is made of until it is open.
type handshake struct {
	// Set at creation, never changed.
	conn  *Conn
	owner Owner
	wake  chan struct{} // there is input, or its end
	ended chan struct{} // closed by giveUp

	// Owned by loop.
	stage   stage
	failure Failure
	since   time.Time // since when the client is awaited; zero when it is not

	// Owned by the goroutine.
	computing bool // holds one of the server's tokens

	// mu guards in, out and eof.
	mu      sync.Mutex
	in, out []byte
	eof     bool
}

// feed takes bytes off the wire. Called on the loop.
func (hs *handshake) feed(wire []byte) {
	hs.mu.Lock()
	hs.in = append(hs.in, wire...)
	hs.mu.Unlock()
	switch hs.stage {
	case gathering:
		hs.first()
	case running:
		hs.poke()
	}
}

func (hs *handshake) poke() {
	hs.since = time.Time{}
	select {
	case hs.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// first waits for the whole first record before anything is spent on the
// client: a connection that says nothing, or half of it, has no goroutine.
func (hs *handshake) first() {
	b := hs.in
	switch {
	case len(b) == 0:
	case isLetter(b[0]):
		hs.fail(PlainHTTP)
	case b[0] != 0x16, len(b) > 1 && b[1] != 3:
		hs.fail(NotTLS)
	case len(b) >= 5:
		n := int(b[3])<<8 | int(b[4])
		if n > maxFirst {
			hs.fail(NotTLS)
		} else if len(b) >= 5+n {
			hs.conn.engine.admit(hs)
		}
	}
}

func isLetter(b byte) bool { return b|0x20 >= 'a' && b|0x20 <= 'z' }

func (hs *handshake) fail(f Failure) {
	hs.leave()
	hs.failure = f
	hs.conn.engine.counts.TLSFailures.Add(string(f), 1)
}

// leave ends the handshake's part in the gauge.
func (hs *handshake) leave() {
	if hs.stage != over {
		hs.stage = over
		hs.conn.engine.counts.TLSPending.Add(-1)
	}
}

// giveUp ends a handshake that nobody wants any more. Called on the loop.
func (hs *handshake) giveUp() {
	switch hs.stage {
	case queued:
		hs.conn.engine.waiting--
	case running:
		close(hs.ended)
	}
	hs.leave()
}

// run is the goroutine of one handshake.
func (hs *handshake) run() {
	engine := hs.conn.engine
	defer engine.group.Done()
	err := errGivenUp
	if hs.compute() {
		err = hs.conn.tls.Handshake()
	}
	hs.rest()
	// An error of post means that the loop has stopped: nobody waits.
	_ = engine.post(func() { engine.finished(hs, err) })
}

// compute waits for processor time. It reports false when the handshake was
// given up meanwhile.
func (hs *handshake) compute() bool {
	select {
	case <-hs.ended:
		return false
	default:
	}
	select {
	case hs.conn.engine.server.processors <- struct{}{}:
		hs.computing = true
		return true
	case <-hs.ended:
		return false
	}
}

func (hs *handshake) rest() {
	if hs.computing {
		hs.computing = false
		<-hs.conn.engine.server.processors
	}
}

// read is the shim's Read during the handshake: it parks the goroutine until
// there is input.
func (hs *handshake) read(p []byte) (int, error) {
	for {
		hs.mu.Lock()
		n := copy(p, hs.in)
		hs.in = hs.in[n:]
		eof := hs.eof
		hs.mu.Unlock()
		switch {
		case n > 0:
			return n, nil
		case eof:
			return 0, io.EOF
		}
		hs.rest()
		if hs.conn.engine.post(hs.parked) != nil {
			return 0, errGivenUp
		}
		select {
		case <-hs.wake:
		case <-hs.ended:
			return 0, errGivenUp
		}
		if !hs.compute() {
			return 0, errGivenUp
		}
	}
}

// write is the shim's Write during the handshake. What it collects is sent when
// the goroutine parks, a flight at a time.
func (hs *handshake) write(p []byte) {
	hs.mu.Lock()
	hs.out = append(hs.out, p...)
	hs.mu.Unlock()
}

// parked runs on the loop after the goroutine ran out of input.
func (hs *handshake) parked() {
	if hs.stage != running {
		return
	}
	if hs.takeOut() {
		hs.since = hs.conn.engine.now()
	}
	hs.owner.Progress()
}

// takeOut moves the flight to the outbox. It reports whether the client is
// awaited.
func (hs *handshake) takeOut() (awaited bool) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.conn.out = append(hs.conn.out, hs.out...)
	hs.out = hs.out[:0]
	return len(hs.in) == 0 && !hs.eof
}

// Failure is why the handshake failed, empty while it has not.
func (c *Conn) Failure() Failure {
	if c.shaking == nil {
		return ""
	}
	return c.shaking.failure
}

// Fail gives a handshake up that the caller has no time or place for. It counts
// why.
func (c *Conn) Fail(f Failure) {
	if c.shaking != nil && c.shaking.stage != over {
		c.shaking.giveUp()
		c.shaking.failure = f
		c.engine.counts.TLSFailures.Add(string(f), 1)
	}
}

// EOF tells a handshake that the client has closed its half: what arrived
// before may say why.
func (c *Conn) EOF() {
	hs := c.shaking
	if hs == nil {
		return
	}
	hs.mu.Lock()
	hs.eof = true
	hs.mu.Unlock()
	if hs.stage == running {
		hs.poke()
	} else {
		c.Fail(Gone) // nothing was spent yet, and nothing should be
	}
}

// Full reports that the handshake has unread input enough: leave the rest in
// the socket, and go on reading at the next Progress.
func (c *Conn) Full() bool {
	hs := c.shaking
	if hs == nil {
		return false
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return len(hs.in) >= maxUnread
}

// Stalling reports that the client has kept the edge waiting for long, and that
// others wait for its place.
func (c *Conn) Stalling() bool {
	hs := c.shaking
	return hs != nil && hs.stage == running && c.engine.waiting > 0 &&
		!hs.since.IsZero() && c.engine.now().Sub(hs.since) >= Patience
}

// failureOf names an error of crypto/tls, which has texts for people only.
func failureOf(err error) Failure {
	var remote *net.OpError
	var header tls.RecordHeaderError
	text := err.Error()
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(text, w) {
				return true
			}
		}
		return false
	}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Gone
	case errors.As(err, &remote) && remote.Op == "remote error":
		if has("certificate") {
			return Certificate
		}
		return Alert
	case errors.As(err, &header):
		return NotTLS
	case has("unsupported versions", "legacy version", "protocol fallback", "older than TLS"):
		return Version
	case has("application protocol"):
		return ALPN
	case has("no cipher suite", "no key exchanges", "signature algorithms", "point formats"):
		return Parameters
	}
	return Broken
}
