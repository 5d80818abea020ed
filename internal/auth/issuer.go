package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/golang-jwt/jwt/v5"

	"nabat/proto/grant"
	"nabat/proto/wire"
)

// AnyAudience, as the only audience of an issuer, takes its tokens whomever they
// are for.
const AnyAudience = "*"

// Bounds on what an issuer may bring: the document of all of them is one value
// in NATS, of at most a megabyte.
const (
	MaxIssuers    = 32
	MaxIssuerKeys = 32
)

// Issuer is somebody else whose tokens are accepted: keys, and what they are
// good for. Its keys verify tokens that name it (iss), and no others.
type Issuer struct {
	Name       string   `json:"iss"`
	Source     string   `json:"source"` // where its keys come from
	Audience   []string `json:"aud"`    // one of them must be the token's
	Algorithms []string `json:"algorithms"`
	// UserPrefix stands before sub: two issuers may both know an alice.
	UserPrefix string `json:"user_prefix,omitempty"`
	// Claims says which claims hold a grant, by the grant's field, where the token
	// has no claim nabat: a name, or a path such as /access/rooms (RFC 6901).
	Claims map[string]string `json:"claims,omitempty"`
	// Grant is what a token allows that says nothing of it.
	Grant *grant.Grant `json:"grant,omitempty"`

	Keys []Key `json:"-"`
}

// MarshalJSON implements json.Marshaler.
func (i Issuer) MarshalJSON() ([]byte, error) {
	type plain Issuer
	out := struct {
		plain
		Keys []jwk `json:"keys"`
	}{plain(i), []jwk{}}
	for _, k := range i.Keys {
		out.Keys = append(out.Keys, k.jwk())
	}
	return json.Marshal(out)
}

// UnmarshalJSON implements json.Unmarshaler.
func (i *Issuer) UnmarshalJSON(data []byte) error {
	type plain Issuer
	var in struct {
		plain
		Keys []jwk `json:"keys"`
	}
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	*i = Issuer(in.plain)
	for _, j := range in.Keys {
		read := publicKey
		if j.Type == "oct" {
			read = symmetricKey
		}
		k, err := read(j)
		if err != nil {
			return fmt.Errorf("issuer %q: key %q: %w", i.Name, j.ID, err)
		}
		i.Keys = append(i.Keys, k)
	}
	return nil
}

// grantFields are the fields of a grant that a claim may fill.
var grantFields = []string{"subscribe", "publish", "presence", "history", "rpc", "deny", "rooms", "info"}

// Check reports the first rule that cannot hold.
func (i *Issuer) Check() error {
	switch {
	case i.Name == "":
		return errors.New("iss is missing: what its tokens say")
	case len(i.Audience) == 0:
		return errors.New("audience is missing: without it a token that was made for another program would open this one (\"*\" takes any)")
	case len(i.Audience) > 1 && slices.Contains(i.Audience, AnyAudience):
		return errors.New("audience: \"*\" takes any, and stands alone")
	case len(i.Algorithms) == 0:
		return errors.New("algorithms is missing")
	}
	for _, a := range i.Algorithms {
		if a != HS256 && a != EdDSA && a != ES256 && a != RS256 {
			return fmt.Errorf("algorithms: %q must be RS256, ES256, EdDSA or HS256", a)
		}
	}
	for field, claim := range i.Claims {
		if !slices.Contains(grantFields, field) {
			return fmt.Errorf("claims: %q must be one of %s", field, strings.Join(grantFields, ", "))
		}
		if claim == "" {
			return fmt.Errorf("claims: %s names no claim", field)
		}
	}
	if i.Grant != nil {
		if err := i.Grant.Check(); err != nil {
			return fmt.Errorf("grant: %w", err)
		}
	}
	return nil
}

// IssuerSet is the issuers beside the cluster's own keys.
type IssuerSet struct {
	Issuers []Issuer `json:"issuers"`
}

// Encode writes the set.
func (s *IssuerSet) Encode() []byte {
	out := *s
	if out.Issuers == nil {
		out.Issuers = []Issuer{}
	}
	data, err := json.Marshal(out)
	if err != nil {
		panic("auth: " + err.Error()) // it was read or checked before
	}
	return data
}

// DecodeIssuers reads what Encode wrote.
func DecodeIssuers(data []byte) (*IssuerSet, error) {
	var s IssuerSet
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("issuers: %w", err)
	}
	for n := range s.Issuers {
		if err := s.Issuers[n].Check(); err != nil {
			return nil, fmt.Errorf("issuer %q: %w", s.Issuers[n].Name, err)
		}
	}
	return &s, nil
}

// ParseIssuers reads a set as keys.
func ParseIssuers(data []byte) (*KeySet, error) {
	set, err := DecodeIssuers(data)
	if err != nil {
		return nil, err
	}
	out := &KeySet{issuers: make(map[string]*issuerKeys)}
	for _, i := range set.Issuers {
		if out.issuers[i.Name] != nil {
			return nil, fmt.Errorf("issuer %q: it is there twice", i.Name)
		}
		held := &issuerKeys{rules: i, keys: make(map[string]Key)}
		for _, k := range i.Keys {
			if _, twice := held.keys[k.ID]; !twice && slices.Contains(i.Algorithms, k.Algorithm) {
				held.keys[k.ID] = k
			}
		}
		out.issuers[i.Name] = held
	}
	return out, nil
}

