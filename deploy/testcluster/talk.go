package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"

	"nabat/client"
	"nabat/proto/wire"
)

// talk is what clients that publish themselves came to.
type talk struct {
	Published, Received int
	Unstored, Repeated  int // messages without an offset; and of those, that came once more
	Problems            []string
}

// talkers are clients of the Go library, each in a room of its own in which it
// publishes numbers and reads them.
type talkers struct {
	each   []*talker
	stop   chan struct{} // closed when nothing more is published
	mu     sync.Mutex    // guards the counts and problems of all
	total  talk
	begun  sync.WaitGroup // of those who publish
	cancel context.CancelFunc
}

type talker struct {
	of     *talkers
	room   string
	keeper *client.Keeper

	published, received int          // guarded by of.mu
	unstored            map[int]bool // messages that came without an offset; of the reader
}

// pause is between two messages of a talker.
const pause = time.Second

func startTalkers(ctx context.Context, edge string, n int) (*talkers, error) {
	ctx, cancel := context.WithCancel(ctx)
	all := &talkers{stop: make(chan struct{}), cancel: cancel}
	for i := range n {
		t := &talker{of: all, room: "talk." + strconv.Itoa(i), unstored: make(map[int]bool)}
		k, err := client.Keep(ctx, edge, client.Options{Rooms: []string{t.room}})
		if err != nil {
			cancel()
			return nil, err
		}
		t.keeper = k
		all.each = append(all.each, t)
		joined := make(chan struct{})
		go t.listen(joined)
		all.begun.Go(func() {
			select {
			case <-joined:
				t.speak(ctx)
			case <-ctx.Done():
			}
		})
	}
	return all, nil
}

// listen holds what comes against what must come next.
func (t *talker) listen(joined chan<- struct{}) {
	for e := range t.keeper.Events() {
		switch {
		case e.Connected != nil && joined != nil:
			close(joined)
			joined = nil
		case e.Message != nil:
			t.take(e.Message)
		case e.Gap != nil && e.Gap.Reason == wire.GapNotStored:
			// Messages without an offset follow; what is published waits.
		case e.Gap != nil:
			t.of.problem("%s: a gap: %s", t.room, e.Gap.Reason)
		case e.Recovered != nil && !e.Recovered.OK:
			t.of.problem("%s: not recovered: %s", t.room, e.Recovered.Reason)
		case e.Error != nil:
			t.of.problem("%s: %v", t.room, e.Error)
		}
	}
}

func (t *talker) take(m *wire.Message) {
	var number int
	if err := json.Unmarshal(m.Body, &number); err != nil {
		t.of.problem("%s: not a number: %s", t.room, m.Body)
		return
	}
	t.of.mu.Lock()
	defer t.of.mu.Unlock()
	if number <= t.received && t.unstored[number] {
		t.of.total.Repeated++
		delete(t.unstored, number) // once
		return
	}
	if m.Offset == 0 {
		t.of.total.Unstored++
		t.unstored[number] = true
	}
	t.received++
	if number != t.received {
		t.of.total.Problems = append(t.of.total.Problems, fmt.Sprintf("%s: number %d came as the %dth", t.room, number, t.received))
		t.received = number
	}
}

// speak publishes the next number when the last is answered.
func (t *talker) speak(ctx context.Context) {
	for number := 1; ; number++ {
		_, err := t.keeper.Publish(ctx, wire.Publication{Room: t.room, Kind: wire.Data, Body: []byte(strconv.Itoa(number))})
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			t.of.problem("%s: publish %d: %v", t.room, number, err)
			return
		}
		t.of.mu.Lock()
		t.published = number
		t.of.mu.Unlock()
		select {
		case <-t.of.stop:
			return
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (a *talkers) problem(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.total.Problems = append(a.total.Problems, fmt.Sprintf(format, args...))
}

// count adds up.
func (a *talkers) count() talk {
	a.mu.Lock()
	defer a.mu.Unlock()
	sum := a.total
	for _, t := range a.each {
		sum.Published += t.published
		sum.Received += t.received
	}
	return sum
}

// finish waits until all that was published has come, or ctx ends.
func (a *talkers) finish(ctx context.Context) talk {
	close(a.stop)
	a.begun.Wait()
	for ctx.Err() == nil {
		if sum := a.count(); sum.Received >= sum.Published {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	a.cancel()
	for _, t := range a.each {
		t.keeper.Close()
	}
	return a.count()
}
