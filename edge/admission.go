package edge

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"nabat/edge/internal/listen"
	"nabat/edge/internal/loop"
	"nabat/edge/internal/rate"
	"nabat/edge/internal/session"
)

// proxies is whom the edge believes about a client's address.
func (c *Config) proxies() (p listen.Proxies, err error) {
	if p.Protocol, err = listen.ParseProxyProtocol(c.ProxyProtocol); err != nil {
		return p, fmt.Errorf("proxy_protocol: %w", err)
	}
	for _, s := range c.TrustedProxies {
		network, err := listen.ParsePrefix(s)
		if err != nil {
			return p, fmt.Errorf("trusted_proxies: %w", err)
		}
		p.Trusted = append(p.Trusted, network)
	}
	if p.Protocol != listen.ProxyOff && len(p.Trusted) == 0 {
		return p, fmt.Errorf("proxy_protocol is %s: name the proxies in trusted_proxies, nobody else is believed", c.ProxyProtocol)
	}
	p.Header = c.ForwardedHeader
	if p.Header != "" && !strings.EqualFold(p.Header, "X-Forwarded-For") && !strings.EqualFold(p.Header, "Forwarded") {
		return p, fmt.Errorf("forwarded_header is %q: must be X-Forwarded-For, Forwarded or empty", p.Header)
	}
	if c.TCPKeepAlive%time.Second != 0 || c.TCPKeepAlive < 0 || c.TCPKeepAlive > 9*time.Hour {
		return p, fmt.Errorf("tcp_keepalive is %s: must be 0 to 9h in whole seconds", c.TCPKeepAlive)
	}
	return p, nil
}

// socketOptions are those of the listening sockets, and so of all connections.
func (c *Config) socketOptions() listen.SocketOptions {
	o := listen.SocketOptions{Backlog: c.Backlog, SendBuffer: int(c.SendBuffer), NotSentLowat: int(c.TCPNotSentLowat),
		UserTimeout: c.TCPUserTimeout, KeepAlive: c.TCPKeepAlive}
	if o.UserTimeout == 0 {
		o.UserTimeout = c.PingInterval + c.PongTimeout
	}
	return o
}

// limit is a rate whose burst is that of a second where none is given.
func limit(perSecond, burst int64) rate.Limit {
	if burst == 0 {
		burst = perSecond
	}
	return rate.Limit{PerSecond: perSecond, Burst: burst}
}

// acceptRate is one loop's share of the node's, and how many connections may
// wait for it.
func (c *Config) acceptRate() (l rate.Limit, waiting int) {
	if c.AcceptRate == 0 {
		return l, 0
	}
	n := int64(c.Loops)
	l = limit(int64(c.AcceptRate), int64(c.AcceptBurst))
	l = rate.Limit{PerSecond: max(l.PerSecond/n, 1), Burst: max(l.Burst/n, 1)}
	// An acceptor that rests wakes with a tick: it must then be able to take
	// what has become due, or the rate would not be reached.
	perTick := l.PerSecond*int64(loop.Tick)/int64(time.Second) + 1
	l.Burst = max(l.Burst, perTick)
	return l, int(max(time.Duration(l.PerSecond)*c.AcceptWait/time.Second, 1))
}

func (c *Config) sessionRates() session.Rates {
	r := session.Rates{
		Messages:    limit(int64(c.MessageRate), int64(c.MessageBurst)),
		Bytes:       limit(int64(c.ByteRate), int64(c.ByteBurst)),
		Subscribes:  limit(int64(c.SubscribeRate), int64(c.SubscribeBurst)),
		Calls:       limit(int64(c.RPCRate), int64(c.RPCBurst)),
		MaxRefusals: c.MaxRateRefusals,
	}
	for use := range session.Uses {
		first, second := c.sharedRates(use)
		r.Shared[use] = first.on() || second.on()
	}
	return r
}

// noteClient is the only place that writes addresses down.
func (w *worker) noteClient(h *listen.Handshake, path string) {
	ctx := context.Background()
	if w.edge.log.Enabled(ctx, slog.LevelDebug) {
		w.edge.log.DebugContext(ctx, "client connects", "address", h.Client(), "path", path,
			"session", formatSession(w.edge.instance, w.index, h.Ref()))
	}
}
