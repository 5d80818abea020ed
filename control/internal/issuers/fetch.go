package issuers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"nabat/internal/auth"
)

const (
	maxBody      = 256 << 10
	fetchTimeout = 10 * time.Second
	maxRedirects = 3
)

// fetcher gets the keys of one issuer.
type fetcher struct {
	source *source
	client *http.Client
	url    string // of the keys; empty until discovery has found it
	etag   string // of the keys that were taken
	keys   []auth.Key
}

// newClient trusts ca, or whom the system trusts.
func newClient(ca []byte) (*http.Client, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	t.MaxResponseHeaderBytes = 64 << 10
	t.DisableKeepAlives = true // minutes lie between two fetches
	if ca != nil {
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(ca) {
			return nil, errors.New("ca_file holds no certificate")
		}
	}
	return &http.Client{Transport: t, Timeout: fetchTimeout, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return errors.New("too many redirects")
		}
		return checkURL(r.URL.String())
	}}, nil
}

func newFetcher(s *source) (*fetcher, error) {
	client, err := newClient(s.ca)
	if err != nil {
		return nil, err
	}
	return &fetcher{source: s, client: client, url: s.jwksURL}, nil
}

// fetch returns the issuer's keys. It keeps nothing of what cannot be used.
func (f *fetcher) fetch(ctx context.Context) ([]auth.Key, error) {
	if f.url == "" {
		if err := f.discover(ctx); err != nil {
			return nil, fmt.Errorf("discovery: %w", err)
		}
	}
	data, etag, err := f.get(ctx, f.url, f.etag)
	if err != nil {
		if f.source.jwksURL == "" {
			f.url, f.etag = "", "" // the keys may have moved
		}
		return nil, err
	}
	if data == nil {
		return f.keys, nil
	}
	keys, _, err := auth.ReadIssuerKeys(data, f.source.rules.Algorithms)
	if err != nil {
		return nil, err
	}
	f.keys, f.etag = keys, etag
	return keys, nil
}

// discover finds where the keys are. The document must be the issuer's own
// (OpenID Connect Discovery 1.0 §4.3).
func (f *fetcher) discover(ctx context.Context) error {
	data, _, err := f.get(ctx, f.source.rules.Source, "")
	if err != nil {
		return err
	}
	var doc struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return fmt.Errorf("not a JSON object: %w", err)
	}
	if doc.Issuer != f.source.rules.Name {
		return fmt.Errorf("the document is of issuer %q", doc.Issuer)
	}
	if err := checkURL(doc.JWKSURI); err != nil {
		return fmt.Errorf("jwks_uri: %w", err)
	}
	f.url = doc.JWKSURI
	return nil
}

// get returns a body, nil when it is still what the tag stands for.
func (f *fetcher) get(ctx context.Context, url, etag string) (body []byte, tag string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, "", err
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "nabat-control")
	if etag != "" {
		r.Header.Set("If-None-Match", etag)
	}
	response, err := f.client.Do(r)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = response.Body.Close() }()
	switch {
	case response.StatusCode == http.StatusNotModified && etag != "":
		return nil, etag, nil
	case response.StatusCode != http.StatusOK:
		return nil, "", fmt.Errorf("GET %s: %s", url, response.Status)
	}
	body, err = io.ReadAll(io.LimitReader(response.Body, maxBody+1))
	switch {
	case err != nil:
		return nil, "", fmt.Errorf("GET %s: %w", url, err)
	case len(body) > maxBody:
		return nil, "", fmt.Errorf("GET %s: the answer is larger than %d bytes", url, maxBody)
	}
	return body, response.Header.Get("ETag"), nil
}
