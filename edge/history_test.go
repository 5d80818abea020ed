package edge

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"nabat/internal/bus"
	"nabat/proto/grant"
	"nabat/proto/policy"
	"nabat/proto/subject"
	"nabat/proto/wire"
)

// kept makes the stream and the mirror of a policy as control does, and puts
// them into the set.
func (c *cluster) kept(epoch string, h policy.History) policy.Stream {
	c.t.Helper()
	return c.keptBy(epoch, h, 1)
}

func (c *cluster) keptBy(epoch string, h policy.History, replicas int) policy.Stream {
	c.t.Helper()
	s := policy.Stream{Name: "NABAT_all_" + epoch, Mirror: "NABAT_all_" + epoch + bus.MirrorSuffix, Epoch: epoch}
	js, err := jetstream.New(c.nc)
	if err != nil {
		c.t.Fatal(err)
	}
	limits := jetstream.StreamConfig{Name: s.Name, Subjects: []string{"room.>"}, MaxAge: h.Age, MaxMsgsPerSubject: -1, AllowDirect: true, Replicas: replicas,
		RePublish: &jetstream.RePublish{Source: "room.>", Destination: bus.LivePrefix + "{{partition(1024)}}.>"}}
	if h.Messages > 0 {
		limits.MaxMsgsPerSubject = int64(h.Messages)
	}
	if _, err := js.CreateStream(c.t.Context(), limits); err != nil {
		c.t.Fatal(err)
	}
	limits.Name, limits.Subjects, limits.RePublish, limits.Mirror = s.Mirror, nil, nil, &jetstream.StreamSource{Name: s.Name}
	if _, err := js.CreateStream(c.t.Context(), limits); err != nil {
		c.t.Fatal(err)
	}
	return s
}

// newHistory is a cluster whose rooms all have history.
func newHistory(t testing.TB, h policy.History) *cluster {
	t.Helper()
	c := newCluster(t, policy.Dev())
	s := c.kept("k1", h)
	set := policy.Dev()
	set.Version, set.Rooms[0].History, set.Rooms[0].Stream = 2, &h, &s
	c.set = set
	c.put(bus.BucketConfig, bus.KeyPolicies, set.Encode())
	return c
}

// store publishes with an acknowledgement and returns the offset.
func (c *cluster) store(room, body string) uint64 {
	c.t.Helper()
	js, err := jetstream.New(c.nc)
	if err != nil {
		c.t.Fatal(err)
	}
	ack, err := js.Publish(c.t.Context(), "room."+room, []byte(body))
	if err != nil {
		c.t.Fatal(err)
	}
	return ack.Sequence
}

func (c *cluster) mirrored(offset uint64) {
	c.t.Helper()
	js, err := jetstream.New(c.nc)
	if err != nil {
		c.t.Fatal(err)
	}
	until(c.t, "the mirror has it", func() bool {
		s, err := js.Stream(c.t.Context(), c.set.Rooms[0].Stream.Mirror)
		return err == nil && s.CachedInfo().State.LastSeq >= offset
	})
}

func kept100() policy.History { return policy.History{Messages: 100, Age: time.Hour} }

// readyForHistory waits until an edge has the policies with the stream.
func (c *cluster) readyForHistory(e *Edge) *Edge {
	c.t.Helper()
	until(c.t, "the edge knows the stream", func() bool { p := e.policy("a"); return p != nil && p.Stream != nil })
	return e
}

func message(room string, offset uint64, n int) string {
	return fmt.Sprintf(`{"room":%q,"offset":%d,"data":%d}`, room, offset, n)
}

