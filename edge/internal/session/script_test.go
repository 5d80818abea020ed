package session

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nabat/proto/grant"
	"nabat/proto/policy"
)

var rewrite = flag.Bool("rewrite", false, "write what the scripts print into them")

// TestScripts plays testdata/*.txt. A script is a list of blocks: lines of
// input, "----", and what the session asked its host for meanwhile, up to an
// empty line. Lines that begin with # are comments. The input:
//
//	limits   rooms=8 bad=3 in-flight=4 bytes=16 connect=10 warning=60
//	rates    messages=10/20 bytes=1000/2000 subscribes=5/10 calls=1/2 refusals=3   PER SECOND/BURST
//	shared-rate over|within [of frames|subscribes|calls]
//	asks-connect                          clients without a token are verified, too, as nobody
//	open-rpc PATTERN …                    methods for clients without a token
//	full     USER …                       the edge counts no more connections of these
//	policy   PATTERN [publish] [anonymous-subscribe] [anonymous-publish] [presence] [anonymous-presence]
//	token    NAME user=U [expires=1100] [subscribe=P,P] [publish=P] [history=P] [rpc=P] [presence=P] [deny=P] [rooms=R,R] [info=JSON]
//	at-once  [verify] [join] [publish]    the host answers these within the call
//	admit    [token=NAME] [ROOM …]        what a request would be told before it is answered
//	open     [token=NAME] [ROOM …]        the connection is there
//	recv     OBJECT                       from the client
//	answer   verify|join|publish|history|call|presence WHAT [CODE]    an error if there is a code
//	clock    +SECONDS                     it begins at 1000; +200ms moves only the clock of the rates
//	state                                 print the session's own
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { play(t, file) })
	}
}

func play(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	h := newHost()
	var got strings.Builder
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		got.WriteString(line + "\n")
		if line != "----" {
			if line != "" && line[0] != '#' {
				if err := h.input(line); err != nil {
					t.Fatalf("%s:%d: %v", file, i+1, err)
				}
				for _, fault := range h.check() {
					t.Errorf("%s:%d: %s", file, i+1, fault)
				}
				h.faults = nil
			}
			continue
		}
		for i+1 < len(lines) && lines[i+1] != "" {
			i++
		}
		if h.out.Len() == 0 {
			h.out.WriteString("nothing\n")
		}
		got.WriteString(h.out.String())
		h.out.Reset()
	}
	if h.out.Len() != 0 {
		t.Errorf("%s: input without ---- behind it", file)
	}
	if *rewrite {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(text), got.String()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

func (h *host) input(line string) error {
	verb, rest, _ := strings.Cut(line, " ")
	words := strings.Fields(rest)
	switch verb {
	case "shared-rate":
		use := map[string]Use{"subscribes": OfSubscribes, "calls": OfCalls}[words[len(words)-1]]
		h.limits.Rates.Shared[use], h.shared[use] = true, words[0] == "over"
	case "asks-connect":
		h.limits.AsksConnect = true
	case "open-rpc":
		h.limits.AnonymousRPC = words
	case "limits":
		return h.setLimits(words)
	case "rates":
		return h.setRates(words)
	case "full":
		clear(h.full)
		for _, user := range words {
			h.full[user] = true
		}
	case "policy":
		p := policy.Policy{Match: words[0]}
		for _, w := range words[1:] {
			switch w {
			case "publish":
				p.Publish = true
			case "anonymous-subscribe":
				p.Anonymous.Subscribe = true
			case "anonymous-publish":
				p.Anonymous.Publish = true
			case "presence":
				p.Presence = &policy.Presence{}
			case "anonymous-presence":
				p.Presence = &policy.Presence{Anonymous: true}
			default:
				return fmt.Errorf("policy: %q", w)
			}
		}
		h.policies.Rooms = append(h.policies.Rooms, p)
		return h.policies.Check()
	case "token":
		return h.setToken(words)
	case "at-once":
		clear(h.atOnce)
		for _, w := range words {
			h.atOnce[w] = true
		}
	case "admit", "open":
		id, rooms, err := h.request(words)
		if err != nil {
			return err
		}
		if verb == "open" {
			h.open(id, rooms)
		} else if err := h.session.Admit(h, &h.limits, id, wanted(rooms)); err != nil {
			fmt.Fprintf(&h.out, "refused %v\n", err)
		} else {
			h.out.WriteString("admitted\n")
		}
	case "recv":
		h.handle(rest)
	case "answer":
		if len(words) == 2 {
			words = append(words, "")
		}
		if !h.reply(words[0], words[1], words[2]) {
			return fmt.Errorf("nobody waits for %s %s", words[0], words[1])
		}
	case "clock":
		if text, found := strings.CutSuffix(rest, "ms"); found {
			ms, err := strconv.ParseInt(text, 10, 64)
			h.elapsed += ms * 1e6
			return err
		}
		seconds, err := strconv.ParseInt(rest, 10, 64)
		h.advance(seconds)
		return err
	case "state":
		h.printState()
	default:
		return fmt.Errorf("there is no input %q", verb)
	}
	return nil
}

func (h *host) setLimits(words []string) error {
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		n, err := strconv.Atoi(value)
		if err != nil {
			return err
		}
		switch key {
		case "rooms":
			h.limits.MaxRooms = n
		case "bad":
			h.limits.MaxBadCommands = n
		case "in-flight":
			h.limits.MaxInFlight = n
		case "bytes":
			h.limits.MaxPublishBytes = n
		case "connect":
			h.limits.ConnectTimeout = int64(n)
		case "warning":
			h.limits.ExpiryWarning = int64(n)
		default:
			return fmt.Errorf("limits: %q", key)
		}
	}
	return nil
}

