package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"

	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"nabat/internal/bus"
	"nabat/proto/policy"
	"nabat/proto/subject"
)

const (
	// ackTimeout is how long a publish waits for NATS to have the message.
	ackTimeout = 5 * time.Second
	// maxBatch bounds the messages of one request.
	maxBatch = 1000
)

// said is what a message says, wherever it goes.
type said struct {
	Data      json.RawMessage `json:"data"`
	Text      *string         `json:"text"`
	Base64    *string         `json:"base64"`
	Event     string          `json:"event"`
	User      string          `json:"user"`
	Key       string          `json:"key"`
	Exclude   string          `json:"exclude"`
	MessageID string          `json:"message_id"`
}

type publishRequest struct {
	Room   string `json:"room"`
	ToUser string `json:"to_user"`
	said
}

func (r *publishRequest) rooms() []string {
	if r.ToUser != "" {
		return []string{userRoomPrefix + r.ToUser}
	}
	return []string{r.Room}
}

// published is where a message stands.
type published struct {
	Room      string `json:"room"`
	Epoch     string `json:"epoch,omitempty"` // where the room has history
	Offset    uint64 `json:"offset,omitempty"`
	Duplicate bool   `json:"duplicate,omitempty"` // message_id was known: this is the first one's offset
}

type publishReply struct {
	Published published `json:"published"`
}

// result is what became of one of several messages.
type result struct {
	Published *published `json:"published,omitempty"`
	Error     *Error     `json:"error,omitempty"`
}

type batchReply struct {
	Results []result `json:"results"`
}

type batchRequest struct {
	Messages []publishRequest `json:"messages"`
}

func (r *batchRequest) rooms() (list []string) {
	for i := range r.Messages {
		list = append(list, r.Messages[i].rooms()...)
	}
	return list
}

type broadcastRequest struct {
	Rooms []string `json:"rooms"`
	said
}

func (r *broadcastRequest) rooms() []string { return r.Rooms }

func (m messages) publish(ctx context.Context, r *publishRequest) (*publishReply, error) {
	one := m.send(ctx, []publishRequest{*r})[0]
	if one.Error != nil {
		return nil, one.Error
	}
	return &publishReply{*one.Published}, nil
}

func (m messages) batch(ctx context.Context, r *batchRequest) (*batchReply, error) {
	if n := len(r.Messages); n < 1 || n > maxBatch {
		return nil, badRequest("messages has %d entries: must be 1 to %d", n, maxBatch)
	}
	return &batchReply{m.send(ctx, r.Messages)}, nil
}

func (m messages) broadcast(ctx context.Context, r *broadcastRequest) (*batchReply, error) {
	if n := len(r.Rooms); n < 1 || n > maxBatch {
		return nil, badRequest("rooms has %d entries: must be 1 to %d", n, maxBatch)
	}
	list := make([]publishRequest, len(r.Rooms))
	for i, room := range r.Rooms {
		list[i] = publishRequest{Room: room, said: r.said}
		if r.MessageID != "" { // NATS deduplicates over all rooms of a stream
			list[i].MessageID = r.MessageID + " " + room
		}
	}
	return &batchReply{m.send(ctx, list)}, nil
}

// send publishes messages in their order and says what became of each.
func (m messages) send(ctx context.Context, list []publishRequest) []result {
	results := make([]result, len(list))
	futures := make([]jetstream.PubAckFuture, len(list))
	plain := false
	for i := range list {
		msg, at, err := m.message(&list[i])
		if err != nil {
			results[i].Error = err
			continue
		}
		results[i].Published = &published{Room: list[i].Room}
		if at != nil {
			results[i].Published.Epoch = at.Epoch
			var fault error
			if futures[i], fault = m.JetStream.PublishMsgAsync(msg, jetstream.WithExpectStream(at.Name)); fault != nil {
				results[i] = result{Error: unsent(fault)}
			}
			continue
		}
		if fault := m.NATS.PublishMsg(msg); fault != nil {
			results[i] = result{Error: unsent(fault)}
		} else {
			plain = true
		}
	}
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	if plain {
		m.confirm(ctx, results, futures)
	}
	for i, f := range futures {
		if f != nil && results[i].Error == nil {
			results[i] = await(ctx, f, results[i].Published)
		}
	}
	return results
}

