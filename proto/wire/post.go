package wire

import (
	"io"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// ParseBody reads the body of a publish that no command stands around. media is
// its type without parameters, in lower case: application/json is one JSON value,
// as strict as data in a command; text/plain a text; application/octet-stream
// bytes. With any other, and with none, the body speaks for itself, as that of a
// NATS message does. The result may alias body.
func ParseBody(body []byte, media string) (Kind, []byte, *Error) {
	switch media {
	case "application/json":
		return parseData(body)
	case "text/plain":
		if !utf8.Valid(body) {
			return 0, nil, &Error{Code: BadData, Reason: "the body is text/plain and not valid UTF-8"}
		}
		return Text, body, nil
	case "application/octet-stream":
		return Binary, body, nil
	}
	kind, body := Classify(body, "")
	return kind, body, nil
}

func parseData(body []byte) (Kind, []byte, *Error) {
	p := parsers.Get().(*parser)
	defer parsers.Put(p)
	p.reader.Reset(body)
	p.Reset(&p.reader)
	v, err := p.ReadValue()
	if err != nil {
		return 0, nil, &Error{Code: BadData, Reason: "the body is application/json and not JSON: " + err.Error()}
	}
	value := append(jsontext.Value(nil), v...)
	if _, end := p.ReadToken(); end != io.EOF {
		return 0, nil, &Error{Code: BadData, Reason: "the body holds one JSON value: there is more behind it"}
	}
	if err := value.Compact(); err != nil {
		return 0, nil, &Error{Code: BadData, Reason: "the body is application/json and not JSON: " + err.Error()}
	}
	return Data, value, nil
}

// CheckHeader reports why value can not be the event, the key or the message id of
// a publish. what names it.
func CheckHeader(what, value string) *Error {
	if !utf8.ValidString(value) {
		return bad("%s must be valid UTF-8", what)
	}
	return checkHeader(what, value)
}
