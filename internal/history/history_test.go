package history

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func TestRead(t *testing.T) {
	p := newPlace(t, Options{}, jetstream.StreamConfig{})
	p.fill("room.a", "room.b", "room.a", "room.c.d", "room.team%20chat%201", "room.a", "room.ü&<")
	p.mirrored()
	early, err := p.read(Read{From: 1, Batch: 10})
	if err != nil || len(early.Messages) != 7 {
		t.Fatal(early, err)
	}
	for _, c := range []struct {
		name string
		read Read
		want []uint64
		last uint64
		more bool
	}{
		{"one subject", Read{Subject: "room.a", From: 1, Batch: 10}, []uint64{1, 3, 6}, 6, false},
		{"the position is inclusive", Read{Subject: "room.a", From: 3, Batch: 10}, []uint64{3, 6}, 6, false},
		{"a batch that is full tells of more", Read{Subject: "room.a", From: 1, Batch: 2}, []uint64{1, 3}, 3, true},
		{"a batch of one", Read{Subject: "room.a", From: 4, Batch: 1}, []uint64{6}, 6, false},
		{"wildcards", Read{Subject: "room.*", From: 1, Batch: 10}, []uint64{1, 2, 3, 5, 6, 7}, 7, false},
		{"below a prefix", Read{Subject: "room.c.>", From: 1, Batch: 10}, []uint64{4}, 4, false},
		{"everything", Read{From: 2, Batch: 4}, []uint64{2, 3, 4, 5}, 5, true},
		{"percent-encoded", Read{Subject: "room.team%20chat%201", From: 1, Batch: 10}, []uint64{5}, 5, false},
		{"what JSON may escape", Read{Subject: "room.ü&<", From: 1, Batch: 10}, []uint64{7}, 7, false},
		{"nothing behind the end", Read{Subject: "room.a", From: 7, Batch: 10}, []uint64{}, 0, false},
		{"far behind the end", Read{From: 1 << 50, Batch: 10}, []uint64{}, 0, false},
		{"no such subject", Read{Subject: "room.none", From: 1, Batch: 10}, []uint64{}, 0, false},
		{"a time before all", Read{Start: time.Now().Add(-time.Hour), Batch: 10}, []uint64{1, 2, 3, 4, 5, 6, 7}, 7, false},
		{"a time", Read{Start: early.Messages[3].Time, Subject: "room.a", Batch: 10}, []uint64{6}, 6, false},
		{"a time to come", Read{Start: time.Now().Add(time.Hour), Batch: 10}, []uint64{}, 0, false},
	} {
		b, err := p.read(c.read)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if d := cmp.Diff(c.want, sequences(b.Messages)); d != "" || b.Last != c.last || b.More != c.more {
			t.Errorf("%s: last %d, more %v: %s", c.name, b.Last, b.More, d)
		}
	}
	m := early.Messages[4]
	if m.Subject != "room.team%20chat%201" || string(m.Data) != m.Subject || m.Header != nil || time.Since(m.Time).Abs() > time.Hour {
		t.Errorf("%+v", m)
	}
	if n := p.reader.Requests(); n != 16 || p.reader.Failed() != 0 {
		t.Errorf("counted %d requests, %d failed", n, p.reader.Failed())
	}
}

func TestReadEndsAtItsBytes(t *testing.T) {
	p := newPlace(t, Options{}, jetstream.StreamConfig{})
	big := strings.Repeat("x", 400<<10)
	for range 5 {
		p.put("room.a", big, nil)
	}
	p.mirrored()
	for _, c := range []struct {
		bytes int
		want  []uint64
	}{{0, []uint64{1, 2, 3}}, {1, []uint64{1}}, {500 << 10, []uint64{1, 2}}, {MaxBytes, []uint64{1, 2, 3, 4, 5}}} {
		b, err := p.read(Read{Subject: "room.a", From: 1, Batch: 10, MaxBytes: c.bytes})
		if d := cmp.Diff(c.want, sequences(b.Messages)); err != nil || d != "" || b.More != (len(c.want) < 5) {
			t.Errorf("%d bytes: %v %v %s", c.bytes, err, b.More, d)
		}
		for _, m := range b.Messages {
			if string(m.Data) != big {
				t.Error("the body changed")
			}
		}
	}
}

