package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"nabat/internal/bus"
	"nabat/proto/subject"
)

type publication struct {
	event, key, user   string
	text, json, lines  bool
	file, prefix, room string
	timeout            time.Duration
	body               *string // nil when it comes from the file

	history     jetstream.JetStream // nil where the room has none
	first, last uint64              // offsets, where it has
}

func (a *app) pubCommand() *cobra.Command {
	var p publication
	cmd := &cobra.Command{
		Use:   "pub ROOM BODY",
		Short: "Publish a message to a room, over plain NATS",
		Long: "Publish a message to a room, over plain NATS. Where the room has history NATS\n" +
			"confirms that the message is kept, and its offset is printed.\n\n" +
			"A BODY of - is read from standard input, --file reads it from a file. Any bytes\n" +
			"may be published: valid JSON reaches clients as data, valid UTF-8 as text, the\n" +
			"rest as base64.",
		Example: "  nabat pub sports.news '{\"title\":\"hello\"}'\n  journalctl -f | nabat pub logs.web - --lines --text",
		Args: func(cmd *cobra.Command, args []string) error {
			if p.file != "" && len(args) == 2 {
				return usage(cmd, "the body is given twice, as an argument and by --file")
			}
			if p.file != "" {
				return exactly("ROOM")(cmd, args)
			}
			return exactly("ROOM", "BODY")(cmd, args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&p.event, "event", "", "name of the event, for handlers and event streams")
	f.StringVar(&p.key, "key", "", "conflation key: a newer message replaces an older one of the same key")
	f.StringVar(&p.user, "user", "", "the sender shown to clients")
	f.BoolVar(&p.json, "json", false, "the body is JSON: refuse to publish anything else")
	f.BoolVar(&p.text, "text", false, "the body is text, even if it looks like JSON")
	f.StringVar(&p.file, "file", "", "read the body from this file")
	f.BoolVar(&p.lines, "lines", false, "with - or --file: one message for each line")
	f.StringVar(&p.prefix, "subject-prefix", subject.RoomPrefix, "subject prefix of rooms")
	f.DurationVar(&p.timeout, "timeout", 10*time.Second, "how long to wait for NATS")
	server := a.natsFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p.room = args[0]
		if len(args) == 2 {
			p.body = &args[1]
		}
		return a.publish(cmd, &p, server)
	}
	return cmd
}

func (a *app) publish(cmd *cobra.Command, p *publication, server *natsFlags) error {
	switch {
	case p.text && p.json:
		return usage(cmd, "--text and --json exclude each other")
	case p.lines && p.file == "" && *p.body != "-":
		return usage(cmd, "--lines reads from standard input or a file: give - as BODY, or --file")
	case p.timeout <= 0:
		return usage(cmd, "--timeout %s: must be more than 0", p.timeout)
	}
	for flag, value := range map[string]string{"event": p.event, "key": p.key, "user": p.user} {
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return usage(cmd, "--%s must not contain control characters", flag)
		}
	}
	subj, err := subject.Encode(p.prefix, p.room)
	if err != nil {
		return &usageError{cmd.CommandPath(), err.Error()}
	}
	if strings.HasPrefix(p.room, p.prefix) {
		fmt.Fprintf(a.stderr, "note: rooms are named without %q: this is the room %q, subject %s\n", p.prefix, p.room, subj)
	}
	source, err := a.source(p)
	if err != nil {
		return err
	}
	defer source.Close()
	nc, err := server.connect(a)
	if err != nil {
		return err
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), p.timeout)
	defer cancel()
	p.history = findHistory(ctx, nc, subj)
	before := nc.LastError() // the search may not be permitted: that is no failure
	messages, size, err := p.send(cmd.Context(), nc, subj, source)
	if err != nil {
		return err
	}
	ctx, cancel = context.WithTimeout(cmd.Context(), p.timeout)
	defer cancel()
	if err := nc.FlushWithContext(ctx); err != nil {
		return fmt.Errorf("NATS did not confirm: %w", err)
	}
	if err := nc.LastError(); err != nil && err != before { // such as a permissions violation
		return fmt.Errorf("NATS refused: %w", err)
	}
	what := "1 message"
	if messages != 1 {
		what = fmt.Sprintf("%d messages", messages)
	}
	switch {
	case p.last == 0:
	case p.first == p.last:
		what += fmt.Sprintf(" at offset %d", p.last)
	default:
		what += fmt.Sprintf(" at offsets %d to %d", p.first, p.last)
	}
	fmt.Fprintf(a.stdout, "published %s, %d bytes, to %s\n", what, size, subj)
	return nil
}

