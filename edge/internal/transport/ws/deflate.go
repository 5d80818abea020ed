package ws

import "strings"

// Deflate answers what a client offers as extensions: the value of
// Sec-WebSocket-Extensions in the response, empty when nothing is accepted. The
// first offer that can be kept is taken. No context is kept between messages in
// either direction, so that frames are shared by all recipients and a connection
// needs no window. What the edge sends refers back up to 32 KiB: an offer that
// bounds this is declined (RFC 7692 §7.1.2.1).
func Deflate(r Request) (answer string) {
	var lines []string
	r.Tokens("Sec-WebSocket-Extensions", func(t []byte) bool {
		lines = append(lines, string(t))
		return true
	})
	// Tokens has split quoted strings as well: put them together again.
	rest := strings.Join(lines, ",")
	for rest != "" {
		var o offer
		var ok bool
		if o, rest, ok = parseOffer(rest); !ok {
			return "" // what stands behind cannot be told apart
		}
		if answer = o.answer(); answer != "" {
			return answer
		}
	}
	return ""
}

// offer is one element of Sec-WebSocket-Extensions (RFC 6455 §9.1).
type offer struct {
	name       string
	parameters []parameter
}

type parameter struct {
	name, value string
	valued      bool // there was an =
}

// answer accepts o, or is empty. RFC 7692 §7: an offer with a parameter that is
// unknown, there twice or has a wrong value is declined.
func (o *offer) answer() string {
	if o.name != "permessage-deflate" {
		return ""
	}
	const accepted = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
	answer := accepted
	for i, p := range o.parameters {
		for _, other := range o.parameters[:i] {
			if other.name == p.name {
				return ""
			}
		}
		switch p.name {
		case "server_no_context_takeover", "client_no_context_takeover":
			if p.valued {
				return ""
			}
		case "server_max_window_bits":
			if p.value != "15" {
				return ""
			}
			answer = accepted + "; server_max_window_bits=15"
		case "client_max_window_bits":
			// What the client's window is does not matter: the edge has the largest.
			if p.valued && !windowBits(p.value) {
				return ""
			}
		default:
			return ""
		}
	}
	return answer
}

// windowBits: 8 to 15, without leading zeros (RFC 7692 §7.1.2).
func windowBits(s string) bool {
	switch s {
	case "8", "9", "10", "11", "12", "13", "14", "15":
		return true
	}
	return false
}

// parseOffer reads the first element of a list of extensions.
func parseOffer(s string) (o offer, rest string, ok bool) {
	if o.name, s = cutToken(s); o.name == "" {
		return o, "", false
	}
	for {
		s = strings.TrimLeft(s, " \t")
		if s == "" || s[0] == ',' {
			return o, strings.TrimLeft(s, ", \t"), true
		}
		if s[0] != ';' {
			return o, "", false
		}
		var p parameter
		if p.name, s = cutToken(strings.TrimLeft(s[1:], " \t")); p.name == "" {
			return o, "", false
		}
		if s = strings.TrimLeft(s, " \t"); strings.HasPrefix(s, "=") {
			p.valued = true
			if p.value, s, ok = cutValue(strings.TrimLeft(s[1:], " \t")); !ok {
				return o, "", false
			}
		}
		o.parameters = append(o.parameters, p)
	}
}

// cutValue reads a token, or a quoted string that holds one (RFC 6455 §9.1).
func cutValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		value, rest = cutToken(s)
		return value, rest, value != ""
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], b.Len() > 0
		case '\\':
			if i++; i == len(s) {
				return "", "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}

// cutToken reads a token (RFC 9110 §5.6.2), which may be empty.
func cutToken(s string) (token, rest string) {
	i := 0
	for i < len(s) && (s[i]|0x20 >= 'a' && s[i]|0x20 <= 'z' || s[i] >= '0' && s[i] <= '9' ||
		strings.IndexByte("!#$%&'*+-.^_`|~", s[i]) >= 0) {
		i++
	}
	return s[:i], s[i:]
}