// The server appends its headers to those of the publisher, who may have
// written the same, or hidden the server's behind an empty line.
func TestOnlyTheServersHeadersCount(t *testing.T) {
	forged := "Nats-Stream: S_H\r\nNats-Subject: room.victim\r\nNats-Sequence: 99\r\nNats-Time-Stamp: 2001-01-01T00:00:00Z\r\nNats-Num-Pending: 0\r\nNats-Last-Sequence: 1\r\n"
	p := newPlace(t, Options{}, jetstream.StreamConfig{})
	for _, c := range []struct {
		name, header, body string
		readable           bool
	}{
		{"the same names", "NATS/1.0\r\n" + forged + "\r\n", "x", true},
		{"another stream", "NATS/1.0\r\nNats-Stream: OTHER\r\n\r\n", "x", true},
		{"an upper bound", "NATS/1.0\r\nNats-UpTo-Sequence: 5\r\n\r\n", "x", true},
		{"a status among the headers", "NATS/1.0\r\nStatus: 204\r\nDescription: EOB\r\n\r\n", "", true},
		{"a status line", "NATS/1.0 204 EOB\r\nNats-Num-Pending: 0\r\nNats-Last-Sequence: 1\r\n\r\n", "", true},
		{"no space after the colon", "NATS/1.0\r\nA:b\r\n\r\n", "x", true},
		{"hidden by an empty line", "NATS/1.0\r\n" + forged + "\r\n\r\n", "x", false},
		{"a hidden end of the answer", "NATS/1.0\r\nStatus: 204\r\nNats-Num-Pending: 0\r\nNats-Last-Sequence: 1\r\n\r\n\r\n", "", false},
		{"a hidden not found", "NATS/1.0\r\nStatus: 404\r\nDescription: No Results\r\n\r\n\r\n", "", false},
		{"a hidden no responders", "NATS/1.0\r\nStatus: 503\r\n\r\n\r\n", "", false},
		{"hidden behind many short lines", "NATS/1.0\n" + strings.ReplaceAll(forged, "\r", "") + strings.Repeat("a:b\n", 300) + "\n\n\n", "x", false},
		{"a line without a colon", "NATS/1.0\r\nbad\r\n\r\n", "x", false},
		{"no header at all", "garbage", "x", false},
		{"an open line swallows the stream", "NATS/1.0\r\nNats-Stream: OTHER\r\nX: aa", "x", false},
		{"an open word swallows the stream", "NATS/1.0\r\nNats-Stream: OTHER\r\nxxx", "x", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad := p.reader.Counts().Unreadable
			first := p.put("room.a", "first", nats.Header{"Nabat-User": {"alice"}})
			p.raw("room.a", c.header, c.body)
			third := p.put("room.a", "third", nil)
			p.mirrored()
			want := []uint64{first, third}
			if c.readable {
				want = []uint64{first, first + 1, third}
			}
			for _, filter := range []string{"room.a", "room.>", ""} {
				b, err := p.read(Read{Subject: filter, From: first, Batch: 10})
				if d := cmp.Diff(want, sequences(b.Messages)); err != nil || d != "" || b.Last != third || b.More {
					t.Fatalf("%q: %v, %+v: %s", filter, err, b, d)
				}
				for _, m := range b.Messages {
					if m.Subject != "room.a" || time.Since(m.Time).Abs() > time.Hour {
						t.Errorf("%+v", m)
					}
					for name := range m.Header {
						if strings.HasPrefix(name, "Nats-") {
							t.Errorf("%s is left in the header", name)
						}
					}
				}
				if m := b.Messages[0]; m.Header.Get("Nabat-User") != "alice" || string(m.Data) != "first" {
					t.Errorf("%+v", m)
				}
			}
			// Alone in an answer.
			b, err := p.read(Read{Subject: "room.a", From: first + 1, Batch: 1})
			if err != nil || b.Last != first+1 || !b.More || (len(b.Messages) == 1) != c.readable {
				t.Errorf("alone: %+v, %v", b, err)
			}
			list, upTo, err := p.last([]string{"room.a"}, first+1)
			if err != nil || upTo != first+1 || (len(list) == 1) != c.readable {
				t.Errorf("last: %v %d %v", list, upTo, err)
			}
			slices.Reverse(want)
			if b, err = p.before("room.a", 0, len(want)); err != nil || !slices.Equal(sequences(b.Messages), want) {
				t.Errorf("before: %+v, %v", b, err)
			}
			if (p.reader.Counts().Unreadable == bad) != c.readable {
				t.Error("it is not counted")
			}
		})
	}
}

