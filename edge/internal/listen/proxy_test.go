package listen

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"nabat/proto/wire"
)

// v2 writes a version 2 header. The length is that of what follows.
func v2(command, family byte, rest string) string {
	b := append([]byte(proxyV2), 0x20|command, family)
	return string(binary.BigEndian.AppendUint16(b, uint16(len(rest)))) + rest
}

const (
	inet4 = "\xc0\x00\x02\x07\xc0\x00\x02\x08\x12\x34\x00\x50"
	inet6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07" + "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x08" + "\x12\x34\x00\x50"
	tlv   = "\x04\x00\x03abc\x20\x00\x05\x01\x00\x00\x00\x00"
)

var proxyHeaders = []struct{ rule, header, source string }{
	{"version 1, IPv4", "PROXY TCP4 192.0.2.7 192.0.2.8 4660 80\r\n", "192.0.2.7"},
	{"version 1, IPv6", "PROXY TCP6 2001:db8::7 2001:db8::8 4660 80\r\n", "2001:db8::7"},
	{"version 1, IPv4 in IPv6 is IPv4", "PROXY TCP6 ::ffff:192.0.2.7 ::1 1 65535\r\n", "192.0.2.7"},
	{"version 1, unknown", "PROXY UNKNOWN\r\n", ""},
	{"version 1, unknown with whatever follows", "PROXY UNKNOWN ffff::1 not an address\r\n", ""},
	{"version 2, IPv4", v2(1, 0x11, inet4), "192.0.2.7"},
	{"version 2, IPv6", v2(1, 0x21, inet6), "2001:db8::7"},
	{"version 2, type-length-values are skipped", v2(1, 0x11, inet4+tlv), "192.0.2.7"},
	{"version 2, as long as it may be", v2(1, 0x21, inet6+strings.Repeat("x", maxProxyV2-16-36)), "2001:db8::7"},
	{"version 2, LOCAL is the proxy itself", v2(0, 0x11, inet4), ""},
	{"version 2, LOCAL may hold anything", v2(0, 0xFF, "xyz"), ""},
	{"version 2, no family", v2(1, 0x00, tlv), ""},
	{"version 2, UNIX has no IP address", v2(1, 0x31, strings.Repeat("/", 216)), ""},
}

var badProxyHeaders = []struct{ rule, header, reason string }{
	{"a request", "GET / HTTP/1.1\r\n", "does not begin with a header"},
	{"a method that begins like a header", "PROXIES / HTTP/1.1", "does not begin with a header"},
	{"a bare LF", "PROXY TCP4 192.0.2.7 192.0.2.8 4660 80\n", "ends with CRLF"},
	{"a line without an end", "PROXY TCP4 " + strings.Repeat("1", 96), "at most 107 bytes"},
	{"an unknown line without an end", "PROXY UNKNOWN " + strings.Repeat("1", 200), "at most 107 bytes"},
	{"another family", "PROXY UDP4 192.0.2.7 192.0.2.8 4660 80\r\n", "TCP4, TCP6 or UNKNOWN"},
	{"no family", "PROXY \r\n", "TCP4, TCP6 or UNKNOWN"},
	{"too few words", "PROXY TCP4 192.0.2.7 192.0.2.8 4660\r\n", "single spaces"},
	{"two spaces", "PROXY TCP4  192.0.2.7 192.0.2.8 4660 80\r\n", "single spaces"},
	{"an address of the other family", "PROXY TCP4 2001:db8::7 192.0.2.8 4660 80\r\n", "not one of TCP4"},
	{"an address with a zone", "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", "not one of TCP6"},
	{"a destination that is none", "PROXY TCP4 192.0.2.7 example.com 4660 80\r\n", "not one of TCP4"},
	{"a port with a zero before it", "PROXY TCP4 192.0.2.7 192.0.2.8 04660 80\r\n", "not a number"},
	{"a port that is too large", "PROXY TCP4 192.0.2.7 192.0.2.8 65536 80\r\n", "not a number"},
	{"another version", proxyV2 + "\x31\x11\x00\x00", "version 3"},
	{"another command", v2(2, 0x11, inet4), "command 2"},
	{"another family", v2(1, 0x41, inet4), "family 4 with protocol 1"},
	{"a family without a protocol", v2(1, 0x10, inet4), "family 1 with protocol 0"},
	{"a datagram", v2(1, 0x12, inet4), "did not come over TCP"},
	{"addresses that are cut short", v2(1, 0x21, inet4), "have 36 bytes, there are 12"},
	{"a header that is too long, before it arrives", proxyV2 + "\x21\x11\xff\xff", "may have 4096 bytes"},
}

