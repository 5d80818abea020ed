package edge

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"nabat/edge/internal/metrics"
	"nabat/edge/internal/tlsconn"
	"nabat/proto/grant"
	"nabat/proto/policy"
)

// certificate is a self-signed one for this machine, in files.
type certificate struct {
	cert, key string
	serial    *big.Int
	pool      *x509.CertPool
}

func newCertificate(t testing.TB) *certificate {
	t.Helper()
	dir := t.TempDir()
	c := &certificate{cert: filepath.Join(dir, "tls.crt"), key: filepath.Join(dir, "tls.key")}
	c.renew(t)
	return c
}

// renew writes another pair into the files. Old clients go on to trust theirs.
func (c *certificate) renew(t testing.TB) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.serial, err = rand.Int(rand.Reader, big.NewInt(1<<60))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: c.serial, Subject: pkix.Name{CommonName: "edge"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	c.pool = x509.NewCertPool()
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	c.pool.AddCert(leaf)
	for name, block := range map[string]*pem.Block{c.cert: {Type: "CERTIFICATE", Bytes: der}, c.key: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// client is the configuration of a client that speaks exactly this version.
func (c *certificate) client(version uint16) *tls.Config {
	return &tls.Config{RootCAs: c.pool, MinVersion: version, MaxVersion: version, ServerName: "localhost"}
}

// secured is a configuration with TLS beside the plain port.
func (c *certificate) secured(change func(*Config)) func(*Config) {
	return func(cfg *Config) {
		cfg.TLSListen, cfg.TLSCert, cfg.TLSKey = "127.0.0.1:0", c.cert, c.key
		if change != nil {
			change(cfg)
		}
	}
}

var versions = map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13}

// dialTLS is a plain WebSocket client over a TLS connection.
func dialTLS(t testing.TB, e *Edge, path string, conn net.Conn) *client {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(patience))
	d := ws.Dialer{NetDial: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
	_, br, _, err := d.Dial(context.Background(), "ws://"+e.TLSAddr()+path)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Time{})
	c := &client{t: t, conn: conn, r: conn}
	if br != nil {
		c.r = br
	}
	return c
}

func connectTLS(t testing.TB, e *Edge, cfg *tls.Config) *tls.Conn {
	t.Helper()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", e.TLSAddr(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func connectTCP(t testing.TB, e *Edge) *net.TCPConn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", e.TLSAddr(), patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.TCPConn)
}

func (e *Edge) sum(field func(*metrics.Loop) int64) (n int64) {
	for _, w := range e.workers {
		n += field(w.counts)
	}
	return n
}

func (e *Edge) failures(want tlsconn.Failure) int64 {
	return e.sum(func(l *metrics.Loop) (n int64) {
		l.TLSFailures.Each(func(reason string, k uint64) {
			if reason == string(want) {
				n += int64(k)
			}
		})
		return n
	})
}

func shaking(l *metrics.Loop) int64 { return l.TLSPending.Load() }

// settled waits until nothing of TLS is left over.
func (e *Edge) settled(t testing.TB) {
	t.Helper()
	until(t, "no TLS handshake is counted as pending, none has a place or waits, no byte is counted as queued", func() bool {
		return e.sum(shaking) == 0 && e.sum(func(l *metrics.Loop) int64 { return l.Pending.Load() }) == 0 &&
			e.sum(func(l *metrics.Loop) int64 { return l.QueuedBytes.Load() }) == 0
	})
}

