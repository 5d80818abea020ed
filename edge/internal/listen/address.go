package listen

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"nabat/proto/wire"
)

// ProxyProtocol says whether connections begin with a PROXY protocol header.
type ProxyProtocol uint8

// The modes.
const (
	ProxyOff      ProxyProtocol = iota
	ProxyOptional               // trusted proxies may send one
	ProxyRequired               // only trusted proxies may connect, and each sends one
)

// ParseProxyProtocol reads a mode.
func ParseProxyProtocol(s string) (ProxyProtocol, error) {
	if i := slices.Index([]string{"off", "optional", "required"}, s); i >= 0 {
		return ProxyProtocol(i), nil
	}
	return 0, fmt.Errorf("%q is not off, optional or required", s)
}

// Proxies says whom to believe about a client's address. The zero value
// believes nobody: the address is the peer's.
type Proxies struct {
	Protocol ProxyProtocol
	Trusted  []netip.Prefix
	// Header is X-Forwarded-For or Forwarded, empty for neither. Only one is
	// read: a proxy that writes one passes the other on as the client sent it.
	Header string
}

// ParsePrefix reads a network, or an address as the network of itself alone.
func ParsePrefix(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%q is not an address or a network such as 10.0.0.0/8", s)
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%q is not a network such as 10.0.0.0/8 or 2001:db8::/32", s)
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("%q has bits behind its network: write %s", s, p.Masked())
	}
	return p, nil
}

func (p *Proxies) trusts(a netip.Addr) bool {
	return a.IsValid() && slices.ContainsFunc(p.Trusted, func(n netip.Prefix) bool { return n.Contains(a) })
}

// forwarded is the client that the head names, seen from peer, which is
// trusted: the right-most address that is not a trusted proxy's. What stands
// left of that is the client's own word. Where an entry is no address the chain
// ends, and the proxy behind it is the last that is known.
func (p *Proxies) forwarded(head *Head, peer netip.Addr) netip.Addr {
	client, next := peer, true // next: take the next entry, whoever it is
	entry := func(text []byte) bool {
		switch a := forwardedAddr(text); {
		case !a.IsValid():
			client, next = peer, true
		case next || !p.trusts(a):
			client, next = a, false
		}
		return true
	}
	switch {
	case p.Header == "":
	case equalFold([]byte(p.Header), "Forwarded"):
		for _, f := range head.fields {
			if equalFold(f.name, p.Header) {
				eachFor(f.value, entry)
			}
		}
	default:
		head.Tokens(p.Header, entry)
	}
	return client
}

// forwardedAddr reads an address with or without a port; the zero Addr is what
// is none: "unknown", a made-up name (RFC 7239 §6.3), garbage.
func forwardedAddr(b []byte) netip.Addr {
	s := string(b)
	a, err := netip.ParseAddr(s)
	if err != nil {
		var ap netip.AddrPort
		if ap, err = netip.ParseAddrPort(s); err == nil {
			a = ap.Addr()
		} else if n := len(s); n > 2 && s[0] == '[' && s[n-1] == ']' {
			a, err = netip.ParseAddr(s[1 : n-1])
		}
	}
	if err != nil {
		return netip.Addr{}
	}
	return a.WithZone("").Unmap()
}

// eachFor calls fn with the node of "for" in every element of a Forwarded line
// (RFC 7239 §4), nil where an element has none.
func eachFor(line []byte, fn func(node []byte) bool) {
	var node []byte
	for len(line) > 0 {
		i := pairEnd(line)
		name, value, _ := bytes.Cut(line[:i], []byte("="))
		if equalFold(bytes.Trim(name, " \t"), "for") {
			node = bytes.Trim(value, " \t\"")
		}
		if i == len(line) || line[i] == ',' {
			fn(node)
			node = nil
		}
		line = line[min(i+1, len(line)):]
	}
}

// pairEnd is the index of the first ; or , outside of quotes.
func pairEnd(b []byte) int {
	quoted := false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			quoted = !quoted
		case quoted && c == '\\':
			i++
		case !quoted && (c == ';' || c == ','):
			return i
		}
	}
	return len(b)
}

// Client is the address of the client, as far as it is known: invalid before
// the request has been read where a proxy is to name it.
func (h *Handshake) Client() netip.Addr { return h.client }

// takeProxyHeader reads the PROXY protocol header that may or must come first.
// It reports false while there is nothing behind it to go on with.
func (h *Handshake) takeProxyHeader(b []byte) (rest []byte, ok bool) {
	proxies := &h.acceptor.limits.Proxies
	if is, more := isProxyHeader(b); !is && !more && proxies.Protocol == ProxyOptional {
		h.prelude = false
		return b, true
	}
	p, err := parseProxyHeader(b)
	if err == ErrMore {
		h.keep(b)
		return nil, false
	}
	if err != nil {
		h.refuse(err)
		return nil, false
	}
	h.prelude = false
	if p.source.IsValid() {
		if h.client = p.source; !proxies.trusts(h.client) && !h.sit() {
			return nil, false
		}
	}
	rest = b[p.length:]
	return rest, len(rest) > 0
}

// identify finds the client behind proxies once the head is there. It reports
// false when the client has too many connections.
func (h *Handshake) identify(head *Head) bool {
	if h.seated {
		return true
	}
	h.client = h.acceptor.limits.Proxies.forwarded(head, h.client)
	return h.sit()
}

// sit counts the connection for its client's address, or refuses it.
func (h *Handshake) sit() bool {
	h.seated = true
	if h.acceptor.seat(h) {
		return true
	}
	h.Refuse(h.acceptor.tooMany(h.client))
	return false
}

func (a *Acceptor) tooMany(client netip.Addr) *wire.Error {
	whose := "address " + client.String()
	if a.limits.Proxies.trusts(client) {
		whose += ", a trusted proxy that named no client,"
	}
	return &wire.Error{Code: wire.TooManyConnections, RetryMS: Spread(TooManyRetry),
		Reason: whose + " has as many connections as one may have"}
}
