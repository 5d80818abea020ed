// Package listen takes strangers: it accepts connections, collects the request
// head without blocking, parses it once and strictly, and lets a router answer.
package listen

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"nabat/proto/wire"
)

// ErrMore is returned by Parse while the head is not complete.
var ErrMore = errors.New("listen: the request head is not complete")

// maxFields bounds the field lines of one head.
const maxFields = 100

// Head is one request head (RFC 9112 §2.1). Its slices alias what was parsed.
type Head struct {
	Method []byte
	Path   []byte // of the target, not decoded
	Length int64  // of the body behind the head; -1 where the request does not say

	raw       []byte
	authority []byte // of a target in absolute-form
	query     []byte
	fields    []field
	first     [24]field
}

type field struct{ name, value []byte }

// Bytes is the whole head with its blank line.
func (h *Head) Bytes() []byte { return h.raw }

// Parse reads a head from the beginning of buf. from is how many bytes an
// earlier call that returned ErrMore has seen; limit bounds the head in bytes.
// It returns the head's length. Errors other than ErrMore are *wire.Error.
func (h *Head) Parse(buf []byte, from, limit int) (int, error) {
	if err := foreign(buf); err != nil {
		return 0, err
	}
	end := endOfHead(buf, max(from-3, 0))
	if end < 0 {
		// Refuse now what can not become a head: nobody waits out a flood of
		// garbage, and HTTP/0.9 sends nothing behind its one line.
		if err := plausible(buf, from); err != nil {
			return 0, err
		}
		if len(buf) <= limit {
			return 0, ErrMore
		}
	}
	if end < 0 || end > limit {
		return 0, &wire.Error{Code: wire.HeadTooLarge, Reason: fmt.Sprintf("the request head is larger than %d bytes", limit)}
	}
	*h = Head{raw: buf[:end], Length: -1}
	h.fields = h.first[:0]
	if err := h.parse(buf[: end-2 : end-2]); err != nil {
		return 0, err
	}
	return end, nil
}

// endOfHead is the index behind the first empty line, −1 when there is none. A
// bare LF is found too, so that it is refused rather than waited out.
func endOfHead(buf []byte, from int) int {
	for i := from; ; i++ {
		n := bytes.IndexByte(buf[i:], '\n')
		if n < 0 {
			return -1
		}
		i += n
		switch rest := buf[i+1:]; {
		case len(rest) >= 2 && rest[0] == '\r' && rest[1] == '\n':
			return i + 3
		case len(rest) >= 1 && rest[0] == '\n':
			return i + 2
		}
	}
}

// tlsHandshake is the first byte that a TLS client sends (RFC 8446 §5.1).
const tlsHandshake = 0x16

// foreign recognises what is spoken on this port by mistake.
func foreign(buf []byte) error {
	if len(buf) >= 2 && buf[0] == tlsHandshake && buf[1] == 0x03 {
		return &wire.Error{Code: wire.TLSOnPlainPort, Reason: "this port speaks plain HTTP: use ws:// or http://, or put a TLS proxy before it"}
	}
	if is, _ := isProxyHeader(buf); is {
		return &wire.Error{Code: wire.ProxyNotTrusted, Reason: "a PROXY protocol header arrived from where none is taken: set proxy_protocol, and name the proxy in trusted_proxies"}
	}
	if bytes.HasPrefix(buf, []byte("PRI * HTTP/2")) {
		return &wire.Error{Code: wire.HTTPVersion, Reason: "this port speaks HTTP/1.1, not HTTP/2: let the proxy use HTTP/1.1 to its backends"}
	}
	return nil
}

// plausible checks the method, and the request line once it is whole. from is
// how much of buf passed before.
func plausible(buf []byte, from int) error {
	if len(buf) == 1 && buf[0] == tlsHandshake {
		return nil // the next byte tells
	}
	if i := bytes.IndexByte(buf, '\n'); i >= from {
		line, _, err := cutLine(buf[:i+1])
		if err != nil {
			return err
		}
		return new(Head).requestLine(line)
	} else if i >= 0 {
		return nil
	}
	method, _, _ := bytes.Cut(buf[:min(len(buf), maxMethod+1)], []byte(" "))
	return checkMethod(method)
}

// maxMethod is longer than every registered method (RFC 9110 §16.1).
const maxMethod = 20

func checkMethod(method []byte) error {
	if len(method) > maxMethod {
		return malformed("the method is not one this server knows (RFC 9110 §9.1)")
	}
	for _, c := range method {
		if !isTchar(c) {
			return malformed("the request does not begin with a method (RFC 9110 §9.1)")
		}
	}
	return nil
}

func malformed(format string, args ...any) *wire.Error {
	return &wire.Error{Code: wire.BadRequest, Reason: fmt.Sprintf(format, args...)}
}

