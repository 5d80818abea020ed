package swarm

import (
	"encoding/binary"
	"fmt"

	"github.com/gobwas/ws"
)

// maxFrame bounds what one client keeps of an unfinished frame, in bytes.
const maxFrame = 16 << 20

// frame is one frame of a server. payload aliases the input.
type frame struct {
	code    ws.OpCode
	payload []byte
}

// nextFrame takes one frame off in and returns what is left. complete is
// false when in holds less than a frame; rest is then all of in. Fragments
// come out one by one: a stamp that is cut in two by a fragmenting server is
// not found and shows as missing.
func nextFrame(in []byte) (f frame, rest []byte, complete bool, err error) {
	if len(in) < 2 {
		return f, in, false, nil
	}
	// RFC 6455 §5.2: the reserved bits MUST be 0 unless an extension was negotiated.
	if in[0]&0x70 != 0 {
		return f, in, false, fmt.Errorf("not a WebSocket frame: it begins %q", clip(string(in), 40))
	}
	f.code = ws.OpCode(in[0] & 0x0f)
	switch f.code {
	case ws.OpContinuation, ws.OpText, ws.OpBinary, ws.OpClose, ws.OpPing, ws.OpPong:
	default:
		return f, in, false, fmt.Errorf("not a WebSocket frame: operation code %d", f.code)
	}
	// RFC 6455 §5.1: a client MUST close a connection if it detects a masked frame.
	if in[1]&0x80 != 0 {
		return f, in, false, fmt.Errorf("the server sent a masked frame")
	}
	head, length := 2, uint64(in[1]&0x7f)
	switch length {
	case 126:
		if head = 4; len(in) < head {
			return f, in, false, nil
		}
		length = uint64(binary.BigEndian.Uint16(in[2:]))
	case 127:
		if head = 10; len(in) < head {
			return f, in, false, nil
		}
		length = binary.BigEndian.Uint64(in[2:])
	}
	if length > maxFrame {
		return f, in, false, fmt.Errorf("a frame of %d bytes, at most %d", length, maxFrame)
	}
	if uint64(len(in)-head) < length {
		return f, in, false, nil
	}
	end := head + int(length)
	f.payload = in[head:end]
	return f, in[end:], true, nil
}

// pong is the answer to a ping, masked as RFC 6455 §5.3 wants it of clients.
func pong(payload []byte) ([]byte, error) {
	return ws.CompileFrame(ws.MaskFrame(ws.NewPongFrame(payload)))
}

// closeReason names the close of a server for the table of losses.
func closeReason(payload []byte) string {
	code, reason := ws.ParseCloseFrameData(payload)
	if code.Empty() {
		return "closed by the server without a code"
	}
	return fmt.Sprintf("closed by the server: %d %s", code, clip(reason, 60))
}

// clip shortens text that came from outside for one line of a message.
func clip(text string, most int) string {
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}
