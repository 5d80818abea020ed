// Package history reads stored messages of a stream over JetStream Direct Get:
// few requests in flight, every answer whole or an error.
package history

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// Limits of one request. NATS answers a multi_last of more than 1024 subjects
// with 413.
const (
	MaxBatch  = 1000    // messages of one answer, and subjects of one multi_last
	MaxBytes  = 8 << 20 // of one answer; it may exceed this by one message
	MaxBefore = 256     // messages of one Before
	byteLimit = 1 << 20 // where the caller names none
)

// Errors that done gets. Ask again after the first three; the others need
// another question.
var (
	ErrUnavailable = errors.New("history: NATS does not answer for the stream")
	ErrIncomplete  = errors.New("history: part of an answer was lost on the way")
	ErrBusy        = errors.New("history: too many reads wait")
	ErrClosed      = errors.New("history: the reader has stopped")
	ErrInvalid     = errors.New("history: bad read")
	ErrTooMany     = errors.New("history: the subjects match more than one answer can hold")
	ErrForeign     = errors.New("history: another stream answered")
	ErrRefused     = errors.New("history: NATS refused the request")
)

// reasons are the metric labels of the errors.
var reasons = [...]struct {
	err  error
	name string
}{
	{ErrUnavailable, "unavailable"}, {ErrIncomplete, "incomplete"}, {ErrBusy, "busy"}, {ErrClosed, "closed"},
	{ErrInvalid, "invalid"}, {ErrTooMany, "too_many"}, {ErrForeign, "foreign"}, {ErrRefused, "refused"},
}

// Stored is one stored message.
type Stored struct {
	Subject  string
	Sequence uint64
	Time     time.Time
	Header   nats.Header // the publisher's, without the names that the server writes; nil when none is left
	Data     []byte
}

// Read asks for messages forward from a position.
type Read struct {
	Stream   string    // the mirror's name
	Subject  string    // filter; may have wildcards; "" for all
	From     uint64    // first sequence, inclusive; at least 1
	Start    time.Time // instead of From, when not zero
	Batch    int       // messages at most; 1 to MaxBatch
	MaxBytes int       // an answer ends with the message that reaches it; 0 for 1 MiB, at most MaxBytes
}

// Batch is the answer to a Read or a Before.
type Batch struct {
	Messages []Stored

	// Last is the sequence of the last message that was read, 0 when there
	// was none. Go on from Last+1 (or, with Before, before Last) and not from
	// the end of Messages: a message whose publisher broke its header is read
	// past and not in Messages.
	Last uint64
	More bool // there are more behind Last
}

// Options of a Reader.
type Options struct {
	InFlight int           // requests at once; default 8
	Waiting  int           // reads that may wait for their turn; default 4096
	Timeout  time.Duration // longest pause in an answer; default 5 s
	Log      *slog.Logger
}

// Kind is what was asked, as metrics label it.
type Kind string

// The kinds.
const (
	KindRead   Kind = "read"
	KindLast   Kind = "last"
	KindBefore Kind = "before"
)

// Counts is what a Reader did so far.
type Counts struct {
	Requests   map[Kind]uint64   // sent to NATS; one Last or Before may need several
	Failed     map[string]uint64 // answers that were errors, by reason
	Unreadable uint64            // stored messages that were left out: their publisher broke the header
}

// Reader reads history on a NATS connection of its own: the server works on a
// Direct Get inside the connection's read loop, so anything else on it waits.
type Reader struct {
	// Set at creation, never changed.
	nc      *nats.Conn
	opts    Options
	inbox   string // replies come to inbox.<token>
	sub     *nats.Subscription
	replies chan *nats.Msg // room for all that can be in flight
	wake    chan struct{}  // 1 buffered: waiting or refused is not empty

	// Guarded by mu.
	mu      sync.Mutex
	waiting []task
	refused []refusal // emptied at Run's next turn
	closed  bool

	// Owned by Run.
	flights map[string]*flight // by token
	tokens  uint64
	told    bool // of an unreadable message

	// Atomic; read by metrics.
	reads, lasts, befores atomic.Uint64
	heads                 atomic.Uint64
	failed                [len(reasons)]atomic.Uint64
	unreadable            atomic.Uint64
}

type refusal struct {
	task task
	err  error
}

// New prepares a reader; nothing is answered before Run.
func New(nc *nats.Conn, o Options) (*Reader, error) {
	if o.InFlight <= 0 {
		o.InFlight = 8
	}
	if o.Waiting <= 0 {
		o.Waiting = 4096
	}
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Reader{
		nc: nc, opts: o, inbox: nc.NewInbox(), wake: make(chan struct{}, 1), flights: make(map[string]*flight),
		replies: make(chan *nats.Msg, o.InFlight*(MaxBatch+1)),
	}
	var err error
	if r.sub, err = nc.ChanSubscribe(r.inbox+".*", r.replies); err != nil {
		return nil, fmt.Errorf("subscribe the inbox of history: %w", err)
	}
	return r, nil
}

// Read reads forward. done gets the whole batch or an error, exactly once, from
// another goroutine, which it must not block. Safe from any goroutine; never
// blocks.
func (r *Reader) Read(q Read, done func(Batch, error)) {
	t := &forward{read: q, done: done}
	switch {
	case q.From == 0 && q.Start.IsZero():
		r.refuse(t, fmt.Errorf("%w: no position to read from", ErrInvalid))
	case q.Batch < 1 || q.Batch > MaxBatch:
		r.refuse(t, fmt.Errorf("%w: a batch of %d messages, must be 1 to %d", ErrInvalid, q.Batch, MaxBatch))
	case q.MaxBytes < 0 || q.MaxBytes > MaxBytes:
		r.refuse(t, fmt.Errorf("%w: %d bytes, must be at most %d", ErrInvalid, q.MaxBytes, MaxBytes))
	default:
		r.add(t)
	}
}

