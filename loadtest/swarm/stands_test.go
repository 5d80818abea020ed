package swarm

import (
	"slices"
	"strings"
	"testing"
)

func TestWhereAClientStands(t *testing.T) {
	l := &loop{plan: &Plan{Spread: Spread{Rooms: 10, Each: 2}}}
	c := &client{number: 3}
	a, b := RoomName(l.plan.Spread.room(3, 0)), RoomName(l.plan.Spread.room(3, 1))
	if err := l.stands(c, []byte(`{"id":1,"connected":{"session":"s","rooms":[{"room":"`+a+`","epoch":"k1","offset":7,"recovered":true},{"room":"`+b+`","epoch":"k2","offset":9,"recovered":false,"reason":"history_cut"}]}}`)); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(c.at, []position{{"k1", 7}, {"k2", 9}}) || l.stand.Recovered != 1 || l.stand.Unrecovered != 1 {
		t.Errorf("%+v, %+v", c.at, l.stand)
	}
	if err := l.stands(c, []byte(`{"connected":{"rooms":[{"room":"`+b+`","epoch":"k3","offset":10}]}}`)); err != nil || c.at[1] != (position{"k3", 10}) || l.stand.Recovered != 1 {
		t.Errorf("%v: %+v", err, c.at)
	}
	for _, bad := range []string{`{"connected":{}}`, `{"connected":{"rooms":[{"room":"` + a + `","epoch":"k1"}]}}`} {
		if err := l.stands(c, []byte(bad)); err == nil || !strings.Contains(err.Error(), "first message") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
