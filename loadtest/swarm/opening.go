package swarm

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/gobwas/ws"
)

// welcome is called behind the head of the answer.
func (l *loop) welcome(c *client) error {
	c.state, c.steps = greeting, 0
	return l.proceed(c)
}

// awaited is the text that must come before opening message number n is sent.
func (d *Dialect) awaited(n int) string {
	if n < len(d.Await) {
		return d.Await[n]
	}
	return ""
}

// proceed sends the opening messages that wait for nothing.
func (l *loop) proceed(c *client) error {
	for n := int(c.steps); n < len(l.plan.Open) && l.plan.awaited(n) == ""; n++ {
		if err := c.say(l.plan); err != nil {
			return err
		}
	}
	if int(c.steps) >= len(l.plan.Open) && l.plan.Greeting == "" {
		l.opened(c)
	}
	return nil
}

// say sends the next opening message.
func (c *client) say(p *Plan) error {
	text := p.Spread.expand(p.Open[c.steps], int(c.number))
	if c.steps == 0 && c.at != nil {
		text = p.returning(c)
	}
	c.steps++
	var out []byte
	for frame := range strings.SplitSeq(text, "\x00") {
		out = append(out, p.masked(frame)...)
	}
	return c.send(out)
}

// masked is a frame of a client.
func (d *Dialect) masked(text string) []byte {
	code := ws.OpText
	if d.Binary {
		code = ws.OpBinary
	}
	return ws.MustCompileFrame(ws.MaskFrame(ws.NewFrame(code, true, []byte(text))))
}

// pinged reports whether a message asks for a sign of life.
func (d *Dialect) pinged(payload []byte) bool {
	switch {
	case d.Ping == "":
		return false
	case string(payload) == d.Ping:
		return true
	case !d.Lines:
		return false
	}
	line := strings.TrimSuffix(d.Ping, "\n")
	return bytes.HasPrefix(payload, []byte(line+"\n")) || bytes.HasSuffix(payload, []byte("\n"+d.Ping)) || bytes.Contains(payload, []byte("\n"+line+"\n"))
}

// wanted is the text for which c, which is not open yet, waits.
func (p *Plan) wanted(c *client) string {
	if n := int(c.steps); n < len(p.Open) {
		return p.awaited(n)
	}
	return p.Greeting
}

// which message of the target c waits for, for errors.
func (p *Plan) which(c *client) string {
	if len(p.Await) > 0 && c.steps > 0 {
		return "answer"
	}
	return "first message"
}

// greeted takes a message of a connection that is not open yet and reports
// whether it is the greeting, or the last one of them.
func (l *loop) greeted(c *client, payload []byte) (bool, error) {
	for _, refusal := range l.plan.Refusals {
		if bytes.Contains(payload, []byte(refusal)) {
			return false, fmt.Errorf("the target refuses: %q", clip(string(payload), 120))
		}
	}
	wanted := []byte(l.plan.wanted(c))
	switch {
	case !bytes.Contains(payload, wanted):
		if l.plan.Patient {
			return false, nil
		}
		return false, fmt.Errorf("the target's %s is not %q but %q", l.plan.which(c), wanted, clip(string(payload), 120))
	case int(c.steps) < len(l.plan.Open):
		if err := c.say(l.plan); err != nil {
			return false, err
		}
		return false, l.proceed(c)
	case l.plan.Every:
		c.steps += uint16(bytes.Count(payload, wanted))
		return int(c.steps) >= len(l.plan.Open)+l.plan.Spread.Each, nil
	case l.plan.Resume:
		return true, l.stands(c, payload)
	}
	return true, nil
}