func TestMessagesOfARoomWithHistoryHaveOffsets(t *testing.T) {
	c := newHistory(t, kept100())
	e := c.readyForHistory(c.edge(nil))
	c.store("other", "0")
	a := dial(t, e, "/ws?room=a")
	a.wantPrefix(`{"connected":{"session":`)
	for n := range 5 {
		a.want(message("a", c.store("a", fmt.Sprint(n)), n))
	}
	b := dial(t, e, "/ws?room=a")
	if hello := b.wantPrefix(`{"connected"`); !strings.Contains(hello, `{"room":"a","epoch":"k1","offset":6}`) {
		t.Fatal(hello)
	}
	a.send(`{"id":9,"publish":{"room":"a","data":9,"message_id":"m"}}`)
	for range 2 { // the message and its acknowledgement, in either order
		if got, err := a.next(); err != nil || (got != `{"id":9,"published":{"room":"a","epoch":"k1","offset":7}}` && got != message("a", 7, 9)) {
			t.Fatal(got, err)
		}
	}
	// The same message again is the same offset, and nobody gets it twice.
	a.send(`{"id":10,"publish":{"room":"a","data":9,"message_id":"m"}}`)
	a.want(`{"id":10,"published":{"room":"a","epoch":"k1","offset":7}}`)
	b.want(message("a", 7, 9))
	b.send(`{"id":1,"ping":{}}`)
	b.want(`{"id":1,"pong":{}}`)
}

func resumeFrom(room, epoch string, offset uint64) string {
	return fmt.Sprintf(`{"id":1,"connect":{"rooms":[{"room":%q,"epoch":%q,"offset":%d}]}}`, room, epoch, offset)
}

// wantConnected reads the answer to connect and holds its rooms against text.
func (c *client) wantConnected(rooms string) {
	c.t.Helper()
	if hello := c.wantPrefix(`{"id":1,"connected":`); !strings.HasSuffix(hello, `"rooms":[`+rooms+`]}}`) {
		c.t.Fatalf("got  %s\nwant %s", hello, rooms)
	}
}

func TestResume(t *testing.T) {
	c := newHistory(t, policy.History{Messages: 10, Age: time.Hour})
	var last uint64
	for n := range 5 {
		last = c.store("a", fmt.Sprint(n)) // offsets 1 to 5
	}
	for n := range 20 {
		last = c.store("full", fmt.Sprint(n)) // 6 to 25, of which 16 to 25 are kept
	}
	c.mirrored(last)
	for _, fresh := range []bool{true, false} {
		e := c.readyForHistory(c.edge(nil))
		if !fresh { // the room is open here, and the node has recent messages
			d := dial(t, e, "/ws?room=a&room=full")
			d.wantPrefix(`{"connected"`)
			last = c.store("a", "5") // 26
			d.want(message("a", last, 5))
		}
		for _, v := range []struct {
			rule, connect, rooms string
			first                uint64
			count                int
		}{
			{"what was missed follows", resumeFrom("a", "k1", 2), `{"room":"a","epoch":"k1","offset":2,"recovered":true}`, 3, 3},
			{"nothing was missed", resumeFrom("a", "k1", 5), `{"room":"a","epoch":"k1","offset":5,"recovered":true}`, 6, 0},
			{"an older epoch has no meaning", resumeFrom("a", "k0", 2), `{"room":"a","epoch":"k1","offset":%d,"recovered":false,"reason":"epoch_changed"}`, 0, 0},
			{"what is no longer kept is said to be lost", resumeFrom("full", "k1", 7), `{"room":"full","epoch":"k1","offset":15,"recovered":false,"reason":"history_cut"}`, 16, 10},
			{"the oldest that is kept proves itself", resumeFrom("full", "k1", 16), `{"room":"full","epoch":"k1","offset":16,"recovered":true}`, 17, 9},
			{"an empty room, and nobody says for how long", resumeFrom("none", "k1", 0), `{"room":"none","epoch":"k1","offset":0,"recovered":false,"reason":"history_cut"}`, 0, 0},
			{"an empty room, for less than its messages live", strings.Replace(resumeFrom("none", "k1", 0), `"rooms"`, `"away_ms":5000,"rooms"`, 1), `{"room":"none","epoch":"k1","offset":0,"recovered":true}`, 0, 0},
			{"a position that the room never reached", resumeFrom("a", "k1", 4000), `{"room":"a","epoch":"k1","offset":%d,"recovered":false,"reason":"ahead_of_history"}`, 0, 0},
		} {
			t.Run(fmt.Sprintf("%s, fresh node %v", v.rule, fresh), func(t *testing.T) {
				if strings.Contains(v.rooms, "%d") {
					newest := 5
					if !fresh {
						newest = 26
					}
					v.rooms = fmt.Sprintf(v.rooms, newest)
				}
				r := dial(t, e, "/ws")
				r.t = t
				r.send(v.connect)
				r.wantConnected(v.rooms)
				for i := range v.count {
					var m struct{ Offset uint64 }
					got, err := r.next()
					if err != nil || json.Unmarshal([]byte(got), &m) != nil || m.Offset != v.first+uint64(i) {
						t.Fatalf("message %d is %s (%v)", i, got, err)
					}
				}
				if !fresh && strings.Contains(v.connect, `"a","epoch":"k1"`) && v.first != 0 {
					r.want(message("a", 26, 5))
				}
				r.send(`{"id":2,"ping":{}}`)
				r.want(`{"id":2,"pong":{}}`)
			})
		}
	}
}

