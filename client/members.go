package client

import (
	"cmp"
	"context"
	"errors"
	"maps"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"time"

	"nabat/proto/wire"
)

// Pauses between two readings of a list of members, when the first did not do. Lost
// notices are lost to everybody of a node at the same time: lostPause spreads them.
const (
	firstReading = time.Second
	lastReading  = 30 * time.Second
	lostPause    = 2 * time.Second
)

// auditEvery is how often the counts are asked for where nothing is told, by chance up
// to twice as long: a notice that was lost without a word may have been the last.
var auditEvery = 15 * time.Second

// DefaultMembers is the most users of which Watch keeps a list.
const DefaultMembers = 1000

// Members is the list of who is in a room, kept up to date. What changes is told at
// most once, so the length of the list is compared with the count of each change,
// and the list is read anew when they differ, and after each connection's end; the
// counts are also asked for now and then. All methods are safe from any goroutine.
type Members struct {
	// Set by Watch, never changed.
	keeper  *Keeper
	room    string
	most    uint64
	every   time.Duration // between two audits, at least
	feed    *feed
	changed chan struct{} // at most one
	cancel  context.CancelFunc
	done    chan struct{} // closed when run has ended

	// mu guards the fields below.
	mu               sync.Mutex
	list             map[string]wire.Member
	users, anonymous uint64
	err              error
}

// Watch joins a room to keep the list of who is there, until ctx or the Keeper ends
// or Close is called; the room is then left if it was not joined otherwise. Above
// DefaultMembers users only the counts are kept. The list is empty, and not
// complete, until Changed says otherwise. Presence of the room is then not in
// Events; its messages still are.
func (k *Keeper) Watch(ctx context.Context, room string) (*Members, error) {
	m := &Members{
		keeper: k, room: room, most: DefaultMembers, every: auditEvery, changed: make(chan struct{}, 1), done: make(chan struct{}), list: map[string]wire.Member{},
		feed: &feed{topic: topic{room, true}, events: make(chan Event, k.options.Queue), done: make(chan struct{}), missed: make(chan struct{}, 1)},
	}
	if _, err := k.outlet.open(ctx, k, m.feed, Presence()); err != nil {
		return nil, err
	}
	ctx, m.cancel = context.WithCancel(ctx)
	go m.run(ctx)
	return m, nil
}

// Changed says that the list or a count is another one since it last said so. It is
// closed at the end; Err then says why.
func (m *Members) Changed() <-chan struct{} { return m.changed }

// List is who is in the room, by user.
func (m *Members) List() []wire.Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(maps.Values(m.list), func(a, b wire.Member) int { return cmp.Compare(a.User, b.User) })
}

// Users counts the different users in the room, Anonymous the connections without
// one.
func (m *Members) Users() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.users
}

// Anonymous counts the connections without a user.
func (m *Members) Anonymous() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.anonymous
}

// Complete reports whether the list is the one of the counts, as far as is known.
func (m *Members) Complete() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.complete()
}

func (m *Members) complete() bool { return m.err == nil && uint64(len(m.list)) == m.users }

// Err is why the list is not kept up to date: at the end, and while it cannot be
// read.
func (m *Members) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// Close ends it.
func (m *Members) Close() {
	m.cancel()
	<-m.done
}

// run is the goroutine of Watch.
func (m *Members) run(ctx context.Context) {
	defer close(m.done)
	err := m.keep(ctx)
	if ctx.Err() != nil {
		err = ErrClosed
	}
	m.mu.Lock()
	m.err = err
	m.mu.Unlock()
	m.keeper.outlet.close(m.keeper, m.feed)
	close(m.changed)
}

func (m *Members) keep(ctx context.Context) error {
	wait := firstReading
	due := time.After(0)
	audit := time.NewTimer(m.every + mathrand.N(m.every))
	defer audit.Stop()
	for {
		select {
		case <-audit.C:
			audit.Reset(m.every + mathrand.N(m.every))
			if due == nil && !m.counted(ctx) {
				due = time.After(0)
			}
			continue
		case e := <-m.feed.events:
			if e.Unsubscribed != nil {
				return e.trouble(m.room)
			}
			if e.Presence.Lost {
				due = time.After(mathrand.N(lostPause))
				continue
			}
			if m.apply(*e.Presence) {
				wait = firstReading
			} else if due == nil {
				due = time.After(wait)
			}
		case <-m.feed.missed:
			due = time.After(0)
		case <-due:
			due = nil
			if m.read(ctx) {
				wait = firstReading
			} else {
				due, wait = time.After(wait), min(2*wait, lastReading)
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-m.keeper.done:
			return m.keeper.Err()
		}
		select {
		case m.changed <- struct{}{}:
		default:
		}
	}
}

// apply takes a change, and reports whether the list then has the length that it
// should have, if it should have one.
func (m *Members) apply(change wire.PresenceChange) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, joined := range change.Join {
		m.list[joined.User] = joined
	}
	for _, left := range change.Leave {
		delete(m.list, left.User)
	}
	m.users, m.anonymous = change.Users, change.Anonymous
	return m.judge()
}

func (m *Members) judge() bool {
	if m.users > m.most {
		clear(m.list)
		return true
	}
	return m.complete()
}

// counted reports whether the counts are still the right ones. Where that is not
// known they are taken for it: the next audit comes.
func (m *Members) counted(ctx context.Context) bool {
	page, err := m.keeper.Presence(ctx, m.room, Users(0))
	m.mu.Lock()
	defer m.mu.Unlock()
	return err != nil || page.Users == m.users && page.Anonymous == m.anonymous
}

// read takes the list anew, and reports whether that was done. What changes
// meanwhile waits in the feed, and is then applied to it.
func (m *Members) read(ctx context.Context) bool {
	list := map[string]wire.Member{}
	page, err := m.keeper.Presence(ctx, m.room, Users(wire.MaxPresence))
	for after := ""; err == nil; after = page.Next {
		for _, member := range page.Members {
			list[member.User] = member
		}
		if page.Next <= after || page.Users > m.most { // none is the last one
			break
		}
		page, err = m.keeper.Presence(ctx, m.room, Users(wire.MaxPresence), AfterUser(page.Next))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
	if err != nil {
		return errors.Is(err, ErrClosed)
	}
	m.list, m.users, m.anonymous = list, page.Users, page.Anonymous
	return m.judge()
}
