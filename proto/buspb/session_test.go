package buspb

import "testing"

func TestSessionID(t *testing.T) {
	id := SessionID(0x5f0e6d1a2b3c4d5e, 3, 7<<32|1)
	if want := "c5f0e6d1a2b3c4d5e030000000700000001"; id != want {
		t.Fatalf("%s, want %s", id, want)
	}
	epoch, loop, connection, ok := ParseSessionID(id)
	if !ok || epoch != 0x5f0e6d1a2b3c4d5e || loop != 3 || connection != 7<<32|1 {
		t.Errorf("%x %d %x %v", epoch, loop, connection, ok)
	}
	for _, bad := range []string{"", "c", id[1:], id + "0", "c" + "zz" + id[3:]} {
		if _, _, _, ok := ParseSessionID(bad); ok {
			t.Errorf("%q is taken", bad)
		}
	}
}
