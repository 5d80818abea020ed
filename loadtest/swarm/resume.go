package swarm

import (
	"bytes"
	"encoding/json"
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

// stands takes the answer to a connect command.
func (l *loop) stands(c *client, text []byte) error {
	var answer struct {
		Connected struct {
			Rooms []struct {
				Room, Epoch string
				Offset      uint64
				Recovered   *bool
			}
		}
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return fmt.Errorf("the target's first message: %w", err)
	}
	if c.at == nil {
		c.at = make([]position, l.plan.Spread.Each)
	}
	for _, room := range answer.Connected.Rooms {
		for slot := range c.at {
			if room.Room != RoomName(l.plan.Spread.room(int(c.number), slot)) {
				continue
			}
			c.at[slot] = position{room.Epoch, room.Offset}
			switch {
			case room.Recovered == nil:
			case *room.Recovered:
				l.stand.Recovered++
			default:
				l.stand.Unrecovered++
			}
		}
	}
	return nil
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