func TestWSSAndHTTPSCarryRoomsInBothVersions(t *testing.T) {
	cert := newCertificate(t)
	c := newCluster(t, policy.Dev())
	e := c.edge(cert.secured(nil))
	plain := dial(t, e, "/ws?room=news")
	plain.connected("news")
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			conn := connectTLS(t, e, cert.client(version))
			a := dialTLS(t, e, "/ws?room=news", conn)
			a.t = t
			a.connected("news")
			stream := connectTLS(t, e, cert.client(version))
			_, _ = io.WriteString(stream, "GET /sse?room=news HTTP/1.1\r\nHost: x\r\n\r\n")
			events := bufio.NewReader(stream)
			_ = stream.SetReadDeadline(time.Now().Add(patience))
			read := func(prefix string) {
				t.Helper()
				for {
					line, err := events.ReadString('\n')
					if err != nil {
						t.Fatal(err)
					}
					if strings.HasPrefix(line, prefix) {
						return
					}
				}
			}
			read("event: connected")
			for i := range 20 {
				c.publish("news", fmt.Sprint(i), nil)
				want := fmt.Sprintf(`{"room":"news","data":%d}`, i)
				plain.want(want)
				a.want(want)
				read("data: " + want)
			}
			a.send(`{"id":1,"publish":{"room":"news","data":"from the client"}}`)
			plain.want(`{"room":"news","data":"from the client"}`)
			if got := conn.ConnectionState(); got.Version != version || got.NegotiatedProtocol != "" {
				t.Errorf("version %x, protocol %q", got.Version, got.NegotiatedProtocol)
			}
			// A close is answered, then TLS says goodbye, then TCP.
			for { // the answer to the publish, and the message
				if got, err := a.next(); err != nil || strings.Contains(got, "published") {
					break
				}
			}
			if err := wsutil.WriteClientMessage(conn, ws.OpClose, ws.NewCloseFrameBody(1000, "")); err != nil {
				t.Fatal(err)
			}
			a.wantClose(1000, "")
			if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("after the close: %v, want the end that close_notify makes", err)
			}
		})
	}
	e.settled(t)
	if n := e.sum(func(l *metrics.Loop) int64 { return int64(l.TLSHandshakes.Load()) }); n != 4 {
		t.Errorf("%d handshakes counted, 4 made", n)
	}
}

func TestTheEdgesGoodbyeIsSealedToo(t *testing.T) {
	cert := newCertificate(t)
	c := newCluster(t, policy.Dev())
	e, stop := c.start(cert.secured(func(cfg *Config) { cfg.Listen = "" }))
	if e.Addr() != "" {
		t.Errorf("a plain port at %s that nobody asked for", e.Addr())
	}
	a := dialTLS(t, e, "/ws?room=a", connectTLS(t, e, cert.client(tls.VersionTLS13)))
	a.connected("a")
	done := make(chan struct{})
	go func() { stop(); close(done) }()
	a.wantClose(4200, "drain")
	if _, err := a.conn.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the close: %v", err)
	}
	<-done
}

// trickle writes a byte at a time, and each in a segment of its own.
type trickle struct{ net.Conn }

func (c trickle) Write(b []byte) (int, error) {
	for i := range b {
		if _, err := c.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

func TestRecordsByteByByte(t *testing.T) {
	cert := newCertificate(t)
	c := newCluster(t, policy.Dev())
	e := c.edge(cert.secured(nil))
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			a := dialTLS(t, e, "/ws?room=a", tls.Client(trickle{connectTCP(t, e)}, cert.client(version)))
			a.t = t
			a.connected("a")
			a.send(`{"id":1,"ping":{}}`)
			a.want(`{"id":1,"pong":{}}`)
		})
	}
}

// splitHello cuts the ClientHello into records of 50 bytes (RFC 8446 §5.1).
type splitHello struct {
	net.Conn
	done bool
}

func (c *splitHello) Write(b []byte) (int, error) {
	if c.done {
		return c.Conn.Write(b)
	}
	c.done = true
	for rest := b[5:]; len(rest) > 0; {
		n := min(len(rest), 50)
		if _, err := c.Conn.Write(append([]byte{b[0], b[1], b[2], 0, byte(n)}, rest[:n]...)); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return len(b), nil
}

func TestAHelloInManyRecords(t *testing.T) {
	cert := newCertificate(t)
	c := newCluster(t, policy.Dev())
	e := c.edge(cert.secured(nil))
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			dialTLS(t, e, "/ws?room=a", tls.Client(&splitHello{Conn: connectTCP(t, e)}, cert.client(version))).connected("a")
		})
	}
}

// whole collects what a client says after its handshake into one write.
type whole struct {
	net.Conn
	held []byte
	hold bool
}

