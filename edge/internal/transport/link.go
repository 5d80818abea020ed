package transport

import (
	"time"

	"golang.org/x/sys/unix"

	"nabat/edge/internal/frame"
	"nabat/edge/internal/loop"
	"nabat/edge/internal/metrics"
	"nabat/edge/internal/session"
	"nabat/proto/wire"
)

// Limits bound what one connection may cost.
type Limits struct {
	MaxMessageBytes int           // of an inbound message, fragments together
	PingInterval    time.Duration // silence after which the edge pings
	PongTimeout     time.Duration // silence after a ping that ends the connection
	CloseTimeout    time.Duration // wait for the client's half of a close
}

// Env is what the connections of one loop share. Set at creation, never changed.
type Env struct {
	Loop    *loop.Loop
	Writer  *Writer
	Counts  *metrics.Loop
	Host    session.Host
	Session *session.Limits
	Limits  *Limits
	// Deflater compresses for those who negotiated it; nil: nobody may.
	Deflater *frame.Deflater
	// Leave ends the connection's memberships; called once, before it closes, with
	// the reason in metrics.
	Leave func(ref loop.Ref, label string)
	// Gap tells one connection that these rooms lost messages.
	Gap func(ref loop.Ref, rooms []uint32)
	// Lag makes a connection catch up with a room later.
	Lag func(ref loop.Ref, room uint32)
	// Drained is told that nothing waits for a connection any more.
	Drained func(ref loop.Ref)
}

// Client is a connection with a session, whatever its transport. All methods
// must be called on the loop.
type Client interface {
	// Say sends an answer or a notice.
	Say(object wire.Object)
	// Close ends the connection with a code the client can read.
	Close(c wire.Close)
	// WakeAt asks for the session's Wake at a unix time in seconds.
	WakeAt(unix int64)
	// Encoding is the form in which the client gets messages.
	Encoding() frame.Encoding
	// Leaving reports that the connection is being closed: its session is over.
	Leaving() bool
	// Speaker is the session behind the connection.
	Speaker() *session.Session
	// Transport names the transport.
	Transport() string
	// Identity is who the client is, nil for an anonymous one.
	Identity() *session.Identity
}

// Positioned is a client whose messages carry its positions in all its rooms
// with history, because it has no other way to come back to them.
type Positioned interface {
	Client
	// Place notes where the client stands in a room.
	Place(at wire.Position)
	// Events makes the bytes of messages of one room.
	Events(epoch string, list []*frame.Message) []byte
}

// readsPerTurn is how many buffers one connection may read before others get
// their turn.
const readsPerTurn = 4

// Link is what every connection with a session is made of. Transports embed it.
type Link struct {
	Out     Out
	Env     *Env
	Session session.Session

	wakeAt  int64          // unix seconds of the session's next Wake, 0 for none; when Closing, the end of that in milliseconds
	heard   uint32         // seconds of the loop's clock at which the client was last heard
	Pinged  bool           // a ping waits for an answer
	Closing bool           // a close was sent; only the end of the connection is awaited
	Form    frame.Encoding // of what the client gets, where the transport has several
}

// Leaving implements Client.
func (l *Link) Leaving() bool { return l.Closing }

// Identity implements Client.
func (l *Link) Identity() *session.Identity { return l.Session.Identity() }

// Speaker implements Client.
func (l *Link) Speaker() *session.Session { return &l.Session }

// SessionRef is the link's name for its session.
func (l *Link) SessionRef() session.Ref { return session.Ref(l.Out.ref) }

// WakeAt implements Client.
func (l *Link) WakeAt(at int64) {
	if l.wakeAt == 0 || at < l.wakeAt {
		l.wakeAt = at
		l.Env.Loop.WakeIn(l.Out.ref, l.until(at))
	}
}

func (l *Link) until(at int64) time.Duration {
	return time.Unix(at, 0).Sub(l.Env.Loop.Now())
}

// Heard notes that the client is alive.
func (l *Link) Heard() {
	l.heard = uint32(l.Env.Loop.Now().Unix())
	l.Pinged = false
}

// Silence is how long nothing came from the client.
func (l *Link) Silence() time.Duration {
	return time.Duration(uint32(l.Env.Loop.Now().Unix())-l.heard) * time.Second
}

// SessionWake runs the session's Wake if its time has come and re-arms it.
func (l *Link) SessionWake() {
	if l.wakeAt == 0 {
		return
	}
	if l.until(l.wakeAt) > 0 {
		l.Env.Loop.WakeIn(l.Out.ref, l.until(l.wakeAt))
		return
	}
	l.wakeAt = 0
	l.Session.Wake(l.Env.Host, l.SessionRef(), l.Env.Session)
}

// End closes the descriptor at once. label is the reason in metrics; empty when
// it was counted before.
func (l *Link) End(label string) {
	if l.Out.Closed() {
		return
	}
	if !l.Closing {
		l.Env.Leave(l.Out.ref, label)
		l.Closing = true
	}
	if label != "" {
		l.Env.Counts.Closes.Add(label, 1)
	}
	ref := l.Out.ref
	l.Env.Writer.Close(&l.Out)
	l.Env.Loop.Remove(ref)
}

// Begin ends the memberships and marks the link as closing. It reports whether
// it was open. The transport then says goodbye in its own way.
func (l *Link) Begin(label string) bool {
	if l.Closing || l.Out.Closed() {
		return false
	}
	l.Env.Leave(l.Out.ref, label)
	l.Closing = true
	l.wakeAt = l.Env.Loop.Now().Add(l.Env.Limits.CloseTimeout).UnixMilli()
	l.Env.Counts.Closes.Add(label, 1)
	return true
}

// CloseOver reports whether the client had its time to end its half of the
// close. An earlier Wake may be left over from before: it asks for another.
func (l *Link) CloseOver() bool {
	rest := time.UnixMilli(l.wakeAt).Sub(l.Env.Loop.Now())
	if rest <= 0 {
		return true
	}
	l.Env.Loop.WakeIn(l.Out.ref, rest)
	return false
}

// HalfClose says that nothing more will be sent, once everything was, and
// leaves the client CloseTimeout to end its half: closing at once could reset
// the connection under the last frame.
func (e *Env) HalfClose(o *Out) {
	if o.Closed() {
		return
	}
	e.Loop.WakeIn(o.ref, e.Limits.CloseTimeout)
	if o.Pending() == 0 && (o.tls == nil || e.Writer.goodbyeTLS(o)) {
		_ = unix.Shutdown(int(o.fd), unix.SHUT_WR)
	}
}

// Read reads o's socket until the kernel has no more, calling got for each
// piece. It reports false when the connection has ended, and asks the loop to go
// on in the next turn when the client sends faster than its share.
func (e *Env) Read(o *Out, ev loop.Events, got func(b []byte)) bool {
	if o.tls != nil && o.tls.Unread() {
		if more, ok := e.pull(o, got); !ok || more {
			return ok
		}
	}
	buf := e.Loop.Buffer()
	ending := ev&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
	for range readsPerTurn {
		n, errno := read(int(o.fd), buf)
		switch {
		case errno == unix.EAGAIN:
			return true
		case errno == unix.EINTR:
			continue
		case errno != 0 || n == 0:
			return false
		}
		e.Counts.BytesIn.Add(uint64(n))
		if o.tls == nil {
			got(buf[:n])
		} else {
			o.tls.Feed(buf[:n])
			if more, ok := e.pull(o, got); !ok || more {
				return ok
			}
		}
		if o.Closed() || (n < len(buf) && !ending) {
			return true // a later arrival is a new edge
		}
	}
	e.Loop.Again(o.ref)
	return true
}
