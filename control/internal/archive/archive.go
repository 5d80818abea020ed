// Package archive reads what is stored of rooms, for the API.
package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"nabat/internal/bus"
	"nabat/internal/history"
	"nabat/proto/policy"
	"nabat/proto/subject"
	"nabat/proto/wire"
)

// ErrNoHistory says that a room's policy keeps none, or that control has not
// made its stream yet.
var ErrNoHistory = errors.New("the room's policy keeps no history")

// Policies says which policy is in force.
type Policies interface{ Set() *policy.Set }

// Archive reads stored messages from the mirrors of streams. Safe from any
// goroutine.
type Archive struct {
	reader   *history.Reader
	policies Policies
	prefix   string // of room subjects
}

// New returns an archive. The reader's Run must be running.
func New(reader *history.Reader, policies Policies, prefix string) *Archive {
	return &Archive{reader, policies, prefix}
}

// Record is one stored message.
type Record struct {
	Room       string          `json:"room"`
	Epoch      string          `json:"epoch"`
	Offset     uint64          `json:"offset"`
	Time       time.Time       `json:"time"` // when it was stored
	Data       json.RawMessage `json:"data,omitempty"`
	Text       *string         `json:"text,omitempty"`
	Base64     []byte          `json:"base64,omitempty"`
	Event      string          `json:"event,omitempty"`
	User       string          `json:"user,omitempty"`
	Key        string          `json:"key,omitempty"`
	MessageID  string          `json:"message_id,omitempty"`
	Connection string          `json:"connection,omitempty"` // that published it
}

// Page is part of a room's history, oldest first.
type Page struct {
	Room     string   `json:"room"`
	Epoch    string   `json:"epoch"`
	Messages []Record `json:"messages"`
	More     bool     `json:"more"` // there are others beyond them, in the direction that was asked for
	// Next is where to go on: the value of after or before for the next page.
	Next uint64 `json:"next,omitempty"`

	size int // bytes of the bodies
}

// Query is what to read: the newest messages, those before an offset, or those
// after one.
type Query struct {
	Room          string
	Before, After uint64
	Forwards      bool // from After on
	Limit         int
}

const (
	// MaxLimit bounds the messages of one page, and MaxRooms the rooms of a
	// snapshot.
	MaxLimit = 1000
	MaxRooms = 1024
	// pageBytes is when a page ends though there are more messages.
	pageBytes = 512 << 10
	// patience is how long a mirror that is behind its stream is waited for.
	patience = 2 * time.Second
	pause    = 20 * time.Millisecond
)

// stream is where a room is stored.
func (a *Archive) stream(room string) (*policy.Stream, string, error) {
	subj, err := subject.Encode(a.prefix, room)
	if err != nil {
		return nil, "", err
	}
	p := a.policies.Set().For(room)
	if p == nil || p.Stream == nil {
		return nil, "", fmt.Errorf("%w: %s", ErrNoHistory, room)
	}
	return p.Stream, subj, nil
}

// Page reads one page of a room's history.
func (a *Archive) Page(ctx context.Context, q Query) (*Page, error) {
	at, subj, err := a.stream(q.Room)
	if err != nil {
		return nil, err
	}
	if _, err := a.caughtUp(ctx, at); err != nil {
		return nil, err
	}
	page := &Page{Room: q.Room, Epoch: at.Epoch, Messages: []Record{}}
	read := a.backwards
	if q.Forwards {
		read = a.forwards
	}
	if err := read(ctx, q, at, subj, page); err != nil {
		return nil, err
	}
	if !page.More {
		page.Next = 0
	}
	return page, nil
}

// take adds messages, and reports whether the page is full before their end.
func (p *Page) take(list []history.Stored) (full bool) {
	for i := range list {
		if p.size += len(list[i].Data); p.size > pageBytes && len(p.Messages) > 0 {
			p.More = true
			return true
		}
		p.Messages = append(p.Messages, record(p.Room, p.Epoch, &list[i]))
		p.Next = list[i].Sequence
	}
	return false
}

func (a *Archive) forwards(ctx context.Context, q Query, at *policy.Stream, subj string, page *Page) error {
	from := q.After + 1
	for len(page.Messages) < q.Limit {
		b, err := await(ctx, func(done func(history.Batch, error)) {
			a.reader.Read(history.Read{Stream: at.Mirror, Subject: subj, From: from, Batch: q.Limit - len(page.Messages), MaxBytes: pageBytes}, done)
		})
		if errors.Is(err, history.ErrForeign) { // the mirror has nothing behind that
			return nil
		}
		if err != nil {
			return err
		}
		if page.take(b.Messages) {
			return nil
		}
		page.Next, page.More = max(page.Next, b.Last), b.More
		if !b.More || b.Last == 0 {
			break
		}
		from = b.Last + 1
	}
	return nil
}