func TestWhatIsNotThere(t *testing.T) {
	p := newPlace(t, Options{}, jetstream.StreamConfig{})
	nothing := func(when string) {
		t.Helper()
		if b, err := p.read(Read{From: 1, Batch: 10}); err != nil || len(b.Messages) > 0 || b.Last != 0 || b.More {
			t.Errorf("%s: read %+v, %v", when, b, err)
		}
		if list, _, err := p.last([]string{"room.a", "room.b"}, 0); err != nil || len(list) > 0 {
			t.Errorf("%s: last %v, %v", when, list, err)
		}
		if b, err := p.before("room.a", 0, 10); err != nil || len(b.Messages) > 0 || b.More {
			t.Errorf("%s: before %+v, %v", when, b, err)
		}
	}
	nothing("an empty stream")
	p.fill("room.a", "room.a", "room.b", "room.a")
	p.mirrored()
	mirror, err := p.js.Stream(t.Context(), "S_H")
	if err != nil {
		t.Fatal(err)
	}
	if err := mirror.Purge(t.Context(), jetstream.WithPurgeSubject("room.a"), jetstream.WithPurgeSequence(3)); err != nil {
		t.Fatal(err)
	}
	if b, err := p.read(Read{Subject: "room.a", From: 1, Batch: 10}); err != nil || !slices.Equal(sequences(b.Messages), []uint64{4}) {
		t.Errorf("purged: %+v, %v", b, err)
	}
	if err := mirror.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	nothing("a purged stream")

	if _, err := p.read(Read{Stream: "NONE", From: 1, Batch: 1}); !errors.Is(err, ErrUnavailable) {
		t.Error("a stream that does not exist:", err)
	}
	for name, q := range map[string]Read{
		"no position": {Batch: 1}, "no batch": {From: 1}, "a huge batch": {From: 1, Batch: MaxBatch + 1},
		"negative bytes": {From: 1, Batch: 1, MaxBytes: -1}, "too many bytes": {From: 1, Batch: 1, MaxBytes: MaxBytes + 1},
		"a subject for a stream": {Stream: "A.B", From: 1, Batch: 1}, "a blank in a stream": {Stream: "A B", From: 1, Batch: 1},
	} {
		if _, err := p.read(q); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, subject := range []string{"", "room.*", "room.>"} {
		if _, err := p.before(subject, 0, 1); !errors.Is(err, ErrInvalid) {
			t.Errorf("before %q: %v", subject, err)
		}
	}
	if _, err := p.before("room.a", 0, MaxBefore+1); !errors.Is(err, ErrInvalid) {
		t.Error("before with a huge limit:", err)
	}
	want := map[string]uint64{"unavailable": 1, "invalid": 11, "incomplete": 0, "busy": 0, "closed": 0, "too_many": 0, "foreign": 0, "refused": 0}
	if d := cmp.Diff(want, p.reader.Counts().Failed); d != "" || p.reader.Failed() != 12 {
		t.Error(d)
	}
}

func TestExpiredMessagesAreNotRead(t *testing.T) {
	p := newPlace(t, Options{}, jetstream.StreamConfig{MaxAge: time.Second, Duplicates: 100 * time.Millisecond})
	p.put("room.a", "x", nil)
	until(t, func() bool {
		b, err := p.read(Read{Subject: "room.a", From: 1, Batch: 1})
		if err != nil {
			t.Fatal(err)
		}
		return len(b.Messages) == 0 && p.lastOf("S_H") == 1
	})
}

func TestLast(t *testing.T) {
	p := newPlace(t, Options{}, jetstream.StreamConfig{})
	const rooms = 2500
	var subjects, missing []string
	for i := range rooms {
		subjects = append(subjects, fmt.Sprintf("room.r%d", i))
		missing = append(missing, fmt.Sprintf("room.none%d", i))
	}
	p.fill(subjects...)
	p.fill("room.wild.a", "room.wild.b", "room.r7", "room.r2499")
	end := p.mirrored()
	check := func(name string, asked []string, bound uint64, count int, r7 uint64) {
		t.Helper()
		list, upTo, err := p.last(asked, bound)
		if err != nil || len(list) != count || upTo == 0 || (bound > 0 && upTo != bound) {
			t.Errorf("%s: %d messages up to %d, %v", name, len(list), upTo, err)
			return
		}
		seen := make(map[string]uint64)
		for _, m := range list {
			seen[m.Subject] = m.Sequence
			if m.Sequence > upTo || string(m.Data) != m.Subject {
				t.Errorf("%s: %+v", name, m)
			}
		}
		if len(seen) != count || seen["room.r7"] != r7 {
			t.Errorf("%s: %d subjects, room.r7 at %d", name, len(seen), seen["room.r7"])
		}
	}
	check("many", subjects, 0, rooms, end-1)
	check("the missing are not in the list", append(slices.Clone(missing), subjects...), 0, rooms, end-1)
	check("up to a sequence", subjects, 100, 100, 8)
	check("up to the end", subjects, end, rooms, end-1)
	check("up to a sequence that is not there yet", subjects, end+1000, rooms, end-1)
	check("few", []string{"room.r7", "room.r8"}, 0, 2, end-1)

	if list, _, err := p.last([]string{"room.wild.*", "room.r8"}, 0); err != nil || len(list) != 3 {
		t.Error("a wildcard:", list, err)
	}
	if list, upTo, err := p.last(missing, 0); err != nil || len(list) != 0 || upTo != 0 {
		t.Error("only the missing:", list, upTo, err)
	}
	if list, upTo, err := p.last(nil, 0); err != nil || len(list) != 0 || upTo != 0 {
		t.Error("nothing asked:", list, upTo, err)
	}
	if _, _, err := p.last([]string{"room.>"}, 0); !errors.Is(err, ErrTooMany) {
		t.Error("a wildcard that matches too many:", err)
	}
}

func TestLastShowsOneMomentAndNewestDoesNot(t *testing.T) {
	p := newPlace(t, Options{}, jetstream.StreamConfig{})
	var subjects []string
	for i := range 1100 {
		subjects = append(subjects, fmt.Sprintf("room.r%d", i))
	}
	p.fill(subjects...)
	p.mirrored()
	stop, ended := make(chan struct{}), make(chan struct{})
	nc := p.connect()
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			_ = nc.Publish(subjects[len(subjects)-1-i%90], []byte("later"))
			_ = nc.Flush()
		}
	}()
	for range 10 {
		list, upTo, err := p.last(subjects, 0)
		if err != nil || len(list) != len(subjects) {
			t.Fatal(len(list), err)
		}
		for _, m := range list {
			if m.Sequence > upTo {
				t.Fatalf("%d is later than %d", m.Sequence, upTo)
			}
		}
	}
	until(t, func() bool {
		c := make(chan lastResult, 1)
		p.reader.Newest("S_H", subjects, func(list []Stored, upTo uint64, err error) { c <- lastResult{list, upTo, err} })
		r := wait(t, c)
		if r.err != nil || len(r.list) != len(subjects) || r.upTo == 0 {
			t.Fatal(len(r.list), r.upTo, r.err)
		}
		return slices.ContainsFunc(r.list, func(m Stored) bool { return m.Sequence > r.upTo })
	})
	close(stop)
	<-ended
}