func (c *whole) Write(b []byte) (int, error) {
	if c.hold {
		c.held = append(c.held, b...)
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// TestNothingIsLostBehindAHead sends the end of the TLS handshake, the request,
// and commands behind it in one segment: TLS 1.3 lets a client do so. With a
// token that is checked beside the loop the commands wait.
func TestNothingIsLostBehindATLSHandshake(t *testing.T) {
	cert := newCertificate(t)
	c := newCluster(t, policy.Dev())
	e := c.edge(cert.secured(nil))
	for name, token := range map[string]string{"at once": "", "held": "&token=" + c.token(c.ed, "u", time.Hour, &grant.Grant{Subscribe: []string{"a"}})} {
		t.Run(name, func(t *testing.T) {
			w := &whole{Conn: connectTCP(t, e)}
			conn := tls.Client(w, cert.client(tls.VersionTLS13))
			hello := make(chan struct{})
			w.Conn = onWrite{w.Conn, func() { w.hold = true; close(hello) }} // after the ClientHello
			if err := conn.Handshake(); err != nil {
				t.Fatal(err)
			}
			head := "GET /ws?room=a" + token + " HTTP/1.1\r\nHost: x\r\n" + strings.Join(upgradeHeaders(), "\r\n") + "\r\n\r\n"
			_, _ = io.WriteString(conn, head)
			const pings = 300
			for i := range pings {
				if err := wsutil.WriteClientMessage(conn, ws.OpPing, fmt.Appendf(nil, "%d", i)); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := w.Conn.(onWrite).Conn.Write(w.held); err != nil {
				t.Fatal(err)
			}
			w.Conn, w.hold = w.Conn.(onWrite).Conn, false
			br := bufio.NewReader(conn)
			if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 101 {
				t.Fatalf("%v %v", resp, err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			for i, greeted := 0, false; i < pings || !greeted; {
				switch op, payload := readFrame(t, br); {
				case op == ws.OpText && strings.HasPrefix(payload, `{"connected"`):
					greeted = true
				case op == ws.OpPong && payload == fmt.Sprint(i):
					i++
				default:
					t.Fatalf("got %q, want the answer to ping %d", payload, i)
				}
			}
		})
	}
}

// readFrame reads one frame of a server.
func readFrame(t testing.TB, r io.Reader) (ws.OpCode, string) {
	t.Helper()
	h, err := ws.ReadHeader(r)
	if err != nil {
		t.Fatal(err)
	}
	payload := make([]byte, h.Length)
	if _, err := io.ReadFull(r, payload); err != nil {
		t.Fatal(err)
	}
	return h.OpCode, string(payload)
}

// onWrite calls then after the first write.
type onWrite struct {
	net.Conn
	then func()
}

func (c onWrite) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.then()
	return n, err
}

func TestLargeMessagesAreEchoed(t *testing.T) {
	cert := newCertificate(t)
	c := newCluster(t, policy.Dev())
	e := c.edge(cert.secured(nil))
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			conn := connectTLS(t, e, cert.client(version))
			a := dialTLS(t, e, "/echo", conn)
			a.t = t
			_ = conn.SetDeadline(time.Now().Add(patience))
			for _, size := range []int{0, 1, 16<<10 - 1, 16 << 10, 16<<10 + 1, 100_000, 1 << 20, 5} {
				body := make([]byte, size)
				_, _ = rand.Read(body)
				failed := make(chan error, 1)
				go func() { failed <- wsutil.WriteClientBinary(conn, append([]byte(nil), body...)) }()
				got, err := wsutil.ReadServerBinary(struct {
					io.Reader
					io.Writer
				}{a.r, conn})
				if err != nil || !bytes.Equal(got, body) {
					t.Fatalf("%d bytes: got %d, %v", size, len(got), err)
				}
				if err := <-failed; err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	e.settled(t)
}

func TestASlowReaderOverTLSIsBoundedAndToldOfItsGap(t *testing.T) {
	const bound = 32 << 10
	cert := newCertificate(t)
	c := newCluster(t, policy.Dev())
	e := c.edge(cert.secured(func(cfg *Config) { cfg.MaxQueueBytes, cfg.SendBuffer = bound, 8<<10 }))
	b := newBystander(c, e)
	tcp := connectTCP(t, e)
	_ = tcp.SetReadBuffer(4 << 10)
	a := dialTLS(t, e, "/ws?room=busy", tls.Client(tcp, cert.client(tls.VersionTLS13)))
	a.connected("busy")
	dropped := func() int64 {
		return e.sum(func(l *metrics.Loop) (n int64) {
			l.Drops.Each(func(reason string, k uint64) { n += int64(k) })
			return n
		})
	}
	body := strings.Repeat("x", 2000)
	sent := 0
	until(t, "messages are dropped", func() bool {
		c.publish("busy", fmt.Sprintf(`%q`, fmt.Sprint(sent, body)), nil)
		sent++
		return dropped() > 0
	})
	if n := e.sum(func(l *metrics.Loop) int64 { return l.QueuedBytes.Load() }); n == 0 || n > bound+tlsconn.MaxRecord+100 {
		t.Errorf("%d bytes are queued: the bound is %d and a record", n, bound)
	}
	b.served()
	// What was queued comes whole and in order, then the notice.
	for i := 0; ; i++ {
		got, err := a.next()
		if err != nil {
			t.Fatal(err)
		}
		if got == `{"gap":{"room":"busy","reason":"slow"}}` {
			break
		}
		if want := fmt.Sprintf(`{"room":"busy","data":%q}`, fmt.Sprint(i, body)); got != want {
			t.Fatalf("message %d is %.60s", i, got)
		}
	}
	c.publish("busy", "1", nil)
	a.want(`{"room":"busy","data":1}`)
	e.settled(t)
}

func TestASlowReaderOverTLSGetsItsClose(t *testing.T) {
	cert := newCertificate(t)
	set := policy.Dev()
	set.Rooms[0].Slow = policy.Disconnect
	c := newCluster(t, set)
	e := c.edge(cert.secured(func(cfg *Config) { cfg.MaxQueueBytes, cfg.SendBuffer, cfg.CloseTimeout = 16<<10, 8<<10, patience }))
	tcp := connectTCP(t, e)
	_ = tcp.SetReadBuffer(4 << 10)
	a := dialTLS(t, e, "/ws?room=busy", tls.Client(tcp, cert.client(tls.VersionTLS12)))
	a.connected("busy")
	body := fmt.Sprintf("%q", strings.Repeat("x", 20<<10)) // more than a record: one is cut by the full socket
	until(t, "the connection is closed", func() bool {
		c.publish("busy", body, nil)
		return e.closes("slow") > 0
	})
	a.wantClose(4100, "slow") // behind whole frames
}

func TestStalledTLSHandshakesStarveNobody(t *testing.T) {
	const places, waiting = 4, 3
	cert := newCertificate(t)
	c := newCluster(t, policy.Dev())
	e := c.edge(cert.secured(func(cfg *Config) { cfg.Loops, cfg.MaxTLSHandshakes, cfg.HandshakeTimeout = 1, places, patience }))
	b := newBystander(c, e)
	goroutines := runtime.NumGoroutine()
	// A client that says nothing, or half a hello, costs no goroutine and no place.
	hello := clientHello(t, cert.client(tls.VersionTLS13))
	for i := range 50 {
		if _, err := connectTCP(t, e).Write(hello[:i]); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "all are there", func() bool { return e.sum(shaking) == 50 })
	if n := runtime.NumGoroutine() - goroutines; n > 5 {
		t.Errorf("%d goroutines for clients that said nothing", n)
	}
	dialTLS(t, e, "/ws?room=a", connectTLS(t, e, cert.client(tls.VersionTLS13))).connected("a")
	// Whole hellos, and then silence: all places are taken, and more wait.
	for range places + waiting {
		if _, err := connectTCP(t, e).Write(hello); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "all are there", func() bool { return e.sum(shaking) == 50+places+waiting })
	if n := runtime.NumGoroutine() - goroutines; n > places+5 {
		t.Errorf("%d goroutines for %d places", n, places)
	}
	b.served()
	// An honest client comes last and is served, because the stalled give way.
	dialTLS(t, e, "/ws?room=a", connectTLS(t, e, cert.client(tls.VersionTLS12))).connected("a")
	if n := e.failures(tlsconn.Stalled); n < places {
		t.Errorf("%d counted as stalled", n)
	}
	b.served()
}

func TestMoreHandshakesThanPlacesAreWorkedOff(t *testing.T) {
	clients := 300
	if raceEnabled {
		clients = 60 // they compute, too: in a second, or they count as stalled
	}
	cert := newCertificate(t)
	c := newCluster(t, policy.Dev())
	e := c.edge(cert.secured(func(cfg *Config) { cfg.Loops, cfg.MaxTLSHandshakes, cfg.HandshakeTimeout = 2, 2, time.Minute }))
	crowd{Addresses: []string{e.TLSAddr()}, Paths: []string{"/ws?room=a"}, Clients: clients, CA: cert.cert}.start(t).want("ready")
	if n := e.connections(); n != clients {
		t.Errorf("%d connections of %d", n, clients)
	}
	if n := e.failures(tlsconn.Stalled) + e.failures(tlsconn.Timeout); n != 0 {
		t.Errorf("%d honest clients were sent away", n)
	}
	e.settled(t)
}

// clientHello is the first flight of a client.
func clientHello(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	a, b := net.Pipe()
	go func() { _ = tls.Client(a, cfg).Handshake() }()
	buf := make([]byte, 64<<10)
	n, err := b.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = b.Close(), a.Close()
	return buf[:n]
}

func TestATLSHandshakeHasADeadline(t *testing.T) {
	cert := newCertificate(t)
	c := newCluster(t, policy.Dev())
	e := c.edge(cert.secured(func(cfg *Config) { cfg.HandshakeTimeout = 300 * time.Millisecond }))
	hello := clientHello(t, cert.client(tls.VersionTLS13))
	for _, sent := range [][]byte{nil, hello[:100], hello} {
		conn := connectTCP(t, e)
		if _, err := conn.Write(sent); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Logf("reset: %v", err) // unread bytes make a reset of a close
		} else if err != nil {
			t.Fatal(err)
		}
	}
	// After TLS, the head has what is left of the time.
	conn := connectTLS(t, e, cert.client(tls.VersionTLS13))
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.Contains(string(answer), "head_timeout") {
		t.Errorf("%q, %v", answer, err)
	}
	e.settled(t)
	if n := e.failures(tlsconn.Timeout); n != 3 {
		t.Errorf("%d timeouts counted, 3 made", n)
	}
}

func TestFailuresOfTLSHaveNames(t *testing.T) {
	cert, stranger := newCertificate(t), newCertificate(t)
	c := newCluster(t, policy.Dev())
	e := c.edge(cert.secured(func(cfg *Config) { cfg.TLSMinVersion = "1.3" }))
	b := newBystander(c, e)
	with := func(change func(*tls.Config)) *tls.Config {
		cfg := cert.client(tls.VersionTLS13)
		change(cfg)
		return cfg
	}
	for _, tc := range []struct {
		rule   string
		cfg    *tls.Config
		want   tlsconn.Failure
		client string // what the client is told
	}{
		{"a version below the least", cert.client(tls.VersionTLS12), tlsconn.Version, "protocol version not supported"},
		{"h2 only", with(func(c *tls.Config) { c.NextProtos = []string{"h2"} }), tlsconn.ALPN, "no application protocol"},
		{"a certificate that the client does not trust", with(func(c *tls.Config) { c.RootCAs = stranger.pool }), tlsconn.Certificate, "certificate signed by unknown authority"},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			before := e.failures(tc.want)
			conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", e.TLSAddr(), tc.cfg)
			if err == nil {
				_ = conn.Close()
				t.Fatal("it was served")
			}
			if !strings.Contains(err.Error(), tc.client) {
				t.Errorf("the client is told %q", err)
			}
			until(t, "the failure is counted", func() bool { return e.failures(tc.want) == before+1 })
		})
	}
	hello := clientHello(t, cert.client(tls.VersionTLS13))
	damaged := bytes.Clone(hello)
	for i := 60; i < 160; i++ {
		damaged[i] ^= 0x55
	}
	for _, tc := range []struct {
		rule string
		sent []byte
		want tlsconn.Failure
	}{
		{"garbage", []byte("\x00\x01\x02garbage"), tlsconn.NotTLS},
		{"a record of an impossible size", []byte{0x16, 3, 1, 0xff, 0xff}, tlsconn.NotTLS},
		{"an SSLv2 hello", []byte{0x80, 0x2e, 1, 0, 2}, tlsconn.NotTLS},
		{"a damaged hello", damaged, tlsconn.Broken},
		{"a client that leaves in the middle", hello[:200], tlsconn.Gone},
		{"a client that leaves after its hello", hello, tlsconn.Gone},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			before := e.failures(tc.want)
			conn := connectTCP(t, e)
			if _, err := conn.Write(tc.sent); err != nil {
				t.Fatal(err)
			}
			if tc.want == tlsconn.Gone {
				_ = conn.CloseWrite()
			}
			until(t, "the failure is counted", func() bool { return e.failures(tc.want) == before+1 })
		})
	}
	b.served()
	e.settled(t)
	conn := connectTLS(t, e, with(func(c *tls.Config) { c.NextProtos = []string{"h2", "http/1.1"} }))
	if p := conn.ConnectionState().NegotiatedProtocol; p != "http/1.1" {
		t.Errorf("protocol %q", p)
	}
}

