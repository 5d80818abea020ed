package edge

import "testing"

// A second chunk in one turn would take the place of the first in what comes back
// when neither fits: the first would be lost without a word.
func TestACatchUpGoesOnOnceATurn(t *testing.T) {
	var b catchups
	c := new(catchup)
	b.step(c) // the client knows where it stands
	b.step(c) // and so does the read that has told it
	if len(b.steps) != 1 {
		t.Fatalf("%d steps in one turn", len(b.steps))
	}
	c.paused = true // run leaves it alone, and it can be due again
	b.list = map[key]*catchup{{c.ref.Slot, c.number}: c}
	b.run()
	if b.step(c); len(b.steps) != 1 || c.waiting {
		t.Fatalf("%d steps in the next turn, waiting %v", len(b.steps), c.waiting)
	}
}
