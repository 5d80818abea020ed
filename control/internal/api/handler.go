package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
)

// verb is one request of the API, however it arrives. NATS knows it by its
// name, HTTP by method and path; parts of the path in braces, and the query, are
// fields of the request. Several paths are separated by a space; a verb without
// one is not served over HTTP.
type verb struct {
	name   string // behind nabat.api.
	scope  string // the scope that lets an API key use it, beside its own name
	method string // HTTP
	path   string
	handle handler
}

// Scopes of API keys. A key may also name single verbs.
const (
	scopePublish = "publish" // messages into rooms
	scopeRead    = "read"    // whatever changes nothing
	scopeTokens  = "tokens"  // tokens of users
	scopeUsers   = "users"   // connections and subscriptions of users
	scopeAdmin   = "admin"   // everything
	scopeOpen    = ""        // needs no key
)

// handler answers one verb.
type handler struct {
	fields map[string]reflect.Type // of its request, by their names in JSON
	run    func(ctx context.Context, body []byte) (any, error)
}

// roomed is a request that names rooms: it alone may come with a key that is
// limited to some.
type roomed interface{ rooms() []string }

// typed makes a handler of a function with a request and a reply of its own: the
// request is read strictly, the reply becomes JSON.
func typed[Q, R any](fn func(context.Context, *Q) (R, error)) handler {
	return handler{fieldsOf(reflect.TypeFor[Q]()), func(ctx context.Context, body []byte) (any, error) {
		q := new(Q)
		if err := decode(body, q); err != nil {
			return nil, err
		}
		if err := callerOf(ctx).mayTouch(q); err != nil {
			return nil, err
		}
		return fn(ctx, q)
	}}
}

// plain makes a handler of a function that reads the body itself.
func plain(fn func(body []byte) (any, error)) handler {
	return handler{nil, func(_ context.Context, body []byte) (any, error) { return fn(body) }}
}

func fieldsOf(t reflect.Type) map[string]reflect.Type {
	fields := make(map[string]reflect.Type)
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			for name, inner := range fieldsOf(f.Type) {
				fields[name] = inner
			}
			continue
		}
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
			fields[name] = f.Type
		}
	}
	return fields
}

// decode reads a request strictly: one object, no unknown field. Nothing at all
// is an object without fields.
func decode(body []byte, into any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return badRequest("the body is not the JSON object of this request: %v", err)
	}
	if bytes.TrimSpace(body)[0] != '{' {
		return badRequest("the body is not the JSON object of this request")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return badRequest("there is more behind the JSON object")
	}
	return nil
}

// parameter is a field of a request that came in the path or the query.
type parameter struct {
	name   string
	values []string
}

// withParameters adds parameters to the object in body.
func (h handler) withParameters(body []byte, list []parameter) ([]byte, error) {
	if len(list) == 0 {
		return body, nil
	}
	object := make(map[string]json.RawMessage)
	if len(bytes.TrimSpace(body)) > 0 {
		if err := json.Unmarshal(body, &object); err != nil || object == nil {
			return nil, badRequest("the body is not the JSON object of this request: %v", err)
		}
	}
	for _, p := range list {
		t, known := h.fields[p.name]
		if !known {
			return nil, badRequest("there is no parameter %s", p.name)
		}
		if object[p.name] != nil {
			return nil, badRequest("%s is given twice, in the address and in the body", p.name)
		}
		value, ok := p.json(t)
		if !ok {
			return nil, badRequest("%s is %q: must be one %s", p.name, strings.Join(p.values, ", "), kindName(t))
		}
		object[p.name] = value
	}
	return json.Marshal(object)
}

func kindName(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "text"
	}
	return "whole number"
}

// json is p as a value of type t.
func (p parameter) json(t reflect.Type) (json.RawMessage, bool) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.String {
		data, err := json.Marshal(p.values)
		return data, err == nil
	}
	if len(p.values) != 1 {
		return nil, false
	}
	v := p.values[0]
	if t.Kind() == reflect.String {
		data, err := json.Marshal(v)
		return data, err == nil
	}
	return json.RawMessage(v), json.Unmarshal([]byte(v), reflect.New(t).Interface()) == nil
}
