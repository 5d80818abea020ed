package listen

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"nabat/proto/wire"
)

// ok is the rest of a head that has nothing wrong with it.
const ok = "Host: example.com\r\n\r\n"

func get(fields string) string { return "GET /ws HTTP/1.1\r\nHost: example.com\r\n" + fields + "\r\n" }

// post is get for one of the requests that may have a body.
func post(fields string) string {
	return "POST /v1/rooms/a HTTP/1.1\r\nHost: example.com\r\n" + fields + "\r\n"
}

const (
	noLength  = "the body needs a Content-Length: Transfer-Encoding is refused (RFC 9112 §6.3)"
	badLength = "Content-Length is not a decimal number of bytes (RFC 9110 §8.6)"

	tooBig   = "the request head is larger than 8192 bytes"
	badLine  = "the request line is not METHOD TARGET VERSION with single spaces (RFC 9112 §3)"
	badVer   = "the HTTP version is malformed (RFC 9112 §2.3)"
	badTgt   = "the request target must begin with / (RFC 9112 §3.2.1)"
	badChar  = "the request target holds a character that must be percent-encoded (RFC 3986 §2)"
	badPct   = "the path holds a % that is not followed by two hexadecimal digits (RFC 3986 §2.1)"
	bareLF   = "a line ends with a bare LF (RFC 9112 §2.2)"
	bareCR   = "a line holds a bare CR (RFC 9112 §2.2)"
	badName  = "a header name holds a character that is not allowed, such as a space before the colon (RFC 9112 §5.1)"
	noName   = "a header line has no name before a colon (RFC 9112 §5)"
	fold     = "a header line begins with white space: folding is obsolete (RFC 9112 §5.2)"
	noMethod = "the request does not begin with a method (RFC 9110 §9.1)"
	noBody   = "no request here has a body: Content-Length must be absent or 0 (RFC 9112 §6)"
	noCoding = "no request here has a body: Transfer-Encoding is refused (RFC 9112 §6)"
	smuggle  = "Transfer-Encoding and Content-Length together are a smuggling attempt (RFC 9112 §6.1)"
	badHost  = "Host is malformed (RFC 9110 §7.2)"
	only11   = "this server speaks HTTP/1.1"
	noTLS    = "this port speaks plain HTTP: use ws:// or http://, or put a TLS proxy before it"
	noH2     = "this port speaks HTTP/1.1, not HTTP/2: let the proxy use HTTP/1.1 to its backends"
	http10   = "HTTP/1.0 can not upgrade to a WebSocket: a proxy in front must speak HTTP/1.1 (nginx: proxy_http_version 1.1)"
	http09   = "the request line has no version, as in HTTP/0.9: this server speaks HTTP/1.1"
)

func twice(name string) string {
	return "there is more than one " + name + " header (RFC 9110 §5.3)"
}

// clientHello is the beginning of what curl sends to an https port.
const clientHello = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + "0123456789abcdef0123456789abcdef" + "\x20"

