package edge

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"nabat/proto/policy"
)

// A process has about 20,000 descriptors in many places, and 10,000 clients
// need as many as their edge: the clients run in a child, this binary again.

const crowdVariable = "NABAT_TEST_CROWD"

func TestMain(m *testing.M) {
	if os.Getenv(crowdVariable) != "" {
		if err := runCrowd(os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, "crowd:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// crowd is what the child does: Clients connections, spread over Paths and
// Addresses, each of which then reads Messages messages and reports.
type crowd struct {
	Addresses []string
	Paths     []string // client i takes Paths[i % len]
	Tokens    []string // client i takes Tokens[i], if there is one
	Clients   int
	Messages  int
	CA        string // file with the certificate of an edge with TLS; plain when empty
}

// runCrowd is the child. It reads what to do from its input, writes "ready" when all are connected, reads the
// messages of every client, checks that they count up from 0, writes "done" or
// what went wrong, and keeps the connections until its input ends.
func runCrowd(in io.Reader) error {
	var c crowd
	if err := json.NewDecoder(in).Decode(&c); err != nil {
		return err
	}
	conns := make([]io.ReadWriter, c.Clients)
	if err := each(c.Clients, func(i int) (err error) {
		conns[i], err = c.dial(i)
		return err
	}); err != nil {
		return err
	}
	fmt.Println("ready")
	if c.Messages > 0 {
		if err := each(c.Clients, func(i int) error { return count(conns[i], c.Messages) }); err != nil {
			return err
		}
		fmt.Println("done")
	}
	_, err := io.Copy(io.Discard, in)
	runtime.KeepAlive(conns)
	return err
}

// each runs fn for 0…n−1, all at once, and returns the first error.
func each(n int, fn func(int) error) error {
	var wg sync.WaitGroup
	var once sync.Once
	var first error
	slots := make(chan struct{}, 128)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			if err := fn(i); err != nil {
				once.Do(func() { first = fmt.Errorf("client %d: %w", i, err) })
			}
			<-slots
		})
	}
	wg.Wait()
	return first
}

func (c *crowd) dial(i int) (io.ReadWriter, error) {
	path := c.Paths[i%len(c.Paths)]
	if i < len(c.Tokens) {
		path += "&token=" + c.Tokens[i]
	}
	dialer, scheme := ws.Dialer{Timeout: patience}, "ws://"
	if c.CA != "" {
		text, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, err
		}
		scheme, dialer.TLSConfig = "wss://", &tls.Config{RootCAs: x509.NewCertPool()}
		dialer.TLSConfig.RootCAs.AppendCertsFromPEM(text)
	}
	conn, br, _, err := dialer.Dial(context.Background(), scheme+c.Addresses[i%len(c.Addresses)]+path)
	if err != nil {
		return nil, err
	}
	_ = conn.SetReadDeadline(time.Now().Add(2 * time.Minute))
	// The hello often comes with the response.
	var both io.ReadWriter = conn
	if br != nil {
		both = struct {
			io.Reader
			io.Writer
		}{io.MultiReader(io.LimitReader(br, int64(br.Buffered())), conn), conn}
	}
	hello, err := wsutil.ReadServerText(both)
	if err == nil && !strings.HasPrefix(string(hello), `{"connected":`) {
		err = fmt.Errorf("got %s", hello)
	}
	return both, err
}

// count reads n messages, which must carry 0, 1, 2 …
func count(conn io.ReadWriter, n int) error {
	for want := range n {
		text, err := wsutil.ReadServerText(conn)
		if err != nil {
			return fmt.Errorf("message %d: %w", want, err)
		}
		var m struct{ Data int }
		if err := json.Unmarshal(text, &m); err != nil || m.Data != want {
			return fmt.Errorf("message %d is %s", want, text)
		}
	}
	return nil
}

// child is a running crowd.
type child struct {
	t     testing.TB
	lines *bufio.Scanner
}

func (c crowd) start(t testing.TB) *child {
	t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), crowdVariable+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write(text); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	return &child{t, bufio.NewScanner(out)}
}

func (c *child) want(line string) {
	c.t.Helper()
	if !c.lines.Scan() || c.lines.Text() != line {
		c.t.Fatalf("the clients say %q, want %q", c.lines.Text(), line)
	}
}

func TestTenThousandClientsEachGetEveryMessageOnceAndInOrder(t *testing.T) {
	clients, messages := 10000, 30
	if testing.Short() || raceEnabled {
		clients = 2000
	}
	c := newCluster(t, policy.Dev())
	wide := func(cfg *Config) { cfg.MaxQueueBytes = 16 << 20 }
	one, two := c.edge(wide), c.edge(wide)
	// Everybody on one edge, and a few in other rooms, of which one has its own
	// messages: whoever got a stranger's message would count wrong.
	big := crowd{Addresses: []string{one.Addr()}, Paths: []string{"/ws?room=sports.news"}, Clients: clients - 2000, Messages: messages}.start(t)
	other := crowd{Addresses: []string{one.Addr(), two.Addr()}, Paths: []string{"/ws?room=other.a&room=other.b", "/ws?room=other.a"}, Clients: 1000, Messages: messages}.start(t)
	both := crowd{Addresses: []string{one.Addr(), two.Addr()}, Paths: []string{"/ws?room=sports.news"}, Clients: 1000, Messages: messages}.start(t)
	for _, g := range []*child{big, other, both} {
		g.want("ready")
	}
	for i := range messages {
		c.publish("sports.news", strconv.Itoa(i), nil)
		c.publish("other.a", strconv.Itoa(i), nil)
	}
	for _, g := range []*child{big, other, both} {
		g.want("done")
	}
	if n := one.connections() + two.connections(); n != clients {
		t.Errorf("%d connections, %d clients", n, clients)
	}
}
