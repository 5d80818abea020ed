package nodes

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"nabat/control/internal/presence"
	"nabat/internal/bus"
	"nabat/proto/buspb"
)

// seenWait is how long a question waits for what its caller has reported.
const seenWait = 300 * time.Millisecond

// Members is a page of who is in a room.
type Members struct {
	Room        string   `json:"room"`
	Users       uint32   `json:"users"`
	Anonymous   uint32   `json:"anonymous"`
	Connections uint32   `json:"connections"`
	Members     []Member `json:"members"`
	Next        string   `json:"next,omitempty"`
}

// Member is a user in a room.
type Member struct {
	User        string          `json:"user"`
	Connections uint32          `json:"connections"` // 0: gone, with a grace to come back
	Info        json.RawMessage `json:"info,omitempty"`
}

// Members returns who is in a room, once what the caller has seen is in the
// picture: the value of Nabat-Seen, empty for none.
func (k *Keeper) Members(ctx context.Context, room string, limit int, after, seen string) (*Members, error) {
	if err := k.Ready(); err != nil {
		return nil, err
	}
	k.await(ctx, seen)
	k.mu.Lock()
	page := k.picture.Members(room, limit, after)
	k.mu.Unlock()
	reply := &Members{Room: room, Users: page.Users, Anonymous: page.Anonymous, Connections: page.Connections, Next: page.Next, Members: []Member{}}
	for _, m := range page.Members {
		reply.Members = append(reply.Members, Member{m.User, m.Connections, raw(m.Info)})
	}
	return reply, nil
}

// raw is information out of a token as JSON, nil if it is none.
func raw(info string) json.RawMessage {
	if info == "" || !json.Valid([]byte(info)) {
		return nil
	}
	return json.RawMessage(info)
}

