package control

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"nabat/client"
	"nabat/internal/bus"
	"nabat/proto/order"
)

// listener reads a tap over HTTP.
type listener struct {
	t     *testing.T
	body  io.ReadCloser
	lines *bufio.Scanner
	stop  context.CancelFunc
}

func (r *rig) tap(address, query string) *listener {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+address+"/v1/tap?"+query, http.NoBody)
	if err != nil {
		r.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { cancel(); _ = res.Body.Close() })
	if kind := res.Header.Get("Content-Type"); res.StatusCode != 200 || kind != "text/event-stream" {
		r.t.Fatal(res.Status, kind)
	}
	return &listener{r.t, res.Body, bufio.NewScanner(res.Body), cancel}
}

// next is the next event: its name, and its data.
func (l *listener) next() (name, data string) {
	l.t.Helper()
	for l.lines.Scan() {
		switch line := l.lines.Text(); {
		case strings.HasPrefix(line, "event: "):
			name = line[len("event: "):]
		case strings.HasPrefix(line, "data: "):
			data = line[len("data: "):]
		case line == "" && data != "":
			return name, data
		}
	}
	l.t.Fatal("the stream has ended: ", l.lines.Err())
	return "", ""
}

// kind is the next event of a kind.
func (l *listener) kind(kind string) (e order.TapEvent) {
	l.t.Helper()
	for e.Kind != kind {
		name, data := l.next()
		e = order.TapEvent{}
		if err := json.Unmarshal([]byte(data), &e); err != nil || name != "" {
			l.t.Fatal(name, data, err)
		}
	}
	return e
}

func (l *listener) began(affected int) {
	l.t.Helper()
	name, data := l.next()
	var got struct {
		Affected int
		Nodes    []struct{ Error *order.Error }
	}
	if err := json.Unmarshal([]byte(data), &got); err != nil || name != "began" || got.Affected != affected {
		l.t.Fatal(name, data, err)
	}
	for _, n := range got.Nodes {
		if n.Error != nil {
			l.t.Fatal(data)
		}
	}
}

func TestATapOverHTTPShowsWhatAUserGetsForAsLongAsItsCallerListens(t *testing.T) {
	r := setup(t)
	cfg := Defaults()
	cfg.Listen, cfg.NATSURL, cfg.Dev = "127.0.0.1:0", r.nats.URL(), true
	c, err := New(cfg, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	// A stream must outlive this, as it must the minute of production.
	c.http.WriteTimeout = 50 * time.Millisecond
	stop := r.run(c)
	e := r.serveEdge()
	m, err := r.nc.Request(bus.APIPrefix+"token.issue", []byte(`{"sub":"alice","rooms":["sports.news"]}`), patience)
	if err != nil {
		t.Fatal(err)
	}
	var token struct{ Token string }
	if err := json.Unmarshal(m.Data, &token); err != nil {
		t.Fatalf("%s: %v", m.Data, err)
	}
	conn, err := client.Dial(t.Context(), "ws://"+e.Addr()+"/ws", client.Options{Token: token.Token})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ended, err := r.nc.SubscribeSync(bus.TapPrefix + "*")
	if err != nil {
		t.Fatal(err)
	}
	l := r.tap(c.Addr(), "user=alice&for=10m")
	l.began(1)
	for begin := time.Now(); time.Since(begin) < 200*time.Millisecond; {
		if err := r.nc.Publish("room.sports.news", []byte(`{"title":"Goal"}`)); err != nil {
			t.Fatal(err)
		}
		got := l.kind(order.TapMessage)
		if got.Node != "edge-0" || got.User != "alice" || got.Room != "sports.news" || !strings.Contains(string(got.Frame), `"data":{"title":"Goal"}`) {
			t.Fatalf("%+v", got)
		}
	}
	l.stop()
	for kind := ""; kind != order.TapEnd; { // long before its time
		m, err := ended.NextMsg(patience)
		if err != nil {
			t.Fatal("the edge goes on listening: ", err)
		}
		var e order.TapEvent
		if err := json.Unmarshal(m.Data, &e); err != nil {
			t.Fatal(err)
		}
		kind = e.Kind
	}
	last := r.tap(c.Addr(), "room=sports.news&for=10m")
	last.began(1)
	stop()
	if name, data := last.next(); name != "end" || data != `{"reason":"control stops"}` {
		t.Fatal(name, data)
	}
}

func TestATapOverHTTPIsRefusedInWords(t *testing.T) {
	r := setup(t)
	c := r.start(nil)
	r.serveEdge()
	until(t, "the node is known", func() bool {
		_, data := call(t, "GET", "http://"+c.Addr()+"/v1/nodes", "")
		return strings.Contains(data, "edge-0")
	})
	for _, q := range []struct {
		rule, query string
		status      int
		reason      string
	}{
		{"nothing to listen to", "", 400, "give one of room, user and session"},
		{"two things", "user=a&room=b", 400, "give one of room, user and session"},
		{"a room that is none", "room=a..b", 400, `"code":"bad_room"`},
		{"a time that is none", "room=a&for=long", 400, `for is \"long\"`},
		{"too long a time", "room=a&for=11m", 400, "at most 10m"},
		{"a subject of one's own", "room=a&reply=nabat.tap.x", 400, "over HTTP the answer is the stream"},
		{"an unknown parameter", "room=a&kind=drop", 400, "there is no parameter kind"},
	} {
		t.Run(q.rule, func(t *testing.T) {
			status, data := call(t, "GET", "http://"+c.Addr()+"/v1/tap?"+q.query, "")
			if status != q.status || !strings.Contains(data, q.reason) {
				t.Fatal(status, data)
			}
		})
	}
	var open []*listener
	for range 8 {
		open = append(open, r.tap(c.Addr(), "room=a"))
		open[len(open)-1].began(0)
	}
	if status, data := call(t, "GET", "http://"+c.Addr()+"/v1/tap?room=a", ""); status != 503 || !strings.Contains(data, `"code":"overloaded"`) || !strings.Contains(data, "8 taps are on") {
		t.Fatal(status, data)
	}
	open[0].stop()
	until(t, "there is a place again", func() bool {
		status, _ := call(t, "GET", "http://"+c.Addr()+"/v1/tap?room=a&for=1ms", "")
		return status == 200
	})
}