// parse reads the lines of a head without its blank line.
func (h *Head) parse(b []byte) error {
	line, rest, err := cutLine(b)
	if err != nil {
		return err
	}
	if err := h.requestLine(line); err != nil {
		return err
	}
	for len(rest) > 0 {
		if line, rest, err = cutLine(rest); err != nil {
			return err
		}
		if err := h.fieldLine(line); err != nil {
			return err
		}
	}
	return h.check()
}

// cutLine takes one line. RFC 9112 §2.2: a recipient may accept a bare LF; a
// strict one refuses it, since others on the way may read it differently.
func cutLine(b []byte) (line, rest []byte, err error) {
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		return nil, nil, malformed("a line does not end with CRLF (RFC 9112 §2.2)")
	}
	if i == 0 || b[i-1] != '\r' {
		return nil, nil, malformed("a line ends with a bare LF (RFC 9112 §2.2)")
	}
	line = b[:i-1]
	if bytes.IndexByte(line, '\r') >= 0 {
		return nil, nil, malformed("a line holds a bare CR (RFC 9112 §2.2)")
	}
	return line, b[i+1:], nil
}

// requestLine: method SP target SP version (RFC 9112 §3).
func (h *Head) requestLine(line []byte) error {
	method, rest, ok := bytes.Cut(line, []byte(" "))
	target, version, ok2 := bytes.Cut(rest, []byte(" "))
	if !ok || len(method) == 0 || len(target) == 0 {
		return malformed("the request line is not METHOD TARGET VERSION with single spaces (RFC 9112 §3)")
	}
	if err := checkMethod(method); err != nil {
		return err
	}
	if !ok2 {
		return &wire.Error{Code: wire.HTTPVersion, Reason: "the request line has no version, as in HTTP/0.9: this server speaks HTTP/1.1"}
	}
	if err := checkVersion(string(version)); err != nil {
		return err
	}
	h.Method = method
	return h.target(target)
}

