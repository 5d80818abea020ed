package ws

import (
	"bufio"
	"bytes"
	"net/http"
	"strings"
	"testing"

	"nabat/edge/internal/listen"
	"nabat/proto/wire"
)

const key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

func head(t *testing.T, fields string) *listen.Head {
	t.Helper()
	h := new(listen.Head)
	if _, err := h.Parse([]byte("GET /ws HTTP/1.1\r\nHost: example.com\r\n"+fields+"\r\n"), 0, 16<<10); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestCheck(t *testing.T) {
	const (
		noUpgrade = "this path takes WebSocket handshakes: if a proxy is in front, it must pass on the Upgrade and Connection headers; for plain HTTP use /sse?room=NAME"
		not13     = "Sec-WebSocket-Version must be 13 (RFC 6455 §4.4)"
		badKey    = "Sec-WebSocket-Key must be 16 bytes in base64 (RFC 6455 §4.2.1)"
		v13       = "Sec-WebSocket-Version: 13\r\n"
		upgrade   = "Upgrade: websocket\r\n"
		both      = upgrade + "Connection: Upgrade\r\n"
	)
	for _, c := range []struct {
		rule, fields string
		status       int
		code         wire.Code
		reason       string
	}{
		{"RFC 6455 §4.2.1: as browsers ask", both + v13 + key, 0, "", ""},
		{"RFC 6455 §4.2.1: as Firefox asks", upgrade + "Connection: keep-alive, Upgrade\r\n" + v13 + key, 0, "", ""},
		{"RFC 6455 §4.2.1: in any case", "upgrade: WebSocket\r\nconnection: UPGRADE\r\nsec-websocket-version: 13\r\n" + strings.ToLower(key[:18]) + key[18:], 0, "", ""},
		{"RFC 9110 §7.8: an Upgrade list", "Upgrade: h2c, websocket\r\nConnection: Upgrade\r\n" + v13 + key, 0, "", ""},
		{"RFC 9110 §5.3: Connection on two lines", upgrade + "Connection: keep-alive\r\nConnection: Upgrade\r\n" + v13 + key, 0, "", ""},
		{"RFC 9110 §5.3: Upgrade on two lines", "Upgrade: h2c\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + v13 + key, 0, "", ""},
		{"RFC 6455 §9.1: an extension that nobody knows is declined", both + v13 + key + "Sec-WebSocket-Extensions: x-unknown; a=\"b\", x-other\r\n", 0, "", ""},
		{"RFC 6455 §4.2.1: no Upgrade", "Connection: Upgrade\r\n" + v13 + key, 426, wire.UpgradeRequired, noUpgrade},
		{"RFC 6455 §4.2.1: no Connection", upgrade + v13 + key, 426, wire.UpgradeRequired, noUpgrade},
		{"RFC 6455 §4.2.1: Connection: keep-alive", upgrade + "Connection: keep-alive\r\n" + v13 + key, 426, wire.UpgradeRequired, noUpgrade},
		{"RFC 6455 §4.2.1: a token that only contains websocket", "Upgrade: websockets\r\nConnection: Upgrade\r\n" + v13 + key, 426, wire.UpgradeRequired, noUpgrade},
		{"RFC 6455 §4.2.1: a token that only contains upgrade", upgrade + "Connection: no-upgrade\r\n" + v13 + key, 426, wire.UpgradeRequired, noUpgrade},
		{"RFC 6455 §4.4: no version", both + key, 426, wire.UpgradeRequired, not13},
		{"RFC 6455 §4.4: version 8", both + "Sec-WebSocket-Version: 8\r\n" + key, 426, wire.UpgradeRequired, not13},
		{"RFC 6455 §4.4: version 14", both + "Sec-WebSocket-Version: 14\r\n" + key, 426, wire.UpgradeRequired, not13},
		{"RFC 6455 §4.4: a list of versions", both + "Sec-WebSocket-Version: 13, 8\r\n" + key, 426, wire.UpgradeRequired, not13},
		{"RFC 6455 §4.1: version 013", both + "Sec-WebSocket-Version: 013\r\n" + key, 426, wire.UpgradeRequired, not13},
		{"RFC 6455 §4.2.1: no key", both + v13, 400, wire.BadRequest, badKey},
		{"RFC 6455 §4.2.1: an empty key", both + v13 + "Sec-WebSocket-Key:\r\n", 400, wire.BadRequest, badKey},
		{"RFC 6455 §4.2.1: a key of 15 bytes", both + v13 + "Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1\r\n", 400, wire.BadRequest, badKey},
		{"RFC 6455 §4.2.1: a key of 17 bytes", both + v13 + "Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Njc=\r\n", 400, wire.BadRequest, badKey},
		{"RFC 4648 §3.2: a key without padding", both + v13 + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ\r\n", 400, wire.BadRequest, badKey},
		{"RFC 4648 §3.3: a key with other characters", both + v13 + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j*Q==\r\n", 400, wire.BadRequest, badKey},
		{"RFC 4648 §5: a key in the URL alphabet", both + v13 + "Sec-WebSocket-Key: _-__________________-A==\r\n", 400, wire.BadRequest, badKey},
	} {
		t.Run(c.rule, func(t *testing.T) {
			h := head(t, c.fields)
			err := Check(h)
			if c.code == "" {
				if err != nil {
					t.Fatal(err)
				}
				checkAccept(t, h, "")
				return
			}
			if err == nil || err.Code != c.code || err.Reason != c.reason || err.Code.HTTPStatus() != c.status {
				t.Errorf("got  %v\nwant %d %s: %s", err, c.status, c.code, c.reason)
			}
		})
	}
}

// checkAccept holds a 101 against RFC 6455 §4.2.2 and its example.
func checkAccept(t *testing.T, h Request, protocol string) {
	t.Helper()
	a, err := Accept(h, protocol, false)
	b := a.Response
	if err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(bytes.NewReader(b))
	r, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"Upgrade": "websocket", "Connection": "Upgrade", "Sec-Websocket-Accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="}
	if protocol != "" {
		want["Sec-Websocket-Protocol"] = protocol
	}
	for name, value := range want {
		if r.Header.Get(name) != value {
			t.Errorf("%s is %q", name, r.Header.Get(name))
		}
	}
	if r.StatusCode != 101 || len(r.Header) != len(want) || br.Buffered() != 0 {
		t.Errorf("%q", b)
	}
}

func TestAcceptNamesTheSelectedProtocolOnly(t *testing.T) {
	h := head(t, "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"+key+"Sec-WebSocket-Protocol: nabat.token.secret, nabat.v1.json\r\n")
	checkAccept(t, h, "nabat.v1.json")
	checkAccept(t, h, "")
}

func TestCloseFramesFitAControlFrame(t *testing.T) {
	for _, c := range []struct {
		rule   string
		status uint16
		reason string
		want   string
	}{
		{"RFC 6455 §5.5.1: no status, no body", noStatus, "ignored", "\x88\x00"},
		{"RFC 6455 §5.5.1: a status alone", 1000, "", "\x88\x02\x03\xe8"},
		{"RFC 6455 §5.5.1: a reason", 4200, "bye", "\x88\x05\x10\x68bye"},
		{"RFC 6455 §5.5: at most 125 bytes", 1002, strings.Repeat("x", 200), "\x88\x7d\x03\xea" + strings.Repeat("x", 123)},
		{"RFC 6455 §5.5.1: a cut reason is UTF-8", 1002, strings.Repeat("x", 121) + "€", "\x88\x7b\x03\xea" + strings.Repeat("x", 121)},
	} {
		if got := AppendCloseFrame(nil, c.status, c.reason); string(got) != c.want {
			t.Errorf("%s: %q", c.rule, got)
		}
	}
}
