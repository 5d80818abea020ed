package ws

import (
	"bytes"
	"compress/flate"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"nabat/edge/internal/frame"
)

// These are Autobahn's cases of compression, by their numbers.

func startDeflate(t *testing.T) *echoServer {
	t.Helper()
	s := startEcho(t)
	_ = s.loop.Do(func() { s.env.Deflater = frame.NewDeflater(256, 1) })
	return s
}

// deflated compresses as a client does (RFC 7692 §7.2.1), with the standard
// library.
func deflated(text string) []byte {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.DefaultCompression)
	if err != nil {
		panic(err)
	}
	_, _ = io.WriteString(w, text)
	_ = w.Flush()
	return bytes.TrimSuffix(b.Bytes(), []byte("\x00\x00\xff\xff"))
}

func inflated(t testing.TB, b []byte) string {
	t.Helper()
	out, err := io.ReadAll(flate.NewReader(io.MultiReader(bytes.NewReader(b), strings.NewReader(deflateTail))))
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

const (
	offerLine = "Sec-WebSocket-Extensions: "
	accepted  = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
	accepted5 = accepted + "; server_max_window_bits=15"
)

// bodies are as in 12.1 to 12.5: large JSON, text, and bytes that do not shrink.
func bodies(n int) map[string]string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, `{"id":%d,"name":"Ünder %d","on":true},`, i*7919, i%13)
	}
	noise := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise)
	return map[string]string{"json": strings.ToValidUTF8(b.String()[:n], "?"), "stars": strings.Repeat("*", n), "noise": string(noise)}
}

func TestAutobahn12Compression(t *testing.T) {
	s := startDeflate(t)
	for _, n := range []int{16, 64, 256, 1 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10} {
		for kind, body := range bodies(n) {
			t.Run(fmt.Sprintf("12.x %s of %d bytes", kind, n), func(t *testing.T) {
				op, word := byte(text), "text "
				if kind == "noise" {
					op, word = binaryF, "binary "
				}
				p := s.dial(t, offerLine+"permessage-deflate; client_max_window_bits\r\n")
				if p.extensions != accepted {
					t.Fatal(p.extensions)
				}
				want := word + body
				if len(body) >= 256 && kind != "noise" {
					want = word + "deflated " + body
				}
				z := deflated(body)
				for _, fragments := range []int{1, 2, 7} {
					go p.send(fragmented(op|rsv1, z, fragments), 0)
					p.want(want)
				}
				p.send(masked(op, []byte(body)), 0) // RFC 7692 §6.1: a message may go uncompressed
				p.want(want)
				p.send(goodbye, 0)
				p.want("close 1000", "end")
			})
		}
	}
}

// fragmented cuts a message into n frames; only the first says what it is.
func fragmented(b0 byte, payload []byte, n int) (b []byte) {
	size := len(payload)/n + 1
	for at := 0; at < len(payload) || at == 0; at += size {
		first := b0 &^ 0x80
		if at > 0 {
			first = 0
		}
		if at+size >= len(payload) {
			first |= 0x80
		}
		b = append(b, masked(first, payload[min(at, len(payload)):min(at+size, len(payload))])...)
	}
	return b
}

