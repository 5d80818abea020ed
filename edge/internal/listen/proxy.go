package listen

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"

	"nabat/proto/wire"
)

const (
	proxyV1 = "PROXY "
	proxyV2 = "\r\n\r\n\x00\r\nQUIT\n"

	// maxProxyV1 is what a version 1 line may have, with its end.
	maxProxyV1 = 107
	// maxProxyV2 bounds a version 2 header. The format goes to 64 KiB; what
	// proxies send beside addresses (names, TLS facts) stays well below this.
	maxProxyV2 = 4 << 10
)

// proxied is what a PROXY protocol header says.
type proxied struct {
	source netip.Addr // invalid where the header names none: the proxy speaks for itself, or for what has no IP address
	length int        // bytes of the header
}

// isProxyHeader reports whether b begins a PROXY protocol header; more asks for
// more bytes. What passes both signatures cannot begin a request.
func isProxyHeader(b []byte) (is, more bool) {
	for _, signature := range []string{proxyV1, proxyV2} {
		switch n := min(len(b), len(signature)); {
		case string(b[:n]) != signature[:n]:
		case n == len(signature):
			return true, false
		default:
			more = true
		}
	}
	return false, more
}

func badProxyHeader(format string, args ...any) *wire.Error {
	return &wire.Error{Code: wire.BadProxyHeader, Reason: "PROXY protocol: " + fmt.Sprintf(format, args...)}
}

// parseProxyHeader reads a header of version 1 or 2 from the beginning of b.
// (HAProxy, doc/proxy-protocol.txt.) It returns ErrMore while the header is not
// complete; other errors are *wire.Error.
func parseProxyHeader(b []byte) (proxied, error) {
	is, more := isProxyHeader(b)
	switch {
	case more:
		return proxied{}, ErrMore
	case !is:
		return proxied{}, badProxyHeader("the connection does not begin with a header: let the proxy send one, or set proxy_protocol to optional")
	case b[0] == proxyV1[0]:
		return parseProxyV1(b)
	}
	return parseProxyV2(b)
}

// parseProxyV1: "PROXY" SP family SP source SP destination SP port SP port CRLF.
func parseProxyV1(b []byte) (p proxied, err error) {
	end := bytes.IndexByte(b[:min(len(b), maxProxyV1)], '\n')
	switch {
	case end < 0 && len(b) < maxProxyV1:
		return p, ErrMore
	case end < 0:
		return p, badProxyHeader("a version 1 line has at most %d bytes", maxProxyV1)
	case b[end-1] != '\r':
		return p, badProxyHeader("a version 1 line ends with CRLF")
	}
	p.length = end + 1
	words := bytes.Split(b[len(proxyV1):end-1], []byte(" "))
	family := string(words[0])
	if family == "UNKNOWN" {
		return p, nil // whatever follows is to be ignored
	}
	if family != "TCP4" && family != "TCP6" {
		return p, badProxyHeader("the family of a version 1 line is TCP4, TCP6 or UNKNOWN")
	}
	if len(words) != 5 {
		return p, badProxyHeader("a version 1 line has two addresses and two ports, with single spaces")
	}
	for _, word := range words[1:3] {
		if a, err := netip.ParseAddr(string(word)); err != nil || a.Zone() != "" || a.Is4() != (family == "TCP4") {
			return p, badProxyHeader("an address is not one of %s", family)
		}
	}
	for _, word := range words[3:] {
		if n, err := strconv.ParseUint(string(word), 10, 16); err != nil || strconv.FormatUint(n, 10) != string(word) {
			return p, badProxyHeader("a port is not a number from 0 to 65535")
		}
	}
	p.source = netip.MustParseAddr(string(words[1])).Unmap()
	return p, nil
}

// parseProxyV2: signature, version and command, family and protocol, length,
// addresses, and type-length-values that are skipped.
func parseProxyV2(b []byte) (p proxied, err error) {
	const fixed = len(proxyV2) + 4
	if len(b) < fixed {
		return p, ErrMore
	}
	version, command := b[12]>>4, b[12]&0xF
	family, protocol := b[13]>>4, b[13]&0xF
	length := int(binary.BigEndian.Uint16(b[14:]))
	switch {
	case version != 2:
		return p, badProxyHeader("version %d is not 2", version)
	case command > 1:
		return p, badProxyHeader("command %d is neither LOCAL nor PROXY", command)
	case fixed+length > maxProxyV2:
		return p, badProxyHeader("a version 2 header may have %d bytes here", maxProxyV2)
	}
	p.length = fixed + length
	addresses := 0 // bytes
	if local := command == 0; !local {
		switch {
		case family > 3 || protocol > 2 || (family == 0) != (protocol == 0):
			return p, badProxyHeader("family %d with protocol %d does not exist", family, protocol)
		case protocol == 2 && family != 3:
			return p, badProxyHeader("a datagram did not come over TCP")
		}
		addresses = [...]int{0, 12, 36, 216}[family]
	}
	if length < addresses {
		return p, badProxyHeader("the addresses of family %d have %d bytes, there are %d", family, addresses, length)
	}
	if len(b) < p.length {
		return p, ErrMore
	}
	switch addresses {
	case 12:
		p.source = netip.AddrFrom4([4]byte(b[fixed:]))
	case 36:
		p.source = netip.AddrFrom16([16]byte(b[fixed:])).Unmap()
	}
	return p, nil
}