func TestProxyHeaders(t *testing.T) {
	for _, c := range proxyHeaders {
		t.Run(c.rule, func(t *testing.T) {
			for n := range len(c.header) {
				if _, err := parseProxyHeader([]byte(c.header[:n])); err != ErrMore {
					t.Fatalf("%d of %d bytes: %v", n, len(c.header), err)
				}
			}
			p, err := parseProxyHeader([]byte(c.header + "GET /"))
			if err != nil || p.length != len(c.header) {
				t.Fatalf("%d bytes of %d, %v", p.length, len(c.header), err)
			}
			if want, _ := netip.ParseAddr(c.source); p.source != want {
				t.Fatalf("source %v, want %q", p.source, c.source)
			}
		})
	}
}

func TestBadProxyHeadersAreRefusedByName(t *testing.T) {
	for _, c := range badProxyHeaders {
		t.Run(c.rule, func(t *testing.T) {
			_, err := parseProxyHeader([]byte(c.header))
			var e *wire.Error
			if !errors.As(err, &e) || e.Code != wire.BadProxyHeader || !strings.Contains(e.Reason, c.reason) {
				t.Fatalf("%v, want %q", err, c.reason)
			}
		})
	}
}

// FuzzProxyHeader: a header means the same in pieces as whole, whatever its
// end; it is bounded, and what is refused stays so.
func FuzzProxyHeader(f *testing.F) {
	for _, c := range proxyHeaders {
		f.Add([]byte(c.header + "rest"))
	}
	for _, c := range badProxyHeaders {
		f.Add([]byte(c.header))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parseProxyHeader(b)
		if err == ErrMore && len(b) >= maxProxyV2 {
			t.Fatalf("%d bytes, and no decision", len(b))
		}
		if err == nil && (p.length <= 0 || p.length > len(b) || p.length > maxProxyV2) {
			t.Fatalf("%d bytes of %d", p.length, len(b))
		}
		if p.source.Is4In6() || p.source.Zone() != "" {
			t.Fatalf("source %v is not canonical", p.source)
		}
		var first error = ErrMore
		for n := 0; n <= len(b) && first == ErrMore; n++ {
			var q proxied
			if q, first = parseProxyHeader(b[:n:n]); first == nil && (err != nil || q != p || n != p.length) {
				t.Fatalf("accepted %d bytes as %+v; all %d: %+v, %v", n, q, len(b), p, err)
			}
		}
		if (first == nil) != (err == nil) || (first == ErrMore) != (err == ErrMore) {
			t.Fatalf("in pieces: %v; whole: %v", first, err)
		}
	})
}

