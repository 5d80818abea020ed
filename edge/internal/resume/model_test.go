package resume

import (
	"slices"
	"testing"
)

// message is one that the model's stream has stored.
type message struct {
	offset, prev uint64
	silent       bool // no run ever carried it, and nobody was told of a break
	told         bool // the chain has heard of it before it was there
	gone         int  // the version in which it was taken; 0 while it is stored
	born         int
	runLo, runHi int // the runs of the subscription that carried it; 0 for none
}

// room is one room of a stream: its messages, what is still stored, and every
// earlier state of that, for readers that are behind.
type room struct {
	all     []*message
	version int
	offset  uint64
	keep    int // messages kept at most; 0 for all
	taken   bool
}

func (r *room) stored(version int) (list []*message) {
	for _, m := range r.all {
		if m.born <= version && (m.gone == 0 || m.gone > version) {
			list = append(list, m)
		}
	}
	return list
}

func (r *room) newest(version int) uint64 {
	if list := r.stored(version); len(list) > 0 {
		return list[len(list)-1].offset
	}
	return 0
}

func (r *room) publish(hole uint64) *message {
	m := &message{prev: r.newest(r.version)}
	r.offset += 1 + hole
	r.version++
	m.offset, m.born = r.offset, r.version
	r.all = append(r.all, m)
	if r.keep > 0 {
		r.take(len(r.stored(r.version)) - r.keep)
	}
	return m
}

// take removes the n oldest messages.
func (r *room) take(n int) {
	if n < 1 {
		return
	}
	r.version++
	for i, m := range r.stored(r.version) {
		if i < n {
			m.gone = r.version
			r.taken = true
		}
	}
}

// read is one batch from offset on, as it was in version.
func (r *room) read(from uint64, version, limit int) (list []Entry[uint64], more bool) {
	for _, m := range r.stored(version) {
		if m.offset < from {
			continue
		}
		if len(list) == limit {
			return list, true
		}
		list = append(list, Entry[uint64]{Offset: m.offset, Item: m.offset})
	}
	return list, false
}

// never reports whether nothing was ever stored between two offsets.
func (r *room) never(after, before uint64) bool {
	return !slices.ContainsFunc(r.all, func(m *message) bool { return after < m.offset && m.offset < before })
}

func (r *room) find(offset uint64) *message {
	for _, m := range r.all {
		if m.offset == offset {
			return m
		}
	}
	return nil
}

// script is the fuzzer's bytes, one decision each.
type script []byte

func (s *script) next() int {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return int(b)
}

func entry(m *message) Entry[uint64] {
	return Entry[uint64]{Offset: m.offset, Prev: m.prev, Item: m.offset}
}

// chainModel drives a Chain as an edge would and judges what comes out.
type chainModel struct {
	t *testing.T
	room
	chain Chain[uint64]
	s     script

	wire, shadow []*message // in flight; shadow is a second subscription
	shadowed     bool
	down         bool
	run          int
	delivered    []*message // of this run
	pending      *pendingRead
	gaveUp       bool

	begun    bool
	adrift   bool
	position uint64
	before   *message // what was handed out last, nil when position is a base or an unknown
	base     bool     // position is a base of 0
}

type pendingRead struct {
	from    uint64
	version int
	limit   int
}

func (m *chainModel) old() int { return max(0, m.version-m.s.next()%6) }

// note writes the walk down where it is looked at: go test -v -run FuzzChain/…
func (m *chainModel) note(format string, args ...any) {
	if testing.Verbose() {
		m.t.Logf(format, args...)
	}
}

// take judges one result.
func (m *chainModel) take(out []Entry[uint64], cut *Cut) {
	t := m.t
	m.note("  gives %v, cut %v, asks %d", out, cut, m.chain.Ask())
	if cut != nil {
		if !m.taken && !m.gaveUp && cut.From > 0 { // nothing stored proves where a room began
			t.Fatalf("cut %+v although nothing was ever taken", *cut)
		}
		if cut.From != m.position || cut.To != 0 && cut.To <= cut.From+1 {
			t.Fatalf("cut %+v at %d", *cut, m.position)
		}
		if cut.To != 0 && (len(out) == 0 || out[0].Offset != cut.To) {
			t.Fatalf("cut %+v is not followed by its end but by %v", *cut, out)
		}
		if cut.To == 0 {
			m.adrift = true
		}
	}
	for i, e := range out {
		x := m.find(e.Offset)
		if x == nil || e.Item != e.Offset {
			t.Fatalf("%+v was never published", e)
		}
		if e.Offset <= m.position {
			t.Fatalf("%d after %d", e.Offset, m.position)
		}
		if cut == nil && !m.adrift || i > 0 {
			m.mustBeWhole(x)
		}
		m.position, m.before, m.begun, m.adrift, m.base = x.offset, x, true, false, false
	}
	if m.begun && m.chain.Last() != m.position {
		t.Fatalf("last is %d after %d was handed out", m.chain.Last(), m.position)
	}
}