func TestEachPortSaysWhatItSpeaks(t *testing.T) {
	cert := newCertificate(t)
	c := newCluster(t, policy.Dev())
	e := c.edge(cert.secured(nil))
	status, body, header := rawRequest(t, e.TLSAddr(), "GET /ws HTTP/1.1\r\nHost: x\r\n\r\n")
	if status != 400 || !strings.Contains(body, `"code":"plain_on_tls_port","reason":"this port speaks TLS: use wss:// or https://"`) {
		t.Errorf("%d %s %v", status, body, header)
	}
	if e.refusals("plain_on_tls_port") != 1 || e.failures(tlsconn.PlainHTTP) != 1 {
		t.Error("not counted")
	}
	_, err := tls.Dial("tcp", e.Addr(), cert.client(tls.VersionTLS13))
	var header2 tls.RecordHeaderError
	if !errors.As(err, &header2) {
		t.Errorf("TLS at the plain port: %v", err)
	}
	until(t, "the refusal is counted", func() bool { return e.refusals("tls_on_plain_port") == 1 })
	// Inside TLS, refusals are what they are outside.
	conn := connectTLS(t, e, cert.client(tls.VersionTLS13))
	_, _ = io.WriteString(conn, "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 404 ") {
		t.Errorf("%q, %v", answer, err)
	}
	e.settled(t)
}

