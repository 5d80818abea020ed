package ws

import (
	"strings"
	"testing"
	"unsafe"
)

// RFC 7692 §7, RFC 6455 §9.1: what is accepted of an offer.
func TestDeflate(t *testing.T) {
	for _, c := range []struct{ rule, fields, want string }{
		{"as Chromium offers", "permessage-deflate; client_max_window_bits", accepted},
		{"as Firefox offers", "permessage-deflate", accepted},
		{"nothing offered", "", ""},
		{"another extension", "x-other", ""},
		{"the extension of Safari before 2019", "x-webkit-deflate-frame", ""},
		{"behind another extension", "x-other; a=1, permessage-deflate", accepted},
		{"on a second line", "x-other\r\nSec-WebSocket-Extensions: permessage-deflate", accepted},
		{"the first offer that can be kept", "permessage-deflate; server_max_window_bits=10, permessage-deflate; server_max_window_bits=15, permessage-deflate", accepted5},
		{"a window that the edge can not bound", "permessage-deflate; server_max_window_bits=14", ""},
		{"then the fallback of the client", "permessage-deflate; server_max_window_bits=14; client_max_window_bits, permessage-deflate; client_max_window_bits", accepted},
		{"the largest window, quoted", `permessage-deflate; server_max_window_bits="15"`, accepted5},
		{"quoted with an escape", `permessage-deflate; server_max_window_bits="1\5"`, accepted5},
		{"a window without a size", "permessage-deflate; server_max_window_bits", ""},
		{"an empty size", `permessage-deflate; server_max_window_bits=""`, ""},
		{"a size with a leading zero", "permessage-deflate; server_max_window_bits=015", ""},
		{"a client's window with a leading zero", "permessage-deflate; client_max_window_bits=08", ""},
		{"a client's window that is too small", "permessage-deflate; client_max_window_bits=7", ""},
		{"a client's window that is too large", "permessage-deflate; client_max_window_bits=16", ""},
		{"a client's window in words", "permessage-deflate; client_max_window_bits=ten", ""},
		{"a client's window without a size but with =", "permessage-deflate; client_max_window_bits=", ""},
		{"a parameter that takes no value", "permessage-deflate; server_no_context_takeover=1", ""},
		{"a parameter that takes no value, of the client", "permessage-deflate; client_no_context_takeover=true", ""},
		{"a parameter twice", "permessage-deflate; client_max_window_bits; client_max_window_bits", ""},
		{"a parameter twice with different values", "permessage-deflate; server_max_window_bits=15; server_max_window_bits=10", ""},
		{"an unknown parameter", "permessage-deflate; level=9", ""},
		{"an unknown parameter in the first offer only", "permessage-deflate; level=9, permessage-deflate", accepted},
		{"spaces and tabs", "permessage-deflate \t;  server_no_context_takeover ; server_max_window_bits = 15", accepted5},
		{"empty elements of the list", ", ,permessage-deflate,,", accepted},
		{"a name inside a quoted string is none", `x-other; a="b, permessage-deflate", x-third`, ""},
		{"an offer behind a quoted string", `x-other; a="b, c\", d", permessage-deflate`, accepted},
		{"a string that does not end", `x-other; a="b, permessage-deflate`, ""},
		{"no parameter behind ;", "permessage-deflate;", ""},
		{"no parameter between ;", "permessage-deflate; ; client_max_window_bits", ""},
		{"two words", "permessage-deflate server_no_context_takeover", ""},
		{"a parameter without a name", "permessage-deflate; =15", ""},
		{"an element that is no token", "@, permessage-deflate", ""},
	} {
		t.Run(c.rule, func(t *testing.T) {
			fields := ""
			if c.fields != "" {
				fields = offerLine + c.fields + "\r\n"
			}
			h := head(t, "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"+key+fields)
			if got := Deflate(h); got != c.want {
				t.Errorf("answered %q, want %q", got, c.want)
			}
			for _, allowed := range []bool{false, true} {
				a, err := Accept(h, "nabat.v1.json", allowed)
				want := allowed && c.want != ""
				if err != nil || a.Deflate != want || strings.Contains(string(a.Response), "\r\nSec-WebSocket-Extensions: "+c.want+"\r\n") != want ||
					!strings.Contains(string(a.Response), "\r\nSec-WebSocket-Protocol: nabat.v1.json\r\n") {
					t.Errorf("allowed %v: %v, %v, %q", allowed, err, a.Deflate, a.Response)
				}
			}
		})
	}
}

// An idle connection costs the size class of its struct: raise it knowingly.
func TestTheSizeOfAnIdleConnection(t *testing.T) {
	if n := unsafe.Sizeof(Conn{}); n > 112 {
		t.Errorf("%d bytes", n)
	}
}

func FuzzDeflate(f *testing.F) {
	f.Add("permessage-deflate; client_max_window_bits=15, x; y=\"a,\\\"b\"")
	f.Fuzz(func(t *testing.T, offered string) {
		switch got := Deflate(fields{offered}); {
		case got == "":
		case got != accepted && got != accepted5:
			t.Errorf("answered %q", got)
		case !strings.Contains(offered, "permessage-deflate"):
			t.Errorf("accepted %q, which nobody offered", offered)
		}
	})
}

// fields are the extensions of a request.
type fields struct{ extensions string }

func (f fields) Header(string) ([]byte, bool) { return nil, false }
func (f fields) Has(string, string) bool      { return false }
func (f fields) Tokens(_ string, fn func([]byte) bool) {
	for t := range strings.SplitSeq(f.extensions, ",") {
		if t = strings.Trim(t, " \t"); t != "" && !fn([]byte(t)) {
			return
		}
	}
}
