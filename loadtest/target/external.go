package target

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"nabat/loadtest/swarm"
)

// External describes a target that somebody else started.
type External struct {
	Name           string   // in the table
	URL            string   // where clients connect; the path is the dialect's when there is none
	Dialect        string   // one of Dialects; "": Plain
	NATS           string   // where messages are published; "": none are, or by HTTP
	SubjectPrefix  string   // before the room
	PublishURL     string   // where messages are posted, a template; "": none are
	PublishHeaders []string // "Name: value"
	PublishBody    string   // a template; "": the dialect's
	Greeting       string
	PID            int
	Ops            string
}

// Flags are the flags that describe a target, beside --target itself.
var Flags = []string{"dialect", "nats", "subject-prefix", "publish-url", "publish-header", "publish-body", "greeting", "pid", "ops"}

// Publishes reports whether messages can be published.
func (e *External) Publishes() bool { return e.NATS != "" || e.PublishURL != "" }

// body is what is published in a dialect where that is otherwise.
func (e *External) body(otherwise string) string {
	if e.PublishBody != "" {
		return e.PublishBody
	}
	return otherwise
}

// dialect that the target speaks.
func (e *External) dialect() dialect {
	if e.Dialect == "" {
		return dialects[Plain]
	}
	return dialects[e.Dialect]
}

// Check refuses what makes no sense; given tells which flags there are.
func (e *External) Check(given func(flag string) bool) error {
	if !slices.Contains(Dialects, e.Dialect) {
		return fmt.Errorf("--dialect %q: choose from %s", e.Dialect, strings.Join(Dialects, ", "))
	}
	if _, err := swarm.Resolve(e.URL); err != nil {
		return err
	}
	d := e.dialect()
	switch {
	case e.Dialect != Plain && given("greeting"):
		return fmt.Errorf("--greeting is for --dialect %s: %s has its own", Plain, e.Dialect)
	case d.subject != "" && given("subject-prefix"):
		return fmt.Errorf("--subject-prefix: %s takes the messages of all rooms from the subject %s", e.Dialect, d.subject)
	case e.NATS != "" && e.PublishURL != "":
		return errors.New("--nats and --publish-url are two ways to publish: give one of them")
	case e.PublishURL == "" && len(e.PublishHeaders) > 0:
		return errors.New("--publish-header goes with --publish-url, which is missing")
	case !e.Publishes() && given("publish-body"):
		return errors.New("--publish-body goes with --nats or --publish-url, which are missing")
	}
	return e.checkPublishing(&d)
}

func (e *External) checkPublishing(d *dialect) error {
	if e.PublishURL != "" {
		if u, err := url.Parse(strings.ReplaceAll(e.PublishURL, bodyRoom, "room")); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("--publish-url %q: must be http:// or https:// with a host", e.PublishURL)
		}
		if e.body(d.post) == "" {
			return fmt.Errorf("--publish-url: servers of the dialect %s take no messages by HTTP; if yours does, say what with --publish-body", e.Dialect)
		}
	}
	for _, line := range e.PublishHeaders {
		if name, _, found := strings.Cut(line, ":"); !found || strings.TrimSpace(name) == "" {
			return fmt.Errorf("--publish-header %q: write 'Name: value'", line)
		}
	}
	if body := e.PublishBody; body != "" && !strings.Contains(body, bodyData) && !strings.Contains(body, bodyText) && !strings.Contains(body, bodyForm) {
		return fmt.Errorf("--publish-body %q has no place for the message: {data} as JSON, {text} as a string in JSON, {form} as a value in a form", body)
	}
	return nil
}

// Open connects to NATS and completes the URL. It starts nothing.
func (e *External) Open(context.Context) (*Target, error) {
	d := e.dialect()
	where, err := e.complete(&d)
	if err != nil {
		return nil, err
	}
	t := &Target{Name: e.Name, URL: where, NoQuery: !d.rooms, Dialect: d.spoken(e.SubjectPrefix), PID: e.PID, Ops: e.Ops}
	if e.Greeting != "" {
		t.Dialect.Greeting = e.Greeting
	}
	switch {
	case e.PublishURL != "":
		p := newHTTPPublisher(e, &d)
		t.Publisher, t.closers = p, append(t.closers, p.close)
	case e.NATS != "":
		t.subjects.all, t.subjects.body = d.subject, e.body(d.nats)
		return t, t.connect(e.NATS, e.SubjectPrefix)
	}
	return t, nil
}

// complete adds to the URL what the dialect wants there.
func (e *External) complete(d *dialect) (string, error) {
	address, err := swarm.Resolve(e.URL)
	if err != nil {
		return "", err
	}
	scheme, path := "ws://", address.Path
	if address.TLS {
		scheme = "wss://"
	}
	path, query, _ := strings.Cut(path, "?")
	if path == "" || path == "/" {
		path = d.path
	}
	if key, _, _ := strings.Cut(strings.TrimPrefix(d.query, "<<"), "="); d.query != "" && !strings.Contains("&"+query, "&"+key+"=") {
		query = strings.TrimPrefix(query+"&"+d.query, "&")
	}
	if query != "" {
		path += "?" + query
	}
	return scheme + address.Host + path, nil
}