// findHistory returns JetStream if a policy's stream keeps the subject. A server
// that does not say so is published to all the same, without an offset.
func findHistory(ctx context.Context, nc *nats.Conn, subj string) jetstream.JetStream {
	const patience = time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil
	}
	if name, err := js.StreamNameBySubject(ctx, subj); err != nil || !strings.HasPrefix(name, bus.StreamPrefix) {
		return nil
	}
	return js
}

// put publishes one message and, where that is kept, waits until it is.
func (p *publication) put(ctx context.Context, nc *nats.Conn, m *nats.Msg) error {
	if p.history == nil {
		return nc.PublishMsg(m)
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	ack, err := p.history.PublishMsg(ctx, m)
	if err != nil {
		return err
	}
	if p.last = ack.Sequence; p.first == 0 {
		p.first = ack.Sequence
	}
	return nil
}

// source is where the body comes from.
func (a *app) source(p *publication) (io.ReadCloser, error) {
	switch {
	case p.file != "":
		return os.Open(p.file)
	case *p.body == "-":
		return io.NopCloser(a.stdin), nil
	}
	return io.NopCloser(strings.NewReader(*p.body)), nil
}

// send publishes everything in source and counts it.
func (p *publication) send(ctx context.Context, nc *nats.Conn, subj string, source io.Reader) (messages, size int, err error) {
	limit := int(nc.MaxPayload())
	one := func(body []byte) error {
		if err := p.check(body); err != nil {
			return err
		}
		if err := p.put(ctx, nc, p.message(subj, body)); errors.Is(err, nats.ErrMaxPayload) {
			return fmt.Errorf("the message, with its headers, is larger than the %d bytes that this NATS server takes", limit)
		} else if err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		messages++
		size += len(body)
		return nil
	}
	if !p.lines {
		// One byte more than goes through, so that what is too large is seen.
		body, err := io.ReadAll(io.LimitReader(source, int64(limit)+1))
		if err == nil {
			err = one(body)
		}
		return messages, size, err
	}
	scanner := bufio.NewScanner(source)
	scanner.Buffer(nil, limit+1)
	for scanner.Scan() {
		if err := one(append([]byte{}, scanner.Bytes()...)); err != nil {
			return messages, size, fmt.Errorf("line %d: %w", messages+1, err)
		}
	}
	if errors.Is(scanner.Err(), bufio.ErrTooLong) {
		return messages, size, fmt.Errorf("line %d: longer than the %d bytes that this NATS server takes", messages+1, limit)
	}
	return messages, size, scanner.Err()
}

// check holds the body to what the flags say of it.
func (p *publication) check(body []byte) error {
	var any json.RawMessage
	if p.json {
		if err := json.Unmarshal(body, &any); err != nil {
			return fmt.Errorf("--json: the body is not JSON: %w", err)
		}
	}
	if p.text && !utf8.Valid(body) {
		return errors.New("--text: the body is not valid UTF-8")
	}
	return nil
}

func (p *publication) message(subj string, body []byte) *nats.Msg {
	m := &nats.Msg{Subject: subj, Data: body}
	set := func(header, value string) {
		if value != "" {
			if m.Header == nil {
				m.Header = make(nats.Header)
			}
			m.Header.Set(header, value)
		}
	}
	set(bus.HeaderEvent, p.event)
	set(bus.HeaderKey, p.key)
	set(bus.HeaderUser, p.user)
	switch {
	case p.json:
		set(bus.HeaderBody, "json")
	case p.text:
		set(bus.HeaderBody, "text")
	}
	return m
}