var refusedHeads = []struct {
	rule, head string
	status     int
	code       wire.Code
	reason     string
}{
	{"RFC 9112 §6.1: Content-Length and Transfer-Encoding", get("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n", 400, wire.BadRequest, smuggle},
	{"RFC 9112 §6.1: Transfer-Encoding and Content-Length", get("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"), 400, wire.BadRequest, smuggle},
	{"RFC 9112 §6: a chunked body", get("Transfer-Encoding: chunked\r\n") + "0\r\n\r\n", 400, wire.BadRequest, noCoding},
	{"RFC 9112 §6.1: an obscured transfer coding", get("Transfer-Encoding: xchunked\r\n"), 400, wire.BadRequest, noCoding},
	{"RFC 9112 §6.1: a transfer coding behind a tab", get("Transfer-Encoding:\tchunked\r\n"), 400, wire.BadRequest, noCoding},
	{"RFC 9112 §6.1: an empty transfer coding", get("Transfer-Encoding:\r\n"), 400, wire.BadRequest, noCoding},
	{"RFC 9112 §6.1: a transfer coding in odd case", get("tRANSFER-eNCODING: identity\r\n"), 400, wire.BadRequest, noCoding},
	{"RFC 9112 §6.2: a body", get("Content-Length: 5\r\n") + "hello", 400, wire.BadRequest, noBody},
	{"RFC 9112 §6.3: two Content-Length", get("Content-Length: 0\r\nContent-Length: 5\r\n"), 400, wire.BadRequest, twice("Content-Length")},
	{"RFC 9112 §6.3: two equal Content-Length", get("Content-Length: 0\r\nContent-Length: 0\r\n"), 400, wire.BadRequest, twice("Content-Length")},
	{"RFC 9112 §6.3: a list in Content-Length", get("Content-Length: 0, 0\r\n"), 400, wire.BadRequest, noBody},
	{"RFC 9110 §8.6: a signed Content-Length", get("Content-Length: +0\r\n"), 400, wire.BadRequest, noBody},
	{"RFC 9110 §8.6: a negative Content-Length", get("Content-Length: -1\r\n"), 400, wire.BadRequest, noBody},
	{"RFC 9110 §8.6: a hexadecimal Content-Length", get("Content-Length: 0x0\r\n"), 400, wire.BadRequest, noBody},
	{"RFC 9110 §8.6: an empty Content-Length", get("Content-Length:\r\n"), 400, wire.BadRequest, noBody},

	{"RFC 9112 §6.3: a chunked body where a body may be", post("Transfer-Encoding: chunked\r\n") + "0\r\n\r\n", 411, wire.LengthRequired, noLength},
	{"RFC 9112 §6.1: both where a body may be", post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n") + "0\r\n\r\n", 400, wire.BadRequest, smuggle},
	{"RFC 9112 §6.3: two lengths where a body may be", post("Content-Length: 5\r\nContent-Length: 6\r\n") + "hello", 400, wire.BadRequest, twice("Content-Length")},
	{"RFC 9112 §6.3: a list of lengths", post("Content-Length: 5, 5\r\n") + "hello", 400, wire.BadRequest, badLength},
	{"RFC 9110 §8.6: a signed length", post("Content-Length: +5\r\n") + "hello", 400, wire.BadRequest, badLength},
	{"RFC 9110 §8.6: a negative length", post("Content-Length: -5\r\n"), 400, wire.BadRequest, badLength},
	{"RFC 9110 §8.6: a hexadecimal length", post("Content-Length: 0x5\r\n") + "hello", 400, wire.BadRequest, badLength},
	{"RFC 9110 §8.6: a length with a leading zero", post("Content-Length: 05\r\n") + "hello", 400, wire.BadRequest, badLength},
	{"RFC 9110 §8.6: an empty length", post("Content-Length:\r\n"), 400, wire.BadRequest, badLength},
	{"RFC 9110 §8.6: a length beyond all bounds", post("Content-Length: 9999999999999999999\r\n"), 400, wire.BadRequest, badLength},
	{"a body of another method", strings.Replace(post("Content-Length: 5\r\n"), "POST", "PUT", 1) + "hello", 400, wire.BadRequest, noBody},
	{"a body of a GET", strings.Replace(post("Content-Length: 5\r\n"), "POST", "GET", 1) + "hello", 400, wire.BadRequest, noBody},
	{"a body of a method in lower case", strings.Replace(post("Content-Length: 5\r\n"), "POST", "post", 1) + "hello", 400, wire.BadRequest, noBody},
	{"a body on a path that only looks alike", strings.Replace(post("Content-Length: 5\r\n"), "/v1/rooms/", "/v1%2frooms/", 1) + "hello", 400, wire.BadRequest, noBody},

	{"RFC 9112 §2.2: a bare LF after the request line", "GET / HTTP/1.1\n" + ok, 400, wire.BadRequest, bareLF},
	{"RFC 9112 §2.2: a bare LF after a header", "GET / HTTP/1.1\r\nA: b\n" + ok, 400, wire.BadRequest, bareLF},
	{"RFC 9112 §2.2: bare LFs alone", "GET / HTTP/1.1\nHost: a\n\n", 400, wire.BadRequest, bareLF},
	{"RFC 9112 §2.2: an empty line of a bare LF", "GET / HTTP/1.1\r\nHost: a\r\n\n", 400, wire.BadRequest, "a line does not end with CRLF (RFC 9112 §2.2)"},
	{"RFC 9112 §2.2: a bare CR in a value", get("A: b\rContent-Length: 5\r\n"), 400, wire.BadRequest, bareCR},
	{"RFC 9112 §2.2: a bare CR in a name", get("A\rB: c\r\n"), 400, wire.BadRequest, bareCR},
	{"RFC 9112 §2.2: a bare CR in the request line", "GET /\r HTTP/1.1\r\n" + ok, 400, wire.BadRequest, bareCR},
	{"RFC 9112 §2.2: CR CR LF", get("A: b\r\r\n"), 400, wire.BadRequest, bareCR},
	{"RFC 9112 §2.2: white space before the first header", "GET / HTTP/1.1\r\n Host: a\r\n" + ok, 400, wire.BadRequest, fold},
	{"RFC 9112 §2.2: an empty line before the request line, where nothing was before it", "\r\nGET / HTTP/1.1\r\n" + ok, 400, wire.BadRequest, badLine},
	{"RFC 9112 §5.2: obs-fold with a space", get("A: b\r\n c\r\n"), 400, wire.BadRequest, fold},
	{"RFC 9112 §5.2: obs-fold with a tab", get("A: b\r\n\tc\r\n"), 400, wire.BadRequest, fold},
	{"RFC 9112 §5.2: obs-fold that hides a body", get("A: b\r\n Content-Length: 5\r\n"), 400, wire.BadRequest, fold},
	{"RFC 9112 §5.1: a space before the colon", get("Content-Length : 5\r\n"), 400, wire.BadRequest, badName},
	{"RFC 9112 §5.1: a tab before the colon", get("Transfer-Encoding\t: chunked\r\n"), 400, wire.BadRequest, badName},
	{"RFC 9112 §5: no colon", get("nonsense\r\n"), 400, wire.BadRequest, noName},
	{"RFC 9112 §5: no name", get(": b\r\n"), 400, wire.BadRequest, noName},
	{"RFC 9110 §5.1: NUL in a name", get("A\x00B: c\r\n"), 400, wire.BadRequest, badName},
	{"RFC 9110 §5.1: a name that is not ASCII", get("Höst: c\r\n"), 400, wire.BadRequest, badName},
	{"RFC 9110 §5.1: delimiters in a name", get("A(B): c\r\n"), 400, wire.BadRequest, badName},
	{"RFC 9110 §5.5: NUL in a value", get("A: b\x00c\r\n"), 400, wire.BadRequest, "header A holds a control character (RFC 9110 §5.5)"},
	{"RFC 9110 §5.5: ESC in a value", get("A: b\x1bc\r\n"), 400, wire.BadRequest, "header A holds a control character (RFC 9110 §5.5)"},
	{"RFC 9110 §5.5: DEL in a value", get("A: b\x7fc\r\n"), 400, wire.BadRequest, "header A holds a control character (RFC 9110 §5.5)"},

	{"RFC 9112 §3.2: no Host", "GET / HTTP/1.1\r\nA: b\r\n\r\n", 400, wire.BadRequest, "there is no Host header (RFC 9112 §3.2)"},
	{"RFC 9112 §3.2: no header at all", "GET / HTTP/1.1\r\n\r\n", 400, wire.BadRequest, "there is no Host header (RFC 9112 §3.2)"},
	{"RFC 9112 §3.2: two Hosts", get("Host: evil.example\r\n"), 400, wire.BadRequest, twice("Host")},
	{"RFC 9112 §3.2: two equal Hosts", get("host: example.com\r\n"), 400, wire.BadRequest, twice("Host")},
	{"RFC 9110 §7.2: a list of Hosts", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400, wire.BadRequest, badHost},
	{"RFC 9110 §7.2: Host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, wire.BadRequest, badHost},
	{"RFC 9110 §7.2: Host with userinfo", "GET / HTTP/1.1\r\nHost: me@a\r\n\r\n", 400, wire.BadRequest, badHost},
	{"RFC 9110 §7.2: Host with a scheme", "GET / HTTP/1.1\r\nHost: http://a\r\n\r\n", 400, wire.BadRequest, badHost},
	{"RFC 9110 §7.2: Host with a port that is no number", "GET / HTTP/1.1\r\nHost: a:http\r\n\r\n", 400, wire.BadRequest, badHost},
	{"RFC 9110 §7.2: Host with two ports", "GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", 400, wire.BadRequest, badHost},
	{"RFC 9110 §7.2: Host with a port too long", "GET / HTTP/1.1\r\nHost: a:123456\r\n\r\n", 400, wire.BadRequest, badHost},
	{"RFC 3986 §3.2.2: an open IP literal", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400, wire.BadRequest, badHost},
	{"RFC 3986 §3.2.2: an IP literal that is none", "GET / HTTP/1.1\r\nHost: [zz]\r\n\r\n", 400, wire.BadRequest, badHost},
	{"RFC 3986 §3.2.2: IPv4 in brackets", "GET / HTTP/1.1\r\nHost: [127.0.0.1]\r\n\r\n", 400, wire.BadRequest, badHost},
	{"RFC 3986 §3.2.2: text behind an IP literal", "GET / HTTP/1.1\r\nHost: [::1]a\r\n\r\n", 400, wire.BadRequest, badHost},
	{"RFC 9110 §7.2: Host that is not ASCII", "GET / HTTP/1.1\r\nHost: b\xc3\xbccher.example\r\n\r\n", 400, wire.BadRequest, badHost},
	{"RFC 6454 §7: two Origins", get("Origin: https://a\r\nOrigin: https://b\r\n"), 400, wire.BadRequest, twice("Origin")},
	{"RFC 9110 §11.6.2: two Authorizations", get("Authorization: Bearer a\r\nAuthorization: Bearer b\r\n"), 400, wire.BadRequest, twice("Authorization")},
	{"RFC 6455 §11.3.1: two keys", get("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), 400, wire.BadRequest, twice("Sec-WebSocket-Key")},
	{"RFC 6455 §11.3.5: two versions", get("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 8\r\n"), 400, wire.BadRequest, twice("Sec-WebSocket-Version")},

	{"RFC 9112 §3.2.2: absolute-form with another host", "GET http://evil.example/ws HTTP/1.1\r\n" + ok, 400, wire.BadRequest, "Host is not the host of the request target (RFC 9112 §3.2.2)"},
	{"RFC 9112 §3.2.2: absolute-form without a host", "GET http:///ws HTTP/1.1\r\nHost:\r\n\r\n", 400, wire.BadRequest, "the request target has no valid host (RFC 9110 §4.2.1)"},
	{"RFC 9110 §4.2.4: absolute-form with userinfo", "GET http://me@example.com/ws HTTP/1.1\r\n" + ok, 400, wire.BadRequest, "the request target has no valid host (RFC 9110 §4.2.1)"},
	{"RFC 9112 §3.2.2: absolute-form of another scheme", "GET ftp://example.com/ws HTTP/1.1\r\n" + ok, 400, wire.BadRequest, badTgt},
	{"RFC 9112 §3.2.3: authority-form", "CONNECT example.com:443 HTTP/1.1\r\n" + ok, 400, wire.BadRequest, badTgt},
	{"RFC 9112 §3.2.4: asterisk-form of GET", "GET * HTTP/1.1\r\n" + ok, 400, wire.BadRequest, "only OPTIONS has the target * (RFC 9112 §3.2.4)"},
	{"RFC 9112 §3.2.4: asterisk-form with a tail", "OPTIONS *x HTTP/1.1\r\n" + ok, 400, wire.BadRequest, badTgt},
	{"RFC 9112 §3.2.1: a relative path", "GET ws HTTP/1.1\r\n" + ok, 400, wire.BadRequest, badTgt},
	{"RFC 9112 §3.2: a fragment", "GET /ws#a HTTP/1.1\r\n" + ok, 400, wire.BadRequest, badChar},
	{"RFC 9112 §3.2: a target that is not ASCII", "GET /wß HTTP/1.1\r\n" + ok, 400, wire.BadRequest, badChar},
	{"RFC 9112 §3.2: NUL in the target", "GET /a\x00b HTTP/1.1\r\n" + ok, 400, wire.BadRequest, badChar},
	{"RFC 9112 §3.2: a tab in the target", "GET /a\tb HTTP/1.1\r\n" + ok, 400, wire.BadRequest, badChar},
	{"RFC 3986 §2.1: a bad escape in the path", "GET /a%zz HTTP/1.1\r\n" + ok, 400, wire.BadRequest, badPct},
	{"RFC 3986 §2.1: a cut escape in the path", "GET /a%2 HTTP/1.1\r\n" + ok, 400, wire.BadRequest, badPct},

	{"RFC 9112 §3: a space in the target", "GET /a b HTTP/1.1\r\n" + ok, 400, wire.BadRequest, badVer},
	{"RFC 9112 §3: two spaces before the target", "GET  / HTTP/1.1\r\n" + ok, 400, wire.BadRequest, badLine},
	{"RFC 9112 §3: two spaces before the version", "GET /  HTTP/1.1\r\n" + ok, 400, wire.BadRequest, badVer},
	{"RFC 9112 §3: a space before the method", " GET / HTTP/1.1\r\n" + ok, 400, wire.BadRequest, badLine},
	{"RFC 9112 §3: a tab between the parts", "GET\t/ HTTP/1.1\r\n" + ok, 400, wire.BadRequest, noMethod},
	{"RFC 9112 §3: a space behind the version", "GET / HTTP/1.1 \r\n" + ok, 400, wire.BadRequest, badVer},
	{"RFC 9112 §3: a method alone", "GET\r\n" + ok, 400, wire.BadRequest, badLine},
	{"RFC 9110 §9.1: a method that is no token", "G(T / HTTP/1.1\r\n" + ok, 400, wire.BadRequest, noMethod},
	{"RFC 9110 §9.1: NUL in the method", "GE\x00T / HTTP/1.1\r\n" + ok, 400, wire.BadRequest, noMethod},
	{"RFC 9110 §9.1: a method longer than any", strings.Repeat("A", 21) + " / HTTP/1.1\r\n" + ok, 400, wire.BadRequest, "the method is not one this server knows (RFC 9110 §9.1)"},
	{"RFC 9112 §2.3: HTTP/1.0", "GET / HTTP/1.0\r\n" + ok, 505, wire.HTTPVersion, http10},
	{"RFC 9112 §2.3: HTTP/1.0 without Host", "GET / HTTP/1.0\r\n\r\n", 505, wire.HTTPVersion, http10},
	{"RFC 9112 §2.3: HTTP/2.0 in the request line", "GET / HTTP/2.0\r\n" + ok, 505, wire.HTTPVersion, only11},
	{"RFC 9112 §2.3: HTTP/0.9 in the request line", "GET / HTTP/0.9\r\n" + ok, 505, wire.HTTPVersion, only11},
	{"RFC 9112 §2.3: HTTP/0.9, which has one line", "GET /\r\n", 505, wire.HTTPVersion, http09},
	{"RFC 9112 §2.3: a version in lower case", "GET / http/1.1\r\n" + ok, 400, wire.BadRequest, badVer},
	{"RFC 9112 §2.3: another protocol", "GET / RTSP/1.0\r\n" + ok, 400, wire.BadRequest, badVer},
	{"RFC 9112 §2.3: a version of letters", "GET / HTTP/a.b\r\n" + ok, 400, wire.BadRequest, badVer},
	{"RFC 9112 §2.3: a long version", "GET / HTTP/1.10\r\n" + ok, 400, wire.BadRequest, badVer},
	{"RFC 9113 §3.4: the HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, wire.HTTPVersion, noH2},
	{"RFC 8446 §4.1.2: a TLS ClientHello", clientHello, 400, wire.TLSOnPlainPort, noTLS},
	{"garbage without an end", "\xde\xad\xbe\xef", 400, wire.BadRequest, noMethod},
	{"RFC 6585 §5: a line too long", "GET /" + strings.Repeat("a", 8<<10) + " HTTP/1.1\r\n" + ok, 431, wire.HeadTooLarge, tooBig},
	{"RFC 6585 §5: a value too long", get("A: " + strings.Repeat("b", 8<<10) + "\r\n"), 431, wire.HeadTooLarge, tooBig},
	{"RFC 6585 §5: a head without an end", "GET / HTTP/1.1\r\n" + strings.Repeat("A: b\r\n", 1400), 431, wire.HeadTooLarge, tooBig},
	{"RFC 6585 §5: a line without an end", "GET /" + strings.Repeat("a", 8<<10), 431, wire.HeadTooLarge, tooBig},
	{"RFC 6585 §5: too many headers", get(strings.Repeat("A: b\r\n", 100)), 431, wire.HeadTooLarge, "the request head has more than 100 header lines"},
}

// parse gives a head to Parse in chops of n bytes, as the handshake does.
func parse(head string, n, limit int) (*Head, int, error) {
	h, from := new(Head), 0
	for end := min(n, len(head)); ; end = min(end+n, len(head)) {
		size, err := h.Parse([]byte(head[:end]), from, limit)
		if !errors.Is(err, ErrMore) || end == len(head) {
			return h, size, err
		}
		from = end
	}
}

func TestRefusedHeads(t *testing.T) {
	s := serve(t, Limits{})
	for _, r := range refusedHeads {
		t.Run(r.rule, func(t *testing.T) {
			s.t = t
			before := s.refused(r.code)
			a := s.ask(r.head)
			code, reason := a.refusal(t)
			if a.status != r.status || code != string(r.code) || reason != r.reason {
				t.Errorf("got  %d %s %q\nwant %d %s %q", a.status, code, reason, r.status, r.code, r.reason)
			}
			if a.rest != "" {
				t.Errorf("bytes behind the answer: %q", a.rest)
			}
			until(t, "the refusal is counted", func() bool { return s.refused(r.code) == before+1 })
			// However it arrives, the code is the same.
			for _, n := range []int{1, 2, 3, 7, 61} {
				_, _, err := parse(r.head, n, 8<<10)
				var e *wire.Error
				if !errors.As(err, &e) || e.Code != r.code {
					t.Errorf("in chops of %d: %v", n, err)
				}
			}
		})
	}
	select {
	case seen := <-s.served:
		t.Errorf("the router saw %q", seen)
	default:
	}
}

func TestAcceptedHeads(t *testing.T) {
	for _, a := range []struct{ rule, head, method, path, host string }{
		{"RFC 9112 §3.2.1: origin-form", "GET /ws?room=a HTTP/1.1\r\n" + ok, "GET", "/ws", "example.com"},
		{"RFC 9112 §3.2.1: an escaped path stays escaped", "GET /%77s HTTP/1.1\r\n" + ok, "GET", "/%77s", "example.com"},
		{"RFC 9112 §3.2.1: two slashes are a path", "GET //evil.example/ws HTTP/1.1\r\n" + ok, "GET", "//evil.example/ws", "example.com"},
		{"RFC 9112 §3.2.2: absolute-form", "GET http://example.com/ws?room=a HTTP/1.1\r\n" + ok, "GET", "/ws", "example.com"},
		{"RFC 9112 §3.2.2: absolute-form in odd case", "GET HTTP://EXAMPLE.com/ws HTTP/1.1\r\n" + ok, "GET", "/ws", "example.com"},
		{"RFC 9112 §3.2.2: absolute-form without a path", "GET http://example.com HTTP/1.1\r\n" + ok, "GET", "/", "example.com"},
		{"RFC 9112 §3.2.2: absolute-form with a query alone", "GET https://example.com?room=a HTTP/1.1\r\n" + ok, "GET", "/", "example.com"},
		{"RFC 9112 §3.2.4: asterisk-form", "OPTIONS * HTTP/1.1\r\n" + ok, "OPTIONS", "*", "example.com"},
		{"RFC 9112 §3.2: Host may be empty", "GET / HTTP/1.1\r\nHost:\r\n\r\n", "GET", "/", ""},
		{"RFC 9110 §7.2: Host with a port", "GET / HTTP/1.1\r\nHost: a.b:8080\r\n\r\n", "GET", "/", "a.b:8080"},
		{"RFC 9110 §7.2: Host with an empty port", "GET / HTTP/1.1\r\nHost: a:\r\n\r\n", "GET", "/", "a:"},
		{"RFC 3986 §3.2.2: IPv6", "GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", "GET", "/", "[::1]:8080"},
		{"RFC 3986 §3.2.2: an underscore, as in container names", "GET / HTTP/1.1\r\nHost: my_edge\r\n\r\n", "GET", "/", "my_edge"},
		{"RFC 9112 §5.1: white space around a value", "GET / HTTP/1.1\r\nHost:\t \texample.com \t\r\n\r\n", "GET", "/", "example.com"},
		{"RFC 9110 §5.5: bytes above ASCII in a value", get("A: gr\xfc\xdf\r\n"), "GET", "/ws", "example.com"},
		{"RFC 9110 §5.5: an empty value", get("A:\r\n"), "GET", "/ws", "example.com"},
		{"RFC 9110 §5.6.2: every token character in a name", get("!#$%&'*+-.^_`|~09azAZ: b\r\n"), "GET", "/ws", "example.com"},
		{"RFC 9110 §9.1: a method that is not registered", "BREW / HTTP/1.1\r\n" + ok, "BREW", "/", "example.com"},
		{"RFC 9110 §9.1: a method is case-sensitive", "get / HTTP/1.1\r\n" + ok, "get", "/", "example.com"},
		{"RFC 9112 §6.2: Content-Length 0", get("Content-Length: 0\r\n"), "GET", "/ws", "example.com"},
		{"as many headers as there may be", get(strings.Repeat("A: b\r\n", 99)), "GET", "/ws", "example.com"},
		{"a head of exactly the limit", get("A: " + strings.Repeat("b", 8192-len(get("A: \r\n"))) + "\r\n"), "GET", "/ws", "example.com"},
	} {
		t.Run(a.rule, func(t *testing.T) {
			for _, n := range []int{len(a.head), 1, 2, 3, 997} {
				h, size, err := parse(a.head, n, 8<<10)
				if err != nil {
					t.Fatalf("in chops of %d: %v", n, err)
				}
				host, _ := h.Header("host")
				if size != len(a.head) || string(h.Method) != a.method || string(h.Path) != a.path || string(host) != a.host {
					t.Errorf("%d %q %q %q", size, h.Method, h.Path, host)
				}
				if !bytes.Equal(h.Bytes(), []byte(a.head)) {
					t.Errorf("Bytes is %q", h.Bytes())
				}
			}
		})
	}
}

func TestAHeadEndsWhereItsBlankLineEnds(t *testing.T) {
	const first, second = "GET /a HTTP/1.1\r\n" + ok, "GET /b HTTP/1.1\r\n" + ok
	h := new(Head)
	n, err := h.Parse([]byte(first+second), 0, 8<<10)
	if err != nil || n != len(first) || string(h.Path) != "/a" {
		t.Fatalf("%d %v %q", n, err, h.Path)
	}
}

func TestListsOverSeveralLines(t *testing.T) {
	h, _, err := parse(get("Connection: keep-alive ,, close\r\nconnection:\tUpgrade\r\nUpgrade: h2c,WebSocket\r\n"), 1000, 8<<10)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	h.Tokens("Connection", func(token []byte) bool { all = append(all, string(token)); return true })
	if fmt.Sprint(all) != "[keep-alive close Upgrade]" {
		t.Error(all)
	}
	for _, c := range []struct {
		name, token string
		want        bool
	}{{"Connection", "upgrade", true}, {"upgrade", "websocket", true}, {"Connection", "keep", false}, {"Connection", "", false}, {"A", "b", false}} {
		if h.Has(c.name, c.token) != c.want {
			t.Errorf("Has(%q, %q) is not %v", c.name, c.token, c.want)
		}
	}
	if h.Count("connection") != 2 {
		t.Error(h.Count("connection"))
	}
}

func TestQueries(t *testing.T) {
	for _, q := range []struct{ query, name, want string }{
		{"room=a&room=b", "room", "[a b] <nil>"},
		{"room=team+chat%201", "room", "[team chat 1] <nil>"},
		{"%72oom=a", "room", "[a] <nil>"},
		{"room", "room", "[] <nil>"}, // one empty value
		{"roomy=a&xroom=b", "room", "[] <nil>"},
		{"room=%f0%9f%94%94", "room", "[🔔] <nil>"},
		{"&&room=a&", "room", "[a] <nil>"},
		{"room=a=b", "room", "[a=b] <nil>"},
		{"a=%zz&room=b", "room", "[b] <nil>"}, // what nobody reads may be broken
		{"room=%zz", "room", "[] listen: bad percent-encoding"},
		{"room=%a", "room", "[] listen: bad percent-encoding"},
		{"%=a", "room", "[] listen: bad percent-encoding"},
	} {
		h, _, err := parse("GET /ws?"+q.query+" HTTP/1.1\r\n"+ok, 1000, 8<<10)
		if err != nil {
			t.Fatal(err)
		}
		list, err := h.QueryAll(q.name)
		if got := fmt.Sprint(list, err); got != q.want {
			t.Errorf("%s: got %s, want %s", q.query, got, q.want)
		}
	}
}

func TestCookies(t *testing.T) {
	h, _, err := parse(get("Cookie: a=1; nabat_token=x.y.z\r\nCookie: b=\"2\";c=3=3;d\r\n"), 1000, 8<<10)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"a": "1", "nabat_token": "x.y.z", "b": "2", "c": "3=3"} {
		if got, found := h.Cookie(name); got != want || !found {
			t.Errorf("%s is %q", name, got)
		}
	}
	if _, found := h.Cookie("d"); found {
		t.Error("a cookie without = is none")
	}
}