// A message that excludes a connection is not for the client that comes back
// from it either.
func TestAReplayLeavesOutWhatExcludesTheClient(t *testing.T) {
	c := newHistory(t, kept100())
	e := c.readyForHistory(c.edge(nil))
	a := dial(t, e, "/ws?room=a")
	var hello struct{ Connected struct{ Session string } }
	if text := a.wantPrefix(`{"connected"`); json.Unmarshal([]byte(text), &hello) != nil {
		t.Fatal(text)
	}
	a.want(message("a", c.store("a", "0"), 0))
	witness := dial(t, e, "/ws?room=a") // what it was sent, the edge knows
	witness.wantPrefix(`{"connected"`)
	exclude := nats.Header{bus.HeaderExclude: {hello.Connected.Session}}
	c.publish("a", "1", exclude)
	c.publish("a", "2", nil)
	a.want(message("a", 3, 2))
	_ = a.conn.Close()
	c.publish("a", "3", exclude)
	c.publish("a", "4", nil)
	for offset := uint64(2); offset <= 5; offset++ {
		witness.want(message("a", offset, int(offset-1)))
	}
	b := dial(t, e, "/ws")
	b.send(fmt.Sprintf(`{"id":1,"connect":{"previous":%q,"rooms":[{"room":"a","epoch":"k1","offset":1}]}}`, hello.Connected.Session))
	b.wantConnected(`{"room":"a","epoch":"k1","offset":1,"recovered":true}`)
	b.want(message("a", 3, 2))
	b.want(message("a", 5, 4))
	stranger := dial(t, e, "/ws")
	stranger.send(resumeFrom("a", "k1", 1))
	stranger.wantConnected(`{"room":"a","epoch":"k1","offset":1,"recovered":true}`)
	for offset := uint64(2); offset <= 5; offset++ {
		stranger.want(message("a", offset, int(offset-1)))
	}
}

