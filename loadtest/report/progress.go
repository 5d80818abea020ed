package report

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// State is what progress shows. Zero fields are left out.
type State struct {
	Phase  string  // what is being done
	Done   float64 // of Total, in Of
	Total  float64
	Of     string  // what is counted: "connected", "messages"
	Rate   float64 // Of per second
	Errors int
	Detail string // what else is worth showing
}

const (
	redrawEvery = 100 * time.Millisecond // on a terminal
	lineEvery   = 2 * time.Second        // elsewhere
)

// Progress shows how a run stands: one line that is redrawn on a terminal, a
// line every two seconds and at the end of each phase elsewhere.
// Methods are safe from any goroutine.
type Progress struct {
	// Set at creation, never changed.
	out      io.Writer
	terminal bool
	now      func() time.Time

	// mu guards the fields below.
	mu    sync.Mutex
	shown time.Time // of the last line
	began time.Time // of the phase
	last  State
	width int // of the line that is on the terminal
}

// NewProgress shows progress on out.
func NewProgress(out io.Writer) *Progress {
	p := &Progress{out: out, now: time.Now}
	if file, ok := out.(*os.File); ok && os.Getenv("TERM") != "dumb" {
		_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
		p.terminal = err == nil
	}
	return p
}

// Show tells how the run stands. Most calls cost nothing.
func (p *Progress) Show(s State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if s.Phase != p.last.Phase {
		p.finish()
		p.began, p.shown = now, time.Time{}
		if !p.terminal {
			p.shown = now // its first line comes when there is something to say
		}
	}
	p.last = s
	every := lineEvery
	if p.terminal {
		every = redrawEvery
	}
	if now.Sub(p.shown) < every {
		return
	}
	p.shown = now
	p.draw(line(s, now.Sub(p.began)))
}

// End closes the phase that is shown, if there is one.
func (p *Progress) End() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finish()
	p.last = State{}
}

// Say prints a line of its own.
func (p *Progress) Say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	_, _ = fmt.Fprintf(p.out, format+"\n", args...)
}

// finish prints the last state of a phase for good.
func (p *Progress) finish() {
	if p.last.Phase == "" {
		return
	}
	p.clear()
	s, took := p.last, p.now().Sub(p.began)
	_, _ = fmt.Fprintf(p.out, "%s in %.1f s\n", line(s, 0), took.Seconds())
}

func (p *Progress) draw(text string) {
	if !p.terminal {
		_, _ = fmt.Fprintln(p.out, text)
		return
	}
	p.clear()
	_, _ = io.WriteString(p.out, text)
	p.width = utf8.RuneCountInString(text)
}

func (p *Progress) clear() {
	if p.terminal && p.width > 0 {
		_, _ = io.WriteString(p.out, "\r"+strings.Repeat(" ", p.width)+"\r")
		p.width = 0
	}
}

// line is one state as text; the time left is guessed from the share done.
func line(s State, ran time.Duration) string {
	parts := []string{s.Phase + ":"}
	if s.Total > 0 {
		parts = append(parts, fmt.Sprintf("%s of %s %s", Thousands(s.Done), Thousands(s.Total), s.Of))
	}
	if s.Rate > 0 {
		parts = append(parts, fmt.Sprintf("%s/s", Thousands(s.Rate)))
	}
	if s.Errors > 0 {
		parts = append(parts, fmt.Sprintf("%d failed", s.Errors))
	}
	if s.Detail != "" {
		parts = append(parts, s.Detail)
	}
	if s.Done > 0 && s.Done < s.Total && ran > time.Second {
		left := time.Duration(float64(ran) * (s.Total - s.Done) / s.Done)
		parts = append(parts, fmt.Sprintf("%.0f s left", left.Seconds()))
	}
	if len(parts) == 1 {
		return strings.TrimSuffix(parts[0], ":")
	}
	return parts[0] + " " + strings.Join(parts[1:], " · ")
}
