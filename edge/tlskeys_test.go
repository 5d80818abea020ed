package edge

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"nabat/edge/internal/metrics"
	"nabat/edge/internal/tlsconn"
	"nabat/proto/policy"
)

// sealer writes the client's half of a TLS 1.3 connection by hand, because
// crypto/tls never sends a key update of its own accord. The other half stays
// with crypto/tls, which follows the edge's key updates.
type sealer struct {
	conn   net.Conn
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	number uint64
}

// handshakeByHand shakes hands on tcp and takes over the client's half.
func handshakeByHand(t *testing.T, tcp net.Conn, cfg *tls.Config) (*tls.Conn, *sealer) {
	t.Helper()
	var keys bytes.Buffer
	cfg.KeyLogWriter = &keys
	conn := tls.Client(tcp, cfg)
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	if suite := conn.ConnectionState().CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 {
		t.Skipf("this processor prefers %s", tls.CipherSuiteName(suite))
	}
	for line := range strings.Lines(keys.String()) {
		if f := strings.Fields(line); f[0] == "CLIENT_TRAFFIC_SECRET_0" {
			secret, err := hex.DecodeString(f[2])
			if err != nil {
				t.Fatal(err)
			}
			s := &sealer{conn: tcp}
			s.use(secret)
			return conn, s
		}
	}
	t.Fatal("no secret was logged")
	return nil, nil
}

// expand is HKDF-Expand-Label (RFC 8446 §7.1).
func expand(secret []byte, label string, n int) []byte {
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(append(info, byte(6+len(label))), "tls13 "+label...)
	out, err := hkdf.Expand(sha256.New, secret, string(append(info, 0)), n)
	if err != nil {
		panic(err)
	}
	return out
}

func (s *sealer) use(secret []byte) {
	block, err := aes.NewCipher(expand(secret, "key", 16))
	if err != nil {
		panic(err)
	}
	if s.aead, err = cipher.NewGCM(block); err != nil {
		panic(err)
	}
	s.secret, s.iv, s.number = secret, expand(secret, "iv", 12), 0
}

func (s *sealer) record(kind byte, plain []byte) []byte {
	inner := append(bytes.Clone(plain), kind)
	head := []byte{23, 3, 3, 0, 0}
	binary.BigEndian.PutUint16(head[3:], uint16(len(inner)+s.aead.Overhead()))
	nonce := bytes.Clone(s.iv)
	binary.BigEndian.PutUint64(nonce[4:], binary.BigEndian.Uint64(nonce[4:])^s.number)
	s.number++
	return s.aead.Seal(head, nonce, inner, head)
}

// data is a record of application data.
func (s *sealer) data(plain []byte) []byte { return s.record(23, plain) }

// keyUpdate is a record that changes the client's key and, if ask is set, asks
// the edge to change its own (RFC 8446 §4.6.3).
func (s *sealer) keyUpdate(ask bool) []byte {
	message := []byte{24, 0, 0, 1, 0}
	if ask {
		message[4] = 1
	}
	b := s.record(22, message)
	s.use(expand(s.secret, "traffic upd", sha256.Size))
	return b
}

func (s *sealer) write(t testing.TB, records ...[]byte) {
	t.Helper()
	if _, err := s.conn.Write(bytes.Join(records, nil)); err != nil {
		t.Fatal(err)
	}
}

// upgradeByHand asks for path and reads the answer.
func (s *sealer) upgradeByHand(t testing.TB, conn *tls.Conn, path string) *bufio.Reader {
	t.Helper()
	s.write(t, s.data([]byte("GET "+path+" HTTP/1.1\r\nHost: x\r\n"+strings.Join(upgradeHeaders(), "\r\n")+"\r\n\r\n")))
	br := bufio.NewReader(conn)
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == "\r\n" {
			return br
		}
	}
}

func masked(op ws.OpCode, payload []byte) []byte {
	return ws.MustCompileFrame(ws.MaskFrame(ws.NewFrame(op, true, payload)))
}

