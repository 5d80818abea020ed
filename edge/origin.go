package edge

import "strings"

// origins is the allow-list of web origins. It answers for WebSocket
// handshakes, for event streams and for CORS alike.
type origins struct {
	any   bool
	exact map[string]bool
	ports map[string]bool // "scheme://host" whose every port is allowed
}

func newOrigins(list []string, dev bool) *origins {
	o := &origins{exact: make(map[string]bool), ports: make(map[string]bool)}
	if dev {
		// Pages of this machine: any local port, and files ("null").
		list = append([]string{"http://127.0.0.1:*", "http://localhost:*", "http://[::1]:*", "null"}, list...)
	}
	for _, entry := range list {
		switch base, any := strings.CutSuffix(entry, ":*"); {
		case entry == "*":
			o.any = true
		case any:
			o.ports[strings.ToLower(base)] = true
		default:
			o.exact[strings.ToLower(entry)] = true
		}
	}
	return o
}

// allows decides for a request with this Origin and Host; a request without an
// Origin does not come from a page and is allowed. exact tells that the origin
// is listed itself or is the edge's own, so that a cookie may be believed.
func (o *origins) allows(origin, host string) (ok, exact bool) {
	if origin == "" {
		return true, true
	}
	origin = strings.ToLower(origin)
	if o.exact[origin] {
		return true, origin != "null"
	}
	scheme, rest, found := splitOrigin(origin)
	if found && rest == strings.ToLower(host) {
		return true, true
	}
	if found && o.ports[scheme+"://"+withoutPort(rest)] {
		return true, false
	}
	return o.any, false
}

func splitOrigin(origin string) (scheme, host string, ok bool) {
	scheme, host, ok = strings.Cut(origin, "://")
	return scheme, host, ok && scheme != "" && host != "" && !strings.ContainsAny(host, "/?#@ ")
}

func withoutPort(host string) string {
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		return host[:i]
	}
	return host
}