// await waits a moment for an event to be in the picture.
func (k *Keeper) await(ctx context.Context, seen string) {
	parts := strings.Split(seen, ".")
	if len(parts) != 3 {
		return
	}
	epoch, err1 := strconv.ParseUint(parts[0], 16, 64)
	loop, err2 := strconv.ParseUint(parts[1], 10, 32)
	number, err3 := strconv.ParseUint(parts[2], 10, 64)
	if err1 != nil || err2 != nil || err3 != nil {
		return
	}
	limit := time.NewTimer(seenWait)
	defer limit.Stop()
	for {
		k.mu.Lock()
		known := k.picture.Knows(epoch, uint32(loop), number)
		if k.changed == nil {
			k.changed = make(chan struct{})
		}
		changed := k.changed
		k.mu.Unlock()
		if known {
			return
		}
		select {
		case <-changed:
		case <-limit.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// Rooms returns a page of the rooms that have members.
func (k *Keeper) Rooms(q presence.RoomQuery) (*presence.RoomPage, error) {
	if err := k.Ready(); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	page := k.picture.Rooms(q)
	return &page, nil
}

// User is where a user is.
type User struct {
	User        string    `json:"user"`
	Connections int       `json:"connections"`
	Nodes       []string  `json:"nodes"`
	Sessions    []Session `json:"sessions"` // at most maxSessions
}

// Session is one connection of a user.
type Session struct {
	Session   string          `json:"session"`
	Node      string          `json:"node"`
	Connected int64           `json:"connected"` // unix milliseconds
	Rooms     []string        `json:"rooms"`     // with presence
	Info      json.RawMessage `json:"info,omitempty"`
}

const maxSessions = 1000

// User returns where a user is; one who is nowhere has no connections.
func (k *Keeper) User(name string) (*User, error) {
	if err := k.Ready(); err != nil {
		return nil, err
	}
	k.mu.Lock()
	connections, list := k.picture.User(name, maxSessions)
	k.mu.Unlock()
	u := &User{User: name, Connections: connections, Nodes: []string{}, Sessions: []Session{}}
	on := make(map[string]bool)
	for _, s := range list {
		if !on[s.Node] {
			on[s.Node] = true
			u.Nodes = append(u.Nodes, s.Node)
		}
		one := Session{Session: buspb.SessionID(s.Epoch, s.Loop, s.Connection), Node: s.Node, Connected: s.At, Rooms: s.Rooms, Info: raw(s.Info)}
		if one.Rooms == nil {
			one.Rooms = []string{}
		}
		u.Sessions = append(u.Sessions, one)
	}
	return u, nil
}

// Cluster is what runs.
type Cluster struct {
	Nodes   []Node    `json:"nodes"`
	Control []Replica `json:"control"`
}

// Node is a running edge.
type Node struct {
	Node        string  `json:"node"`
	Epoch       string  `json:"epoch"`
	State       string  `json:"state"` // as it says itself; silent: it has not reported for a while
	Version     string  `json:"version,omitempty"`
	Listen      string  `json:"listen,omitempty"`
	Started     int64   `json:"started,omitempty"` // unix milliseconds
	Connections int     `json:"connections"`
	Users       uint32  `json:"users,omitempty"`
	Rooms       uint32  `json:"rooms"`
	MessagesIn  uint64  `json:"messages_in"` // totals since the start
	Deliveries  uint64  `json:"deliveries"`
	BytesOut    uint64  `json:"bytes_out"`
	Published   uint64  `json:"published"`
	Dropped     uint64  `json:"dropped"`
	Refused     uint64  `json:"refused"`
	InRate      float64 `json:"messages_in_rate"` // in a second, between the last two reports
	OutRate     float64 `json:"deliveries_rate"`
	ByteRate    float64 `json:"bytes_out_rate"`
	CPU         float64 `json:"cpu"` // cores in use
	LoopLag     float64 `json:"loop_lag_seconds"`
	Latency     float64 `json:"latency_seconds"`
	Memory      uint64  `json:"memory_bytes"`
	Heard       float64 `json:"heard_seconds"` // since its last report
	Whole       bool    `json:"whole"`         // nothing of it is missing in the picture
}

// Replica is a running control.
type Replica struct {
	ID      string `json:"id"`
	State   string `json:"state"`
	Version string `json:"version,omitempty"`
	Listen  string `json:"listen,omitempty"`
	Started int64  `json:"started,omitempty"`
	Self    bool   `json:"self,omitempty"` // it gave this answer
}

// Nodes returns the edges and the control replicas that live.
func (k *Keeper) Nodes() *Cluster {
	k.mu.Lock()
	known := k.picture.Nodes()
	k.mu.Unlock()
	c := &Cluster{Nodes: []Node{}, Control: []Replica{}}
	leases := make(map[string]bus.Lease)
	for _, l := range k.leases.live(bus.LeaseEdge) {
		leases[l.Node] = l
	}
	now := time.Now().UnixMilli()
	for i := range known {
		n := node(&known[i], now)
		if l, ok := leases[n.Node]; ok {
			n.Version, n.Listen, n.Started = l.Version, l.Listen, l.Started
		}
		c.Nodes = append(c.Nodes, n)
	}
	for _, l := range k.leases.live(bus.LeaseControl) {
		c.Control = append(c.Control, Replica{l.Node, l.State, l.Version, l.Listen, l.Started, l.Node == k.opts.ID})
	}
	return c
}

func node(i *presence.NodeInfo, now int64) Node {
	n := Node{Node: i.Node, Epoch: strconv.FormatUint(i.Epoch, 16), Connections: i.Connections, Whole: i.Whole, Heard: float64(max(now-i.Heard, 0)) / 1000}
	s := i.Stats
	if s == nil {
		return n
	}
	n.State, n.Users, n.Rooms, n.MessagesIn, n.Deliveries, n.BytesOut = s.State, s.Users, s.Rooms, s.MessagesIn, s.Deliveries, s.BytesOut
	n.Published, n.Dropped, n.Refused = s.Published, s.Dropped, s.Refused
	n.LoopLag, n.Latency, n.Memory = float64(s.LoopLagUs)/1e6, float64(s.LatencyUs)/1e6, s.MemoryBytes
	if p := i.Previous; p != nil && i.Passed > 0 {
		rate := func(a, b uint64) float64 { return float64(b-min(a, b)) * 1000 / float64(i.Passed) }
		n.InRate, n.OutRate, n.ByteRate = rate(p.MessagesIn, s.MessagesIn), rate(p.Deliveries, s.Deliveries), rate(p.BytesOut, s.BytesOut)
		n.CPU = max(s.CpuSeconds-p.CpuSeconds, 0) * 1000 / float64(i.Passed)
	}
	if now-i.Heard > bus.NodeTimeout.Milliseconds() {
		n.State = "silent"
	}
	return n
}