func TestLastOfLargeMessages(t *testing.T) {
	p := newPlace(t, Options{}, jetstream.StreamConfig{})
	var subjects []string
	big := strings.Repeat("x", 300<<10)
	for i := range 12 {
		subjects = append(subjects, fmt.Sprintf("room.r%d", i))
		p.put(subjects[i], big, nil)
	}
	p.mirrored()
	slices.Reverse(subjects)
	list, upTo, err := p.last(subjects, 0)
	if err != nil || upTo != 12 || !slices.Equal(sequences(list), []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}) {
		t.Error(sequences(list), upTo, err)
	}
	if n := p.reader.Counts().Requests[KindLast]; n != 3 {
		t.Errorf("%d requests", n)
	}
}

func TestBefore(t *testing.T) {
	p := newPlace(t, Options{}, jetstream.StreamConfig{})
	var all []string
	of := make(map[string][]uint64) // ascending
	for i := range 4000 {
		s := "room.dense"
		switch {
		case i%40 == 0:
			s = "room.sparse" // 100
		case i == 1234:
			s = "room.once"
		case i%10 == 3:
			s = "room.middle" // 400
		case i%2 == 0:
			s = fmt.Sprintf("room.r%d", i)
		}
		all = append(all, s)
	}
	p.fill(all...)
	p.mirrored()
	for from, more := uint64(1), true; more; {
		b, err := p.read(Read{From: from, Batch: MaxBatch})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range b.Messages {
			of[m.Subject] = append(of[m.Subject], m.Sequence)
		}
		from, more = b.Last+1, b.More
	}
	for _, subject := range []string{"room.dense", "room.sparse", "room.once", "room.middle", "room.none"} {
		for _, limit := range []int{1, 20, 100, 256} {
			for _, before := range []uint64{0, 1, 2, 700, 1236, 1237, 2001, 3999, 5000} {
				older := of[subject]
				if before > 0 {
					n, _ := slices.BinarySearch(older, before)
					older = older[:n]
				}
				want := slices.Clone(older[max(0, len(older)-limit):])
				slices.Reverse(want)
				b, err := p.before(subject, before, limit)
				if err != nil || !slices.Equal(sequences(b.Messages), want) || b.More != (len(older) > limit) {
					t.Fatalf("%d of %s before %d: %v, more %v: %s", limit, subject, before, err, b.More, cmp.Diff(want, sequences(b.Messages)))
				}
				if len(want) > 0 && b.Last != want[len(want)-1] {
					t.Fatalf("%d of %s before %d: last is %d", limit, subject, before, b.Last)
				}
			}
		}
	}
}

