package transport

import (
	"nabat/edge/internal/tlsconn"
)

// Socket is what a transport takes over from the listener.
type Socket = tlsconn.Socket

// pullsPerTurn is how many records one connection may have opened before others
// get their turn: the smallest ones, of a few bytes, cost the most.
const pullsPerTurn = 64

// maxReplies bounds what TLS itself may owe a client that does not read, such
// as answers to its key updates.
const maxReplies = 4 * tlsconn.MaxRecord

// sendTLS is send for a connection with TLS. Queues hold plaintext, which all
// members of a room share; it is sealed here, a record at a time, just before
// the kernel takes it. So what waits as ciphertext is less than a record, and
// all that was taken into one counts as sent.
func (w *Writer) sendTLS(o *Out, b []byte) (taken int, err error) {
	empty, err := w.flushTLS(o)
	for empty && err == nil && taken < len(b) {
		n := min(len(b)-taken, tlsconn.MaxRecord)
		if o.tls.Seal(b[taken:taken+n]) != nil {
			return 0, errClosedByPeer // goodbye was said, or TLS has failed
		}
		taken += n
		empty, err = w.flushTLS(o)
	}
	if err != nil {
		return 0, err
	}
	return taken, nil
}

// flushTLS writes the outbox of o's TLS and reports whether it is empty.
func (w *Writer) flushTLS(o *Out) (empty bool, err error) {
	wire := o.tls.Outbox()
	if len(wire) == 0 {
		return true, nil
	}
	n, err := w.put(o, wire)
	w.counts.QueuedBytes.Add(int64(o.tls.Sent(n)))
	if n < len(wire) {
		o.owed = true
	}
	return n == len(wire), err
}

// writableTLS goes on after the kernel reported room. It reports whether the
// queue may go on too. The kernel reports room whenever it had none, so this is
// where an owner hears that nothing waits, whoever emptied the outbox.
func (w *Writer) writableTLS(o *Out) bool {
	empty, err := w.flushTLS(o)
	if err != nil {
		w.fail(o, err)
		return false
	}
	if o.owed && empty && o.queue == nil {
		o.owed = false
		if owner, ok := w.loop.Handler(o.ref).(Owner); ok {
			owner.Drained()
		}
	}
	return empty && o.fd >= 0
}

// goodbyeTLS tells the client that nothing follows, and reports whether the
// kernel has taken that.
func (w *Writer) goodbyeTLS(o *Out) bool {
	o.tls.CloseWrite()
	empty, err := w.flushTLS(o)
	if err != nil {
		w.fail(o, err)
	}
	return empty
}

// leaveTLS ends o's TLS, with a goodbye where there is room for one.
func (w *Writer) leaveTLS(o *Out) {
	if o.Pending() == 0 && !o.sick {
		o.tls.CloseWrite()
		_, _ = w.flushTLS(o) // the socket closes next, whatever became of it
	}
	w.counts.QueuedBytes.Add(-int64(o.tls.Drop()))
	o.tls = nil
}

// pull hands the plaintext that there is to got. It reports more when the rest
// was left for the next turn, and not ok when the connection has ended.
func (e *Env) pull(o *Out, got func(b []byte)) (more, ok bool) {
	t := o.tls
	var b []byte
	var err error
	for range pullsPerTurn {
		if b, err = t.Next(); len(b) == 0 {
			break
		}
		if t.Pending() > 0 { // TLS has an answer of its own: nobody should wait for it
			if _, err = e.Writer.flushTLS(o); err != nil {
				break
			}
		}
		if got(b); o.Closed() {
			return false, true
		}
	}
	if _, failed := e.Writer.flushTLS(o); failed != nil || err != nil || t.Pending() > maxReplies {
		return false, false
	}
	if t.Unread() {
		t.Keep()
		e.Loop.Again(o.ref)
		return true, true
	}
	return false, true
}
