package target

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"nabat/loadtest/swarm"
)

// subjectPrefix stands before the room in the subjects of what is started here.
const subjectPrefix = "room."

// ErrUnpublished is the answer where messages are needed and cannot be sent.
var ErrUnpublished = errors.New("messages are published over NATS or by HTTP: say where with --nats or --publish-url")

// subjects say what is published where in NATS.
type subjects struct {
	prefix string // before the room
	all    string // the subject of all rooms; "": each has its own
	body   string // a template; "": the message
}

// body names what stands for the message in a template.
const (
	bodyRoom = "{room}" // the room's name
	bodyData = "{data}" // the message, which is JSON
	bodyText = "{text}" // the message as a string in JSON
	bodyForm = "{form}" // the message as a value in a form
)

// fill completes a template.
func fill(template, room string, message []byte) string {
	pairs := []string{bodyRoom, room, bodyData, string(message)}
	if strings.Contains(template, bodyText) {
		text, _ := json.Marshal(string(message)) // a string always can be
		pairs = append(pairs, bodyText, string(text))
	}
	if strings.Contains(template, bodyForm) {
		pairs = append(pairs, bodyForm, url.QueryEscape(string(message)))
	}
	return strings.NewReplacer(pairs...).Replace(template)
}

// connect makes t's publisher, of one subject for each room.
func (t *Target) connect(url, prefix string) (err error) {
	t.NATS, t.subjects.prefix = url, prefix
	t.Publisher, err = t.NewPublisher()
	return err
}

// NewPublisher is a further publisher over NATS, for another goroutine.
func (t *Target) NewPublisher() (Publisher, error) {
	if t.NATS == "" {
		return nil, ErrUnpublished
	}
	conn, err := nats.Connect(t.NATS, nats.Name("nabat-loadtest"), nats.MaxReconnects(-1))
	if err != nil {
		return nil, fmt.Errorf("NATS at %s: %w", t.NATS, err)
	}
	t.closers = append(t.closers, func() error { conn.Close(); return nil })
	return &natsPublisher{conn: conn, how: t.subjects}, nil
}

// message is the payload of the last message and its room, to be stamped again.
type message struct {
	room    uint32
	name    string // of room; "": not made yet
	payload []byte
}

// stamp makes it the message with this stamp and reports whether the room is
// another one.
func (m *message) stamp(s swarm.Stamp, size int) (moved bool) {
	if len(m.payload) != max(size, swarm.MinPayload) {
		m.payload = swarm.AppendPayload(nil, s, size)
	}
	swarm.Restamp(m.payload, s)
	if m.name != "" && m.room == s.Room {
		return false
	}
	m.room, m.name = s.Room, swarm.RoomName(int(s.Room))
	return true
}

// natsPublisher publishes like any backend would.
type natsPublisher struct {
	conn    *nats.Conn
	how     subjects
	subject string // of the last message
	message message
}

// Publish implements Publisher.
func (p *natsPublisher) Publish(_ context.Context, s swarm.Stamp, size int) error {
	if p.message.stamp(s, size) {
		if p.subject = p.how.all; p.subject == "" {
			p.subject = p.how.prefix + p.message.name
		}
	}
	body := p.message.payload
	if p.how.body != "" {
		body = []byte(fill(p.how.body, p.message.name, body))
	}
	if err := p.conn.Publish(p.subject, body); err != nil { // copies the body
		return fmt.Errorf("publish to %s: %w", p.subject, err)
	}
	return nil
}

const (
	postTimeout = 10 * time.Second
	maxAnswer   = 64 << 10
)

// httpPublisher posts one message after the other over one connection.
type httpPublisher struct {
	client  *http.Client
	url     string // a template
	header  http.Header
	body    string // a template
	failure string // see dialect
	message message
}

func newHTTPPublisher(e *External, d *dialect) *httpPublisher {
	header := http.Header{"Content-Type": {"application/json"}, "User-Agent": {"nabat-loadtest"}}
	if d.form {
		header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, line := range e.PublishHeaders {
		name, value, _ := strings.Cut(line, ":")
		header.Set(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	return &httpPublisher{
		client: &http.Client{
			Transport: &http.Transport{MaxConnsPerHost: 1}, Timeout: postTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		url: e.PublishURL, header: header, body: e.body(d.post), failure: d.failure,
	}
}

// Publish implements Publisher. It waits for the answer, so messages keep their
// order.
func (p *httpPublisher) Publish(ctx context.Context, s swarm.Stamp, size int) error {
	p.message.stamp(s, size)
	where := strings.ReplaceAll(p.url, bodyRoom, url.PathEscape(p.message.name))
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, where, strings.NewReader(fill(p.body, p.message.name, p.message.payload)))
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	request.Header = p.header
	answer, err := p.client.Do(request)
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer)) // to its end, or the connection is not used again
	switch {
	case err != nil:
		return fmt.Errorf("publish: POST %s: %w", where, err)
	case answer.StatusCode/100 != 2, p.failure != "" && strings.Contains(string(text), p.failure):
		return fmt.Errorf("publish: POST %s answered %s: %.200s", where, answer.Status, strings.TrimSpace(string(text)))
	}
	return nil
}

func (p *httpPublisher) close() error {
	p.client.CloseIdleConnections()
	return nil
}
