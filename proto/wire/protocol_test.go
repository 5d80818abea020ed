package wire

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"nabat/proto/subject"
)

func protocol(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// table returns the cells of the table whose head is this line.
func table(t *testing.T, text, head string) (rows [][]string) {
	t.Helper()
	_, rest, found := strings.Cut(text, "\n"+head+"\n")
	if !found {
		t.Fatalf("PROTOCOL.md has no table %s", head)
	}
	lines := strings.Split(rest, "\n")
	for _, line := range lines[1:] { // the first is the rule below the head
		if !strings.HasPrefix(line, "| ") {
			break
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	return rows
}

// blocks returns the lines of all fenced blocks that are tagged so.
func blocks(t *testing.T, text, tag string) (lines []string) {
	t.Helper()
	for _, part := range strings.Split(text, "\n```json "+tag+"\n")[1:] {
		block, _, _ := strings.Cut(part, "\n```")
		lines = append(lines, strings.Split(block, "\n")...)
	}
	if len(lines) == 0 {
		t.Fatalf("PROTOCOL.md has no block tagged %s", tag)
	}
	return lines
}

func TestTheErrorTableOfTheTextIsTheOneOfTheCode(t *testing.T) {
	var got, want []string
	for _, row := range table(t, protocol(t), "| code | HTTP | close | again | means | what to do |") {
		if len(row) != 6 || row[4] == "" || row[5] == "" {
			t.Errorf("row %q", row)
			continue
		}
		got = append(got, strings.Join(row[:4], " "))
	}
	for _, e := range Table {
		closes, again := "–", "no"
		if e.Close != 0 {
			closes = strconv.Itoa(int(e.Close))
		}
		if e.Returns {
			again = "yes"
		}
		want = append(want, fmt.Sprintf("`%s` %d %s %s", e.Code, e.Status, closes, again))
	}
	if !slices.Equal(got, want) {
		t.Fatalf("PROTOCOL.md has\n%s\nthe code has\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestTheCloseTableOfTheTextIsTheOneOfTheCode(t *testing.T) {
	retry := map[Code]int{CloseSlow.Code: CloseSlow.RetryMS, CloseDrain.Code: CloseDrain.RetryMS, Unavailable: 1000, Overloaded: 1000,
		CloseRateLimited.Code: CloseRateLimited.RetryMS, TooManyConnections: 10000, HookUnavailable: 1000, NamespaceFull: 5000}
	name := regexp.MustCompile("`([^`]+)`")
	var got, want []string
	for _, row := range table(t, protocol(t), "| status | code | `retry_ms` | when |") {
		if len(row) != 4 || row[3] == "" {
			t.Errorf("row %q", row)
			continue
		}
		for _, code := range name.FindAllStringSubmatch(row[1], -1) {
			got = append(got, fmt.Sprintf("%s %s %s", row[0], code[1], row[2]))
		}
	}
	for _, e := range Table {
		if e.Close != 0 {
			want = append(want, fmt.Sprintf("%d %s %d", e.Close, e.Code, retry[e.Code]))
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("PROTOCOL.md has\n%s\nthe code has\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestTheCommandsOfTheTextAreAccepted(t *testing.T) {
	seen := map[Verb]bool{}
	var c Command
	for _, line := range blocks(t, protocol(t), "command") {
		if err := Parse([]byte(line), &c); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		seen[c.Verb] = true
	}
	for name, verb := range verbs {
		if !seen[verb] {
			t.Errorf("%s: no example is there", name)
		}
	}
}

// What the edge says in the text is what the code writes, to the byte.
func TestTheObjectsOfTheTextAreWrittenSo(t *testing.T) {
	for _, line := range blocks(t, protocol(t), "edge") {
		var object map[string]json.RawMessage
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		var got []byte
		var err error
		if object["room"] != nil {
			got, err = again(line)
		} else {
			v := objectVector{}
			for key, value := range object {
				if key == "id" {
					err = json.Unmarshal(value, &v.ID)
				} else {
					v.Kind, v.Value = key, value
				}
			}
			if err == nil {
				got, err = v.write()
			}
		}
		if err != nil || string(got) != line {
			t.Errorf("%s\nis written %s, %v", line, got, err)
		}
	}
}

// again reads a message and writes it.
func again(line string) ([]byte, error) {
	m, err := readMessage([]byte(line))
	if err != nil {
		return nil, err
	}
	return AppendMessage(nil, m), nil
}

func readMessage(text []byte) (*Message, error) {
	var in struct {
		Room, Epoch, Event, User string
		Offset                   uint64
		Data                     json.RawMessage
		Text                     *string
		Base64                   []byte
	}
	if err := json.Unmarshal(text, &in); err != nil {
		return nil, err
	}
	m := &Message{Room: in.Room, Epoch: in.Epoch, Offset: in.Offset, Event: in.Event, User: in.User}
	switch {
	case in.Text != nil:
		m.Kind, m.Body = Text, []byte(*in.Text)
	case in.Base64 != nil:
		m.Kind, m.Body = Binary, in.Base64
	default:
		m.Kind, m.Body = Classify(in.Data, "json")
	}
	return m, nil
}

// Why a position was not recovered, and why messages are missing, stands in the
// text with what to do.
func TestTheReasonsOfTheText(t *testing.T) {
	names := func(head string) (list []string) {
		for _, row := range table(t, protocol(t), head) {
			list = append(list, strings.Trim(row[0], "`"))
			if slices.Contains(row, "") {
				t.Errorf("row %q", row)
			}
		}
		return list
	}
	if got, want := names("| reason | means | what follows | what to do |"),
		[]string{NoHistory, EpochChanged, HistoryCut, HistoryUnavailable, AheadOfHistory}; !slices.Equal(got, want) {
		t.Errorf("recovered: false has %v, the code %v", got, want)
	}
	if got, want := names("| reason | in rooms | means |"),
		[]string{GapSlow, GapReconnected, GapOverload, GapCut, GapUnavailable, GapNotStored}; !slices.Equal(got, want) {
		t.Errorf("gap has %v, the code %v", got, want)
	}
}

func TestTheSubjectsOfTheText(t *testing.T) {
	rows := table(t, protocol(t), "| room | subject |")
	for _, row := range rows {
		room, want := strings.Trim(row[0], "`"), strings.Trim(row[1], "`")
		if got, err := subject.Encode(subject.RoomPrefix, room); err != nil || got != want {
			t.Errorf("%s is %s, %v; the text says %s", room, got, err, want)
		}
	}
	if len(rows) == 0 {
		t.Error("no rows")
	}
}