func (h *host) setRates(words []string) error {
	r := &h.limits.Rates
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		var err error
		switch key {
		case "messages":
			_, err = fmt.Sscanf(value, "%d/%d", &r.Messages.PerSecond, &r.Messages.Burst)
		case "bytes":
			_, err = fmt.Sscanf(value, "%d/%d", &r.Bytes.PerSecond, &r.Bytes.Burst)
		case "calls":
			_, err = fmt.Sscanf(value, "%d/%d", &r.Calls.PerSecond, &r.Calls.Burst)
		case "subscribes":
			_, err = fmt.Sscanf(value, "%d/%d", &r.Subscribes.PerSecond, &r.Subscribes.Burst)
		case "refusals":
			r.MaxRefusals, err = strconv.Atoi(value)
		default:
			err = errors.New("there is no such rate")
		}
		if err != nil {
			return fmt.Errorf("rates: %q: %w", w, err)
		}
	}
	return nil
}

func (h *host) setToken(words []string) error {
	id := &Identity{Grant: new(grant.Grant)}
	for _, w := range words[1:] {
		key, value, _ := strings.Cut(w, "=")
		switch list := strings.Split(value, ","); key {
		case "user":
			id.User = value
		case "expires":
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return err
			}
			id.Expires = uint32(n)
		case "history":
			id.Grant.History = list
		case "rpc":
			id.Grant.RPC = list
		case "subscribe":
			id.Grant.Subscribe = list
		case "publish":
			id.Grant.Publish = list
		case "presence":
			id.Grant.Presence = list
		case "info":
			id.Grant.Info = []byte(value)
		case "deny":
			id.Grant.Deny = list
		case "rooms":
			id.Grant.Rooms = list
		default:
			return fmt.Errorf("token: %q", key)
		}
	}
	h.tokens[words[0]] = id
	return id.Grant.Check()
}

func (h *host) request(words []string) (id *Identity, rooms []string, err error) {
	for _, w := range words {
		name, found := strings.CutPrefix(w, "token=")
		if !found {
			rooms = append(rooms, w)
		} else if id = h.tokens[name]; id == nil {
			return nil, nil, fmt.Errorf("no token %q", name)
		}
	}
	return id, rooms, nil
}

func (h *host) printState() {
	s := h.session
	user := "nobody"
	if s.Identity() != nil {
		user = s.Identity().User
	}
	name := [...]string{fresh: "fresh", checking: "checking", connecting: "connecting", connected: "connected", closed: "closed"}[s.state]
	held := 0
	if s.wait != nil {
		held = len(s.wait.held)
	}
	fmt.Fprintf(&h.out, "%s, %s, in %v, %d in flight, %d held, %d bad\n", name, user, h.Rooms(Ref{}), s.inFlight, held, s.bad)
}
