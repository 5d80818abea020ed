// Package issuers brings the keys of other issuers to the edges: it reads which
// ones are trusted with what, fetches their keys, and publishes both. Edges
// fetch nothing themselves.
package issuers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"nabat/internal/auth"
	"nabat/proto/grant"
)

const (
	defaultRefresh = 5 * time.Minute
	minRefresh     = time.Second
)

// source is one issuer with where its keys come from.
type source struct {
	rules   auth.Issuer
	jwksURL string        // empty: found by discovery, or there is a secret
	secret  *auth.Key     // nil: the keys are fetched
	refresh time.Duration // between two fetches
	ca      []byte        // PEM; nil: the system's
}

// many is a list in YAML; one text may stand for it.
type many []string

// UnmarshalYAML implements yaml.Unmarshaler.
func (m *many) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		*m = many{n.Value}
		return nil
	}
	return n.Decode((*[]string)(m))
}

type entry struct {
	Name       string            `yaml:"iss"`
	JWKSURL    string            `yaml:"jwks_url"`
	SecretFile string            `yaml:"secret_file"`
	Audience   many              `yaml:"audience"`
	Algorithms many              `yaml:"algorithms"`
	Refresh    *time.Duration    `yaml:"refresh"`
	CAFile     string            `yaml:"ca_file"`
	UserPrefix string            `yaml:"user_prefix"`
	Claims     map[string]string `yaml:"claims"`
	Grant      *struct {
		Subscribe many `yaml:"subscribe"`
		Publish   many `yaml:"publish"`
		Presence  many `yaml:"presence"`
		History   many `yaml:"history"`
		RPC       many `yaml:"rpc"`
		Deny      many `yaml:"deny"`
		Rooms     many `yaml:"rooms"`
		Info      any  `yaml:"info"`
	} `yaml:"grant"`
}

// Config is the issuers that are trusted. The zero value is none.
type Config struct {
	sources []source
	file    []byte // that it was read from
}

// Has reports whether one of the issuers has that name.
func (c *Config) Has(name string) bool {
	return slices.ContainsFunc(c.sources, func(s source) bool { return s.rules.Name == name })
}

// ReadFile reads the YAML file of issuers; an empty name is none.
func ReadFile(file string) (*Config, error) {
	if file == "" {
		return &Config{}, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("issuers: %w", err)
	}
	var doc struct {
		Issuers []entry `yaml:"issuers"`
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("issuers: %s: %w", file, err)
	}
	if len(doc.Issuers) > auth.MaxIssuers {
		return nil, fmt.Errorf("issuers: %s: %d issuers: at most %d", file, len(doc.Issuers), auth.MaxIssuers)
	}
	c := &Config{file: data}
	for n, e := range doc.Issuers {
		s, err := e.read(filepath.Dir(file))
		if err != nil {
			return nil, fmt.Errorf("issuers: %s: issuer %d (%s): %w", file, n+1, e.Name, err)
		}
		for _, other := range c.sources {
			if other.rules.Name == s.rules.Name {
				return nil, fmt.Errorf("issuers: %s: issuer %d (%s): it is there twice", file, n+1, e.Name)
			}
		}
		c.sources = append(c.sources, *s)
	}
	return c, nil
}

// read checks an entry; dir is where its files are looked for.
func (e *entry) read(dir string) (*source, error) {
	s := &source{jwksURL: e.JWKSURL, refresh: defaultRefresh, rules: auth.Issuer{Name: e.Name, Audience: e.Audience, Algorithms: e.Algorithms,
		UserPrefix: e.UserPrefix, Claims: e.Claims}}
	if err := e.readGrant(s); err != nil {
		return nil, err
	}
	if err := e.readSource(s, dir); err != nil {
		return nil, err
	}
	for _, a := range s.rules.Algorithms {
		if (a == auth.HS256) != (s.secret != nil) {
			return nil, fmt.Errorf("algorithms: HS256 belongs to secret_file, and the others to keys that are fetched; here is %s", a)
		}
	}
	if e.Refresh != nil {
		if s.refresh = *e.Refresh; s.refresh < minRefresh {
			return nil, fmt.Errorf("refresh is %s: must be at least %s", s.refresh, minRefresh)
		}
	}
	return s, s.rules.Check()
}

func (e *entry) readGrant(s *source) error {
	if e.Grant == nil {
		return nil
	}
	g := &grant.Grant{Subscribe: e.Grant.Subscribe, Publish: e.Grant.Publish, Presence: e.Grant.Presence, History: e.Grant.History,
		RPC: e.Grant.RPC, Deny: e.Grant.Deny, Rooms: e.Grant.Rooms}
	if e.Grant.Info != nil {
		info, err := json.Marshal(e.Grant.Info)
		if err != nil {
			return fmt.Errorf("grant: info: %w", err)
		}
		g.Info = info
	}
	s.rules.Grant = g
	return nil
}

func (e *entry) readSource(s *source, dir string) error {
	path := func(file string) string {
		if filepath.IsAbs(file) {
			return file
		}
		return filepath.Join(dir, file)
	}
	switch {
	case e.SecretFile != "" && (e.JWKSURL != "" || e.CAFile != ""):
		return errors.New("secret_file stands instead of jwks_url and ca_file")
	case e.SecretFile != "":
		data, err := os.ReadFile(path(e.SecretFile))
		if err != nil {
			return fmt.Errorf("secret_file: %w", err)
		}
		k, err := auth.SecretKey("", bytes.TrimRight(data, "\r\n"))
		if err != nil {
			return fmt.Errorf("secret_file: %w", err)
		}
		s.secret, s.rules.Source = &k, "secret"
		if len(s.rules.Algorithms) == 0 {
			s.rules.Algorithms = []string{auth.HS256}
		}
		return nil
	}
	if e.CAFile != "" {
		ca, err := os.ReadFile(path(e.CAFile))
		if err != nil {
			return fmt.Errorf("ca_file: %w", err)
		}
		s.ca = ca
		if _, err := newClient(s.ca); err != nil {
			return err
		}
	}
	if len(s.rules.Algorithms) == 0 {
		s.rules.Algorithms = []string{auth.RS256, auth.ES256, auth.EdDSA}
	}
	s.rules.Source = e.JWKSURL
	if e.JWKSURL == "" {
		s.rules.Source = discoveryURL(e.Name)
	}
	return checkURL(s.rules.Source)
}

// discoveryURL: OpenID Connect Discovery 1.0 §4.
func discoveryURL(issuer string) string {
	return strings.TrimSuffix(issuer, "/") + "/.well-known/openid-configuration"
}

// checkURL wants TLS: whoever can change keys on their way opens every room. On
// this machine nobody is on the way.
func checkURL(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "":
		return fmt.Errorf("%q is no URL that keys can be fetched from: give jwks_url", raw)
	case u.User != nil:
		return errors.New("the URL of the keys must not hold a password")
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && loopback(u.Hostname()):
		return nil
	}
	return fmt.Errorf("%q: keys are fetched over https only", raw)
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