func TestForwardedClients(t *testing.T) {
	for _, c := range []struct{ rule, header, lines, want string }{
		{"no line: the proxy", "X-Forwarded-For", "", "10.0.0.1"},
		{"one address", "X-Forwarded-For", "X-Forwarded-For: 192.0.2.7", "192.0.2.7"},
		{"the right-most counts: the rest is the client's word", "X-Forwarded-For", "X-Forwarded-For: 1.1.1.1, 192.0.2.7", "192.0.2.7"},
		{"trusted proxies are passed over", "X-Forwarded-For", "X-Forwarded-For: 1.1.1.1, 192.0.2.7, 10.1.1.1 ,10.2.2.2", "192.0.2.7"},
		{"all trusted: the first of them", "X-Forwarded-For", "X-Forwarded-For: 10.3.3.3, 10.2.2.2", "10.3.3.3"},
		{"lines are one list", "X-Forwarded-For", "X-Forwarded-For: 1.1.1.1\r\nx-forwarded-for: 192.0.2.7\r\nX-Forwarded-For: 10.2.2.2", "192.0.2.7"},
		{"no address ends the chain", "X-Forwarded-For", "X-Forwarded-For: 192.0.2.7, unknown, 10.2.2.2", "10.2.2.2"},
		{"no address at the end", "X-Forwarded-For", "X-Forwarded-For: 192.0.2.7, unknown", "10.0.0.1"},
		{"with a port", "X-Forwarded-For", "X-Forwarded-For: 192.0.2.7:4711", "192.0.2.7"},
		{"IPv6", "X-Forwarded-For", "X-Forwarded-For: 2001:db8::7", "2001:db8::7"},
		{"IPv6 in brackets", "X-Forwarded-For", "X-Forwarded-For: [2001:db8::7]", "2001:db8::7"},
		{"IPv6 with a port", "X-Forwarded-For", "X-Forwarded-For: [2001:db8::7]:1", "2001:db8::7"},
		{"IPv4 in IPv6, and trusted", "X-Forwarded-For", "X-Forwarded-For: 192.0.2.7, ::ffff:10.2.2.2", "192.0.2.7"},
		{"the other header is not read", "X-Forwarded-For", "Forwarded: for=192.0.2.7", "10.0.0.1"},
		{"nor the other way", "Forwarded", "X-Forwarded-For: 192.0.2.7", "10.0.0.1"},
		{"no header is read", "", "X-Forwarded-For: 192.0.2.7", "10.0.0.1"},
		{"RFC 7239 §4", "Forwarded", "Forwarded: for=1.1.1.1, For=\"192.0.2.7:80\";proto=https;by=10.9.9.9", "192.0.2.7"},
		{"RFC 7239 §6, IPv6", "Forwarded", "Forwarded: for=\"[2001:db8::7]:4711\"", "2001:db8::7"},
		{"RFC 7239 §6.3, a made-up name", "Forwarded", "Forwarded: for=_hidden, for=10.2.2.2", "10.2.2.2"},
		{"a quote may hold commas", "Forwarded", "Forwarded: for=192.0.2.7;host=\"a,for=1.1.1.1\\\"\"", "192.0.2.7"},
		{"an element without for", "Forwarded", "Forwarded: for=192.0.2.7, proto=https", "10.0.0.1"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			raw := "GET / HTTP/1.1\r\nHost: a\r\n" + c.lines + "\r\n\r\n"
			if c.lines == "" {
				raw = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
			}
			var head Head
			if _, err := head.Parse([]byte(raw), 0, 4096); err != nil {
				t.Fatal(err)
			}
			p := Proxies{Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Header: c.header}
			if got := p.forwarded(&head, netip.MustParseAddr("10.0.0.1")); got.String() != c.want {
				t.Fatalf("%v, want %s", got, c.want)
			}
		})
	}
}

func FuzzForwarded(f *testing.F) {
	f.Add("1.1.1.1, 10.2.2.2", "192.0.2.7")
	f.Add("for=\"[2001:db8::7]:4711\";by=_x", "192.0.2.7")
	f.Fuzz(func(t *testing.T, theirs, client string) {
		a, err := netip.ParseAddr(client)
		p := Proxies{Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Header: "X-Forwarded-For"}
		if err != nil || a.Zone() != "" || p.trusts(a.Unmap()) {
			return
		}
		// Whatever a client claims, what the proxy adds behind it counts.
		head := Head{fields: []field{{[]byte("X-Forwarded-For"), []byte(theirs + ", " + client)}}}
		if got := p.forwarded(&head, netip.MustParseAddr("10.0.0.1")); got != a.Unmap() {
			t.Fatalf("%v, want %v", got, a)
		}
		eachFor([]byte(theirs), func([]byte) bool { return true })
	})
}
