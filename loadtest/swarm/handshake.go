package swarm

import (
	"bytes"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// maxHead bounds a server's answer to the handshake, in bytes.
const maxHead = 16 << 10

// The example key of RFC 6455 §1.3, whose answer is known. One key for all
// clients keeps SHA-1 out of the load generator; servers may not care.
const (
	key    = "dGhlIHNhbXBsZSBub25jZQ=="
	accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// Address is a target as a swarm dials it.
type Address struct {
	Host string // for the Host header
	IP   net.IP
	Port int
	TLS  bool
	Path string // with the query
}

// Resolve reads the URL of a target: ws://HOST:PORT/PATH, wss:// for TLS,
// http:// and https:// for the same, or HOST:PORT. A missing path is left as "".
func Resolve(target string) (Address, error) {
	text := target
	if !strings.Contains(text, "://") {
		text = "ws://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return Address{}, fmt.Errorf("target %q is not a URL: %w", target, err)
	}
	port := u.Port()
	switch u.Scheme {
	case "ws", "http":
		if port == "" {
			port = "80"
		}
	case "wss", "https":
		if port == "" {
			port = "443"
		}
	default:
		return Address{}, fmt.Errorf("target %q: the scheme is %q, not ws", target, u.Scheme)
	}
	if u.Hostname() == "" {
		return Address{}, fmt.Errorf("target %q names no host: write ws://HOST:PORT", target)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 {
		return Address{}, fmt.Errorf("target %q: port %q is not 1 to 65535", target, port)
	}
	addresses, err := net.LookupIP(u.Hostname())
	if err != nil {
		return Address{}, fmt.Errorf("target %q: %w", target, err)
	}
	// As it is written: a template may stand in it.
	_, path, _ := strings.Cut(text, u.Scheme+"://"+u.Host)
	return Address{Host: u.Host, IP: addresses[0], Port: int(number), TLS: u.Scheme == "wss" || u.Scheme == "https", Path: path}, nil
}

// requestOf is the request of one client.
func (p *Plan) requestOf(host string, client int) []byte {
	path := p.Spread.expand(p.Path, client)
	out := fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n", path, host)
	if p.Events {
		out = append(out, "Accept: text/event-stream\r\n"...)
	} else {
		out = fmt.Appendf(out, "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n", key)
	}
	for _, header := range p.Headers {
		out = append(append(out, p.Spread.expand(header, client)...), "\r\n"...)
	}
	if i := client - p.First; i < len(p.Tokens) {
		out = fmt.Appendf(out, "Authorization: Bearer %s\r\n", p.Tokens[i])
	}
	return append(out, "\r\n"...)
}

// readHead looks at a server's answer. complete is false while the head is
// not all there; rest is what follows the head. The error says what else
// than a WebSocket server answered.
func readHead(in []byte, events bool) (rest []byte, complete bool, err error) {
	const version = "HTTP/1.1 "
	if n := min(len(in), len("HTTP/")); string(in[:n]) != version[:n] {
		return nil, false, fmt.Errorf("the answer is not HTTP: it begins %q", clip(string(in), 40))
	}
	end := bytes.Index(in, []byte("\r\n\r\n"))
	if end < 0 {
		if len(in) > maxHead {
			return nil, false, fmt.Errorf("the answer's head has more than %d bytes", maxHead)
		}
		return nil, false, nil
	}
	head, rest := string(in[:end]), in[end+4:]
	status, headers, _ := strings.Cut(head, "\r\n")
	_, status, _ = strings.Cut(status, " ")
	wanted := "101 Switching Protocols"
	if events {
		wanted = "200 OK"
	}
	if code, _, _ := strings.Cut(status, " "); code != wanted[:3] {
		reason := fmt.Sprintf("the answer is HTTP %s, not %s", clip(status, 40), wanted)
		if body := strings.TrimSpace(string(rest)); body != "" {
			reason += fmt.Sprintf(": %q", clip(body, 120))
		}
		return nil, false, fmt.Errorf("%s", reason)
	}
	if events {
		if strings.Contains(strings.ToLower(headers), "text/event-stream") {
			return rest, true, nil
		}
		return nil, false, fmt.Errorf("the answer is 200, but no text/event-stream")
	}
	// RFC 6455 §4.1: without this very value the client MUST fail the connection.
	for line := range strings.SplitSeq(headers, "\r\n") {
		name, value, _ := strings.Cut(line, ":")
		if strings.EqualFold(name, "Sec-WebSocket-Accept") && strings.TrimSpace(value) == accept {
			return rest, true, nil
		}
	}
	return nil, false, fmt.Errorf("the answer is 101, but its Sec-WebSocket-Accept is not the one for our key: not a WebSocket server")
}