func checkVersion(v string) error {
	switch {
	case v == "HTTP/1.1":
		return nil
	case v == "HTTP/1.0":
		return &wire.Error{Code: wire.HTTPVersion, Reason: "HTTP/1.0 can not upgrade to a WebSocket: a proxy in front must speak HTTP/1.1 (nginx: proxy_http_version 1.1)"}
	case len(v) == 8 && strings.HasPrefix(v, "HTTP/") && isDigit(v[5]) && v[6] == '.' && isDigit(v[7]):
		return &wire.Error{Code: wire.HTTPVersion, Reason: "this server speaks HTTP/1.1"}
	}
	return malformed("the HTTP version is malformed (RFC 9112 §2.3)")
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// target reads the request target (RFC 9112 §3.2). CONNECT's authority-form
// belongs to proxies.
func (h *Head) target(t []byte) error {
	for _, c := range t {
		if c <= ' ' || c >= 0x7f || c == '#' {
			return malformed("the request target holds a character that must be percent-encoded (RFC 3986 §2)")
		}
	}
	if t[0] != '/' && string(t) != "*" {
		// §3.2.2: a server must take the absolute-form too.
		scheme, rest, _ := bytes.Cut(t, []byte("://"))
		if !equalFold(scheme, "http") && !equalFold(scheme, "https") {
			return malformed("the request target must begin with / (RFC 9112 §3.2.1)")
		}
		n := bytes.IndexAny(rest, "/?")
		if n < 0 {
			n = len(rest)
		}
		h.authority, t = rest[:n], rest[n:]
		if len(h.authority) == 0 || !validHost(h.authority) {
			return malformed("the request target has no valid host (RFC 9110 §4.2.1)")
		}
	}
	h.Path, h.query, _ = bytes.Cut(t, []byte("?"))
	switch {
	case len(h.Path) == 0:
		h.Path = []byte("/")
	case h.Path[0] == '*' && string(h.Method) != "OPTIONS":
		return malformed("only OPTIONS has the target * (RFC 9112 §3.2.4)")
	}
	if _, err := unescape(h.Path); err != nil {
		return malformed("the path holds a %% that is not followed by two hexadecimal digits (RFC 3986 §2.1)")
	}
	return nil
}

// fieldLine: name ":" OWS value OWS (RFC 9112 §5).
func (h *Head) fieldLine(line []byte) error {
	if len(line) > 0 && (line[0] == ' ' || line[0] == '\t') {
		return malformed("a header line begins with white space: folding is obsolete (RFC 9112 §5.2)")
	}
	name, value, ok := bytes.Cut(line, []byte(":"))
	if !ok || len(name) == 0 {
		return malformed("a header line has no name before a colon (RFC 9112 §5)")
	}
	for _, c := range name {
		if !isTchar(c) {
			return malformed("a header name holds a character that is not allowed, such as a space before the colon (RFC 9112 §5.1)")
		}
	}
	value = bytes.Trim(value, " \t")
	for _, c := range value {
		if (c < ' ' && c != '\t') || c == 0x7f {
			return malformed("header %s holds a control character (RFC 9110 §5.5)", name)
		}
	}
	if len(h.fields) == maxFields {
		return &wire.Error{Code: wire.HeadTooLarge, Reason: fmt.Sprintf("the request head has more than %d header lines", maxFields)}
	}
	h.fields = append(h.fields, field{name, value})
	return nil
}

// singletons are the headers that a client says once. Two of them are two
// opinions, and what stands between may follow the other one (RFC 9110 §5.3).
var singletons = [...]string{"Host", "Content-Length", "Origin", "Authorization", "Sec-WebSocket-Key", "Sec-WebSocket-Version"}

// check refuses heads that two readers could understand differently.
func (h *Head) check() error {
	var counts [len(singletons)]int
	for _, f := range h.fields {
		for i, name := range singletons {
			if equalFold(f.name, name) {
				if counts[i]++; counts[i] > 1 {
					return malformed("there is more than one %s header (RFC 9110 §5.3)", name)
				}
			}
		}
	}
	host, ok := h.Header("Host")
	length, sized := h.Header("Content-Length")
	_, coded := h.Header("Transfer-Encoding")
	switch {
	case !ok:
		return malformed("there is no Host header (RFC 9112 §3.2)")
	case !validHost(host):
		return malformed("Host is malformed (RFC 9110 §7.2)")
	case h.authority != nil && !equalFold(h.authority, string(host)):
		return malformed("Host is not the host of the request target (RFC 9112 §3.2.2)")
	case coded && sized:
		return malformed("Transfer-Encoding and Content-Length together are a smuggling attempt (RFC 9112 §6.1)")
	case coded && h.mayHaveBody():
		return &wire.Error{Code: wire.LengthRequired, Reason: "the body needs a Content-Length: Transfer-Encoding is refused (RFC 9112 §6.3)"}
	case coded:
		return malformed("no request here has a body: Transfer-Encoding is refused (RFC 9112 §6)")
	case sized && string(length) != "0" && !h.mayHaveBody():
		return malformed("no request here has a body: Content-Length must be absent or 0 (RFC 9112 §6)")
	case sized:
		if h.Length, ok = bodyLength(length); !ok {
			return malformed("Content-Length is not a decimal number of bytes (RFC 9110 §8.6)")
		}
	}
	return nil
}

// mayHaveBody reports whether the request is one of those that have a body here.
func (h *Head) mayHaveBody() bool {
	return string(h.Method) == "POST" && bytes.HasPrefix(h.Path, []byte(PublishPath))
}

// validHost accepts uri-host [ ":" port ] without percent-encoding, which no
// host name that can be reached has (RFC 3986 §3.2.2). Empty is legal
// (RFC 9112 §3.2).
func validHost(v []byte) bool {
	port := v
	if len(v) > 0 && v[0] == '[' {
		literal, rest, closed := bytes.Cut(v[1:], []byte("]"))
		if _, err := netip.ParseAddr(string(literal)); err != nil || !closed || bytes.IndexByte(literal, '%') >= 0 || bytes.IndexByte(literal, ':') < 0 {
			return false
		}
		if port = rest; len(rest) > 0 && rest[0] != ':' {
			return false
		}
	} else {
		name, _, _ := bytes.Cut(v, []byte(":"))
		for _, c := range name {
			if !isAlphanumeric(c) && strings.IndexByte("-._~!$&'()*+,;=", c) < 0 {
				return false
			}
		}
		port = v[len(name):]
	}
	if len(port) == 0 {
		return true
	}
	for _, c := range port[1:] {
		if !isDigit(c) {
			return false
		}
	}
	return len(port) <= len(":65535")
}

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || isDigit(c)
}

func isTchar(c byte) bool {
	return isAlphanumeric(c) || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

func equalFold(b []byte, s string) bool {
	return len(b) == len(s) && strings.EqualFold(string(b), s)
}

// Header is the value of the first header line of that name.
func (h *Head) Header(name string) ([]byte, bool) {
	for _, f := range h.fields {
		if equalFold(f.name, name) {
			return f.value, true
		}
	}
	return nil, false
}

// Count is the number of header lines of that name.
func (h *Head) Count(name string) (n int) {
	for _, f := range h.fields {
		if equalFold(f.name, name) {
			n++
		}
	}
	return n
}

// Tokens calls fn for every element of a comma-separated header, over all its
// lines (RFC 9110 §5.6.1), until fn returns false.
func (h *Head) Tokens(name string, fn func(token []byte) bool) {
	for _, f := range h.fields {
		if !equalFold(f.name, name) {
			continue
		}
		for rest, more := f.value, true; more; {
			var t []byte
			t, rest, more = bytes.Cut(rest, []byte(","))
			if t = bytes.Trim(t, " \t"); len(t) > 0 && !fn(t) {
				return
			}
		}
	}
}

// Has reports whether a comma-separated header has the token, in any case.
func (h *Head) Has(name, token string) (found bool) {
	h.Tokens(name, func(t []byte) bool {
		found = equalFold(t, token)
		return !found
	})
	return found
}
