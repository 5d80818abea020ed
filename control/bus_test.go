package control

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/micro"

	"nabat/internal/auth"
	"nabat/internal/bus"
	"nabat/proto/block"
	"nabat/proto/policy"
)

// examples returns the lines of the blocks of BUS.md with this tag.
func examples(t *testing.T, text, tag string) (lines []string) {
	t.Helper()
	for _, part := range strings.Split(text, "\n```json "+tag+"\n")[1:] {
		block, _, _ := strings.Cut(part, "\n```")
		lines = append(lines, strings.Split(block, "\n")...)
	}
	if len(lines) == 0 {
		t.Fatalf("BUS.md has no block tagged %s", tag)
	}
	return lines
}

func busText(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("../proto/BUS.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestBUSNamesEveryRequestAndItsExamplesAreAnswered(t *testing.T) {
	text := busText(t)
	r := setup(t)
	r.start(nil)
	m, err := r.nc.Request("$SRV.INFO.nabat-api", nil, patience)
	if err != nil {
		t.Fatal(err)
	}
	var info micro.Info
	if err := json.Unmarshal(m.Data, &info); err != nil {
		t.Fatal(err)
	}
	var served, described []string
	for _, e := range info.Endpoints {
		served = append(served, e.Subject+" "+e.Name)
		verb := strings.TrimPrefix(e.Subject, bus.APIPrefix)
		for _, line := range examples(t, text, "request "+verb) {
			m, err := r.nc.Request(e.Subject, []byte(line), patience)
			if err != nil {
				t.Fatal(e.Subject, err)
			}
			// There is no such key, node or rebalance here; the request is right.
			code := m.Header.Get(micro.ErrorCodeHeader)
			if err != nil || (code != "" && code != "not_found" && code != "conflict") || !json.Valid(m.Data) {
				t.Errorf("%s %s: %v %v", e.Subject, line, m, err)
			}
		}
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `(nabat\\.api\\.[^`]+)` \\| `([^`]+)` \\|").FindAllStringSubmatch(text, -1) {
		described = append(described, row[1]+" "+row[2])
	}
	slices.Sort(served)
	slices.Sort(described)
	if !slices.Equal(served, described) {
		t.Fatalf("served %v, described %v", served, described)
	}
}

func TestTheDocumentsInBUSAreRead(t *testing.T) {
	text := busText(t)
	for tag, read := range map[string]func([]byte) error{
		bus.KeyPolicies: func(b []byte) error {
			set, err := policy.Decode(b)
			if err == nil && string(set.Encode()) != strings.ReplaceAll(string(b), ">", `\u003e`) {
				t.Errorf("policies are written %s", set.Encode())
			}
			return err
		},
		bus.KeyJWKS: func(b []byte) error { _, err := auth.ParseJWKS(b); return err },
		bus.KeyIssuers: func(b []byte) error {
			set, err := auth.DecodeIssuers(b)
			if err == nil && string(set.Encode()) != strings.ReplaceAll(string(b), ">", `\u003e`) {
				t.Errorf("issuers are written %s", set.Encode())
			}
			return err
		},
		"block": func(b []byte) error {
			e, err := block.Decode(b)
			if err == nil && string(e.Encode()) != string(b) {
				t.Errorf("blocks are written %s", e.Encode())
			}
			return err
		},
		bus.KeySymmetric: func(b []byte) error { _, err := auth.ParseSymmetric(b); return err },
		bus.KeySigning: func(b []byte) error {
			keys, err := auth.ParseSigning(b)
			// The three documents are of the same keys.
			for doc, got := range map[string][]byte{bus.KeyJWKS: auth.EncodeJWKS(keys...), bus.KeySymmetric: auth.EncodeSymmetric(keys...)} {
				if want := examples(t, text, doc)[0]; err == nil && string(got) != want {
					t.Errorf("%s would be %s, the text has %s", doc, got, want)
				}
			}
			return err
		},
	} {
		for _, line := range examples(t, text, tag) {
			if err := read([]byte(line)); err != nil {
				t.Errorf("%s: %v", tag, err)
			}
		}
	}
	for _, name := range []string{bus.BucketConfig, bus.BucketKeys, bus.BucketBlocks, bus.HeaderEvent, bus.HeaderExclude, bus.HeaderKey, bus.HeaderUser, bus.HeaderConnection, bus.HeaderBody} {
		if !strings.Contains(text, "`"+name+"`") {
			t.Errorf("BUS.md does not name %s", name)
		}
	}
}