// mustBeWhole checks that nothing readable was passed over between the last
// message handed out and x. What no copy was ever sent of, and what was taken
// before x came, within one run, leaves no trace.
func (m *chainModel) mustBeWhole(x *message) {
	sameRun := m.before != nil && x.runLo > 0 && m.before.runHi >= x.runLo || m.base && x.runLo == 1
	for _, y := range m.all {
		if y.offset <= m.position || y.offset >= x.offset {
			continue
		}
		if y.silent && !y.told && y.gone > 0 && y.gone <= x.born && sameRun {
			continue
		}
		m.t.Fatalf("%d was passed over between %d and %d: %+v", y.offset, m.position, x.offset, *y)
	}
}

func (m *chainModel) publish(lost bool) {
	x := m.room.publish(uint64(m.s.next() % 3))
	m.note("publish %d prev %d, lost %v", x.offset, x.prev, lost || m.down)
	if x.silent = lost && !m.down; lost || m.down {
		return
	}
	m.wire = append(m.wire, x)
	x.runLo, x.runHi = m.run, m.run
	if m.shadowed {
		m.shadow = append(m.shadow, x)
		x.runHi++
	}
}

func (m *chainModel) deliver(n int) {
	for ; n > 0 && len(m.wire) > 0; n-- {
		x := m.wire[0]
		m.wire = m.wire[1:]
		m.delivered = append(m.delivered, x)
		m.note("live %d prev %d", x.offset, x.prev)
		m.take(m.chain.Live(entry(x)), nil)
	}
}

func (m *chainModel) broken(wire []*message) {
	m.wire, m.shadow, m.shadowed, m.delivered = wire, nil, false, nil
	m.run++
	m.note("broken, in flight %d", len(wire))
	m.chain.Broken()
}

func (m *chainModel) store(version int) {
	last := m.newest(version)
	m.note("stored %d", last)
	if m.chain.Ask() == Base {
		m.start(last, m.chain.Base)
		return
	}
	if x := m.find(last); x != nil && last > m.chain.Last() {
		x.told = true
	}
	if m.adrift && !m.begun {
		m.start(last, func(last uint64) []Entry[uint64] { m.chain.Stored(last); return nil })
		return
	}
	m.chain.Stored(last)
}

func (m *chainModel) start(last uint64, base func(uint64) []Entry[uint64]) {
	m.begun, m.adrift = true, false
	m.position, m.base, m.before = last, last == 0, m.find(last)
	m.take(base(last), nil)
}

func (m *chainModel) ask(version int) {
	if m.pending == nil && m.chain.Ask() == Read {
		m.pending = &pendingRead{max(m.chain.Last(), 1), version, 2 + m.s.next()%4}
	}
}

func (m *chainModel) answer(provable bool) {
	if m.pending == nil {
		return
	}
	list, more := m.read(m.pending.from, m.pending.version, m.pending.limit)
	m.pending = nil
	for _, e := range list {
		if m.chain.Ask() == Read && e.Offset > m.chain.Last() {
			m.find(e.Offset).told = true
		}
	}
	provable = provable && len(list) > 0 && m.never(m.chain.Last(), list[0].Offset)
	m.note("replay %v, more %v, provable %v", list, more, provable)
	m.take(m.chain.Replay(list, more, provable))
}

func (m *chainModel) giveUp() {
	m.gaveUp = true
	m.note("give up")
	m.take(m.chain.GiveUp())
}

func (m *chainModel) step() {
	switch op := m.s.next() % 20; op {
	case 0, 1, 2, 3:
		m.publish(false)
	case 4:
		m.publish(true)
	case 5, 6, 7:
		m.deliver(1 + m.s.next()%4)
	case 8:
		m.note("expire")
		m.room.take(1 + m.s.next()%4)
	case 9:
		m.note("purge")
		m.room.take(len(m.all))
	case 10: // a reconnect: what was in flight is lost
		m.broken(nil)
		m.down = false
	case 11:
		m.wire, m.shadow, m.shadowed, m.down = nil, nil, false, true
	case 12: // make before break
		if m.shadowed = !m.shadowed && !m.down; !m.shadowed {
			m.broken(m.shadow)
			m.down = false
		}
	case 13:
		if n := len(m.delivered); n > 0 {
			m.take(m.chain.Live(entry(m.delivered[m.s.next()%n])), nil)
		}
	case 14:
		m.store(m.old())
	case 15, 16:
		m.ask(m.old())
	case 17:
		m.answer(m.s.next()%2 == 0)
	case 18:
		m.pending = nil
	case 19:
		if m.s.next()%4 == 0 && m.chain.Ask() != Nothing {
			m.giveUp()
		}
	}
}

