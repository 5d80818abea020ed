package client

import (
	"fmt"

	"github.com/gobwas/ws"
	"google.golang.org/protobuf/proto"

	"nabat/proto/clientpb"
	"nabat/proto/wire"
)

// protoCodec is nabat.v1.proto: client.proto.
type protoCodec struct{}

func (protoCodec) subprotocol() string     { return "nabat.v1.proto" }
func (protoCodec) encoding() wire.Encoding { return wire.Protobuf }
func (protoCodec) op() ws.OpCode           { return ws.OpBinary }

func (protoCodec) write(c *wire.Command) ([]byte, error) {
	out := &clientpb.Command{}
	if c.HasID {
		out.Id = &c.ID
	}
	switch c.Verb {
	case wire.Connect:
		out.Verb = &clientpb.Command_Connect{Connect: &clientpb.Connect{Token: c.Token, Rooms: protoRooms(c.Rooms), Previous: c.Previous, AwayMs: c.AwayMS}}
	case wire.Subscribe:
		out.Verb = &clientpb.Command_Subscribe{Subscribe: &clientpb.Subscribe{Rooms: protoRooms(c.Rooms), AwayMs: c.AwayMS}}
	case wire.Unsubscribe:
		u := &clientpb.Unsubscribe{}
		for i := range c.Rooms {
			u.Rooms = append(u.Rooms, c.Rooms[i].Room)
		}
		out.Verb = &clientpb.Command_Unsubscribe{Unsubscribe: u}
	case wire.Publish:
		out.Verb = &clientpb.Command_Publish{Publish: protoPublish(&c.Publish)}
	case wire.Auth:
		out.Verb = &clientpb.Command_Auth{Auth: &clientpb.Auth{Token: c.Token}}
	case wire.History:
		h := &clientpb.History{Room: c.History.Room, Limit: c.History.Limit, Before: c.History.Before}
		if c.History.IsAfter {
			h.After = &c.History.After
		}
		out.Verb = &clientpb.Command_History{History: h}
	case wire.Presence:
		p := &clientpb.Presence{Room: c.Presence.Room, After: c.Presence.After}
		if c.Presence.HasLimit {
			p.Limit = &c.Presence.Limit
		}
		out.Verb = &clientpb.Command_Presence{Presence: p}
	case wire.RPC:
		out.Verb = &clientpb.Command_Rpc{Rpc: protoCall(&c.Call)}
	case wire.Ping:
		out.Verb = &clientpb.Command_Ping{Ping: &clientpb.Ping{}}
	case wire.Pong:
		out.Verb = &clientpb.Command_Pong{Pong: &clientpb.Pong{}}
	default:
		return nil, fmt.Errorf("%s is no verb", c.Verb)
	}
	return proto.Marshal(out)
}

func protoRooms(rooms []wire.RoomRequest) []*clientpb.RoomRequest {
	out := make([]*clientpb.RoomRequest, len(rooms))
	for i := range rooms {
		r := &rooms[i]
		out[i] = &clientpb.RoomRequest{Room: r.Room, Epoch: r.Epoch, Offset: r.Offset, Since: r.Since, Latest: r.Latest, Presence: r.Presence}
	}
	return out
}

func protoPublish(p *wire.Publication) *clientpb.Publish {
	out := &clientpb.Publish{Room: p.Room, Event: p.Event, Key: p.Key, MessageId: p.MessageID}
	switch p.Kind {
	case wire.Data:
		out.Body = &clientpb.Publish_Json{Json: p.Body}
	case wire.Text:
		out.Body = &clientpb.Publish_Text{Text: string(p.Body)}
	case wire.Binary:
		out.Body = &clientpb.Publish_Binary{Binary: p.Body}
	}
	return out
}

func protoCall(c *wire.Call) *clientpb.Rpc {
	out := &clientpb.Rpc{Method: c.Method}
	switch c.Kind {
	case wire.Data:
		out.Body = &clientpb.Rpc_Json{Json: c.Body}
	case wire.Text:
		if len(c.Body) > 0 {
			out.Body = &clientpb.Rpc_Text{Text: string(c.Body)}
		}
	case wire.Binary:
		out.Body = &clientpb.Rpc_Binary{Binary: c.Body}
	}
	return out
}

