package swarm

import (
	"bytes"
	"fmt"
	"strconv"
	"time"
)

// position is where a client stands in a room.
type position struct {
	epoch  string
	offset uint64
}

// advance takes the offset out of a message.
func (p *position) advance(text []byte) {
	const key = `"offset":`
	at := bytes.Index(text, []byte(key))
	if at < 0 {
		return
	}
	digits := text[at+len(key):]
	end := bytes.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' })
	if n, err := strconv.ParseUint(string(digits[:max(end, 0)]), 10, 64); err == nil {
		p.offset = max(p.offset, n)
	}
}

// stands takes the answer to a connect command. It is scanned rather than
// decoded: with many clients that come back at once, what they take of the
// processors is missing at the target.
func (l *loop) stands(c *client, text []byte) error {
	_, rooms, found := bytes.Cut(text, []byte(`"rooms":[`))
	if !found {
		return fmt.Errorf("the target's first message names no rooms: %.200q", text)
	}
	if c.at == nil {
		c.at = make([]position, l.plan.Spread.Each)
	}
	for {
		object, rest, found := bytes.Cut(rooms, []byte("}"))
		if !found {
			return nil
		}
		rooms = rest
		for slot := range c.at {
			if !bytes.Equal(field(object, `"room":"`), []byte(RoomName(l.plan.Spread.room(int(c.number), slot)))) {
				continue
			}
			offset, err := strconv.ParseUint(string(field(object, `"offset":`)), 10, 64)
			if err != nil {
				return fmt.Errorf("the target's first message: offset: %w", err)
			}
			epoch := c.at[slot].epoch
			if now := field(object, `"epoch":"`); string(now) != epoch {
				epoch = string(now)
			}
			c.at[slot] = position{epoch, offset}
			switch string(field(object, `"recovered":`)) {
			case "true":
				l.stand.Recovered++
			case "false":
				l.stand.Unrecovered++
			}
		}
	}
}

// field is the value behind a key: up to the quote of a text, or the end of a
// number or word. Names of rooms and epochs hold nothing that is escaped.
func field(object []byte, key string) []byte {
	_, value, _ := bytes.Cut(object, []byte(key))
	if end := bytes.IndexAny(value, `",`); end >= 0 {
		return value[:end]
	}
	return value
}

// returning is the connect command of a client that comes back.
func (p *Plan) returning(c *client) string {
	out := fmt.Appendf(nil, `{"id":1,"connect":{"away_ms":%d,"rooms":[`, (Now()-c.gone)/int64(time.Millisecond)+1)
	for slot, at := range c.at {
		if slot > 0 {
			out = append(out, ',')
		}
		out = fmt.Appendf(out, `{"room":%q,"epoch":%q,"offset":%d}`, RoomName(p.Spread.room(int(c.number), slot)), at.epoch, at.offset)
	}
	return string(append(out, "]}}"...))
}
