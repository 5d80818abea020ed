package wire

import (
	"encoding/base64"

	"google.golang.org/protobuf/encoding/protowire"
)

// Call is what a client asks of a backend. Body aliases the Command; it is empty
// where the client gave none.
type Call struct {
	Method string
	Kind   Kind
	Body   []byte
}

// Result answers an rpc: what the backend replied.
type Result struct {
	Kind Kind
	Body []byte // as in Message
}

var kindResult = kind{"result", 10}

func (*Result) kind() kind { return kindResult }

func (r *Result) appendJSON(dst []byte) []byte {
	return append(appendBody(append(dst, '{'), r.Kind, r.Body), '}')
}

func (r *Result) appendProto(dst []byte) []byte {
	const bodyField = 1
	dst = protowire.AppendTag(dst, bodyField+protowire.Number(r.Kind), protowire.BytesType)
	return protowire.AppendBytes(dst, r.Body)
}

// appendBody appends a body under the key of its kind.
func appendBody(dst []byte, kind Kind, body []byte) []byte {
	switch kind {
	case Data:
		return append(append(dst, `"data":`...), body...)
	case Text:
		return appendText(append(dst, `"text":`...), body)
	}
	dst = base64.StdEncoding.AppendEncode(append(dst, `"base64":"`...), body)
	return append(dst, '"')
}

func (p *parser) call(c *Command) *Error {
	bodies := 0
	err := p.each("rpc", func(key string) (err *Error) {
		switch key {
		case "method":
			return p.text("rpc.method", &c.Call.Method)
		case "data", "text", "base64":
			bodies++
			c.Call.Kind, c.Call.Body, err = p.body(c, "rpc", key)
			return err
		}
		return bad("rpc has no field %q", clip(key))
	})
	if err != nil {
		return err
	}
	return c.Call.check(bodies, "data, text and base64")
}

// check refuses two bodies; none is an empty text.
func (r *Call) check(bodies int, names string) *Error {
	switch {
	case bodies > 1:
		return &Error{Code: BadData, Reason: "rpc takes at most one of " + names}
	case bodies == 0:
		r.Kind = Text
	}
	return nil
}

func (f field) call(c *Command) *Error {
	bodies := 0
	err := f.message("rpc", 0, func(f field) (err *Error) {
		switch f.number {
		case 1:
			return f.text("rpc.method", &c.Call.Method)
		case 2, 3, 4:
			bodies++
			c.Call.Kind, c.Call.Body, err = f.body(c, "rpc", Kind(f.number-2))
			return err
		}
		return f.unknown("rpc")
	})
	if err != nil {
		return err
	}
	return c.Call.check(bodies, "json, text and binary")
}
