package history

import "slices"

// forward is a Read.
type forward struct {
	read   Read
	done   func(Batch, error)
	asked  bool
	answer answer
}

func (t *forward) stream() string { return t.read.Stream }
func (t *forward) kind() Kind     { return KindRead }

func (t *forward) next() (request, bool) {
	if t.asked {
		return request{}, false
	}
	t.asked = true
	q := request{From: t.read.From, Subject: t.read.Subject, Batch: t.read.Batch, MaxBytes: t.read.MaxBytes}
	if !t.read.Start.IsZero() {
		start := t.read.Start.UTC()
		q.From, q.Start = 0, &start
	}
	if q.Subject == "" {
		q.Subject = ">"
	}
	if q.MaxBytes == 0 {
		q.MaxBytes = byteLimit
	}
	return q, true
}

func (t *forward) take(a answer) { t.answer = a }

func (t *forward) finish(err error) {
	if err != nil {
		t.done(Batch{}, err)
		return
	}
	t.done(Batch{Messages: t.answer.messages, Last: t.answer.last, More: t.answer.pending > 0}, nil)
}

// attempt is how often one question with an upper bound was asked. A stream
// that ends before the bound has "no results" for NATS, whatever is in it, and
// one of several replicas may lag behind a sequence that another one told. So
// nothing is asked again without the bound; where that finds what is newer than
// the bound, the stream has come so far by now, and the next try is right.
type attempt byte

const (
	attemptBound attempt = iota
	attemptFree
	attemptLast
)

// judge reports whether a may be believed, and makes the next attempt else.
func (t *attempt) judge(a answer, upTo uint64) bool {
	switch {
	case *t == attemptBound && a.last == 0 && upTo > 0:
		*t = attemptFree
		return false
	case *t == attemptFree && a.last > upTo:
		*t = attemptLast
		return false
	}
	return true
}

// latest is a Last.
type latest struct {
	name     string
	maxBytes int // of subjects in one request
	done     func([]Stored, uint64, error)

	subjects []string // still to ask; the first n are in the request now
	n        int
	from     uint64 // not 0: an answer was cut at its bytes; its rest
	upTo     uint64 // 0: not known yet
	newest   bool   // each request looks as far as it can
	first    uint64 // newest: how far the first one looked
	asked    bool
	unbound  []string // had nothing before upTo was known
	try      attempt
	list     []Stored
	sure     int // list[:sure] is of subjects before those in the request now
}

func (t *latest) stream() string { return t.name }
func (t *latest) kind() Kind     { return KindLast }

func (t *latest) next() (request, bool) {
	if len(t.subjects) == 0 {
		return request{}, false
	}
	for size := 0; t.n < min(len(t.subjects), MaxBatch); t.n++ {
		if size += len(t.subjects[t.n]) + len(`"",`); size > t.maxBytes && t.n > 0 {
			break
		}
	}
	q := request{Subjects: t.subjects[:t.n], From: t.from, UpTo: t.upTo, Batch: MaxBatch, MaxBytes: byteLimit}
	if t.try == attemptFree {
		q.UpTo = 0
	}
	return q, true
}

func (t *latest) take(a answer) {
	if t.from == 0 || t.try == attemptFree {
		if !t.try.judge(a, t.upTo) {
			t.list, t.from = t.list[:t.sure], 0
			return
		}
	}
	t.list = append(t.list, a.messages...)
	if !t.asked {
		t.asked, t.first = true, a.upTo
	}
	if t.upTo == 0 && !t.newest {
		if t.upTo = a.upTo; t.upTo == 0 {
			t.unbound = append(t.unbound, t.subjects[:t.n]...)
		}
	}
	if a.pending > 0 && a.last > 0 {
		t.from = a.last + 1 // answers are in order of sequence
		return
	}
	t.subjects, t.n, t.from = t.subjects[t.n:], 0, 0
	t.try, t.sure = attemptBound, len(t.list)
	if t.upTo > 0 && len(t.unbound) > 0 {
		// A message that came to one of these meanwhile may be below upTo.
		t.subjects = append(slices.Clip(t.subjects), t.unbound...)
		t.unbound = nil
	}
}