func (protoCodec) read(object []byte) (*inbound, error) {
	var o clientpb.Object
	if err := proto.Unmarshal(object, &o); err != nil {
		return nil, err
	}
	in := &inbound{ID: o.Id, raw: object}
	switch kind := o.Kind.(type) {
	case *clientpb.Object_Message:
		in.Message = protoMessage(kind.Message)
	case *clientpb.Object_Connected:
		c := kind.Connected
		in.Connected = &wire.Connected{Session: c.Session, Node: c.Node, User: c.User, Expires: c.Expires, Rooms: protoPositions(c.Rooms)}
	case *clientpb.Object_Subscribed:
		in.Subscribed = &wire.Subscribed{Rooms: protoPositions(kind.Subscribed.Rooms)}
	case *clientpb.Object_Unsubscribed:
		in.Unsubscribed = &wire.Unsubscribed{Rooms: kind.Unsubscribed.Rooms, Reason: wire.Code(kind.Unsubscribed.Reason)}
	case *clientpb.Object_Published:
		in.Published = protoPosition(kind.Published)
	case *clientpb.Object_History:
		h := kind.History
		in.History = &wire.Page{Room: h.Room, Epoch: h.Epoch, More: h.More}
		for _, m := range h.Messages {
			in.History.Messages = append(in.History.Messages, protoMessage(m))
		}
	case *clientpb.Object_Presence:
		in.Presence = protoPresence(kind.Presence)
	case *clientpb.Object_Result:
		m := protoResult(kind.Result)
		in.Result = &m
	case *clientpb.Object_Error:
		e := kind.Error
		in.Error = &wire.Error{Code: wire.Code(e.Code), Reason: e.Reason, RetryMS: int(e.RetryMs), Backend: e.Backend}
	case *clientpb.Object_Gap:
		in.Gap = &wire.Gap{Room: kind.Gap.Room, Reason: kind.Gap.Reason, From: kind.Gap.From, To: kind.Gap.To}
	case *clientpb.Object_Reset_:
		in.Reset = protoPosition(kind.Reset_)
	case *clientpb.Object_Lagging:
		in.Lagging = protoPosition(kind.Lagging)
	case *clientpb.Object_Expiring:
		in.Expiring = &wire.Expiring{Seconds: kind.Expiring.Seconds}
	case *clientpb.Object_Ping:
		in.Ping = true
	}
	return in, nil
}

func protoMessage(m *clientpb.Message) *wire.Message {
	out := &wire.Message{Room: m.Room, Epoch: m.Epoch, Offset: m.Offset, Event: m.Event, User: m.User}
	switch body := m.Body.(type) {
	case *clientpb.Message_Json:
		out.Kind, out.Body = wire.Data, body.Json
	case *clientpb.Message_Text:
		out.Kind, out.Body = wire.Text, []byte(body.Text)
	case *clientpb.Message_Binary:
		out.Kind, out.Body = wire.Binary, body.Binary
	}
	return out
}

func protoResult(r *clientpb.RpcResult) (out wire.Result) {
	switch body := r.Body.(type) {
	case *clientpb.RpcResult_Json:
		out.Kind, out.Body = wire.Data, body.Json
	case *clientpb.RpcResult_Text:
		out.Kind, out.Body = wire.Text, []byte(body.Text)
	case *clientpb.RpcResult_Binary:
		out.Kind, out.Body = wire.Binary, body.Binary
	}
	return out
}

func protoPosition(p *clientpb.Position) *wire.Position {
	return &wire.Position{Room: p.Room, Epoch: p.Epoch, Offset: p.Offset, Recovered: p.Recovered, Reason: p.Reason}
}

func protoPositions(list []*clientpb.Position) []wire.Position {
	out := make([]wire.Position, len(list))
	for i, p := range list {
		out[i] = *protoPosition(p)
	}
	return out
}

func protoPresence(p *clientpb.PresenceState) *presenceState {
	return &presenceState{
		wire.PresencePage{Room: p.Room, Users: p.Users, Anonymous: p.Anonymous, Connections: p.Connections, Members: protoMembers(p.Members), Next: p.Next},
		wire.PresenceChange{Room: p.Room, Join: protoMembers(p.Join), Leave: protoMembers(p.Leave), Users: p.Users, Anonymous: p.Anonymous, Lost: p.Lost},
	}
}

func protoMembers(list []*clientpb.Member) []wire.Member {
	var out []wire.Member
	for _, m := range list {
		out = append(out, wire.Member{User: m.User, Connections: m.Connections, Info: m.Info})
	}
	return out
}