// settle lets everything arrive and answers every question truly.
func (m *chainModel) settle() {
	if m.down {
		m.broken(nil)
		m.down = false
	}
	m.deliver(len(m.wire))
	m.answer(false)
	for range 3 {
		for tries := 0; m.chain.Ask() != Nothing; tries++ {
			last := m.chain.Last()
			if m.chain.Ask() == Base {
				m.store(m.version)
			} else if m.ask(m.version); true {
				m.answer(true)
			}
			if m.chain.Last() > last {
				tries = 0
			}
			if tries > 3 {
				m.giveUp()
			}
		}
		m.store(m.version)
	}
	newest := m.newest(m.version)
	if m.chain.Ask() != Nothing || m.chain.Holding() || newest > 0 && (m.chain.Last() != newest || m.chain.told <= newest && !m.chain.Verified()) {
		m.t.Fatalf("settled at %d of %d, asking %d, verified %v", m.chain.Last(), newest, m.chain.Ask(), m.chain.Verified())
	}
}

func FuzzChain(f *testing.F) {
	f.Add([]byte("a first walk through everything"))
	f.Add([]byte{3, 2, 0, 14, 0, 0, 1, 5, 2, 4, 0, 0, 1, 5, 3, 15, 0, 3, 17, 0})
	f.Add([]byte{0, 0, 0, 0, 14, 0, 0, 0, 0, 0, 9, 10, 0, 0, 5, 1, 15, 0, 1, 17, 1, 19, 4})
	f.Fuzz(func(t *testing.T, script []byte) {
		m := &chainModel{t: t, s: script, run: 1}
		m.keep = m.s.next() % 6
		m.chain.SetLimit(m.s.next() % 5)
		for range m.s.next() % 4 { // before the edge knew the room
			m.publish(true)
		}
		for len(m.s) > 0 {
			m.step()
		}
		m.settle()
	})
}

// cursorModel drives a Cursor over a room, a ring and a loop behind the ring.
type cursorModel struct {
	t *testing.T
	room
	s        script
	ring     Ring[uint64]
	waiting  []*message // published, not yet handed to the loop's members
	loop     uint64
	cursor   Cursor[uint64]
	start    uint64
	position uint64
	cuts     int
	first    bool // nothing was handed out yet
	stale    bool
	gaveUp   bool
	done     bool
}

func (m *cursorModel) view() View[uint64] {
	return View[uint64]{Epoch: "e", Position: m.loop, Ring: &m.ring, Limit: m.s.next() % 4}
}

func (m *cursorModel) publish() {
	x := m.room.publish(uint64(m.s.next() % 3))
	if m.s.next()%16 == 0 { // the chain found no proof and went on behind a cut
		m.ring.Reset(x.offset - 1)
	}
	m.ring.Push(entry(x), 1+m.s.next()%3)
	m.waiting = append(m.waiting, x)
}

func (m *cursorModel) hand(n int) {
	for ; n > 0 && len(m.waiting) > 0; n-- {
		m.loop = m.waiting[0].offset
		m.waiting = m.waiting[1:]
	}
}

