package natsdev

import (
	"net"
	"testing"
)

func TestFreeAddressesAreFreeAndDiffer(t *testing.T) {
	seen := make(map[string]bool)
	for range 20 {
		list, err := FreeAddresses(5)
		if err != nil {
			t.Fatal(err)
		}
		for _, address := range list {
			if seen[address] {
				t.Errorf("%s stands twice", address)
			}
			seen[address] = true
			l, err := net.Listen("tcp", address)
			if err != nil {
				t.Error(err)
				continue
			}
			_ = l.Close()
		}
	}
	if len(seen) != 100 {
		t.Errorf("%d addresses", len(seen))
	}
}