func TestAutobahn13Negotiation(t *testing.T) {
	s := startDeflate(t)
	body := strings.Repeat("nabat ", 1000)
	for _, c := range []struct{ rule, offer, answer string }{
		{"13.1 nothing asked", "permessage-deflate", accepted},
		{"13.2 no context takeover", "permessage-deflate; server_no_context_takeover", accepted},
		{"13.x both sides", "permessage-deflate; server_no_context_takeover; client_no_context_takeover", accepted},
		{"13.3 a window of 9 bits", "permessage-deflate; server_max_window_bits=9", ""},
		{"13.4 a window of 15 bits", "permessage-deflate; server_max_window_bits=15", accepted5},
		{"13.5 no context takeover and 9 bits", "permessage-deflate; server_no_context_takeover; server_max_window_bits=9", ""},
		{"13.6 no context takeover and 15 bits", "permessage-deflate; server_no_context_takeover; server_max_window_bits=15", accepted5},
		{"13.7 three offers, the last can be kept", "permessage-deflate; server_no_context_takeover; server_max_window_bits=9, permessage-deflate; server_max_window_bits=8, permessage-deflate; server_no_context_takeover", accepted},
		{"13.x the client can bound its window", "permessage-deflate; client_max_window_bits", accepted},
		{"13.x the client bounds its window", "permessage-deflate; client_max_window_bits=9", accepted},
	} {
		t.Run(c.rule, func(t *testing.T) {
			p := s.dial(t, offerLine+c.offer+"\r\n")
			if p.extensions != c.answer {
				t.Fatalf("answered %q, want %q", p.extensions, c.answer)
			}
			if c.answer == "" {
				p.send(str(text, body), 0)
				p.want("text " + body)
				p.send(masked(text|rsv1, deflated(body)), 0)
				p.want("close 1002", "end")
				return
			}
			for range 10 { // without a context each message stands alone
				p.send(masked(text|rsv1, deflated(body)), 0)
				p.want("text deflated " + body)
			}
		})
	}
}

func TestFramesOfCompressedMessages(t *testing.T) {
	s := startDeflate(t) // answers are too short to be compressed
	hello := deflated("Hello")
	half := len(hello) / 2
	run := func(name string, send []byte, want ...string) {
		t.Run(name, func(t *testing.T) {
			for _, chop := range []int{0, 1} {
				p := s.dial(t, offerLine+"permessage-deflate\r\n")
				p.send(send, chop)
				list := append([]string{}, want...)
				if !strings.HasPrefix(want[len(want)-1], "close") {
					p.send(goodbye, 0)
					list = append(list, "close 1000")
				}
				p.want(append(list, "end")...)
			}
		})
	}
	z := byte(rsv1)
	run("RFC 7692 §7.2.3.1 one block", masked(text|z, []byte("\xf2\x48\xcd\xc9\xc9\x07\x00")), "text Hello")
	run("RFC 7692 §7.2.3.1 in two fragments", join(masked(textStart|z, []byte("\xf2\x48\xcd")), masked(last, []byte("\xc9\xc9\x07\x00"))), "text Hello")
	run("RFC 7692 §7.2.3.3 without compression", masked(text|z, []byte("\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00")), "text Hello")
	run("RFC 7692 §7.2.3.4 a block that says it is the last", masked(text|z, []byte("\xf3\x48\xcd\xc9\xc9\x07\x00\x00")), "text Hello")
	run("RFC 7692 §7.2.3.4 and another behind it", masked(text|z, []byte("\xf3\x48\xcd\xc9\xc9\x07\x00\xf2\x48\xcd\xc9\xc9\x07\x00")), "text HelloHello")
	run("RFC 7692 §7.2.3.5 two blocks", masked(text|z, []byte("\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00")), "text Hello")
	run("RFC 7692 §7.2.3.6 an empty message", masked(text|z, []byte("\x00")), "text ")
	run("an empty message that is not even a block", masked(text|z, nil), "text ")
	run("a last block with nothing behind it", masked(text|z, []byte("\xf3\x48\xcd\xc9\xc9\x07\x00")), "text Hello")
	run("RFC 7692 §6.1 a ping between fragments", join(masked(textStart|z, hello[:half]), str(ping, "p"), masked(last, hello[half:])), "pong p", "text Hello")
	run("RFC 7692 §6.1 RSV1 on a continuation", join(masked(textStart|z, hello[:half]), masked(last|z, hello[half:])), "close 1002")
	run("RFC 7692 §6.1 RSV1 on a ping", str(ping|z, "p"), "close 1002")
	run("RFC 7692 §6.1 RSV1 on a pong", str(pong|z, "p"), "close 1002")
	run("RFC 7692 §6.1 RSV1 on a close", masked(bye|z, nil), "close 1002")
	run("RFC 6455 §5.2 RSV2", masked(text|0x20, hello), "close 1002")
	run("RFC 6455 §5.2 RSV1 and RSV3", masked(text|0x50, hello), "close 1002")
	run("RFC 6455 §5.2 RSV1 on a reserved opcode", masked(0x83|z, hello), "close 1002")
	run("an uncompressed message in fragments behind a compressed one", join(masked(text|z, hello), str(textStart, "a\xe2"), str(last, "\x82\xac")), "text Hello", "text a€")
	run("a compressed message in fragments that cut characters", fragmented(text|z, deflated("κόσμε κόσμε κόσμε"), 9), "text κόσμε κόσμε κόσμε")
	run("§8.1 not UTF-8 once inflated", masked(text|z, deflated("a\xff")), "close 1007")
	run("§8.1 not UTF-8 once inflated, in fragments", fragmented(text|z, deflated("a\xe2\x82"), 3), "close 1007")
	run("binary may be anything", masked(binaryF|z, deflated("a\xff")), "binary a\xff")
	run("not DEFLATE: a reserved block type", masked(text|z, []byte("\x07")), "close 1007")
	run("as many last blocks as there may be", masked(text|z, bytes.Repeat([]byte("\xf3\x48\xcd\xc9\xc9\x07\x00"), 8)), "text "+strings.Repeat("Hello", 8))
	run("more last blocks than there may be", masked(text|z, bytes.Repeat([]byte("\xf3\x48\xcd\xc9\xc9\x07\x00"), 9)), "close 1007")
	run("not DEFLATE: a cut block", masked(text|z, []byte("\xf2\x48")), "close 1007")
	run("not DEFLATE: a reference before the beginning", masked(text|z, []byte("\x02\x01\x00")), "close 1007")
}

