package bus

import "testing"

func TestEdgeLease(t *testing.T) {
	for node, want := range map[string]string{"edge-0": "edge.edge-0", "a.example.com": "edge.a=2Eexample=2Ecom", "a=2E": "edge.a=3D2E", "é": "edge.=C3=A9"} {
		if got := EdgeLease(node); got != want {
			t.Errorf("%s has the key %s, want %s", node, got, want)
		}
	}
}
