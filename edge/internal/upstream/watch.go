package upstream

import (
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	"nabat/edge/internal/frame"
	"nabat/internal/bus"
	"nabat/proto/buspb"
	"nabat/proto/subject"
	"nabat/proto/wire"
)

// Rooms whose names are watches (subject.Watch) carry what control tells about the
// members of a room. They are rooms like others, without a policy and without
// history, so that a change is encoded once and fanned out like a message.

// watchSource is where a watch's changes come from. encoded is the room's subject
// without its prefix.
func watchSource(room, encoded string) source {
	return source{subject: bus.PresencePrefix + encoded, watched: room}
}

// takeChange hands out who came and left. What control did not write so is dropped.
func (r *room) takeChange(l *link, m *nats.Msg) {
	var c buspb.PresenceChange
	if proto.Unmarshal(m.Data, &c) != nil || c.Room != r.source.watched {
		l.u.countLost("not_from_control", 1)
		return
	}
	change := &wire.PresenceChange{Room: c.Room, Join: members(c.Join), Leave: members(c.Leave), Users: uint64(c.Users), Anonymous: uint64(c.Anonymous)}
	l.put(frame.Change(r.name, change, len(m.Data)), r.loops)
}

func members(list []*buspb.Member) []wire.Member {
	var out []wire.Member
	for _, m := range list {
		one := wire.Member{User: m.User}
		if kind, info := wire.Classify(m.Info, "json"); kind == wire.Data {
			one.Info = info
		}
		out = append(out, one)
	}
	return out
}

// missed tells those who watch that changes may have been lost.
func missed(r *room) *frame.Message {
	return frame.Notice(r.name, &wire.PresenceChange{Room: r.source.watched, Lost: true})
}

// count notes that a message of r was handed out.
func (r *room) count(l *link) {
	r.messages++
	if !r.counted {
		r.counted = true
		l.counted = append(l.counted, r.name)
	}
}

// Counted calls fn with the names of rooms that had messages since the last call.
// It waits for the dispatchers; not for use on a loop.
func (u *Upstream) Counted(fn func(room string)) {
	u.each(func(l *link) {
		for _, name := range l.counted {
			if r := l.byName[name]; r != nil {
				r.counted = false
			}
			fn(name)
		}
		clear(l.counted)
		l.counted = l.counted[:0]
	})
}

// Messages is how many messages were handed out in rooms since each was opened; 0
// for those that are not open. It waits, as Counted does.
func (u *Upstream) Messages(rooms []string) []uint64 {
	totals := make([]uint64, len(rooms))
	u.each(func(l *link) {
		for i, name := range rooms {
			if r := l.byName[name]; r != nil {
				totals[i] = r.messages
			}
		}
	})
	return totals
}

// each runs fn on every dispatcher, one after the other, and waits.
func (u *Upstream) each(fn func(l *link)) {
	for _, l := range u.live {
		done := make(chan struct{})
		if l.post(func() { defer close(done); fn(l) }) {
			<-done
		}
	}
}

// isWatch reports whether a room is a watch, and of which room.
func isWatch(name string) (room string, ok bool) { return subject.Watched(name) }
