package edge

import (
	"math"
	"strconv"

	"nabat/edge/internal/loop"
	"nabat/edge/internal/report"
	"nabat/edge/internal/session"
	"nabat/edge/internal/transport"
	"nabat/proto/buspb"
	"nabat/proto/subject"
	"nabat/proto/wire"
)

// maxShownInfo bounds what a token tells others about its user.
const maxShownInfo = 1 << 10

// presence is what control is told about one loop. Owned by the loop, but for the
// log, which is safe from any goroutine.
type presence struct {
	w       *worker
	log     *report.Log
	shown   []uint64            // by slot, a bit: control was told of the connection
	listed  []bool              // by the hub's number of a room: control is told who is in it
	changed map[string]struct{} // rooms whose number of members changed
	events  slab[buspb.Event]
}

func (p *presence) isShown(slot uint32) bool {
	i := int(slot / 64)
	return i < len(p.shown) && p.shown[i]&(1<<(slot%64)) != 0
}

func (p *presence) show(slot uint32, on bool) {
	for int(slot/64) >= len(p.shown) {
		p.shown = append(p.shown, 0)
	}
	if on {
		p.shown[slot/64] |= 1 << (slot % 64)
	} else {
		p.shown[slot/64] &^= 1 << (slot % 64)
	}
}

func (p *presence) isListed(room uint32) bool { return int(room) < len(p.listed) && p.listed[room] }

func (p *presence) list(room uint32, on bool) {
	for int(room) >= len(p.listed) {
		p.listed = append(p.listed, false)
	}
	p.listed[room] = on
}

// event tells control of one connection.
func (p *presence) event(kind buspb.Event_Kind, ref loop.Ref, room string) *buspb.Event {
	e := p.events.take()
	e.Kind, e.Connection, e.Room, e.At = kind, connection(ref), room, p.w.loop.Now().UnixMilli()
	return e
}

// Present implements session.Host: all that control is told of a connection begins
// here.
func (h host) Present(ref session.Ref, id *session.Identity) {
	p, r := &h.presence, loop.Ref(ref)
	kind := buspb.Event_IDENTITY
	if !p.isShown(ref.Slot) {
		kind = buspb.Event_CONNECT
	}
	e := p.event(kind, r, "")
	var whole bool
	if e.User, e.Info, whole = described(id); !whole {
		h.counts.InfoDropped.Add(1)
	}
	p.log.Add(e)
	if kind == buspb.Event_IDENTITY {
		return
	}
	p.show(ref.Slot, true)
	h.hub.Each(ref.Slot, func(room uint32) {
		if p.isListed(room) {
			p.log.Add(p.event(buspb.Event_JOIN, r, h.hub.Name(room)))
		}
	})
}

// described is what others are shown of an identity; whole is false when what its
// token tells is too much, and left out.
func described(id *session.Identity) (user string, info []byte, whole bool) {
	if id == nil {
		return "", nil, true
	}
	if id.Grant != nil && len(id.Grant.Info) > 0 {
		if _, info = wire.Classify(id.Grant.Info, "json"); len(info) > maxShownInfo {
			return id.User, nil, false
		}
	}
	return id.User, info, true
}

// joined and left are called for every membership.
func (p *presence) joined(ref loop.Ref, room uint32) {
	name := p.w.hub.Name(room)
	if isWatch(name) {
		return
	}
	p.changed[name] = struct{}{}
	if p.isListed(room) && p.isShown(ref.Slot) {
		p.log.Add(p.event(buspb.Event_JOIN, ref, name))
	}
}

func (p *presence) left(ref loop.Ref, room uint32, name string) {
	if isWatch(name) {
		return
	}
	p.changed[name] = struct{}{}
	if p.isListed(room) && p.isShown(ref.Slot) {
		p.log.Add(p.event(buspb.Event_LEAVE, ref, name))
	}
}

// gone is called once for a connection, before its memberships end.
func (p *presence) gone(ref loop.Ref, label string) {
	p.w.hub.Each(ref.Slot, func(room uint32) {
		if name := p.w.hub.Name(room); !isWatch(name) {
			p.changed[name] = struct{}{}
		}
	})
	if p.isShown(ref.Slot) {
		p.show(ref.Slot, false)
		e := p.event(buspb.Event_DISCONNECT, ref, "")
		e.Reason = endReason(label)
		p.log.Add(e)
	}
}

