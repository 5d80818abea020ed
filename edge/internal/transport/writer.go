// Package transport is what all transports share: how a turn's output reaches
// the sockets, and what a transport offers to the rest of the edge.
package transport

import (
	"errors"
	"runtime"

	"golang.org/x/sys/unix"

	"nabat/edge/internal/loop"
	"nabat/edge/internal/metrics"
	"nabat/edge/internal/outq"
	"nabat/edge/internal/tlsconn"
)

// gatherBytes is how much one send takes at most when it has to copy.
const gatherBytes = 64 << 10

// Owner is the connection behind an Out. Called on the loop, never within a
// flush's walk over a room.
type Owner interface {
	// Drained reports that everything queued has been written.
	Drained()
	// Failed reports that the socket is dead.
	Failed(err error)
	// Slow reports that the queue overflowed where nothing may be dropped.
	Slow()
	// Gapped asks to tell the client that these rooms lost messages.
	Gapped(rooms []uint32)
	// Lagged reports that this turn's messages of the room did not fit: none of
	// them was queued.
	Lagged(room uint32)
}

// Rooms says what becomes of messages for a slow reader.
type Rooms interface {
	Rule(room uint32) outq.Rule
}

// Bounds of what may wait for one connection, in bytes.
type Bounds struct {
	Queue int // of rooms that drop or disconnect
	Lag   int // of rooms whose messages can be had again
}

// Out is the sending half of one connection. The zero value is closed; Open it.
type Out struct {
	ref   loop.Ref
	fd    int32 // −1 when closed
	first int32 // of this turn's entries, 1-based; 0 for none
	last  int32
	busy  bool // on the writer's work list
	sick  bool // on the writer's list of failed connections
	owed  bool // told that nothing waits once the kernel reports room (TLS)
	free  bool // bounds itself: never dropped, never too slow
	queue *outq.Queue
	tls   *tlsconn.Conn // nil where bytes travel as they are
}

// Pending is the number of bytes that wait behind a full socket: in the queue,
// as they are, and at most one record of TLS.
func (o *Out) Pending() (n int) {
	if o.queue != nil {
		n = o.queue.Bytes()
	}
	if o.tls != nil {
		n += o.tls.Pending()
	}
	return n
}

// Ref is the connection's name on its loop.
func (o *Out) Ref() loop.Ref { return o.ref }

// Closed reports whether the connection is gone.
func (o *Out) Closed() bool { return o.fd < 0 }

// Writer writes the output of one loop's connections. What a connection gets
// within a turn is collected and written with one system call at the end of it.
// Owner: the loop.
type Writer struct {
	// Set at creation, never changed.
	loop   *loop.Loop
	rooms  Rooms
	counts *metrics.Loop
	bounds Bounds

	// Owned by loop.
	outs    []*Out // by slot
	entries []entry
	work    []*Out
	failed  []failure
	scratch []byte
	spare   []*outq.Queue
	stats   struct{ sends, bytes, deliveries uint64 }
}

type entry struct {
	item outq.Item
	next int32
}

type failure struct {
	ref  loop.Ref
	err  error
	slow bool
	lags bool // behind in room; not failed at all
	room uint32
}

// NewWriter returns a writer for l.
func NewWriter(l *loop.Loop, rooms Rooms, counts *metrics.Loop, bounds Bounds) *Writer {
	return &Writer{loop: l, rooms: rooms, counts: counts, bounds: bounds, scratch: make([]byte, 0, gatherBytes)}
}

// Open makes o the sending half of ref's connection on s. selfBounded is for
// transports that stop reading while output waits.
func (w *Writer) Open(o *Out, ref loop.Ref, s Socket, selfBounded bool) {
	*o = Out{ref: ref, fd: int32(s.FD), free: selfBounded, tls: s.TLS}
	for int(ref.Slot) >= len(w.outs) {
		w.outs = append(w.outs, nil)
	}
	w.outs[ref.Slot] = o
}

// Close forgets what o had queued. The descriptor is the loop's to close.
func (w *Writer) Close(o *Out) {
	if o.fd < 0 {
		return
	}
	if o.tls != nil {
		w.leaveTLS(o)
	}
	o.fd, o.first, o.last = -1, 0, 0
	if w.outs[o.ref.Slot] == o {
		w.outs[o.ref.Slot] = nil
	}
	if o.queue != nil {
		w.counts.QueuedBytes.Add(-int64(o.queue.Bytes()))
		o.queue = nil
	}
}

// Send collects whole frames of no room (replies, notices, closes) for the end
// of the turn. bytes must not change afterwards.
func (w *Writer) Send(o *Out, bytes []byte) {
	if o.fd >= 0 {
		w.collect(o, outq.Item{Bytes: bytes, Room: outq.NoRoom})
	}
}

