package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"nabat/internal/config"
	"nabat/proto/policy"
	"nabat/proto/wire"
)

// pages are the texts that a newcomer reads, from the root of the repository.
var pages = []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "charts/README.md", "loadtest/README.md",
	"charts/nabat/README.md", "deploy/OPERATIONS.md", "deploy/METRICS.md",
	"deploy/guide/README.md", "deploy/guide/tutorial.md", "deploy/guide/backend.md", "deploy/guide/limits-and-hooks.md",
	"deploy/guide/coming-from.md", "client/js/README.md", "proto/PROTOCOL.md", "proto/BUS.md"}

func readPage(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// fence is one block of code with its language and, in the guide, the file that
// it is from.
type fence struct{ language, text, file string }

var (
	fenced   = regexp.MustCompile("(?ms)^ *```([a-z]*)(?: ([^\n]+))?\n(.*?)^ *```$")
	inline   = regexp.MustCompile("`([^`]+)`")
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading  = regexp.MustCompile(`(?m)^#+ (.+)$`)
	command  = regexp.MustCompile(`(?:^|[\s/(])nabat +(--)?([a-z-]+)`)
	longFlag = regexp.MustCompile(`(?:^|\s)--([a-z][a-z-]*)`)
	foreign  = regexp.MustCompile(`^(helm|kubectl|docker|node|nats) `)
	variable = regexp.MustCompile(`\bNABAT_[A-Z_]*[A-Z]\b`)
	notAnID  = regexp.MustCompile(`[^a-z0-9 -]`)
)

// code lists a page's blocks of code, and the pieces within its sentences.
func code(page string) (blocks []fence, spans []string) {
	for _, m := range fenced.FindAllStringSubmatch(page, -1) {
		blocks = append(blocks, fence{m[1], m[3], m[2]})
	}
	rest := fenced.ReplaceAllString(page, "")
	for _, m := range inline.FindAllStringSubmatch(rest, -1) {
		spans = append(spans, strings.ReplaceAll(m[1], "\n", " "))
	}
	return blocks, spans
}

func TestLinksOfThePagesResolve(t *testing.T) {
	anchors := func(page string) (ids []string) {
		for _, m := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(page, ""), -1) {
			ids = append(ids, strings.ReplaceAll(notAnID.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
		}
		return ids
	}
	for _, name := range pages {
		page := readPage(t, name)
		for _, m := range link.FindAllStringSubmatch(inline.ReplaceAllString(fenced.ReplaceAllString(page, ""), "x"), -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			at := name
			if target != "" {
				at = filepath.Join(filepath.Dir(name), target)
			}
			if _, err := os.Stat(filepath.Join("../..", at)); err != nil {
				t.Errorf("%s: the link %s leads nowhere", name, m[1])
			} else if anchor != "" && !slices.Contains(anchors(readPage(t, at)), anchor) {
				t.Errorf("%s: %s has no heading for the link %s", name, at, m[1])
			}
		}
	}
}

func TestCommandsAndFlagsOfThePagesExist(t *testing.T) {
	root := (&app{}).root()
	seen := 0
	for _, name := range pages {
		blocks, spans := code(readPage(t, name))
		for _, b := range blocks {
			if b.language == "" {
				spans = append(spans, strings.Split(b.text, "\n")...)
			}
		}
		for _, span := range spans {
			if strings.Contains(span, "./loadtest") || strings.HasPrefix(name, "loadtest/") || foreign.MatchString(strings.TrimSpace(span)) {
				continue // a program of its own
			}
			seen += checkCommands(t, root, name, span)
		}
	}
	if seen < 20 {
		t.Errorf("only %d commands and flags were found on all pages: has their form changed?", seen)
	}
}

// checkCommands looks up every "nabat COMMAND" in a piece of code, with the
// flags behind it. Flags without a command must be those of any.
func checkCommands(t *testing.T, root *cobra.Command, page, span string) (seen int) {
	t.Helper()
	var of *cobra.Command
	rest := span
	for {
		part, next := rest, command.FindStringSubmatchIndex(rest)
		if next != nil {
			part = rest[:next[0]]
		}
		for _, m := range longFlag.FindAllStringSubmatch(part, -1) {
			seen++
			if !hasFlag(root, of, m[1]) {
				t.Errorf("%s: there is no flag --%s in: %s", page, m[1], span)
			}
		}
		if next == nil {
			return seen
		}
		word := rest[next[4]:next[5]]
		of, rest = root, rest[next[1]:]
		if next[2] >= 0 { // nabat --help
			rest = " --" + word + rest
			continue
		}
		seen++
		found, _, err := root.Find([]string{word})
		if err != nil || found == root {
			t.Errorf("%s: there is no command nabat %s in: %s", page, word, span)
			return seen
		}
		of = found
		for _, sub := range found.Commands() {
			if words := strings.Fields(rest); len(words) > 0 && words[0] == sub.Name() {
				of = sub
			}
		}
	}
}

func hasFlag(root, of *cobra.Command, name string) bool {
	if name == "help" {
		return true
	}
	if of != nil {
		return of.Flags().Lookup(name) != nil
	}
	return slices.ContainsFunc(root.Commands(), func(c *cobra.Command) bool { return c.Flags().Lookup(name) != nil })
}

func TestVariablesOfThePagesExist(t *testing.T) {
	root := (&app{}).root()
	for _, name := range pages {
		if strings.HasPrefix(name, "loadtest/") {
			continue // a program of its own
		}
		for _, v := range variable.FindAllString(readPage(t, name), -1) {
			key := strings.ToLower(strings.TrimPrefix(v, config.EnvPrefix))
			if v == "NABAT_CONFIG" || v == "NABAT_KEYS" || v == "NABAT_BLOCKS" || v == "NABAT_NODES" || v == "NABAT_EVENTS" || slices.Contains(others, v) || hasFlag(root, nil, strings.ReplaceAll(key, "_", "-")) {
				continue // buckets and streams have such names, too
			}
			t.Errorf("%s: there is no variable %s", name, v)
		}
	}
}

func TestYAMLOfThePagesIsAccepted(t *testing.T) {
	for _, page := range []string{"README.md", "deploy/guide/limits-and-hooks.md"} {
		blocks, _ := code(readPage(t, page))
		policies, settings := 0, 0
		for _, b := range blocks {
			switch {
			case b.language != "yaml":
			case strings.HasPrefix(b.text, "rooms:"):
				policies++
				if _, err := policy.ParseYAML(page, []byte(b.text)); err != nil {
					t.Error(err)
				}
			default:
				settings++
				file := filepath.Join(t.TempDir(), "edge.yaml")
				if err := os.WriteFile(file, []byte(b.text), 0o600); err != nil {
					t.Fatal(err)
				}
				if r := nabat(t, "", nil, "check", "edge", "--config", file); r.code != 0 {
					t.Error(r.stderr)
				}
			}
		}
		if policies == 0 || settings == 0 {
			t.Errorf("%s has %d blocks of policies and %d of settings: it shows both", page, policies, settings)
		}
	}
}

var setting = regexp.MustCompile("^[a-z]+(?:_[a-z]+)+$")

// TestSettingsOfTheGuideExist: what a page calls a setting is one of some program,
// or a name of the protocol.
func TestSettingsOfTheGuideExist(t *testing.T) {
	root := (&app{}).root()
	seen := 0
	for _, name := range []string{"deploy/guide/limits-and-hooks.md"} {
		_, spans := code(readPage(t, name))
		for _, span := range spans {
			if !setting.MatchString(span) || wire.Code(span).Known() || slices.Contains([]string{"retry_ms", "ttl_ms"}, span) ||
				strings.HasPrefix(span, "nabat_") {
				continue
			}
			seen++
			if !hasFlag(root, nil, strings.ReplaceAll(span, "_", "-")) {
				t.Errorf("%s: there is no setting %s", name, span)
			}
		}
	}
	if seen < 10 {
		t.Errorf("only %d settings were found: has their form changed?", seen)
	}
}
