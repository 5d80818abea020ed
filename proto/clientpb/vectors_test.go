package clientpb_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"nabat/proto/clientpb"
)

const vectors = "../testdata/vectors/"

var update = flag.Bool("update", false, "write protobuf.json anew")

// protobuf.json has what the other files have in JSON. It is made here, by the
// rules of client.proto and by generated code; the tests of proto/wire hold the
// edge's own code against it.
func TestTheVectorsHaveBothEncodings(t *testing.T) {
	lines := []string{}
	for _, name := range []string{"commands.json", "messages.json", "replies.json", "notices.json", "errors.json"} {
		text, err := os.ReadFile(vectors + name)
		if err != nil {
			t.Fatal(err)
		}
		var list []vector
		if err := json.Unmarshal(text, &list); err != nil {
			t.Fatal(err)
		}
		before := len(lines)
		for _, v := range list {
			if v.Rule == "" {
				v.Rule = v.Code // of errors.json
			}
			if b, err := v.convert(); err != nil {
				t.Errorf("%s: %s: %v", name, v.Rule, err)
			} else if b != nil {
				line, err := marshal(map[string]string{"file": name, "rule": v.Rule, "proto_hex": hex.EncodeToString(b)})
				if err != nil {
					t.Fatal(err)
				}
				lines = append(lines, string(bytes.TrimSpace(line)))
			}
		}
		if len(lines) == before {
			t.Errorf("%s: nothing was converted", name)
		}
	}
	want := []byte("[\n  " + strings.Join(lines, ",\n  ") + "\n]\n")
	if *update {
		if err := os.WriteFile(vectors+"protobuf.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(vectors + "protobuf.json"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("protobuf.json is not what the other vectors make (%v): run go generate ./proto/clientpb", err)
	}
}

type vector struct{ Rule, Text, JSON, Code string }

// convert is the vector's object in Protobuf; nil where there is none, and for
// refused commands: proto_commands.json has those of Protobuf.
func (v *vector) convert() ([]byte, error) {
	var m proto.Message = new(clientpb.Object)
	object := v.JSON
	if v.Text != "" {
		m, object = new(clientpb.Command), v.Text
	}
	if object == "" || v.Text != "" && v.Code != "" {
		return nil, nil // a code that only closes, or a refused command
	}
	if err := fromJSON(object, m); err != nil {
		return nil, err
	}
	b, err := proto.Marshal(m)
	return inOrder(b, m.ProtoReflect().Descriptor()), err
}

// inOrder puts fields into the order of their numbers, which is that of the edge
// and of most programs; Go's own puts oneofs last.
func inOrder(message []byte, d protoreflect.MessageDescriptor) []byte {
	type field struct {
		number protowire.Number
		bytes  []byte
	}
	var list []field
	for len(message) > 0 {
		number, typ, n := protowire.ConsumeTag(message)
		end := n + protowire.ConsumeFieldValue(number, typ, message[n:])
		bytes := message[:end]
		if f := d.Fields().ByNumber(number); f.Message() != nil {
			inner, _ := protowire.ConsumeBytes(message[n:])
			bytes = protowire.AppendBytes(message[:n:n], inOrder(inner, f.Message()))
		}
		list = append(list, field{number, bytes})
		message = message[end:]
	}
	slices.SortStableFunc(list, func(a, b field) int { return int(a.number - b.number) })
	out := []byte{}
	for _, f := range list {
		out = append(out, f.bytes...)
	}
	return out
}

// fromJSON reads an object of nabat.v1.json.
func fromJSON(text string, into proto.Message) error {
	var o map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	if o["room"] != nil {
		inner, err := rename(o, "data", "json", "base64", "binary")
		if err != nil {
			return err
		}
		o = map[string]json.RawMessage{"message": inner}
	}
	for key, names := range map[string][]string{"publish": {"data", "json", "base64", "binary"}, "rpc": {"data", "json", "base64", "binary"},
		"result": {"data", "json", "base64", "binary"}, "expiring": {"in", "seconds"}, "history": nil} {
		var fields map[string]json.RawMessage
		if o[key] == nil || json.Unmarshal(o[key], &fields) != nil {
			continue
		}
		var list []map[string]json.RawMessage
		if json.Unmarshal(fields["messages"], &list) == nil {
			var all []json.RawMessage
			for _, m := range list {
				one, err := rename(m, "data", "json", "base64", "binary")
				if err != nil {
					return err
				}
				all = append(all, one)
			}
			fields["messages"], _ = json.Marshal(all)
		}
		var err error
		if o[key], err = rename(fields, names...); err != nil {
			return err
		}
	}
	if o["presence"] != nil {
		presence, err := infoBytes(o["presence"])
		if err != nil {
			return err
		}
		o["presence"] = presence
	}
	all, err := marshal(o)
	if err != nil {
		return err
	}
	return protojson.Unmarshal(all, into)
}

// infoBytes makes the information of members bytes.
func infoBytes(presence json.RawMessage) (json.RawMessage, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(presence, &fields); err != nil {
		return nil, err
	}
	for _, key := range []string{"members", "join", "leave"} {
		var list []map[string]json.RawMessage
		if fields[key] == nil {
			continue
		}
		if err := json.Unmarshal(fields[key], &list); err != nil {
			return nil, err
		}
		for _, m := range list {
			if m["info"] != nil {
				m["info"], _ = json.Marshal([]byte(m["info"]))
			}
		}
		fields[key], _ = marshal(list)
	}
	return marshal(fields)
}

// rename gives fields their names in client.proto, given in pairs, and makes JSON
// values bytes.
func rename(fields map[string]json.RawMessage, names ...string) (json.RawMessage, error) {
	for i := 0; i < len(names); i += 2 {
		value, found := fields[names[i]]
		if !found {
			continue
		}
		delete(fields, names[i])
		if names[i] == "data" {
			value, _ = json.Marshal([]byte(value))
		}
		fields[names[i+1]] = value
	}
	return marshal(fields)
}

func marshal(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.Bytes(), err
}