func TestATicketResumesASession(t *testing.T) {
	cert := newCertificate(t)
	c := newCluster(t, policy.Dev())
	e := c.edge(cert.secured(nil))
	resumed := func() int64 { return e.sum(func(l *metrics.Loop) int64 { return int64(l.TLSResumed.Load()) }) }
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			cfg := cert.client(version)
			cfg.ClientSessionCache = tls.NewLRUClientSessionCache(4)
			before := resumed()
			for round := range 2 {
				conn := connectTLS(t, e, cfg)
				a := dialTLS(t, e, "/ws?room=a", conn)
				a.connected("a")
				if got := conn.ConnectionState().DidResume; got != (round == 1) {
					t.Errorf("round %d: resumed %v", round, got)
				}
			}
			if n := resumed() - before; n != 1 {
				t.Errorf("%d counted as resumed", n)
			}
		})
	}
}

func TestACertificateIsRenewedUnderLiveConnections(t *testing.T) {
	cert := newCertificate(t)
	c := newCluster(t, policy.Dev())
	e := c.edge(cert.secured(nil))
	a := dialTLS(t, e, "/ws?room=a", connectTLS(t, e, cert.client(tls.VersionTLS13)))
	a.connected("a")
	cert.renew(t)
	until(t, "the new certificate is shown", func() bool {
		conn, err := tls.Dial("tcp", e.TLSAddr(), cert.client(tls.VersionTLS13))
		if err != nil {
			return false
		}
		defer func() { _ = conn.Close() }()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Cmp(cert.serial) == 0
	})
	c.publish("a", "1", nil)
	a.want(`{"room":"a","data":1}`)
}

