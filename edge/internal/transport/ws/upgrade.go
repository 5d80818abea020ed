package ws

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"sync"
	"unicode/utf8"

	"github.com/gobwas/ws"

	"nabat/edge/internal/frame"
	"nabat/proto/wire"
)

// Request is what an upgrade needs of a request head.
type Request interface {
	Header(name string) ([]byte, bool)
	Has(name, token string) bool
	// Tokens calls fn for each element of a comma-separated header.
	Tokens(name string, fn func(token []byte) bool)
}

// Answer is a handshake that was accepted.
type Answer struct {
	Response []byte
	Deflate  bool // compression was negotiated
}

// Check refuses what is no WebSocket handshake, and says how to fix it
// (RFC 6455 §4.2.1). The key and the version stand once in a parsed head.
func Check(r Request) *wire.Error {
	if !r.Has("Upgrade", "websocket") || !r.Has("Connection", "Upgrade") {
		return &wire.Error{Code: wire.UpgradeRequired, Reason: "this path takes WebSocket handshakes: if a proxy is in front, it must pass on the Upgrade and Connection headers; for plain HTTP use /sse?room=NAME"}
	}
	if v, _ := r.Header("Sec-WebSocket-Version"); string(v) != "13" {
		return &wire.Error{Code: wire.UpgradeRequired, Reason: "Sec-WebSocket-Version must be 13 (RFC 6455 §4.4)"}
	}
	key, _ := r.Header("Sec-WebSocket-Key")
	raw, err := base64.StdEncoding.DecodeString(string(key))
	if err != nil || len(raw) != 16 {
		return &wire.Error{Code: wire.BadRequest, Reason: "Sec-WebSocket-Key must be 16 bytes in base64 (RFC 6455 §4.2.1)"}
	}
	return nil
}

// Accept makes the 101 response to a head that passed Check. protocol is the
// sub-protocol that the caller selected out of the offer, empty for none; deflate
// allows compression, if the client offers it.
//
// The Upgrader sees the handshake in its plainest form: it would refuse
// "Upgrade: h2c, websocket", or a Connection header on two lines.
func Accept(r Request, protocol string, deflate bool) (a Answer, err error) {
	key, _ := r.Header("Sec-WebSocket-Key")
	p := plains.Get().(*plain)
	defer plains.Put(p)
	head := append(append(p.head[:0], "GET / HTTP/1.1\r\nHost: -\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "...), key...)
	u := ws.Upgrader{}
	if protocol != "" {
		head = append(head, "\r\nSec-WebSocket-Protocol: "+protocol...)
		u.Protocol = func([]byte) bool { return true }
	}
	if deflate {
		if extension := Deflate(r); extension != "" {
			a.Deflate = true
			u.Header = ws.HandshakeHeaderString("Sec-WebSocket-Extensions: " + extension + "\r\n")
		}
	}
	p.head = append(head, "\r\n\r\n"...)
	p.Reader.Reset(p.head)
	p.Buffer.Reset()
	_, err = u.Upgrade(p)
	a.Response = bytes.Clone(p.Buffer.Bytes())
	return a, err
}

// plain is what the Upgrader reads and writes.
type plain struct {
	head []byte
	bytes.Reader
	bytes.Buffer
}

func (p *plain) Read(b []byte) (int, error)  { return p.Reader.Read(b) }
func (p *plain) Write(b []byte) (int, error) { return p.Buffer.Write(b) }

var plains = sync.Pool{New: func() any { return new(plain) }}

// AppendFrame appends an unmasked, unfragmented frame (RFC 6455 §5.2).
func AppendFrame(dst []byte, op Op, payload []byte) []byte {
	return append(frame.AppendHeader(dst, byte(op), len(payload)), payload...)
}

// noStatus stands for a close frame without a status; it is never sent
// (RFC 6455 §7.4.1).
const noStatus = 1005

// AppendCloseFrame appends a close frame. The reason is cut to what a control
// frame holds, on a whole character.
func AppendCloseFrame(dst []byte, status uint16, reason string) []byte {
	if status == noStatus {
		return AppendFrame(dst, OpClose, nil)
	}
	const most = 125 - 2
	if len(reason) > most {
		cut := most
		for cut > 0 && !utf8.RuneStart(reason[cut]) {
			cut--
		}
		reason = reason[:cut]
	}
	dst = frame.AppendHeader(dst, byte(OpClose), 2+len(reason))
	return append(binary.BigEndian.AppendUint16(dst, status), reason...)
}