func (a *Archive) backwards(ctx context.Context, q Query, at *policy.Stream, subj string, page *Page) error {
	before := q.Before
	defer func() { slices.Reverse(page.Messages) }()
	for len(page.Messages) < q.Limit {
		b, err := await(ctx, func(done func(history.Batch, error)) {
			a.reader.Before(at.Mirror, subj, before, min(q.Limit-len(page.Messages), history.MaxBefore), done)
		})
		if errors.Is(err, history.ErrForeign) {
			return nil
		}
		if err != nil {
			return err
		}
		if page.take(b.Messages) {
			return nil
		}
		if b.Last != 0 {
			page.Next = b.Last
		}
		if page.More = b.More; !b.More || b.Last == 0 {
			break
		}
		before = b.Last
	}
	return nil
}

// Snapshot is the newest messages of many rooms.
type Snapshot struct {
	Messages []Record `json:"messages"`
	// NoHistory lists the rooms whose policy keeps none. Rooms that are nowhere
	// in the answer have no message.
	NoHistory []string `json:"no_history,omitempty"`
}

// Newest reads the newest message of each room. The rooms of one policy show one
// moment.
func (a *Archive) Newest(ctx context.Context, rooms []string) (*Snapshot, error) {
	type part struct {
		subjects []string
		names    map[string]string
	}
	parts := make(map[policy.Stream]*part)
	s := &Snapshot{Messages: []Record{}}
	for _, room := range rooms {
		at, subj, err := a.stream(room)
		switch {
		case errors.Is(err, ErrNoHistory):
			s.NoHistory = append(s.NoHistory, room)
			continue
		case err != nil:
			return nil, err
		}
		p := parts[*at]
		if p == nil {
			p = &part{names: make(map[string]string)}
			parts[*at] = p
		}
		if p.names[subj] == "" {
			p.subjects, p.names[subj] = append(p.subjects, subj), room
		}
	}
	for at, p := range parts {
		upTo, err := a.caughtUp(ctx, &at)
		if err != nil {
			return nil, err
		}
		if upTo == 0 {
			continue
		}
		list, err := await(ctx, func(done func([]history.Stored, error)) {
			a.reader.Last(at.Mirror, p.subjects, upTo, func(list []history.Stored, _ uint64, err error) { done(list, err) })
		})
		if err != nil && !errors.Is(err, history.ErrForeign) {
			return nil, err
		}
		for i := range list {
			s.Messages = append(s.Messages, record(p.names[list[i].Subject], at.Epoch, &list[i]))
		}
	}
	place := make(map[string]int, len(rooms))
	for i, room := range rooms {
		place[room] = i
	}
	slices.SortFunc(s.Messages, func(a, b Record) int { return place[a.Room] - place[b.Room] })
	return s, nil
}

// caughtUp waits until the mirror has what its stream had when it was asked for,
// or until it has been waited for long enough: who has just published wants to
// read it, but one who reads while a mirror is far behind wants an answer.
func (a *Archive) caughtUp(ctx context.Context, at *policy.Stream) (head uint64, err error) {
	ask := func(name string) (uint64, error) {
		return await(ctx, func(done func(uint64, error)) { a.reader.Head(name, done) })
	}
	if head, err = ask(at.Name); err != nil {
		return 0, err
	}
	for begin := time.Now(); ; {
		mirrored, err := ask(at.Mirror)
		if err != nil {
			return 0, err
		}
		if mirrored >= head || time.Since(begin) > patience {
			return min(head, mirrored), nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// await turns a call with a function for its answer into one that returns.
func await[T any](ctx context.Context, ask func(done func(T, error))) (T, error) {
	type result struct {
		value T
		err   error
	}
	answer := make(chan result, 1)
	ask(func(value T, err error) { answer <- result{value, err} })
	select {
	case r := <-answer:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

func record(room, epoch string, m *history.Stored) Record {
	r := Record{Room: room, Epoch: epoch, Offset: m.Sequence, Time: m.Time.UTC(), Event: last(m.Header, bus.HeaderEvent), User: last(m.Header, bus.HeaderUser),
		Key: last(m.Header, bus.HeaderKey), Connection: last(m.Header, bus.HeaderConnection), MessageID: last(m.Header, nats.MsgIdHdr)}
	switch kind, body := wire.Classify(m.Data, last(m.Header, bus.HeaderBody)); kind {
	case wire.Data:
		r.Data = body
	case wire.Text:
		text := string(body)
		r.Text = &text
	default:
		r.Base64 = body
	}
	return r
}

// last is the value that counts of a header: the last one.
func last(h nats.Header, name string) string {
	if values := h[name]; len(values) > 0 {
		return values[len(values)-1]
	}
	return ""
}
