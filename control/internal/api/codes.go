package api

import "fmt"

// Error is a refusal: a code of the table and words for people.
type Error struct {
	Code   string `json:"code"`
	Reason string `json:"reason"`
}

func (e *Error) Error() string { return e.Code + ": " + e.Reason }

// The codes. codes says what each means.
const (
	badRequestCode   = "bad_request"
	badRoom          = "bad_room"
	unauthorized     = "unauthorized"
	notAllowed       = "not_allowed"
	originNotAllowed = "origin_not_allowed"
	notFound         = "not_found"
	noHistory        = "no_history"
	methodNotAllowed = "method_not_allowed"
	conflict         = "conflict"
	tooLarge         = "too_large"
	unsupportedMedia = "unsupported_media_type"
	internalCode     = "internal"
	unavailable      = "unavailable"
	overloaded       = "overloaded"
)

// code is one row of the table of codes.
type code struct {
	name    string // also the metric label
	status  int    // of HTTP
	meaning string
}

// codes holds every code of the API, in the order of BUS.md.
var codes = []code{
	{badRequestCode, 400, "the request is not the object of this verb; the reason names the field"},
	{badRoom, 400, "the room name breaks a rule; the reason says which"},
	{unauthorized, 401, "HTTP only: no API key, or one that is wrong, revoked or expired"},
	{notAllowed, 403, "HTTP only: the API key is not for this verb, or not for this room"},
	{originNotAllowed, 403, "HTTP only: a page of another site calls"},
	{notFound, 404, "there is no such path, key, node or user"},
	{noHistory, 404, "the room's policy keeps no history"},
	{methodNotAllowed, 405, "HTTP only: the path takes another method"},
	{conflict, 409, "something else that goes on excludes it, or it exists already"},
	{tooLarge, 413, "the message is larger than NATS takes, or the HTTP body than 2 MiB"},
	{unsupportedMedia, 415, "HTTP only: a body must be `application/json`"},
	{internalCode, 500, "control's log says why, under the request's id"},
	{unavailable, 503, "NATS, JetStream or what control needs of them does not answer now: try again. A publish may or may not have been done"},
	{overloaded, 503, "this replica answers as many requests as it takes at once: try again, or another one"},
}

// status is the HTTP status of a code.
func (e *Error) status() int {
	for _, c := range codes {
		if c.name == e.Code {
			return c.status
		}
	}
	return 500
}

func refuse(code, format string, args ...any) *Error {
	return &Error{code, fmt.Sprintf(format, args...)}
}

func badRequest(format string, args ...any) *Error { return refuse(badRequestCode, format, args...) }