// Queue collects messages of a room for the end of the turn.
func (w *Writer) Queue(slot, room uint32, bytes []byte, messages int) {
	if o := w.outs[slot]; o != nil {
		w.stats.deliveries += uint64(messages)
		w.collect(o, outq.Item{Bytes: bytes, Room: room, Count: uint32(messages)})
	}
}

// Deliver writes messages of a room at once unless something waits for the
// connection. Every member of the room shares bytes.
func (w *Writer) Deliver(slot, room uint32, bytes []byte, messages int) {
	o := w.outs[slot]
	if o == nil {
		return
	}
	w.stats.deliveries += uint64(messages)
	if o.first != 0 || o.queue != nil {
		w.collect(o, outq.Item{Bytes: bytes, Room: room, Count: uint32(messages)})
		return
	}
	n, err := w.send(o, bytes)
	if n == len(bytes) {
		return
	}
	if err != nil {
		w.fail(o, err)
		return
	}
	w.rest(o, outq.Item{Bytes: bytes, Room: room, Count: uint32(messages)}, n)
}

func (w *Writer) collect(o *Out, it outq.Item) {
	w.entries = append(w.entries, entry{item: it})
	at := int32(len(w.entries))
	if o.first == 0 {
		o.first = at
	} else {
		w.entries[o.last-1].next = at
	}
	o.last = at
	if !o.busy {
		o.busy = true
		w.work = append(w.work, o)
	}
}

// Flush writes what was collected, and then reports dead and slow connections
// to their owners, who may send more: it ends when nothing is left to do.
func (w *Writer) Flush() {
	for len(w.work) > 0 || len(w.failed) > 0 {
		for i := 0; i < len(w.work); i++ {
			w.flushOne(w.work[i])
			w.work[i] = nil
			if i%256 == 255 {
				runtime.Gosched()
			}
		}
		w.work = w.work[:0]
		clear(w.entries)
		w.entries = w.entries[:0]
		if cap(w.entries) > 1<<16 {
			w.entries = nil
		}
		w.report()
	}
	w.counts.Sends.Add(w.stats.sends)
	w.counts.BytesOut.Add(w.stats.bytes)
	w.counts.Deliveries.Add(w.stats.deliveries)
	w.stats.sends, w.stats.bytes, w.stats.deliveries = 0, 0, 0
}

func (w *Writer) report() {
	list := w.failed
	w.failed = nil
	for _, f := range list {
		owner, ok := w.loop.Handler(f.ref).(Owner)
		switch {
		case !ok:
		case f.lags:
			owner.Lagged(f.room)
		case f.slow:
			owner.Slow()
		default:
			owner.Failed(f.err)
		}
	}
}

func (w *Writer) flushOne(o *Out) {
	o.busy = false
	at := o.first
	o.first, o.last = 0, 0
	if at == 0 || o.fd < 0 || o.sick {
		return
	}
	if o.queue == nil {
		// 1. One entry: send it as it is. 2. Several: one copy, one send.
		var sent int
		var err error
		if e := &w.entries[at-1]; e.next == 0 {
			sent, err = w.send(o, e.item.Bytes)
		} else {
			sent, err = w.send(o, w.gather(at))
		}
		if err != nil {
			w.fail(o, err)
			return
		}
		at = w.skip(o, at, sent)
	}
	// 3. What is left waits in the queue, within its bound.
	for ; at != 0; at = w.entries[at-1].next {
		w.push(o, w.entries[at-1].item)
	}
	// 4. Gathering stops at its buffer's size: try the rest at once.
	if o.queue != nil {
		w.drain(o)
	}
}

func (w *Writer) gather(at int32) []byte {
	buf := w.scratch[:0]
	for ; at != 0; at = w.entries[at-1].next {
		b := w.entries[at-1].item.Bytes
		n := min(len(b), cap(buf)-len(buf))
		buf = append(buf, b[:n]...)
		if n < len(b) {
			break
		}
	}
	return buf
}

// skip passes the entries that were sent whole, keeps the rest of one that was
// cut, and returns the first that is untouched.
func (w *Writer) skip(o *Out, at int32, sent int) int32 {
	for at != 0 {
		it := w.entries[at-1].item
		next := w.entries[at-1].next
		if sent < len(it.Bytes) {
			if sent == 0 {
				return at
			}
			w.rest(o, it, sent)
			return next
		}
		sent -= len(it.Bytes)
		at = next
	}
	return 0
}

// rest queues what remains of a partly written item.
func (w *Writer) rest(o *Out, it outq.Item, sent int) {
	if sent == 0 {
		w.push(o, it)
		return
	}
	it.Bytes = it.Bytes[sent:]
	w.open(o).Force(it)
	w.counts.QueuedBytes.Add(int64(len(it.Bytes)))
}

