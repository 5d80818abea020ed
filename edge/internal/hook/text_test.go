package hook

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
)

// What BUS.md shows is what is asked, to the byte, and what is understood.
func TestTheExamplesOfTheText(t *testing.T) {
	text, err := os.ReadFile("../../../proto/BUS.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string) []string {
		_, rest, found := strings.Cut(string(text), "```json hook "+kind+"\n")
		inside, _, closed := strings.Cut(rest, "\n```")
		if !found || !closed {
			t.Fatalf("no examples of a hook %s", kind)
		}
		return strings.Split(inside, "\n")
	}
	for _, line := range block("question") {
		var q Question
		d := json.NewDecoder(strings.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(&q); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		if got, err := json.Marshal(&q); err != nil || string(got) != line {
			t.Errorf("got  %s\nwant %s", got, line)
		}
	}
	for _, line := range block("answer") {
		if _, err := parse(&nats.Msg{Data: []byte(line)}); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
}
