package swarm

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/gobwas/ws"
)

func compile(f ws.Frame) []byte {
	b, err := ws.CompileFrame(f)
	if err != nil {
		panic(err)
	}
	return b
}

func TestFramesAreCutAtEveryLength(t *testing.T) {
	for _, size := range []int{0, 1, 125, 126, 65535, 65536} {
		body := bytes.Repeat([]byte("a"), size)
		in := append(compile(ws.NewTextFrame(body)), 0x81)
		f, rest, complete, err := nextFrame(in)
		if err != nil || !complete || f.code != ws.OpText || !bytes.Equal(f.payload, body) || len(rest) != 1 {
			t.Errorf("size %d: %d bytes, %d left, complete %v, %v", size, len(f.payload), len(rest), complete, err)
		}
		for _, cut := range []int{0, 1, 2, 3, 9, len(in) - 2} {
			if cut > len(in)-2 {
				continue
			}
			if _, rest, complete, err := nextFrame(in[:cut]); err != nil || complete || len(rest) != cut {
				t.Errorf("size %d cut at %d: complete %v, %v", size, cut, complete, err)
			}
		}
	}
}

func TestWhatIsNotAServersFrame(t *testing.T) {
	tests := []struct {
		name, want string
		in         []byte
	}{
		{"masked", "masked", compile(ws.MaskFrame(ws.NewTextFrame([]byte("a"))))},
		{"an operation code that is not", "operation code 3", []byte{0x83, 0}},
		{"huge", "at most", []byte{0x82, 127, 0, 0, 1, 0, 0, 0, 0, 0}},
	}
	for _, test := range tests {
		if _, _, complete, err := nextFrame(test.in); complete || err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestPongIsMaskedAndEchoes(t *testing.T) {
	b, err := pong([]byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if got := readPong(t, bytes.NewReader(b)); got != "hello" {
		t.Errorf("%q", got)
	}
}

// readPong reads one masked pong frame and returns its payload.
func readPong(t *testing.T, r io.Reader) string {
	t.Helper()
	head, err := ws.ReadHeader(r)
	if err != nil || !head.Masked || head.OpCode != ws.OpPong || head.Length > 125 {
		t.Fatalf("%+v, %v", head, err)
	}
	payload := make([]byte, head.Length)
	if _, err := io.ReadFull(r, payload); err != nil {
		t.Fatal(err)
	}
	ws.Cipher(payload, head.Mask, 0)
	return string(payload)
}

func TestCloseReason(t *testing.T) {
	if got := closeReason(ws.NewCloseFrameBody(4100, `{"code":"slow"}`)); got != `closed by the server: 4100 {"code":"slow"}` {
		t.Error(got)
	}
	if got := closeReason(nil); got != "closed by the server without a code" {
		t.Error(got)
	}
}

func TestResolve(t *testing.T) {
	tests := []struct{ target, want, err string }{
		{"ws://127.0.0.1:8080/ws?room=a", "127.0.0.1:8080 127.0.0.1 8080 /ws?room=a", ""},
		{"127.0.0.1:8080", "127.0.0.1:8080 127.0.0.1 8080 ", ""},
		{"http://127.0.0.1", "127.0.0.1 127.0.0.1 80 ", ""},
		{"ws://[::1]:99/x", "[::1]:99 ::1 99 /x", ""},
		{"wss://127.0.0.1", "127.0.0.1 127.0.0.1 443 ", ""},
		{"ftp://127.0.0.1", "", `the scheme is "ftp"`},
		{"ws:///ws", "", "names no host"},
		{"ws://127.0.0.1:0", "", "port"},
		{"ws://127.0.0.1:99999", "", "port"},
		{"ws://a b", "", "not a URL"},
	}
	for _, test := range tests {
		a, err := Resolve(test.target)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s: error %v, want %q", test.target, err, test.err)
			}
			continue
		}
		got := strings.Join([]string{a.Host, a.IP.String(), itoa(a.Port), a.Path}, " ")
		if err != nil || got != test.want {
			t.Errorf("%s: %q, %v; want %q", test.target, got, err, test.want)
		}
	}
}

func FuzzNextFrame(f *testing.F) {
	f.Add(compile(ws.NewTextFrame([]byte(`{"room":"a"}`))))
	f.Add(compile(ws.NewCloseFrame(ws.NewCloseFrameBody(1000, "bye"))))
	f.Add([]byte{0x82, 127, 0, 0, 0, 0, 0, 0, 0, 1, 7})
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		left := in
		for {
			fr, rest, complete, err := nextFrame(left)
			if err != nil || !complete {
				return
			}
			if len(rest) >= len(left) || len(fr.payload) > len(left) {
				t.Fatalf("no progress: %d of %d left", len(rest), len(left))
			}
			left = rest
		}
	})
}

func FuzzReadHead(f *testing.F) {
	f.Add([]byte("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: " + accept + "\r\n\r\n\x81\x00"))
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\nhello"))
	f.Add([]byte("SSH-2.0"))
	f.Fuzz(func(t *testing.T, in []byte) {
		rest, complete, err := readHead(in, false)
		if complete && (err != nil || !bytes.HasSuffix(in, rest)) {
			t.Fatalf("complete with %v and %q of %q", err, rest, in)
		}
	})
}