func TestBeforeOfLargeMessages(t *testing.T) {
	p := newPlace(t, Options{}, jetstream.StreamConfig{})
	big := strings.Repeat("x", 300<<10)
	for range 12 {
		p.put("room.a", big, nil)
	}
	p.mirrored()
	var got []uint64
	for before, more := uint64(0), true; more; {
		b, err := p.before("room.a", before, 100)
		if err != nil || len(b.Messages) == 0 {
			t.Fatal(b, err)
		}
		if len(b.Messages) > 3 {
			t.Errorf("%d messages at once", len(b.Messages))
		}
		got = append(got, sequences(b.Messages)...)
		before, more = b.Last, b.More
	}
	if !slices.Equal(got, []uint64{12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1}) {
		t.Error(got)
	}
}

func TestAnOutageFailsWhatItMeetsAndNothingElse(t *testing.T) {
	p := newPlace(t, Options{InFlight: 4, Timeout: 10 * time.Second}, jetstream.StreamConfig{})
	var subjects []string
	for range 2000 {
		subjects = append(subjects, "room.a")
	}
	p.fill(subjects...)
	end := p.mirrored()
	var asked, whole, failed, wrong atomic.Int64
	ask := func() {
		asked.Add(1)
		p.reader.Read(Read{Stream: "S_H", From: 1, Batch: 1000}, func(b Batch, err error) {
			switch {
			case errors.Is(err, ErrUnavailable) && len(b.Messages) == 0:
				failed.Add(1)
			case err == nil && len(b.Messages) == 1000 && b.Last == 1000 && b.More:
				whole.Add(1)
			default:
				wrong.Add(1)
			}
		})
	}
	settled := func() bool { return whole.Load()+failed.Load()+wrong.Load() == asked.Load() }
	for range 200 {
		ask()
	}
	until(t, func() bool { return whole.Load() > 5 })
	p.server.Stop()
	for range 50 {
		ask()
	}
	until(t, settled)
	if failed.Load() == 0 || wrong.Load() != 0 {
		t.Errorf("%d whole, %d failed, %d wrong", whole.Load(), failed.Load(), wrong.Load())
	}
	if err := p.server.Restart(); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool {
		b, err := p.read(Read{From: end, Batch: 1})
		if err != nil && !errors.Is(err, ErrUnavailable) {
			t.Fatal(err)
		}
		return err == nil && b.Last == end
	})
	until(t, settled)
	if whole.Load()+failed.Load() != 250 || wrong.Load() != 0 {
		t.Errorf("%d whole, %d failed, %d wrong", whole.Load(), failed.Load(), wrong.Load())
	}
}

func TestAfterRunEverythingIsClosed(t *testing.T) {
	p := newPlace(t, Options{InFlight: 1}, jetstream.StreamConfig{})
	held, err := p.nc.SubscribeSync("$JS.API.DIRECT.GET.SLOW")
	if err != nil || p.nc.Flush() != nil {
		t.Fatal(err)
	}
	results := make(chan batchResult, 10)
	for range 3 { // one in flight, two that wait
		p.reader.Read(Read{Stream: "SLOW", From: 1, Batch: 1}, func(b Batch, err error) { results <- batchResult{b, err} })
	}
	if _, err := held.NextMsg(patience); err != nil {
		t.Fatal(err)
	}
	p.stop()
	<-p.ended
	p.reader.Read(Read{Stream: "SLOW", From: 1, Batch: 1}, func(b Batch, err error) { results <- batchResult{b, err} })
	for range 4 {
		if r := wait(t, results); !errors.Is(r.err, ErrClosed) {
			t.Error(r)
		}
	}
}
