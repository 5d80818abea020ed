package natsdev

import (
	"net"
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func TestRestartKeepsPortAndStore(t *testing.T) {
	s, err := Start(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Shutdown()
	url := s.URL()
	put := func() jetstream.KeyValue {
		nc, err := nats.Connect(s.URL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		kv, err := js.CreateOrUpdateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "x"})
		if err != nil {
			t.Fatal(err)
		}
		return kv
	}
	if _, err := put().PutString(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	if s.URL() != url {
		t.Fatalf("was on %s, is on %s", url, s.URL())
	}
	if e, err := put().Get(t.Context(), "k"); err != nil || string(e.Value()) != "v" {
		t.Fatalf("the store lost a key: %v", err)
	}
}

func TestATemporaryStoreIsRemoved(t *testing.T) {
	s, err := Start(Options{})
	if err != nil {
		t.Fatal(err)
	}
	dir := s.opts.Dir
	s.Shutdown()
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Fatalf("%s is still there: %v", dir, err)
	}
}

func TestRefusals(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	for rule, c := range map[string]struct{ listen, want string }{
		"a taken port names the address": {taken.Addr().String(), "NATS on " + taken.Addr().String() + ": listen tcp"},
		"no port":                        {"127.0.0.1", "NATS address \"127.0.0.1\""},
		"a port that is no number":       {"127.0.0.1:x", "the port is not a number"},
	} {
		t.Run(rule, func(t *testing.T) {
			_, err := Start(Options{Listen: c.listen})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestAClusterReplicates(t *testing.T) {
	c, err := StartCluster(3)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Shutdown()
	nc, err := nats.Connect(c.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Replicas: 3})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(s.CachedInfo().Cluster.Replicas); n != 2 {
		t.Fatalf("%d followers, want 2", n)
	}
}
