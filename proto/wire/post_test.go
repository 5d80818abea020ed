package wire

import (
	"bytes"
	"encoding/json"
	"testing"
	"unicode/utf8"
)

func TestBodiesOfAPublishWithoutACommand(t *testing.T) {
	for _, c := range []struct {
		rule, media, body string
		kind              Kind
		want              string
		refused           string
	}{
		{"JSON is compacted", "application/json", " {\"a\": [1, 2.50]}\n", Data, `{"a":[1,2.50]}`, ""},
		{"any JSON value is data", "application/json", `"x y"`, Data, `"x y"`, ""},
		{"a name given twice is no JSON here", "application/json", `{"a":1,"a":2}`, 0, "", "the body is application/json and not JSON: "},
		{"no JSON", "application/json", `{a}`, 0, "", "the body is application/json and not JSON: "},
		{"nothing is no JSON", "application/json", "", 0, "", "the body is application/json and not JSON: "},
		{"JSON that is not UTF-8", "application/json", "\"\xff\"", 0, "", "the body is application/json and not JSON: "},
		{"two values", "application/json", "1 2", 0, "", "the body holds one JSON value: there is more behind it"},
		{"a text that could be JSON", "text/plain", " 1\n", Text, " 1\n", ""},
		{"an empty text", "text/plain", "", Text, "", ""},
		{"a text that is none", "text/plain", "\xff", 0, "", "the body is text/plain and not valid UTF-8"},
		{"bytes that could be JSON", "application/octet-stream", "{}", Binary, "{}", ""},
		{"a guess: JSON", "", "[1, 2]", Data, "[1,2]", ""},
		{"a guess: text", "application/x-www-form-urlencoded", "a=1", Text, "a=1", ""},
		{"a guess: bytes", "", "\xff\x00", Binary, "\xff\x00", ""},
	} {
		t.Run(c.rule, func(t *testing.T) {
			kind, body, err := ParseBody([]byte(c.body), c.media)
			if c.refused != "" {
				if err == nil || err.Code != BadData || !bytes.HasPrefix([]byte(err.Reason), []byte(c.refused)) {
					t.Fatalf("got %v, want %s", err, c.refused)
				}
				return
			}
			if err != nil || kind != c.kind || string(body) != c.want {
				t.Errorf("%v %q %v", kind, body, err)
			}
		})
	}
}

// FuzzParseBody: what is taken means the same to who guesses with the header that
// the edge writes, and JSON fits into one line.
func FuzzParseBody(f *testing.F) {
	for _, media := range []string{"application/json", "text/plain", "application/octet-stream", ""} {
		f.Add([]byte(` {"a": [1, "\u00e9", null]} `), media)
		f.Add([]byte("\xff"), media)
	}
	f.Fuzz(func(t *testing.T, body []byte, media string) {
		kind, got, err := ParseBody(body, media)
		if err != nil {
			if err.Code != BadData || err.Reason == "" {
				t.Fatalf("not a refusal: %v", err)
			}
			return
		}
		again, same := Classify(got, kind.String())
		if again != kind || !bytes.Equal(same, got) {
			t.Fatalf("%v %q is read as %v %q", kind, got, again, same)
		}
		if kind == Data && (bytes.ContainsAny(got, "\r\n") || !json.Valid(got) || !utf8.Valid(got)) {
			t.Fatalf("data %q", got)
		}
	})
}