func TestAHalfClosedConnectionEnds(t *testing.T) {
	cert := newCertificate(t)
	c := newCluster(t, policy.Dev())
	e := c.edge(cert.secured(nil))
	for name, leave := range map[string]func(*tls.Conn, *net.TCPConn) error{
		"by TLS": func(c *tls.Conn, _ *net.TCPConn) error { return c.CloseWrite() },
		"by TCP": func(_ *tls.Conn, c *net.TCPConn) error { return c.CloseWrite() },
	} {
		t.Run(name, func(t *testing.T) {
			before := e.closes("gone")
			tcp := connectTCP(t, e)
			conn := tls.Client(tcp, cert.client(tls.VersionTLS13))
			a := dialTLS(t, e, "/ws?room=a", conn)
			a.connected("a")
			if err := leave(conn, tcp); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("the edge's half ends with %v, want close_notify", err)
			}
			until(t, "the connection has ended", func() bool { return e.closes("gone") == before+1 })
		})
	}
	e.settled(t)
}

func TestCurlAndOpenSSL(t *testing.T) {
	cert := newCertificate(t)
	c := newCluster(t, policy.Dev())
	e := c.edge(cert.secured(nil))
	run := func(t *testing.T, in string, name string, args ...string) string {
		t.Helper()
		path, err := exec.LookPath(name)
		if err != nil {
			t.Skipf("no %s on this machine", name)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, path, args...)
		cmd.Stdin = strings.NewReader(in)
		out, err := cmd.CombinedOutput()
		t.Logf("%s: %v", name, err) // what counts is what it printed
		return string(out)
	}
	for _, version := range []string{"1.2", "1.3"} {
		t.Run("curl "+version, func(t *testing.T) {
			out := run(t, "", "curl", "-sS", "--cacert", cert.cert, "--tlsv"+version, "--tls-max", version, "https://"+e.TLSAddr()+"/")
			if !strings.Contains(out, "This is a Nabat edge") {
				t.Errorf("curl: %s", out)
			}
		})
	}
	t.Run("openssl", func(t *testing.T) {
		out := run(t, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "openssl", "s_client", "-connect", e.TLSAddr(), "-CAfile", cert.cert, "-ign_eof", "-alpn", "http/1.1")
		if !strings.Contains(out, "This is a Nabat edge") || !strings.Contains(out, "ALPN protocol: http/1.1") {
			t.Errorf("openssl: %s", out)
		}
	})
	t.Run("openssl renegotiates", func(t *testing.T) {
		b := newBystander(c, e)
		out := run(t, "R\n", "openssl", "s_client", "-connect", e.TLSAddr(), "-CAfile", cert.cert, "-tls1_2")
		if !strings.Contains(out, "RENEGOTIATING") || !strings.Contains(out, "alert unexpected message") {
			t.Errorf("openssl: %s", out)
		}
		b.served()
	})
	e.settled(t)
}