// ReadIssuerKeys reads what an issuer publishes: a JWK set, of which the keys
// for these algorithms are taken. Others are passed over, and counted.
func ReadIssuerKeys(data []byte, algorithms []string) (keys []Key, passed int, err error) {
	var set jwkSet
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, 0, fmt.Errorf("not a JWK set: %w", err)
	}
	for _, j := range set.Keys {
		k, err := publicKey(j)
		known := slices.ContainsFunc(keys, func(o Key) bool { return o.ID == k.ID })
		if err != nil || known || !slices.Contains(algorithms, k.Algorithm) || len(keys) == MaxIssuerKeys {
			passed++
			continue
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, passed, fmt.Errorf("the JWK set holds no key for %s", strings.Join(algorithms, ", "))
	}
	return keys, passed, nil
}

// SecretKey is a key that is shared with an issuer.
func SecretKey(id string, secret []byte) (Key, error) {
	if len(secret) < minSecret {
		return Key{}, fmt.Errorf("the secret has %d bytes: at least %d", len(secret), minSecret)
	}
	return Key{ID: id, Algorithm: HS256, secret: secret}, nil
}

// issuerKeys is an issuer as tokens are held against it. Immutable.
type issuerKeys struct {
	rules Issuer
	keys  map[string]Key
}

func (i *issuerKeys) keeps(old *issuerKeys) bool {
	if i == nil {
		return false
	}
	for id, k := range old.keys {
		if !k.Equal(i.keys[id]) {
			return false
		}
	}
	a, b := i.rules, old.rules
	a.Keys, b.Keys = nil, nil
	return slices.Equal((&IssuerSet{Issuers: []Issuer{a}}).Encode(), (&IssuerSet{Issuers: []Issuer{b}}).Encode())
}

// find returns the key of a token. One without a key id has the issuer's only
// key for its algorithm.
func (i *issuerKeys) find(id, algorithm string, named bool) (Key, bool) {
	if k, ok := i.keys[id]; ok || named {
		return k, ok
	}
	var found Key
	n := 0
	for _, k := range i.keys {
		if k.Algorithm == algorithm {
			found = k
			n++
		}
	}
	return found, n == 1
}

// admit holds a token whose signature is good against the issuer's rules, and
// fills its grant.
func (i *issuerKeys) admit(c *claims, token string) *wire.Error {
	r := &i.rules
	if !slices.Contains(r.Audience, AnyAudience) {
		switch {
		case len(c.Audience) == 0:
			return refuse(wire.TokenAudience, "the token names no audience (aud)")
		case !slices.ContainsFunc(c.Audience, func(a string) bool { return slices.Contains(r.Audience, a) }):
			return refuse(wire.TokenAudience, "the token is for audience %q", clip(strings.Join(c.Audience, " ")))
		}
	}
	switch {
	case c.ExpiresAt == nil:
		return refuse(wire.TokenClaims, "the token never ends: tokens of other issuers need exp")
	case c.Subject == "":
		return refuse(wire.TokenClaims, "the token names no user (sub)")
	}
	c.Subject = r.UserPrefix + c.Subject
	if c.Nabat != nil {
		return nil
	}
	if len(r.Claims) > 0 {
		var all map[string]any
		if _, _, err := jwt.NewParser().ParseUnverified(token, (*jwt.MapClaims)(&all)); err != nil {
			return refuse(wire.TokenMalformed, "the token is not a JWT")
		}
		g, werr := mapped(r.Claims, all)
		if werr != nil || g != nil {
			c.Nabat = g
			return werr
		}
	}
	c.Nabat = r.Grant
	return nil
}

// mapped is the grant that claims hold, nil when the token has none of them.
func mapped(names map[string]string, all map[string]any) (*grant.Grant, *wire.Error) {
	var g *grant.Grant
	for field, name := range names {
		value, ok := claim(all, name)
		if !ok {
			continue
		}
		if g == nil {
			g = new(grant.Grant)
		}
		if field == "info" {
			info, err := json.Marshal(value)
			if err != nil {
				return nil, refuse(wire.TokenClaims, "claim %s has the wrong form", clip(name))
			}
			g.Info = info
			continue
		}
		list, ok := texts(value)
		if !ok {
			return nil, refuse(wire.TokenClaims, "claim %s must be a list of texts, or one text with spaces between", clip(name))
		}
		*map[string]*[]string{"subscribe": &g.Subscribe, "publish": &g.Publish, "presence": &g.Presence, "history": &g.History,
			"rpc": &g.RPC, "deny": &g.Deny, "rooms": &g.Rooms}[field] = list
	}
	return g, nil
}

// claim finds a claim by name, or by a path that begins with a slash.
func claim(all map[string]any, name string) (any, bool) {
	path, isPath := strings.CutPrefix(name, "/")
	if !isPath {
		value, ok := all[name]
		return value, ok
	}
	var at any = all
	for _, step := range strings.Split(path, "/") {
		object, ok := at.(map[string]any)
		if !ok {
			return nil, false
		}
		// RFC 6901 §4: ~1 is a slash, ~0 a tilde, in this order.
		if at, ok = object[strings.ReplaceAll(strings.ReplaceAll(step, "~1", "/"), "~0", "~")]; !ok {
			return nil, false
		}
	}
	return at, true
}

func texts(value any) ([]string, bool) {
	switch v := value.(type) {
	case string:
		return strings.Fields(v), true
	case []any:
		list := make([]string, len(v))
		for n, item := range v {
			text, ok := item.(string)
			if !ok {
				return nil, false
			}
			list[n] = text
		}
		return list, true
	}
	return nil, false
}