func (w *Writer) open(o *Out) *outq.Queue {
	if o.queue == nil {
		if n := len(w.spare); n > 0 {
			o.queue = w.spare[n-1]
			w.spare = w.spare[:n-1]
		} else {
			o.queue = new(outq.Queue)
		}
	}
	return o.queue
}

func (w *Writer) push(o *Out, it outq.Item) {
	q := w.open(o)
	if o.free {
		q.Force(it)
		w.counts.QueuedBytes.Add(int64(len(it.Bytes)))
		return
	}
	rule, bound := outq.Drop, w.bounds.Queue
	if it.Room != outq.NoRoom {
		if rule = w.rooms.Rule(it.Room); rule == outq.Lag {
			bound = w.bounds.Lag
		}
	}
	switch q.Push(it, bound, rule) {
	case outq.Queued:
		w.counts.QueuedBytes.Add(int64(len(it.Bytes)))
	case outq.Dropped:
		w.counts.Drops.Add("slow", uint64(it.Count))
	case outq.Lagging:
		w.failed = append(w.failed, failure{ref: o.ref, lags: true, room: it.Room})
	case outq.Overflow:
		if !o.sick {
			o.sick = true
			w.failed = append(w.failed, failure{ref: o.ref, slow: true})
		}
	}
}

func (w *Writer) fail(o *Out, err error) {
	if !o.sick {
		o.sick = true
		w.failed = append(w.failed, failure{ref: o.ref, err: err})
	}
}

// FlushOne writes what o collected now instead of at the end of the turn.
func (w *Writer) FlushOne(o *Out) {
	if o.first != 0 {
		busy := o.busy
		w.flushOne(o)
		o.busy = busy // still on the work list, with nothing to do there
	}
}

// Writable goes on with o's queue after the kernel reported room. Call Flush
// at the end of the turn as ever.
func (w *Writer) Writable(o *Out) {
	if o.fd < 0 || o.sick || (o.tls != nil && !w.writableTLS(o)) {
		return
	}
	if o.queue != nil {
		w.drain(o)
	}
}

// drain writes o's queue until it is empty or the kernel is full.
func (w *Writer) drain(o *Out) {
	q := o.queue
	for q.Len() > 0 {
		buf := q.Gather(w.scratch)
		n, err := w.send(o, buf)
		q.Advance(n)
		w.counts.QueuedBytes.Add(-int64(n))
		if err != nil {
			w.fail(o, err)
			return
		}
		if n < len(buf) {
			break
		}
	}
	owner, _ := w.loop.Handler(o.ref).(Owner)
	if gaps := q.TakeGaps(w.bounds.Queue); gaps != nil && owner != nil {
		owner.Gapped(gaps)
	}
	if q.Len() == 0 && o.queue == q && !q.Gapped() {
		o.queue = nil
		if len(w.spare) < 64 {
			w.spare = append(w.spare, q)
		}
		if owner != nil && o.Pending() == 0 {
			o.owed = false
			owner.Drained()
		}
	}
}

// ForgetRoom drops a pending gap notice of a room that the connection left.
func (w *Writer) ForgetRoom(o *Out, room uint32) {
	if o.queue != nil {
		o.queue.ForgetRoom(room)
	}
}

// GiveUp drops what waits for o but for a frame that is under way, so that a
// goodbye can follow.
func (w *Writer) GiveUp(o *Out) {
	o.free, o.sick = true, false
	if o.queue != nil {
		w.counts.QueuedBytes.Add(-int64(o.queue.Truncate()))
	}
}

// Out is the sending half of the connection in slot, nil when it has none.
func (w *Writer) Out(slot uint32) *Out {
	if int(slot) >= len(w.outs) {
		return nil
	}
	return w.outs[slot]
}

var errClosedByPeer = errors.New("connection closed by peer")

// send writes what the kernel takes now. A full kernel buffer is 0, nil.
func (w *Writer) send(o *Out, b []byte) (int, error) {
	if o.tls != nil {
		return w.sendTLS(o, b)
	}
	return w.put(o, b)
}

// put is send for bytes that travel as they are.
//
// RawSyscall keeps the processor: the descriptor never blocks, the call takes
// about two microseconds, and telling the scheduler costs a third of that.
func (w *Writer) put(o *Out, b []byte) (int, error) {
	w.stats.sends++
	n, errno := sendto(int(o.fd), b)
	switch errno {
	case 0:
		w.stats.bytes += uint64(n)
		if n < len(b) {
			w.loop.AwaitRoom(o.ref)
		}
		return n, nil
	case unix.EAGAIN, unix.EINTR, unix.ENOBUFS:
		w.loop.AwaitRoom(o.ref)
		return 0, nil
	case unix.EPIPE, unix.ECONNRESET:
		return 0, errClosedByPeer
	}
	return 0, errno
}
