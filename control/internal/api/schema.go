package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"

	"nabat/proto"
)

// schema is what openapi.yaml says of one verb: request and reply as JSON
// Schema, whole and without references.
type schema struct {
	summary        string
	request, reply object
}

type object = map[string]any

// allSchemas is schemas, read once.
var allSchemas = sync.OnceValue(schemas)

// schemas reads openapi.yaml. Verbs are its operations; what is a parameter of
// HTTP is a field of the request over NATS.
func schemas() map[string]schema {
	var doc object
	if err := yaml.Unmarshal(proto.OpenAPI, &doc); err != nil {
		panic("api: openapi.yaml: " + err.Error()) // it is part of the program, and tested
	}
	list := make(map[string]schema)
	paths, _ := doc["paths"].(object)
	for _, path := range paths {
		item, _ := path.(object)
		for _, op := range item {
			if op, ok := op.(object); ok {
				name, _ := op["operationId"].(string)
				summary, _ := op["summary"].(string)
				list[name] = schema{summary, requestOf(doc, op), replyOf(doc, op)}
			}
		}
	}
	return list
}

// requestOf is the request over NATS: what HTTP has, and what x-nats adds.
func requestOf(doc, op object) object {
	request := object{"type": "object", "additionalProperties": false}
	if body := content(op["requestBody"]); body != nil {
		if whole, ok := resolve(doc, body).(object); ok {
			request = maps.Clone(whole)
		}
	}
	properties, _ := request["properties"].(object)
	properties = maps.Clone(properties)
	if properties == nil {
		properties = make(object)
	}
	required, _ := request["required"].([]any)
	required = slices.Clone(required)
	parameters, _ := op["parameters"].([]any)
	for _, p := range parameters {
		p, _ := resolve(doc, p).(object)
		name := fmt.Sprint(p["name"])
		field, _ := p["schema"].(object)
		field = maps.Clone(field)
		if text, ok := p["description"]; ok && field != nil {
			field["description"] = text
		}
		properties[name] = field
		if p["required"] == true {
			required = append(required, name)
		}
	}
	only, _ := op["x-nats"].(object)
	more, _ := only["request"].(object)
	for name, field := range more {
		properties[name] = field
		required = append(required, name)
	}
	request["properties"] = properties
	if len(required) > 0 {
		request["required"] = required
	}
	return request
}

// replyOf is the reply over NATS, which is that of HTTP unless x-nats has another.
func replyOf(doc, op object) object {
	if only, ok := op["x-nats"].(object); ok {
		reply, _ := resolve(doc, only["response"]).(object)
		return reply
	}
	responses, _ := op["responses"].(object)
	reply, _ := resolve(doc, content(responses["200"])).(object)
	return reply
}

// content is the JSON schema of a request's or a response's body.
func content(of any) any {
	holder, _ := of.(object)
	kinds, _ := holder["content"].(object)
	kind, _ := kinds["application/json"].(object)
	return kind["schema"]
}

// resolve replaces references by what they refer to.
func resolve(doc object, v any) any {
	switch v := v.(type) {
	case object:
		if ref, ok := v["$ref"].(string); ok {
			var at any = doc
			for _, step := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
				inner, _ := at.(object)
				at = inner[step]
			}
			return resolve(doc, at)
		}
		out := make(object, len(v))
		for k, inner := range v {
			out[k] = resolve(doc, inner)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = resolve(doc, v[i])
		}
		return out
	}
	return v
}

// metadata is what nats micro info shows of an endpoint.
func (s schema) metadata(v *verb) map[string]string {
	m := map[string]string{"description": s.summary, "scope": v.scope}
	if v.path != "" {
		m["http"] = v.method + " " + strings.ReplaceAll(v.path, " ", " "+v.method+" ")
	}
	for name, schema := range map[string]object{"schema.request": s.request, "schema.response": s.reply} {
		if schema == nil {
			continue
		}
		if data, err := json.Marshal(schema); err == nil { // as it must: it came from YAML with names as keys
			m[name] = string(data)
		}
	}
	return m
}