func TestKeyUpdatesAreFollowed(t *testing.T) {
	cert := newCertificate(t)
	c := newCluster(t, policy.Dev())
	e := c.edge(cert.secured(nil))
	conn, s := handshakeByHand(t, connectTCP(t, e), cert.client(tls.VersionTLS13))
	br := s.upgradeByHand(t, conn, "/echo")
	for i, ask := range []bool{true, false, true, true} {
		update := s.keyUpdate(ask)
		text := fmt.Sprintf("after update %d", i)
		if i%2 == 0 {
			s.write(t, update, s.data(masked(ws.OpText, []byte(text))))
		} else { // in pieces
			s.write(t, update[:7])
			s.write(t, update[7:])
			s.write(t, s.data(masked(ws.OpText, []byte(text))))
		}
		if _, got := readFrame(t, br); got != text {
			t.Fatalf("after update %d: %q", i, got)
		}
	}
}

// TestKeyUpdatesCannotFloodTheEdge asks for answers and never reads them. A
// byte of data between them keeps crypto/tls from giving up.
func TestKeyUpdatesCannotFloodTheEdge(t *testing.T) {
	cert := newCertificate(t)
	c := newCluster(t, policy.Dev())
	e := c.edge(cert.secured(func(cfg *Config) { cfg.SendBuffer = 8 << 10 }))
	b := newBystander(c, e)
	tcp := connectTCP(t, e)
	conn, s := handshakeByHand(t, tcp, cert.client(tls.VersionTLS13))
	s.upgradeByHand(t, conn, "/ws?room=a")
	// The data are bytes of one frame that takes its time.
	frame := masked(ws.OpText, make([]byte, 60_000))
	s.write(t, s.data(frame[:14]))
	var most int64
	for i := 14; i < len(frame); i++ {
		var batch []byte
		for range 15 {
			batch = append(batch, s.keyUpdate(true)...)
		}
		if _, err := tcp.Write(append(batch, s.data(frame[i:i+1])...)); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("the edge neither reads nor closes after %d rounds, %d bytes are queued", i, most)
			}
			break // it was closed
		}
		most = max(most, e.sum(func(l *metrics.Loop) int64 { return l.QueuedBytes.Load() }))
	}
	if most > 8*tlsconn.MaxRecord {
		t.Errorf("%d bytes were queued for one client", most)
	}
	until(t, "the connection has ended", func() bool {
		return e.sum(func(l *metrics.Loop) int64 { return l.WebSockets.Load() }) == 1
	})
	b.served()
	e.settled(t)
}

func TestADamagedRecordEndsItsConnectionAlone(t *testing.T) {
	cert := newCertificate(t)
	c := newCluster(t, policy.Dev())
	e := c.edge(cert.secured(nil))
	b := newBystander(c, e)
	conn, s := handshakeByHand(t, connectTCP(t, e), cert.client(tls.VersionTLS13))
	s.upgradeByHand(t, conn, "/echo")
	bad := s.data(masked(ws.OpText, []byte("hello")))
	bad[len(bad)-1] ^= 1
	s.write(t, bad)
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadAll(conn); err == nil || !strings.Contains(err.Error(), "bad record MAC") {
		t.Errorf("the client is told %v", err)
	}
	b.served()
	e.settled(t)
}

func TestAHandshakeInAnOpenConnectionEndsItAlone(t *testing.T) {
	// What a client sends to renegotiate is a handshake record under the present
	// keys; TLS 1.3 has none but key updates and tickets (RFC 8446 §4.6).
	cert := newCertificate(t)
	c := newCluster(t, policy.Dev())
	e := c.edge(cert.secured(nil))
	b := newBystander(c, e)
	conn, s := handshakeByHand(t, connectTCP(t, e), cert.client(tls.VersionTLS13))
	s.upgradeByHand(t, conn, "/echo")
	hello := clientHello(t, cert.client(tls.VersionTLS13))
	s.write(t, s.record(22, hello[5:]))
	if _, err := io.ReadAll(conn); err == nil || !strings.Contains(err.Error(), "unexpected message") {
		t.Errorf("the client is told %v", err)
	}
	b.served()
	e.settled(t)
}