// A client that comes back gets live messages behind those that it missed, and
// each once.
func TestResumeWhileMessagesCome(t *testing.T) {
	c := newHistory(t, policy.History{Messages: 2000, Age: time.Hour})
	e := c.readyForHistory(c.edge(func(cfg *Config) { cfg.RecentMessages = 8 }))
	js, err := jetstream.New(c.nc)
	if err != nil {
		t.Fatal(err)
	}
	c.store("a", "0")
	done := make(chan error, 1)
	const total = 1500
	go func() {
		for n := 1; n < total; n++ {
			if _, err := js.Publish(t.Context(), "room.a", fmt.Append(nil, n)); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for next := uint64(1); next < total; {
		r := dial(t, e, "/ws")
		r.send(resumeFrom("a", "k1", next))
		r.wantConnected(fmt.Sprintf(`{"room":"a","epoch":"k1","offset":%d,"recovered":true}`, next))
		for range 97 {
			if next++; next > total {
				break
			}
			r.want(message("a", next, int(next-1)))
		}
		_ = r.conn.Close()
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestSubscribeFromATimeOrWithTheNewest(t *testing.T) {
	c := newHistory(t, kept100())
	var last uint64
	for n := range 5 {
		last = c.store("a", fmt.Sprint(n))
	}
	c.mirrored(last)
	e := c.readyForHistory(c.edge(nil))
	a := dial(t, e, "/ws?room=other")
	a.connected("other")
	a.send(`{"id":1,"subscribe":{"rooms":[{"room":"a","since":"10m"}]}}`)
	a.want(`{"id":1,"subscribed":{"rooms":[{"room":"a","epoch":"k1","offset":0}]}}`)
	for n := range 5 {
		a.want(message("a", uint64(n+1), n))
	}
	b := dial(t, e, "/ws?room=other")
	b.connected("other")
	b.send(`{"id":1,"subscribe":{"rooms":[{"room":"a","latest":true},{"room":"empty","latest":true}]}}`)
	b.want(`{"id":1,"subscribed":{"rooms":[{"room":"a","epoch":"k1","offset":5},{"room":"empty","epoch":"k1","offset":0}]}}`)
	b.want(message("a", 5, 4))
	c.store("a", "5")
	a.want(message("a", 6, 5))
	b.want(message("a", 6, 5))
}

func TestHistoryIsPagedBothWays(t *testing.T) {
	c := newHistory(t, kept100())
	for n := range 10 {
		c.store("a", fmt.Sprint(n))
		c.store("b", fmt.Sprint(n))
	}
	c.mirrored(20)
	e := c.readyForHistory(c.edge(nil))
	a := dial(t, e, "/ws?room=other")
	a.connected("other")
	page := func(ask string, more bool, offsets ...int) {
		t.Helper()
		a.send(`{"id":1,"history":{"room":"a"` + ask + `}}`)
		var list []string
		for _, o := range offsets {
			list = append(list, message("a", uint64(o), (o-1)/2))
		}
		a.want(fmt.Sprintf(`{"id":1,"history":{"room":"a","epoch":"k1","messages":[%s],"more":%v}}`, strings.Join(list, ","), more))
	}
	page(`,"limit":3`, true, 15, 17, 19)
	page(`,"limit":3,"before":15`, true, 9, 11, 13)
	page(`,"limit":4,"before":9`, false, 1, 3, 5, 7)
	page(`,"limit":2,"after":0`, true, 1, 3)
	page(`,"limit":20,"after":15`, false, 17, 19)
	page(`,"limit":20,"after":19`, false)
}

// The browser sends the last id it saw; it stands for all rooms at once.
func TestAnEventStreamResumesByItsLastEventID(t *testing.T) {
	c := newHistory(t, kept100())
	e := c.readyForHistory(c.edge(nil))
	open := func(last string) (*bufio.Reader, func()) {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+e.Addr()+"/sse?room=a&room=b", nil)
		if err != nil {
			t.Fatal(err)
		}
		if last != "" {
			req.Header.Set("Last-Event-ID", last)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 200 {
			b, _ := io.ReadAll(resp.Body)
			t.Fatalf("%s: %s", resp.Status, b)
		}
		return bufio.NewReader(resp.Body), func() { _ = resp.Body.Close() }
	}
	is := func(id string, a, b uint64) bool {
		at, err := wire.ParseCursor(id)
		return err == nil && len(at) == 2 && at["a"].Offset == a && at["b"].Offset == b && at["a"].Epoch == "k1"
	}
	event := func(r *bufio.Reader) (id, data string) {
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			switch line = strings.TrimSuffix(line, "\n"); {
			case line == "" && data != "":
				return id, data
			case strings.HasPrefix(line, "id: "):
				id = line[4:]
			case strings.HasPrefix(line, "data: "):
				data = line[6:]
			}
		}
	}
	r, stop := open("")
	id, hello := event(r)
	if !is(id, 0, 0) || !strings.Contains(hello, `"connected"`) {
		t.Fatal(id, hello)
	}
	c.store("a", "1")
	if id, data := event(r); !is(id, 1, 0) || data != message("a", 1, 1) {
		t.Fatal(id, data)
	}
	c.store("b", "2")
	id, _ = event(r)
	if !is(id, 1, 2) {
		t.Fatal(id)
	}
	stop()
	c.store("a", "3")
	c.store("b", "4")
	c.store("a", "5")
	c.mirrored(5)
	before, fresh := e, c.readyForHistory(c.edge(nil))
	for _, e = range []*Edge{fresh, before} { // the first never saw the rooms
		r, stop = open(id)
		defer stop()
		_, hello = event(r)
		if !strings.Contains(hello, `{"room":"a","epoch":"k1","offset":1,"recovered":true},{"room":"b","epoch":"k1","offset":2,"recovered":true}`) {
			t.Fatal(hello)
		}
		got := map[string]bool{}
		for range 3 {
			id, data := event(r)
			got[data] = true
			hello = id
		}
		if !got[message("a", 3, 3)] || !got[message("b", 4, 4)] || !got[message("a", 5, 5)] || !is(hello, 5, 4) {
			t.Fatal(got, hello)
		}
	}
	r, stop = open("of another server")
	defer stop()
	if _, hello = event(r); !strings.Contains(hello, `{"room":"a","epoch":"k1","offset":5,"recovered":false,"reason":"epoch_changed"}`) {
		t.Fatal(hello)
	}
}

// A slow reader of a room with history loses nothing and is not closed: it is
// told that it lags, and catches up, in order.
func TestASlowReaderLagsAndCatchesUp(t *testing.T) {
	c := newHistory(t, policy.History{Messages: 5000, Age: time.Hour})
	e := c.readyForHistory(c.edge(func(cfg *Config) {
		cfg.LagQueueBytes, cfg.Loops, cfg.SendBuffer = 32<<10, 1, 16<<10
	}))
	slow := stall(t, e, "busy")
	body := `"` + strings.Repeat("x", 4<<10) + `"`
	var total uint64
	for e.workers[0].counts.Lags.Load() == 0 {
		total = c.store("busy", body)
	}
	for range 200 {
		total = c.store("busy", body)
	}
	e.workers[0].counts.Drops.Each(func(reason string, n uint64) { t.Errorf("%d messages dropped: %s", n, reason) })
	lagging := false
	for next := uint64(1); next <= total; {
		got, err := slow.next()
		if err != nil {
			t.Fatalf("at %d of %d: %v", next, total, err)
		}
		if strings.HasPrefix(got, `{"lagging":{"room":"busy","epoch":"k1","offset":`) {
			lagging = true
			continue
		}
		var m struct {
			Room   string
			Offset uint64
		}
		if err := json.Unmarshal([]byte(got), &m); err != nil || m.Room != "busy" {
			t.Fatalf("%.100s (%v)", got, err)
		}
		if m.Offset != next { // the whole stream is of this room
			t.Fatalf("got offset %d, want %d", m.Offset, next)
		}
		next++
	}
	if !lagging {
		t.Error("the client was not told that it lags")
	}
	until(t, "the reader is live again", func() bool { return e.workers[0].counts.Lagging.Load() == 0 })
	c.publish("busy", "1", nil)
	slow.wantPrefix(`{"room":"busy","offset":`)
}

// NATS is away for a while; what is published when it is back before the edge
// is subscribed again must reach the clients all the same.
func TestNothingIsLostWhenNATSRestarts(t *testing.T) {
	c := newHistory(t, kept100())
	e := c.readyForHistory(c.edge(nil))
	a := dial(t, e, "/ws?room=a")
	a.wantPrefix(`{"connected"`)
	a.want(message("a", c.store("a", "0"), 0))
	c.nats.Stop()
	until(t, "the edge says so", func() bool { return e.Ready() != nil })
	if err := c.nats.Restart(); err != nil {
		t.Fatal(err)
	}
	var offset uint64
	until(t, "NATS takes messages again", func() bool {
		js, err := jetstream.New(c.nc)
		if err != nil {
			return false
		}
		ack, err := js.Publish(t.Context(), "room.a", []byte("1"), jetstream.WithMsgID("one"))
		if err != nil {
			return false
		}
		offset = ack.Sequence
		return true
	})
	a.want(message("a", offset, 1))
	a.want(message("a", c.store("a", "2"), 2))
}

// Publishers can write the server's headers themselves: only what the stream
// republished counts.
func TestForgedHeadersReachNobody(t *testing.T) {
	c := newHistory(t, kept100())
	e := c.readyForHistory(c.edge(nil))
	a := dial(t, e, "/ws?room=a")
	a.wantPrefix(`{"connected"`)
	p := e.policy("a")
	live := fmt.Sprintf("%s%d.a", bus.LivePrefix, subject.Shard("room.a"))
	forged := nats.Header{"Nats-Stream": {p.Stream.Name}, "Nats-Subject": {"room.b"}, "Nats-Sequence": {"77"}, "Nats-Last-Sequence": {"0"}}
	for _, h := range []nats.Header{nil, {"Nats-Sequence": {"77"}}, forged} {
		if err := c.nc.PublishMsg(&nats.Msg{Subject: live, Header: h, Data: []byte("66")}); err != nil {
			t.Fatal(err)
		}
	}
	// Through the stream the server's own values come last and count.
	if err := c.nc.PublishMsg(&nats.Msg{Subject: "room.a", Header: nats.Header{"Nats-Sequence": {"99"}, "Nats-Last-Sequence": {"98"}}, Data: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	a.want(message("a", 1, 1))
	until(t, "the forgeries were counted", func() bool { return e.upstream.State().Lost["not_from_stream"] == 3 })
}

// A history that begins anew is announced with its new epoch.
func TestANewEpochIsAnnounced(t *testing.T) {
	c := newHistory(t, kept100())
	e := c.readyForHistory(c.edge(nil))
	a := dial(t, e, "/ws?room=a")
	a.wantPrefix(`{"connected"`)
	a.want(message("a", c.store("a", "0"), 0))
	js, err := jetstream.New(c.nc)
	if err != nil {
		t.Fatal(err)
	}
	old := c.set.Rooms[0].Stream
	if err := js.DeleteStream(t.Context(), old.Mirror); err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), old.Name); err != nil {
		t.Fatal(err)
	}
	s := c.kept("k2", kept100())
	c.set.Version, c.set.Rooms[0].Stream = 3, &s
	c.put(bus.BucketConfig, bus.KeyPolicies, c.set.Encode())
	a.want(`{"reset":{"room":"a","epoch":"k2","offset":0}}`)
	a.want(message("a", c.store("a", "1"), 1))
	r := dial(t, e, "/ws")
	r.send(resumeFrom("a", "k1", 1))
	r.wantConnected(`{"room":"a","epoch":"k2","offset":1,"recovered":false,"reason":"epoch_changed"}`)
}

// Rooms that a token joins are not in the URL: the stream's positions in them
// count all the same.
func TestAnEventStreamResumesTheRoomsOfItsToken(t *testing.T) {
	c := newHistory(t, kept100())
	e := c.readyForHistory(c.edge(nil))
	c.store("user.alice", "1")
	c.mirrored(c.store("user.alice", "2"))
	token := c.token(c.hs, "alice", time.Hour, &grant.Grant{Rooms: []string{"user.alice"}})
	for last, want := range map[string]string{
		`{"user.alice":"k1:1"}`: `{"room":"user.alice","epoch":"k1","offset":1,"recovered":true}`,
		`{"a":"k1:1"}`:          `{"room":"user.alice","epoch":"k1","offset":2}`,
		"of another server":     `{"room":"user.alice","epoch":"k1","offset":2,"recovered":false,"reason":"epoch_changed"}`,
	} {
		for _, path := range []string{"/sse", "/sse?room=user.alice"} {
			req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+e.Addr()+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Last-Event-ID", last)
			req.Header.Set("Authorization", "Bearer "+token)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(resp.Body)
			for lines.Scan() && !strings.HasPrefix(lines.Text(), "data: ") {
			}
			if got := lines.Text(); !strings.Contains(got, `"rooms":[`+want+`]`) {
				t.Errorf("%s with %s: %s", path, last, got)
			}
			_ = resp.Body.Close()
		}
	}
}
