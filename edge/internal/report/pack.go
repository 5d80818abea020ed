package report

import (
	"google.golang.org/protobuf/proto"

	"nabat/proto/buspb"
)

// maxBytes bounds one report, and one part of a snapshot.
const maxBytes = 256 << 10

// pack spreads segments and counts over as few reports as hold them. The first has
// room for what the caller adds to it.
func pack(node string, epoch uint64, segments []*buspb.Segment, counts []*buspb.RoomCount) []*buspb.Report {
	const (
		reserved = 512 // node, epoch and stats
		header   = 24  // of a segment or a count
	)
	r := &buspb.Report{Node: node, Epoch: epoch}
	list, size := []*buspb.Report{r}, reserved+len(node)
	room := func(n int) {
		if size += n; size > maxBytes {
			r = &buspb.Report{Node: node, Epoch: epoch}
			list, size = append(list, r), reserved+len(node)+n
		}
	}
	for _, s := range segments {
		room(header)
		part := &buspb.Segment{Loop: s.Loop, After: s.After}
		r.Segments = append(r.Segments, part)
		for i, e := range s.Events {
			in := r
			if room(eventSize(e)); r != in {
				size += header
				part = &buspb.Segment{Loop: s.Loop, After: s.After + uint64(i)}
				r.Segments = append(r.Segments, part)
			}
			part.Events = append(part.Events, e)
		}
	}
	for _, c := range counts {
		room(header + len(c.Room))
		r.Counts = append(r.Counts, c)
	}
	return list
}

// State is what is so on one loop, all at one moment. Memberships name rooms by
// their place in Rooms.
type State struct {
	Loop    int
	Number  uint64 // of the last event that the state contains
	Rooms   []string
	Members []Member
}

// Member is one connection.
type Member struct {
	Connection uint64
	User       string
	Info       []byte
	Rooms      []uint32
}

// Parts cuts a state into parts, each small enough for a message, and calls fn with
// the bytes of each, until fn reports false.
func (s *State) Parts(node string, epoch uint64, loops int, fn func(part []byte) bool) error {
	c := cutter{state: s, places: make(map[uint32]uint32)}
	c.begin(node, epoch, loops)
	for i := range s.Members {
		if c.size += c.add(&s.Members[i]); c.size < maxBytes || i == len(s.Members)-1 {
			continue
		}
		if more, err := c.send(fn); err != nil || !more {
			return err
		}
		c.begin(node, epoch, loops)
	}
	c.part.Last = true
	_, err := c.send(fn)
	return err
}

type cutter struct {
	state  *State
	part   *buspb.Snapshot
	number uint32
	size   int
	places map[uint32]uint32 // of rooms in the part
}

func (c *cutter) begin(node string, epoch uint64, loops int) {
	c.part = &buspb.Snapshot{Node: node, Epoch: epoch, Loop: uint32(c.state.Loop), Loops: uint32(loops), Number: c.state.Number, Part: c.number}
	c.number++
	c.size = 64 + len(node)
	clear(c.places)
}

// add puts a connection into the part and returns about what it takes there.
func (c *cutter) add(m *Member) (size int) {
	one := &buspb.Connection{Connection: m.Connection, User: m.User, Info: m.Info}
	size = 24 + len(m.User) + len(m.Info)
	for _, room := range m.Rooms {
		place, ok := c.places[room]
		if !ok {
			place = uint32(len(c.part.Rooms))
			c.places[room] = place
			c.part.Rooms = append(c.part.Rooms, c.state.Rooms[room])
			size += 4 + len(c.state.Rooms[room])
		}
		one.Rooms = append(one.Rooms, place)
		size += 5
	}
	c.part.Connections = append(c.part.Connections, one)
	return size
}

func (c *cutter) send(fn func([]byte) bool) (more bool, err error) {
	b, err := proto.Marshal(c.part)
	if err != nil {
		return false, err
	}
	return fn(b), nil
}