// A message that inflates beyond the bound is given up where it passes it.
func TestABombIsNotInflated(t *testing.T) {
	bomb := deflated(strings.Repeat("\x00", 64<<20))
	for _, c := range []struct {
		rule string
		body []byte
		max  int
		want string
	}{
		{"a byte above the bound", deflated(strings.Repeat("*", 1001)), 1000, "[violation 1009]"},
		{"the bound", deflated(strings.Repeat("*", 1000)), 1000, fmt.Sprintf("[text %q]", strings.Repeat("*", 1000))},
		{"64 MiB", bomb, 64 << 10, "[violation 1009]"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			for _, stream := range [][]byte{masked(text|rsv1, c.body), fragmented(text|rsv1, c.body, 3)} {
				var r Reader
				var e events
				if _, v := r.FeedDeflated(stream, c.max, &e); v != nil {
					e.add("violation %d", v.Status)
				}
				if got := fmt.Sprint(e.list); got != c.want {
					t.Errorf("got %.100s", got)
				}
			}
		})
	}
	i := new(inflater)
	i.r = flate.NewReader(bytes.NewReader(nil))
	if err := i.inflate(bomb, 10_000); err == nil || len(i.out) != 10_001 || cap(i.out) > 64<<10 {
		t.Errorf("%v, %d bytes inflated into %d", err, len(i.out), cap(i.out))
	}
	// Many small ones are a bomb, too.
	one := masked(binaryF|rsv1, deflated(strings.Repeat("\x00", 60<<10)))
	var r Reader
	_, v := r.FeedDeflated(bytes.Repeat(one, 200), 64<<10, nothing{})
	if v == nil || v.Status != 1009 || v.Label() != "too_large" {
		t.Errorf("%v", v)
	}
	_, v = new(Reader).FeedDeflated(masked(text|rsv1, []byte{7}), 1000, nothing{})
	if v == nil || v.Label() != "deflate" {
		t.Errorf("%v", v)
	}
}

