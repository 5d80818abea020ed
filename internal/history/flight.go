package history

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

// task is one thing that was asked for: requests one after another, each made
// out of the answer to the one before. Owned by Run once it is queued.
type task interface {
	stream() string
	kind() Kind

	// next is the request to send now; false when there is nothing to ask.
	next() (request, bool)

	// take gets a whole answer to the last request.
	take(answer)

	// finish calls done. It is called once, with nil when next had no more.
	finish(error)
}

// request is the body of a Direct Get (ADR-31).
type request struct {
	From     uint64     `json:"seq,omitempty"`
	Start    *time.Time `json:"start_time,omitempty"`
	Subject  string     `json:"next_by_subj,omitempty"`
	Subjects []string   `json:"multi_last,omitempty"`
	UpTo     uint64     `json:"up_to_seq,omitempty"` // NATS ignores it without multi_last
	Batch    int        `json:"batch"`
	MaxBytes int        `json:"max_bytes"` // without it NATS sends until we are a slow consumer
}

// answer is all that came back for one request.
type answer struct {
	messages []Stored
	last     uint64 // sequence of the last message, 0 when nothing was found
	pending  uint64 // messages that match behind last
	upTo     uint64 // multi_last: the sequence it looked up to; 0 when nothing was found
}

// timeoutTicks is how many ticks a flight may pass without progress: counting
// them needs no clock for each message.
const timeoutTicks = 4

// flight is a task with a request at NATS.
type flight struct {
	task   task
	multi  bool // the request is a multi_last
	answer answer
	idle   int  // ticks since the last message
	holes  bool // an unreadable message came since the last readable one
}

// launch starts what waits, as far as there may be more in flight.
func (r *Reader) launch() {
	for len(r.flights) < r.opts.InFlight {
		r.mu.Lock()
		if len(r.waiting) == 0 {
			r.waiting = nil
			r.mu.Unlock()
			return
		}
		t := r.waiting[0]
		r.waiting[0] = nil
		r.waiting = r.waiting[1:]
		r.mu.Unlock()
		r.send(t)
	}
}

// send sends the next request of t, or ends it.
func (r *Reader) send(t task) {
	q, more := t.next()
	if !more {
		r.finish(t, nil)
		return
	}
	switch t.kind() {
	case KindRead:
		r.reads.Add(1)
	case KindLast:
		r.lasts.Add(1)
	case KindBefore:
		r.befores.Add(1)
	}
	// Every request has its own token, so that what comes late for one never
	// counts for another.
	r.tokens++
	token := strconv.FormatUint(r.tokens, 36)
	body, err := encode(q)
	if err == nil {
		err = r.nc.PublishRequest("$JS.API.DIRECT.GET."+t.stream(), r.inbox+"."+token, body)
	}
	switch {
	case err == nil:
		r.flights[token] = &flight{task: t, multi: q.Subjects != nil}
	case errors.Is(err, nats.ErrMaxPayload):
		r.finish(t, fmt.Errorf("%w: %w", ErrInvalid, err))
	default:
		r.finish(t, fmt.Errorf("%w: %w", ErrUnavailable, err))
	}
}

func encode(q request) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // "&" is common in rooms, and six bytes otherwise
	if err := e.Encode(q); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// take is given every message that comes to the inbox.
func (r *Reader) take(m *nats.Msg) {
	token := m.Subject[len(r.inbox)+1:]
	f := r.flights[token]
	if f == nil {
		return // too late: it has timed out
	}
	f.idle = 0
	p := parse(m, m.Size()-len(m.Subject)-len(m.Reply)-len(m.Data), f.task.stream())
	var err error
	switch p.kind {
	case replyUnreadable:
		f.holes = true
		r.skip(f)
		return
	case replyMessage:
		if err = f.follow(p.previous); err == nil {
			f.answer.messages = append(f.answer.messages, p.stored)
			f.answer.last = p.stored.Sequence
			return
		}
	case replyForeign:
		err = ErrForeign
	case replyEnd:
		err = f.end(p)
	}
	delete(r.flights, token)
	if err != nil {
		r.finish(f.task, err)
		return
	}
	f.task.take(f.answer)
	r.send(f.task)
}

// skip counts a message that is left out of the answer. The log tells of the
// first: any publisher can make more.
func (r *Reader) skip(f *flight) {
	r.unreadable.Add(1)
	if !r.told {
		r.told = true
		r.opts.Log.Warn("a stored message has a broken header and is left out; more are only counted",
			"stream", f.task.stream(), "after", f.answer.last)
	}
}

// follow checks that nothing is missing before a message: each names the one
// before it in the same answer. Only an unreadable one may stand between.
func (f *flight) follow(previous uint64) error {
	if (previous == f.answer.last && !f.holes) || (previous > f.answer.last && f.holes) {
		f.holes, f.answer.last = false, previous
		return nil
	}
	return fmt.Errorf("%w: sequence %d is followed by one after %d", ErrIncomplete, f.answer.last, previous)
}

// end takes the message that ends an answer.
func (f *flight) end(p reply) error {
	received := len(f.answer.messages) > 0 || f.holes
	switch {
	case p.status == 204:
		if err := f.follow(p.previous); err != nil {
			return err
		}
		f.answer.pending, f.answer.upTo = p.pending, p.upTo
		return nil
	case p.status == 404 && !received && (!f.multi || p.description == "No Results"):
		return nil
	case p.status == 404:
		// A message was deleted between being found and being read.
		return fmt.Errorf("%w: %s", ErrIncomplete, p.description)
	case p.status == 413:
		return ErrTooMany
	case p.status == 503:
		return fmt.Errorf("%w: no responders", ErrUnavailable)
	}
	return fmt.Errorf("%w: %d %s", ErrRefused, p.status, p.description)
}

// expire ends flights that make no progress.
func (r *Reader) expire() {
	for token, f := range r.flights {
		if f.idle++; f.idle > timeoutTicks {
			delete(r.flights, token)
			r.finish(f.task, fmt.Errorf("%w: nothing came for %s", ErrUnavailable, r.opts.Timeout))
		}
	}
}

func (r *Reader) dropFlights(err error) {
	for token, f := range r.flights {
		delete(r.flights, token)
		r.finish(f.task, err)
	}
}

func (r *Reader) answerRefused() {
	r.mu.Lock()
	refused := r.refused
	r.refused = nil
	r.mu.Unlock()
	for _, x := range refused {
		r.finish(x.task, x.err)
	}
}

// close tells everybody that the reader has stopped.
func (r *Reader) close() {
	r.mu.Lock()
	r.closed = true
	waiting := r.waiting
	r.waiting = nil
	r.mu.Unlock()
	r.answerRefused()
	r.dropFlights(ErrClosed)
	for _, t := range waiting {
		r.finish(t, ErrClosed)
	}
	// It fails when the connection is closed already, which serves as well.
	_ = r.sub.Unsubscribe()
}
