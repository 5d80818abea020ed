package listen

import (
	"bufio"
	"bytes"
	"errors"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"testing"

	"nabat/proto/wire"
)

// FuzzParse holds Parse against net/http, which is laxer: what Parse accepts,
// net/http understands in the same way. A head means the same in pieces as
// whole, and nothing is accepted that a second reader could cut elsewhere.
func FuzzParse(f *testing.F) {
	for _, r := range refusedHeads {
		if len(r.head) < 1000 {
			f.Add([]byte(r.head), 3)
		}
	}
	f.Add([]byte("GET /ws?room=a HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nCookie: a=b\r\n\r\n\x81\x80abcd"), 5)
	f.Add([]byte("GET http://example.com?a=b HTTP/1.1\r\nHost: example.com\r\n\r\n"), 1)
	f.Add([]byte("OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\nPragma: no-cache\r\nTrailer: a\r\n\r\n"), 9)
	f.Add([]byte(post("Content-Length: 5\r\nExpect: 100-continue\r\n")+"hello"), 4)
	f.Fuzz(func(t *testing.T, buf []byte, chop int) {
		const limit = 4 << 10
		chop = max(chop, 1)
		h := new(Head)
		n, err := h.Parse(buf, 0, limit)
		chopped, cn, cerr := parse(string(buf), chop, limit)
		if err != nil {
			var e *wire.Error
			switch {
			case errors.Is(err, ErrMore) != errors.Is(cerr, ErrMore):
				t.Fatalf("whole: %v; in chops of %d: %v", err, chop, cerr)
			case !errors.Is(err, ErrMore) && (!errors.As(err, &e) || e.Reason == "" || e.Code.HTTPStatus() < 400 || e.Code.HTTPStatus() == 500):
				t.Fatalf("not a refusal: %v", err)
			case cerr == nil:
				t.Fatalf("whole: %v; in chops of %d: accepted", err, chop)
			}
			return
		}
		if cerr != nil || cn != n || !bytes.Equal(chopped.Path, h.Path) {
			t.Fatalf("whole: accepted; in chops of %d: %d %v", chop, cn, cerr)
		}
		if n > limit || !bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) || bytes.Count(buf[:n], []byte("\r\n")) != bytes.Count(buf[:n], []byte("\n")) || bytes.IndexByte(buf[:n], 0) >= 0 {
			t.Fatalf("accepted %q", buf[:n])
		}
		same(t, h, buf[:n])
	})
}

// same holds a head against net/http's reading of it.
func same(t *testing.T, h *Head, raw []byte) {
	br := bufio.NewReader(bytes.NewReader(raw))
	r, err := http.ReadRequest(br)
	if err != nil {
		t.Fatalf("net/http refuses %q: %v", raw, err)
	}
	if left := br.Buffered(); left != 0 || r.ContentLength != max(h.Length, 0) || len(r.TransferEncoding) != 0 {
		t.Fatalf("net/http sees another body in %q: %d %d %v", raw, left, r.ContentLength, r.TransferEncoding)
	}
	if h.Length > 0 && (r.Method != "POST" || !strings.HasPrefix(r.URL.EscapedPath(), PublishPath)) {
		t.Fatalf("a body is taken with %q", raw)
	}
	host, _ := h.Header("Host")
	path := r.URL.EscapedPath()
	if r.URL.RawPath == "" && r.URL.Path != "*" {
		// net/http keeps only the decoded path when the two are equivalent.
		path = r.URL.Path
		decoded, err := pathDecode(h.Path)
		if err != nil {
			t.Fatal(err)
		}
		if path == "" {
			path = "/"
		}
		if decoded != path {
			t.Fatalf("path %q, net/http %q", h.Path, path)
		}
	} else if path != string(h.Path) && r.URL.RawPath != string(h.Path) {
		t.Fatalf("path %q, net/http %q", h.Path, r.URL.RawPath)
	}
	if r.Method != string(h.Method) || !strings.EqualFold(r.Host, string(host)) || r.URL.RawQuery != string(h.query) {
		t.Fatalf("%s %s %q, net/http %s %s %q", h.Method, host, h.query, r.Method, r.Host, r.URL.RawQuery)
	}
	ours := make(http.Header)
	for _, f := range h.fields {
		ours.Add(textproto.CanonicalMIMEHeaderKey(string(f.name)), string(f.value))
	}
	for name, values := range ours {
		// ReadRequest moves Host, and answers Pragma with a Cache-Control.
		if name != "Host" && !slices.Equal(r.Header[name], values) {
			t.Fatalf("%s is %q, net/http has %q", name, values, r.Header[name])
		}
	}
}

// pathDecode is unescape without + for a space.
func pathDecode(path []byte) (string, error) {
	return unescape(bytes.ReplaceAll(path, []byte("+"), []byte("%2B")))
}