func (m *cursorModel) take(s Step[uint64]) {
	t := m.t
	if s.Cut != nil {
		m.cuts++
		if !m.taken && !m.gaveUp {
			t.Fatalf("cut %+v although nothing was ever taken", *s.Cut)
		}
		if s.Cut.To != 0 && (s.Cut.From != m.position || s.Cut.To <= s.Cut.From) {
			t.Fatalf("cut %+v at %d", *s.Cut, m.position)
		}
		if recovered, known := m.cursor.Recovered(); m.first && (recovered || !known) {
			t.Fatalf("cut %+v and recovered %v, known %v", *s.Cut, recovered, known)
		}
	}
	for i, e := range s.Entries {
		if e.Offset <= m.position || m.find(e.Offset) == nil {
			t.Fatalf("%d after %d", e.Offset, m.position)
		}
		if e.Offset > m.loop {
			t.Fatalf("%d is above the loop's %d", e.Offset, m.loop)
		}
		after := m.position
		if i == 0 && s.Cut != nil {
			after = max(after, s.Cut.To-1)
		}
		if !m.never(after, e.Offset) {
			t.Fatalf("something was passed over between %d and %d", after, e.Offset)
		}
		m.position = e.Offset
	}
	if len(s.Entries) > 0 || s.Cut != nil {
		m.first = false
	}
	if s.Do == DoLive {
		after := m.position
		if s.Cut != nil {
			after = max(after, s.Cut.To-1)
			if s.Cut.To == 0 {
				after = m.loop
			}
		}
		if m.cursor.Position() != m.loop || !m.never(after, m.loop+1) {
			t.Fatalf("live at %d with %d, the loop is at %d", m.cursor.Position(), m.position, m.loop)
		}
		recovered, known := m.cursor.Recovered()
		if !known || recovered && m.first && !m.never(m.start, m.loop+1) {
			t.Fatalf("live, recovered %v, known %v", recovered, known)
		}
		if !m.taken && !m.gaveUp && !recovered {
			t.Fatal("not recovered although nothing was ever taken")
		}
		m.done, m.position = true, m.loop
	}
	if s.Do == DoRead && s.From != max(m.cursor.Position(), 1) {
		t.Fatalf("read from %d at %d", s.From, m.cursor.Position())
	}
}

// provable is the strongest that a caller could know.
func (m *cursorModel) provable(before uint64) bool { return m.never(m.cursor.Position(), before) }

func (m *cursorModel) step(version int, read bool) {
	v := m.view()
	s := m.cursor.Next(v, !m.taken)
	m.take(s)
	for s.Do == DoRead && read {
		if version < m.version {
			m.stale = true
		}
		list, more := m.room.read(s.From, version, 2-m.s.next()%8/7+m.s.next()%4)
		before := m.offset + 1
		if len(list) > 0 {
			before = list[0].Offset
		}
		s = m.cursor.Replay(v, list, more, m.provable(before) && m.s.next()%2 == 0 || !m.taken)
		m.take(s)
	}
}

func (m *cursorModel) lag() {
	if m.done {
		m.done, m.first, m.start = false, false, m.position
		m.cursor = Lag[uint64]("e", m.position)
	}
}

func FuzzCursor(f *testing.F) {
	f.Add([]byte("a first walk through everything"))
	f.Add([]byte{4, 3, 9, 7, 0, 1, 1, 0, 2, 1, 1, 1, 1, 3, 2, 4, 5, 6, 7, 0, 4, 4, 0, 5, 5})
	f.Fuzz(func(t *testing.T, script []byte) {
		m := &cursorModel{t: t, s: script, first: true}
		m.keep = m.s.next() % 8
		m.ring.Bound(m.s.next()%6, m.s.next()%12)
		for range m.s.next() % 8 {
			m.publish()
		}
		if m.s.next()%2 == 0 { // the edge opens the room now
			m.hand(len(m.all))
			m.loop = m.newest(m.version)
			m.ring.Reset(m.loop)
		}
		if n := m.s.next() % (len(m.all) + 1); n > 0 {
			m.start = m.all[n-1].offset
		}
		m.position, m.cursor = m.start, Resume[uint64]("e", m.start)
		for len(m.s) > 0 {
			op := m.s.next() % 9
			if m.done && op >= 5 && op <= 7 {
				continue // a member that follows the loop
			}
			switch op {
			case 0, 1:
				m.publish()
			case 2, 3:
				m.hand(1 + m.s.next()%4)
			case 4:
				m.room.take(1 + m.s.next()%6)
			case 5:
				m.step(m.version, true)
			case 6:
				m.step(max(0, m.version-m.s.next()%6), m.s.next()%4 > 0)
			case 7:
				if m.s.next()%4 == 0 {
					m.gaveUp = true
					m.take(m.cursor.GiveUp(m.view(), !m.taken))
				}
			case 8:
				m.lag()
			}
			if m.done && m.s.next()%2 == 0 {
				m.position = m.loop // it follows the loop
			} else if m.done {
				m.lag()
			}
		}
		m.hand(len(m.all))
		for tries := 0; !m.done && tries < 200; tries++ {
			if m.step(m.version, true); tries > 100 && !m.done {
				m.gaveUp = true
				m.take(m.cursor.GiveUp(m.view(), !m.taken))
			}
		}
		if !m.done {
			t.Fatalf("never live: at %d of %d", m.cursor.Position(), m.loop)
		}
	})
}
