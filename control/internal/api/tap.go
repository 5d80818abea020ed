package api

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"nabat/control/internal/orders"
	"nabat/internal/bus"
	"nabat/proto/order"
)

const (
	// defaultTap is how long a tap lasts whose request does not say.
	defaultTap = 30 * time.Second
	// maxStreams bounds the taps that one replica shows over HTTP at once; an edge
	// takes 16 of all.
	maxStreams = 8
	// tapQueue bounds the events that wait for one HTTP client.
	tapQueue = 1024
	// tapBeat is how often a quiet stream says that it lives.
	tapBeat = 15 * time.Second
	// tapWrite bounds one write to an HTTP client.
	tapWrite = 10 * time.Second
	// tapLinger is how long the last events may be on their way.
	tapLinger = 2 * time.Second
)

// taps is the verb that listens in on clients. Over NATS edges send what they
// tell to a subject of the caller's; over HTTP it comes as an event stream.
type taps struct {
	*Options
	places  chan struct{} // a token for each stream
	closing chan struct{} // closed by close
	once    sync.Once     // guards closing
}

func newTaps(o *Options) *taps {
	return &taps{Options: o, places: make(chan struct{}, maxStreams), closing: make(chan struct{})}
}

func (t *taps) verbs() []verb {
	return []verb{{"tap", scopeAdmin, "GET", "/v1/tap", typed(t.tap)}}
}

// close ends all streams.
func (t *taps) close() { t.once.Do(func() { close(t.closing) }) }

type tapRequest struct {
	target
	Room  string `json:"room"`
	For   string `json:"for"`
	Reply string `json:"reply"` // NATS only
}

func (r *tapRequest) rooms() []string {
	if r.Room == "" {
		return nil
	}
	return []string{r.Room}
}

// check returns for how long the tap is.
func (r *tapRequest) check() (time.Duration, error) {
	if r.Room != "" {
		if r.User != "" || r.Session != "" {
			return 0, badRequest("give one of room, user and session")
		}
		if err := checkRoom(r.Room); err != nil {
			return 0, err
		}
	} else if err := r.target.check(); err != nil {
		return 0, badRequest("give one of room, user and session")
	}
	d, err := duration("for", r.For, defaultTap)
	if err != nil {
		return 0, err
	}
	if d > order.MaxTap {
		return 0, badRequest("for is %s: at most %s", d, order.MaxTap)
	}
	return d, nil
}

// tap answers *obeyed over NATS and *tapStream over HTTP.
func (t *taps) tap(ctx context.Context, r *tapRequest) (any, error) {
	d, err := r.check()
	if err != nil {
		return nil, err
	}
	request := order.TapRequest{Target: r.order(), Room: r.Room, ForMS: d.Milliseconds(), Reply: r.Reply}
	if callerOf(ctx).via == "http" {
		if r.Reply != "" {
			return nil, badRequest("reply is for NATS: over HTTP the answer is the stream")
		}
		return t.open(ctx, request)
	}
	if token, ok := strings.CutPrefix(r.Reply, bus.TapPrefix); !ok || token == "" || bus.NodeToken(token) != token {
		return nil, badRequest("reply must be %s and one token of your own, a subject on which you listen", bus.TapPrefix)
	}
	return users{t.Options}.all(ctx, order.Tap, request)
}

// tapStream is a tap on its way to an HTTP client.
type tapStream struct {
	taps    *taps
	request order.TapRequest
	sub     *nats.Subscription
	events  chan *nats.Msg
	began   *obeyed
	open    int // nodes that have not said yet that it is over
	dropped int // events that did not find a place in the queue, as told
}