// confirm waits until NATS has what was published to rooms without history.
func (m messages) confirm(ctx context.Context, results []result, futures []jetstream.PubAckFuture) {
	err := m.NATS.FlushWithContext(ctx)
	if err == nil {
		return
	}
	for i := range results {
		if futures[i] == nil && results[i].Error == nil {
			results[i] = result{Error: unsent(err)}
		}
	}
}

// await waits for JetStream's acknowledgement.
func await(ctx context.Context, f jetstream.PubAckFuture, at *published) result {
	select {
	case ack := <-f.Ok():
		at.Offset, at.Duplicate = ack.Sequence, ack.Duplicate
		return result{Published: at}
	case err := <-f.Err():
		return result{Error: unsent(err)}
	case <-ctx.Done():
		return result{Error: refuse(unavailable, "JetStream did not confirm the message in %s: it may or may not have been published", ackTimeout)}
	}
}

func unsent(err error) *Error {
	if errors.Is(err, nats.ErrMaxPayload) {
		return refuse(tooLarge, "the message is larger than NATS takes")
	}
	return refuse(unavailable, "NATS did not confirm the message: %v", err)
}

// message makes the NATS message that a backend would have published itself. The
// stream is nil where the room has no history.
func (m messages) message(r *publishRequest) (*nats.Msg, *policy.Stream, *Error) {
	if (r.Room != "") == (r.ToUser != "") && r.ToUser != "" {
		return nil, nil, badRequest("give one of room and to_user")
	}
	if r.ToUser != "" {
		r.Room = userRoomPrefix + r.ToUser
	}
	subj, err := subject.Encode(m.Prefix, r.Room)
	if err != nil {
		return nil, nil, refuse(badRoom, "%v", err)
	}
	msg := &nats.Msg{Subject: subj, Header: nats.Header{}}
	if err := r.body(msg); err != nil {
		return nil, nil, err
	}
	if err := r.header(msg); err != nil {
		return nil, nil, err
	}
	if p := m.Policies.Set().For(r.Room); p != nil {
		return msg, p.Stream, nil
	}
	return msg, nil, nil
}

func (r *said) body(m *nats.Msg) *Error {
	bodies := 0
	if r.Data != nil {
		bodies++
		m.Data = r.Data
		m.Header.Set(bus.HeaderBody, "json")
	}
	if r.Text != nil {
		bodies++
		m.Data = []byte(*r.Text)
		m.Header.Set(bus.HeaderBody, "text")
	}
	if r.Base64 != nil {
		bodies++
		var err error
		if m.Data, err = base64.StdEncoding.DecodeString(*r.Base64); err != nil {
			return badRequest("base64 is not standard base64")
		}
		m.Header.Set(bus.HeaderBody, "binary")
	}
	if bodies != 1 {
		return badRequest("give exactly one of data, text and base64")
	}
	return nil
}

func (r *said) header(m *nats.Msg) *Error {
	for _, h := range []struct {
		field, name, value string
		most               int
	}{
		{"event", bus.HeaderEvent, r.Event, 256}, {"user", bus.HeaderUser, r.User, 256}, {"key", bus.HeaderKey, r.Key, 256},
		{"exclude", bus.HeaderExclude, r.Exclude, 256}, {"message_id", nats.MsgIdHdr, r.MessageID, 512},
	} {
		if h.value == "" {
			continue
		}
		if len(h.value) > h.most || !utf8.ValidString(h.value) || strings.ContainsFunc(h.value, func(c rune) bool { return c < ' ' || c == 0x7f }) {
			return badRequest("%s must be at most %d bytes without control characters", h.field, h.most)
		}
		m.Header.Set(h.name, h.value)
	}
	return nil
}
