// Package listen takes strangers: it accepts connections, collects the request
// head without blocking, parses it once and strictly, and lets a router answer.
package listen

import (
	"bytes"
	"errors"
	"fmt"
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

	raw    []byte
	query  []byte
	fields []field
	first  [24]field
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
	if end < 0 && len(buf) <= limit {
		// Refuse now what can not become a head: who floods garbage need not
		// be waited for.
		if i := bytes.IndexByte(buf, '\n'); i >= 0 || len(buf) > 16 {
			if err := plausible(buf); err != nil {
				return 0, err
			}
		}
		return 0, ErrMore
	}
	if end < 0 || end > limit {
		return 0, &wire.Error{Code: wire.HeadTooLarge, Reason: fmt.Sprintf("the request head is larger than %d bytes", limit)}
	}
	*h = Head{raw: buf[:end]}
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

// foreign recognises what is spoken on this port by mistake.
func foreign(buf []byte) error {
	if len(buf) >= 2 && buf[0] == 0x16 && buf[1] == 0x03 {
		return &wire.Error{Code: wire.TLSOnPlainPort, Reason: "this port speaks plain HTTP: use ws:// or http://, or put a TLS proxy before it"}
	}
	if bytes.HasPrefix(buf, []byte("PRI * HTTP/2")) {
		return &wire.Error{Code: wire.HTTPVersion, Reason: "this port speaks HTTP/1.1, not HTTP/2: let the proxy use HTTP/1.1 to its backends"}
	}
	return nil
}

func plausible(buf []byte) error {
	for i, c := range buf[:min(len(buf), 16)] {
		if c == ' ' && i > 0 {
			return nil
		}
		if !isTchar(c) {
			return malformed("the request does not begin with a method (RFC 9110 §9.1)")
		}
	}
	if len(buf) > 16 {
		return malformed("the method is not one this server knows (RFC 9110 §9.1)")
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
	if !ok || !ok2 || len(method) == 0 || len(target) == 0 {
		return malformed("the request line is not METHOD TARGET VERSION with single spaces (RFC 9112 §3)")
	}
	for _, c := range method {
		if !isTchar(c) {
			return malformed("the method is not a token (RFC 9110 §9.1)")
		}
	}
	switch {
	case string(version) == "HTTP/1.1":
	case string(version) == "HTTP/1.0":
		return &wire.Error{Code: wire.HTTPVersion, Reason: "HTTP/1.0 can not upgrade to a WebSocket: a proxy in front must speak HTTP/1.1 (nginx: proxy_http_version 1.1)"}
	case len(version) == 8 && bytes.HasPrefix(version, []byte("HTTP/")):
		return &wire.Error{Code: wire.HTTPVersion, Reason: "this server speaks HTTP/1.1"}
	default:
		return malformed("the HTTP version is malformed (RFC 9112 §2.3)")
	}
	// RFC 9112 §3.2.1: origin-form. The others belong to proxies.
	if target[0] != '/' && !(len(target) == 1 && target[0] == '*') {
		return malformed("the request target must begin with / (RFC 9112 §3.2.1)")
	}
	for _, c := range target {
		if c <= ' ' || c >= 0x7f || c == '#' {
			return malformed("the request target holds a character that must be percent-encoded (RFC 3986 §2)")
		}
	}
	h.Method = method
	h.Path, h.query, _ = bytes.Cut(target, []byte("?"))
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

// check refuses heads that two readers could understand differently.
func (h *Head) check() error {
	var hosts, lengths, encodings int
	var length []byte
	for _, f := range h.fields {
		switch {
		case equalFold(f.name, "Host"):
			hosts++
			if !validHost(f.value) {
				return malformed("Host is malformed (RFC 9110 §7.2)")
			}
		case equalFold(f.name, "Content-Length"):
			lengths++
			length = f.value
		case equalFold(f.name, "Transfer-Encoding"):
			encodings++
		}
	}
	switch {
	case hosts == 0:
		return malformed("there is no Host header (RFC 9112 §3.2)")
	case hosts > 1:
		return malformed("there is more than one Host header (RFC 9112 §3.2)")
	case lengths > 1:
		return malformed("there is more than one Content-Length (RFC 9112 §6.3)")
	case encodings > 0 && lengths > 0:
		return malformed("Transfer-Encoding and Content-Length together are a smuggling attempt (RFC 9112 §6.1)")
	case encodings > 0:
		return malformed("no request here has a body: Transfer-Encoding is refused (RFC 9112 §6)")
	case lengths == 1 && string(length) != "0":
		return malformed("no request here has a body: Content-Length must be absent or 0 (RFC 9112 §6)")
	}
	return nil
}

// validHost accepts host[:port] and refuses what has no place in it.
func validHost(v []byte) bool {
	for _, c := range v {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`/?#@\,"<>{}|^`+"`", c) >= 0 {
			return false
		}
	}
	return true // an empty Host is legal when the authority is empty (RFC 9110 §7.2)
}

func isTchar(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	}
	return strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0 && c != 0
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

// Query is the first value of a query parameter, percent-decoded.
func (h *Head) Query(name string) (value string, ok bool, err error) {
	list, err := h.QueryAll(name)
	if err != nil || len(list) == 0 {
		return "", false, err
	}
	return list[0], true, nil
}

// QueryAll is every value of a query parameter, percent-decoded. A + is a
// space, as browsers' URLSearchParams write it.
func (h *Head) QueryAll(name string) (list []string, err error) {
	for rest, more := h.query, len(h.query) > 0; more; {
		var pair []byte
		pair, rest, more = bytes.Cut(rest, []byte("&"))
		k, v, _ := bytes.Cut(pair, []byte("="))
		key, err := unescape(k)
		if err != nil {
			return nil, err
		}
		if key != name {
			continue
		}
		value, err := unescape(v)
		if err != nil {
			return nil, err
		}
		list = append(list, value)
	}
	return list, nil
}

var errEscape = errors.New("listen: bad percent-encoding")

func unescape(b []byte) (string, error) {
	if !bytes.ContainsAny(b, "%+") {
		return string(b), nil
	}
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '+':
			out = append(out, ' ')
		case '%':
			if i+2 >= len(b) {
				return "", errEscape
			}
			hi, lo := unhex(b[i+1]), unhex(b[i+2])
			if hi < 0 || lo < 0 {
				return "", errEscape
			}
			out = append(out, byte(hi<<4|lo))
			i += 2
		default:
			out = append(out, b[i])
		}
	}
	return string(out), nil
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// Cookie is the value of a cookie (RFC 6265 §5.4).
func (h *Head) Cookie(name string) (string, bool) {
	for _, f := range h.fields {
		if !equalFold(f.name, "Cookie") {
			continue
		}
		for rest, more := f.value, true; more; {
			var pair []byte
			pair, rest, more = bytes.Cut(rest, []byte(";"))
			k, v, ok := bytes.Cut(bytes.TrimSpace(pair), []byte("="))
			if ok && string(k) == name {
				return string(bytes.Trim(v, `"`)), true
			}
		}
	}
	return "", false
}