// open begins a tap whose events the stream gets. Somebody must end it.
func (t *taps) open(ctx context.Context, request order.TapRequest) (*tapStream, error) {
	select {
	case t.places <- struct{}{}:
	default:
		return nil, refuse(overloaded, "%d taps are on at this replica, as many as it shows at once", maxStreams)
	}
	request.Reply = bus.TapPrefix + rand.Text()
	s := &tapStream{taps: t, request: request, events: make(chan *nats.Msg, tapQueue)}
	var err error
	if s.sub, err = t.NATS.ChanSubscribe(request.Reply, s.events); err != nil {
		<-t.places
		return nil, refuse(unavailable, "listen: %v", err)
	}
	got, err := t.Orders.All(ctx, order.Tap, request)
	if err != nil {
		s.end()
		return nil, refuse(unavailable, "%v", err)
	}
	s.began = summary(got)
	s.open = listening(got)
	return s, nil
}

// listening is how many nodes have begun a tap.
func listening(r *orders.Result) (n int) {
	for _, a := range r.Answers {
		if a.Error == nil {
			n++
		}
	}
	return n
}

// end ends the tap on the edges, too, if its time is not over.
func (s *tapStream) end() {
	_ = s.sub.Unsubscribe() // an error means that NATS is gone
	if s.began == nil || s.open > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
		defer cancel()
		// Who does not hear it listens to the end of the time: no harm is done.
		_, _ = s.taps.Orders.All(ctx, order.Tap, order.TapRequest{Reply: s.request.Reply, Stop: true})
	}
	<-s.taps.places
}

// serve writes the stream until the time is over, the client goes, or control
// stops. The server's own time limits are for answers that end by themselves.
func (s *tapStream) serve(w http.ResponseWriter, r *http.Request) {
	defer s.end()
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // or nginx holds events back
	h.Set("X-Content-Type-Options", "nosniff")
	out := &tapWriter{w: w, rc: http.NewResponseController(w)}
	if !out.event("began", encode(s.began)) || !out.flush() {
		return
	}
	over := time.NewTimer(time.Duration(s.request.ForMS)*time.Millisecond + tapLinger)
	defer over.Stop()
	beat := time.NewTicker(tapBeat)
	defer beat.Stop()
	for s.open > 0 {
		ok := true
		select {
		case <-r.Context().Done():
			return
		case <-s.taps.closing:
			ok = out.event("end", []byte(`{"reason":"control stops"}`))
			_ = ok && out.flush()
			return
		case <-over.C:
			s.open = 0
		case <-beat.C:
			ok = out.write(": \n\n")
		case m := <-s.events:
			ok = s.pass(out, m)
		}
		if !ok || !out.flush() {
			return
		}
	}
	_ = out.event("end", []byte(`{"reason":"the time is over"}`)) && out.flush()
}

// pass writes an event and those that wait behind it.
func (s *tapStream) pass(out *tapWriter, m *nats.Msg) bool {
	for {
		var e struct{ Kind string }
		if json.Unmarshal(m.Data, &e) == nil { // else it is not an edge's
			if e.Kind == order.TapEnd {
				s.open--
			}
			if !out.event("", m.Data) {
				return false
			}
		}
		select {
		case m = <-s.events:
		default:
			return s.skipped(out)
		}
	}
}

// skipped tells of events that found no place in the queue.
func (s *tapStream) skipped(out *tapWriter) bool {
	n, err := s.sub.Dropped()
	if err != nil || n == s.dropped {
		return true // an error: the subscription is over
	}
	e := order.TapEvent{At: time.Now().UnixMilli(), Kind: order.TapSkipped, Count: n - s.dropped}
	s.dropped = n
	return out.event("", encode(e))
}

// tapWriter writes events. Its methods report false once the client is gone.
type tapWriter struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

func (o *tapWriter) event(name string, data []byte) bool {
	if name != "" {
		name = "event: " + name + "\n"
	}
	return o.write(fmt.Sprintf("%sdata: %s\n\n", name, data))
}

func (o *tapWriter) write(text string) bool {
	if o.rc.SetWriteDeadline(time.Now().Add(tapWrite)) != nil {
		return false
	}
	_, err := o.w.Write([]byte(text))
	return err == nil
}

func (o *tapWriter) flush() bool { return o.rc.Flush() == nil }