// What does not shrink may be larger than the bound while it is compressed.
func TestAMessageOfTheLargestSizeMayGrowWhenCompressed(t *testing.T) {
	noise := bodies(10_000)["noise"]
	z := deflated(noise)
	if len(z) <= len(noise) {
		t.Fatalf("%d bytes", len(z))
	}
	var e events
	if _, v := new(Reader).FeedDeflated(masked(binaryF|rsv1, z), len(noise), &e); v != nil || len(e.list) != 1 {
		t.Errorf("%v %d", v, len(e.list))
	}
	for _, stream := range [][]byte{maskedAs(binaryF|rsv1, deflatedMost(1000)+1, []byte("x")), join(maskedAs(binaryStart|rsv1, 1000, make([]byte, 1000)), maskedAs(last, deflatedMost(1000)-999, nil))} {
		if _, v := new(Reader).FeedDeflated(stream, 1000, nothing{}); v == nil || v.Status != 1009 {
			t.Errorf("%v", v)
		}
	}
}

func TestCompressedMessagesCostNoMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("a sync.Pool forgets at random where races are looked for")
	}
	stream := masked(text|rsv1, deflated(strings.Repeat("nabat ", 300)))
	buf := make([]byte, len(stream))
	var r Reader
	n := testing.AllocsPerRun(200, func() {
		copy(buf, stream)
		if _, v := r.FeedDeflated(buf, 4<<10, nothing{}); v != nil {
			t.Fatal(v)
		}
	})
	if n != 0 || !r.Idle() {
		t.Errorf("%v allocations", n)
	}
}

// FuzzInflate holds inflating against the standard library, and against itself
// in fragments.
func FuzzInflate(f *testing.F) {
	f.Add(deflated("Hello"), byte(2), false)
	f.Add([]byte("\xf3\x48\xcd\xc9\xc9\x07\x00\xf2\x48\xcd\xc9\xc9\x07\x00"), byte(1), false)
	f.Add([]byte("\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00"), byte(3), false)
	f.Add([]byte(strings.Repeat("nabat ", 50)), byte(3), true)
	f.Add(deflated(strings.Repeat("*", 5000)), byte(9), false)
	f.Fuzz(func(t *testing.T, body []byte, cuts byte, honest bool) {
		const max = 1 << 10
		z := body
		if honest {
			z = deflated(string(body))
		}
		read := func(stream []byte) string {
			var e events
			if _, v := new(Reader).FeedDeflated(stream, max, &e); v != nil {
				e.add("violation %d", v.Status)
			}
			return fmt.Sprint(e.list)
		}
		whole, parts := read(masked(binaryF|rsv1, z)), read(fragmented(binaryF|rsv1, z, 1+int(cuts)))
		if whole != parts {
			t.Fatalf("whole %.200s, in fragments %.200s", whole, parts)
		}
		switch {
		case len(z) > deflatedMost(max):
		case honest && len(body) <= max:
			if want := fmt.Sprintf("[binary %q]", body); whole != want {
				t.Fatalf("got %.200s, want %.200s", whole, want)
			}
		case honest:
			if whole != "[violation 1009]" {
				t.Fatalf("%d bytes gave %.200s", len(body), whole)
			}
		case len(z) > 0:
			source := bytes.NewReader(append(bytes.Clone(z), deflateTail...))
			out, err := io.ReadAll(io.LimitReader(flate.NewReader(source), max+1))
			want := fmt.Sprintf("[binary %q]", out)
			switch {
			case len(out) > max:
				want = "[violation 1009]"
			case err != nil:
				want = "[violation 1007]"
			case source.Len() > len(deflateTail):
				return // a last block, and others behind it: the standard library stops there
			}
			if whole != want {
				t.Fatalf("got %.200s, want %.200s", whole, want)
			}
		}
	})
}
