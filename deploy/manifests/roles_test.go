package manifests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
)

// permissions are those of a user, in the words of nats-server's configuration.
type permissions struct {
	Publish   *subjects  `json:"publish,omitempty"`
	Subscribe *subjects  `json:"subscribe,omitempty"`
	Responses *responses `json:"allow_responses,omitempty"`
}

type subjects struct {
	Allow []string `json:"allow,omitempty"`
	Deny  []string `json:"deny,omitempty"`
}

type responses struct {
	Max     int    `json:"max"`
	Expires string `json:"expires"`
}

// The chart's users have passwords, and may do what the roles of deploy/nats may.
func TestRolesAreThoseOfDeployNATS(t *testing.T) {
	dir := t.TempDir()
	text, err := os.ReadFile("../nats/accounts.conf")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "accounts.conf")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	roles := make(map[string]string)
	var keys strings.Builder
	for _, role := range []string{"edge", "control", "backend", "admin", "publisher"} {
		pair, err := nkeys.CreateUser()
		if err != nil {
			t.Fatal(err)
		}
		public, err := pair.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		roles[public] = role
		fmt.Fprintf(&keys, "NABAT_NKEY_%s: %s\n", strings.ToUpper(role), public)
	}
	if err := os.WriteFile(filepath.Join(dir, "nkeys.conf"), []byte(keys.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]*permissions)
	for _, user := range o.Nkeys {
		if role := roles[user.Nkey]; role != "publisher" && user.Permissions != nil {
			all[role] = permissionsOf(user.Permissions)
		}
	}
	if len(all) != 3 {
		t.Fatalf("%d roles have permissions, want those of edge, control and backend", len(all))
	}
	// Backends connect as any NATS client does, without an inbox of their role.
	all["backend"].Subscribe.Allow = append([]string{"_INBOX.>"}, all["backend"].Subscribe.Allow...)
	var data bytes.Buffer
	e := json.NewEncoder(&data)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(all); err != nil {
		t.Fatal(err)
	}
	golden(t, chartDir+"/files/roles.json", data.Bytes())
}

func permissionsOf(p *server.Permissions) *permissions {
	of := func(s *server.SubjectPermission) *subjects {
		if s == nil {
			return nil
		}
		return &subjects{s.Allow, s.Deny}
	}
	out := &permissions{Publish: of(p.Publish), Subscribe: of(p.Subscribe)}
	if p.Response != nil {
		out.Responses = &responses{p.Response.MaxMsgs, p.Response.Expires.String()}
	}
	return out
}