func TestBadSettingsOfTLSSayWhatIsWrong(t *testing.T) {
	cert, other := newCertificate(t), newCertificate(t)
	for _, tc := range []struct {
		rule   string
		change func(*Config)
		want   string
	}{
		{"a certificate without its key", func(c *Config) { c.TLSKey = "" }, "tls_cert and tls_key belong together"},
		{"a key without its certificate", func(c *Config) { c.TLSCert = "" }, "tls_cert and tls_key belong together"},
		{"an address without a certificate", func(c *Config) { c.TLSCert, c.TLSKey = "", "" }, "tls_listen needs a certificate"},
		{"a certificate without an address", func(c *Config) { c.TLSListen = "" }, "tls_cert is given and tls_listen is empty"},
		{"a version of the past", func(c *Config) { c.TLSMinVersion = "1.1" }, `tls_min_version is "1.1" is no TLS version`},
		{"a file that is not there", func(c *Config) { c.TLSCert += "x" }, "tls_cert: open "},
		{"a key that does not fit", func(c *Config) { c.TLSKey = other.key }, "are not usable: tls: private key does not match"},
		{"no room for handshakes", func(c *Config) { c.MaxTLSHandshakes = 0 }, "max_tls_handshakes is 0: must be 1 to"},
		{"no address at all", func(c *Config) { c.Listen, c.TLSListen, c.TLSCert, c.TLSKey = "", "", "", "" }, "listen is empty"},
	} {
		cfg := Defaults()
		cert.secured(tc.change)(&cfg)
		if err := cfg.Check(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %s", tc.rule, err, tc.want)
		}
	}
	cfg := Defaults()
	cert.secured(nil)(&cfg)
	if err := cfg.Check(); err != nil {
		t.Error(err)
	}
	if text, err := cfg.Certificate(); err != nil || !strings.HasPrefix(text, "localhost, 127.0.0.1; ECDSA P-256; until 20") {
		t.Errorf("%q, %v", text, err)
	}
}