// endReason is why a connection ended, as reports name it.
func endReason(label string) string {
	switch {
	case label == "client":
		return "closed"
	case wire.Code(label).Known():
		return label
	case label == "" || label == "gone" || label == "ping_timeout":
		return "lost"
	}
	return string(wire.Protocol) // the client broke RFC 6455
}

// relist follows the policies: members of rooms that have presence from now on are
// told as joins, of others as leaves. One pass over all connections.
func (p *presence) relist() {
	turned := make(map[uint32]bool)
	p.w.hub.Rooms(func(room uint32) {
		if on := p.wantsList(room); on != p.isListed(room) {
			turned[room] = on
			p.list(room, on)
		}
	})
	if len(turned) == 0 {
		return
	}
	p.w.loop.Each(0, math.MaxInt32, func(ref loop.Ref, _ loop.Handler) {
		if !p.isShown(ref.Slot) {
			return
		}
		p.w.hub.Each(ref.Slot, func(room uint32) {
			on, ok := turned[room]
			switch {
			case !ok:
			case on:
				p.log.Add(p.event(buspb.Event_JOIN, ref, p.w.hub.Name(room)))
			default:
				p.log.Add(p.event(buspb.Event_LEAVE, ref, p.w.hub.Name(room)))
			}
		})
	})
}

// wantsList reports whether a room's policy has presence.
func (p *presence) wantsList(room uint32) bool {
	policy := p.w.edge.policy(p.w.hub.Name(room))
	return policy != nil && policy.Presence != nil
}

// state is what is so on the loop now. Whoever asks for it may have missed how
// many are in the rooms, too.
func (p *presence) state() *report.State {
	s := &report.State{Loop: p.w.index, Number: p.log.Number()}
	places := make(map[uint32]uint32)
	p.w.hub.Rooms(func(room uint32) {
		name := p.w.hub.Name(room)
		if !isWatch(name) {
			p.changed[name] = struct{}{}
		}
		if p.isListed(room) {
			places[room] = uint32(len(s.Rooms))
			s.Rooms = append(s.Rooms, name)
		}
	})
	p.w.loop.Each(0, math.MaxInt32, func(ref loop.Ref, h loop.Handler) {
		client, ok := h.(transport.Client)
		if !ok || !p.isShown(ref.Slot) {
			return
		}
		m := report.Member{Connection: connection(ref)}
		m.User, m.Info, _ = described(client.Identity())
		p.w.hub.Each(ref.Slot, func(room uint32) {
			if place, ok := places[room]; ok {
				m.Rooms = append(m.Rooms, place)
			}
		})
		s.Members = append(s.Members, m)
	})
	return s
}

func isWatch(name string) bool { _, ok := subject.Watched(name); return ok }

// lossNotice tells members of a room, or those who watch one, that something is
// missing.
func lossNotice(name, reason string) wire.Value {
	if watched, ok := subject.Watched(name); ok {
		return &wire.PresenceChange{Room: watched, Lost: true}
	}
	return wire.Gap{Room: name, Reason: reason}
}

// Presence implements session.Host.
func (h host) Presence(ref session.Ref, q wire.PresenceRequest, done func(*wire.PresencePage, *wire.Error)) {
	seen := strconv.FormatUint(h.edge.instance, 16) + "." + strconv.Itoa(h.index) + "." + strconv.FormatUint(h.presence.log.Number(), 10)
	ok := h.edge.reports.ask(q, seen, func(page *wire.PresencePage, err *wire.Error) {
		// An error of Post means that the loop has stopped: nobody waits.
		_ = h.loop.Post(func() {
			if c := h.client(ref); c != nil && !c.Leaving() {
				done(page, err)
			}
		})
	})
	if !ok {
		done(nil, &wire.Error{Code: wire.Overloaded, Reason: "too many questions about presence wait for control", RetryMS: 500})
	}
}