func (t *latest) finish(err error) {
	if err != nil {
		t.done(nil, 0, err)
		return
	}
	if t.newest {
		t.upTo = t.first
	}
	t.done(t.list, t.upTo, nil)
}

// backward is a Before. Direct Get reads forward only; it can find the newest
// message up to a sequence, which walks back one message for each request and
// costs more the rarer the room's messages are. So a room of few messages is
// read from its first one, and only a room of many is walked.
type backward struct {
	name, subject string
	before        uint64 // walking: the oldest sequence read
	limit         int
	done          func(Batch, error)

	way   way
	from  uint64   // wayForward: where to go on
	found []Stored // wayForward: ascending; wayWalk: descending
	bytes int      // of found
	steps int      // wayWalk: messages so far
	try   attempt  // wayWalk
	last  uint64   // the oldest sequence read
	more  bool
}

type way byte

const (
	wayUnknown way = iota
	wayForward
	wayWalk
	wayEnd
)

// few is how many messages a room may have to be read whole.
func (t *backward) few() uint64 { return uint64(min(8*t.limit, 2*MaxBefore)) }

func (t *backward) stream() string { return t.name }
func (t *backward) kind() Kind     { return KindBefore }

func (t *backward) next() (request, bool) {
	if t.before == 1 {
		t.way = wayEnd
	}
	switch t.way {
	case wayUnknown: // how many are there?
		return request{From: 1, Subject: t.subject, Batch: 1, MaxBytes: 1}, true
	case wayForward:
		return request{From: t.from, Subject: t.subject, Batch: MaxBefore, MaxBytes: byteLimit}, true
	case wayWalk:
		q := request{Subjects: []string{t.subject}, Batch: 1, MaxBytes: byteLimit}
		if t.before > 0 && t.try != attemptFree {
			q.UpTo = t.before - 1
		}
		return q, true
	}
	return request{}, false
}

func (t *backward) take(a answer) {
	if t.way == wayWalk {
		if t.before > 0 && !t.try.judge(a, t.before-1) {
			return
		}
		t.try = attemptBound
	}
	switch {
	case a.last == 0:
		t.end()
	case t.way == wayUnknown && a.pending > t.few():
		t.way = wayWalk
	case t.way == wayWalk:
		t.walk(a)
	default:
		t.way = wayForward
		t.forward(a)
	}
}

// walk takes the next older message.
func (t *backward) walk(a answer) {
	for _, m := range a.messages {
		if len(t.found) == t.limit || (len(t.found) > 0 && t.bytes+len(m.Data) > byteLimit) {
			t.more = true
			t.end()
			return
		}
		t.found = append(t.found, m)
		t.bytes += len(m.Data)
	}
	t.before, t.last = a.last, a.last
	if t.steps++; t.steps > 2*MaxBefore {
		t.more = true // most were unreadable
		t.end()
	}
}

// forward takes the next newer messages and lets go of the oldest.
func (t *backward) forward(a answer) {
	for _, m := range a.messages {
		if t.before > 0 && m.Sequence >= t.before {
			t.end()
			return
		}
		t.found = append(t.found, m)
		t.bytes += len(m.Data)
		for len(t.found) > t.limit || (len(t.found) > 1 && t.bytes > byteLimit) {
			t.bytes -= len(t.found[0].Data)
			t.found = slices.Delete(t.found, 0, 1)
			t.more = true
		}
	}
	switch {
	case a.pending == 0:
		t.end()
	case t.from > 0 && len(a.messages) < MaxBefore:
		// Cut at its bytes: reading all of it is too much for its end.
		t.way, t.found, t.bytes, t.more = wayWalk, nil, 0, false
	}
	t.from = a.last + 1
}

// end puts what was found in order.
func (t *backward) end() {
	if t.way == wayForward {
		slices.Reverse(t.found)
		if n := len(t.found); n > 0 {
			t.last = t.found[n-1].Sequence
		}
	}
	t.way = wayEnd
}

func (t *backward) finish(err error) {
	if err != nil {
		t.done(Batch{}, err)
		return
	}
	t.done(Batch{Messages: t.found, Last: t.last, More: t.more}, nil)
}