// Last finds the newest message of each subject up to a sequence; upTo 0 means
// the end of the stream as the first request finds it, so that all answers show
// one moment. done gets that sequence, 0 when nothing was found at all. A
// subject with no message is not in list. The list is ordered within each 1000
// subjects only. Any number of subjects; they may have wildcards, but a request
// that matches more than 1024 fails with ErrTooMany. The caller leaves subjects
// alone until done. Else as Read.
//
// A bound is expensive where many subjects have changed since: NATS searches
// its last block message by message for each of them. Newest does without.
func (r *Reader) Last(stream string, subjects []string, upTo uint64, done func(list []Stored, upTo uint64, err error)) {
	r.add(r.latest(stream, subjects, upTo, done))
}

// Newest is Last without a bound: each 1000 subjects show a moment of their
// own. The upTo that done gets is that of the first request: list has nothing
// older than what was there by then, and may have newer messages. It is 0 when
// the first request found nothing.
func (r *Reader) Newest(stream string, subjects []string, done func(list []Stored, upTo uint64, err error)) {
	t := r.latest(stream, subjects, 0, done)
	t.newest = true
	r.add(t)
}

func (r *Reader) latest(stream string, subjects []string, upTo uint64, done func([]Stored, uint64, error)) *latest {
	return &latest{name: stream, subjects: subjects, upTo: upTo, maxBytes: int(r.nc.MaxPayload() / 2), done: done}
}

// Before reads the newest messages of one exact subject whose sequence is lower
// than before, newest first; 0 means from the end. It gets fewer than limit,
// with More, when they are larger than 1 MiB together. limit is 1 to MaxBefore.
// Else as Read.
func (r *Reader) Before(stream, subject string, before uint64, limit int, done func(Batch, error)) {
	t := &backward{name: stream, subject: subject, before: before, limit: limit, done: done}
	switch {
	case limit < 1 || limit > MaxBefore:
		r.refuse(t, fmt.Errorf("%w: a limit of %d messages, must be 1 to %d", ErrInvalid, limit, MaxBefore))
	case subject == "" || wildcard(subject):
		r.refuse(t, fmt.Errorf("%w: %q is not one exact subject", ErrInvalid, subject))
	default:
		r.add(t)
	}
}

func wildcard(subject string) bool {
	for token := range strings.SplitSeq(subject, ".") {
		if token == "*" || token == ">" {
			return true
		}
	}
	return false
}

// add queues t.
func (r *Reader) add(t task) {
	if name := t.stream(); name == "" || strings.ContainsAny(name, ".*> \t\r\n") {
		r.refuse(t, fmt.Errorf("%w: %q is not the name of a stream", ErrInvalid, name))
		return
	}
	r.mu.Lock()
	closed, full := r.closed, len(r.waiting) >= r.opts.Waiting
	if !closed && !full {
		r.waiting = append(r.waiting, t)
	}
	r.mu.Unlock()
	if closed || full {
		r.refuse(t, ErrBusy)
		return
	}
	r.poke()
}

// refuse lets Run tell the caller, who may hold a lock that done takes. Once
// Run has ended a goroutine does it.
func (r *Reader) refuse(t task, err error) {
	r.mu.Lock()
	closed := r.closed
	if !closed {
		r.refused = append(r.refused, refusal{t, err})
	}
	r.mu.Unlock()
	if closed {
		go r.finish(t, ErrClosed)
		return
	}
	r.poke()
}

func (r *Reader) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Requests is how many requests went to NATS.
func (r *Reader) Requests() uint64 {
	return r.reads.Load() + r.lasts.Load() + r.befores.Load() + r.heads.Load()
}

// Failed is how many answers were errors.
func (r *Reader) Failed() uint64 {
	var n uint64
	for i := range r.failed {
		n += r.failed[i].Load()
	}
	return n
}

// Counts is the same in parts. Safe from any goroutine.
func (r *Reader) Counts() Counts {
	c := Counts{
		Requests:   map[Kind]uint64{KindRead: r.reads.Load(), KindLast: r.lasts.Load(), KindBefore: r.befores.Load()},
		Failed:     make(map[string]uint64, len(reasons)),
		Unreadable: r.unreadable.Load(),
	}
	for i := range reasons {
		c.Failed[reasons[i].name] = r.failed[i].Load()
	}
	return c
}

// finish ends t, with nil when it is complete.
func (r *Reader) finish(t task, err error) {
	if err != nil {
		for i := range reasons {
			if errors.Is(err, reasons[i].err) {
				r.failed[i].Add(1)
				break
			}
		}
	}
	t.finish(err)
}

// Run sends requests and calls done until ctx ends; what is not answered by
// then gets ErrClosed. It blocks, and is called once.
func (r *Reader) Run(ctx context.Context) {
	status := r.nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	defer r.nc.RemoveStatusListener(status)
	tick := time.NewTicker(max(r.opts.Timeout/timeoutTicks, 1))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			r.close()
			return
		case <-r.wake:
			r.answerRefused()
		case m := <-r.replies:
			r.take(m)
		case <-tick.C:
			r.expire()
		case _, open := <-status:
			if !open {
				status = nil
			}
			r.dropFlights(fmt.Errorf("%w: the connection was lost", ErrUnavailable))
		}
		r.launch()
	}
}
