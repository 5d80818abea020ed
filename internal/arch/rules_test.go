package arch_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"nabat/internal/arch"
)

// small are the rules of the synthetic trees in testdata.
var small = arch.Rules{
	Module: "small",
	Packages: []arch.Package{
		{Path: "edge/core", Imports: []string{"proto", "proto/wire", "edge/out"}, Why: "the pure part"},
		{Path: "edge/out", Imports: []string{"edge/core"}, Why: "the other part"},
		{Path: "proto", Why: "the contract"},
		{Path: "proto/wire", Why: "the words"},
	},
	External:    []arch.External{{Module: "example.com/epoll", Users: []string{"edge/out", "*/metrics"}, Why: "one package owns epoll"}},
	Pure:        []string{"edge/core"},
	PureImports: []string{"proto"},
	Strangers:   [][]string{{"edge/ws", "edge/hub"}},
	Folders:     []string{"edge", "proto"},
	Names:       []string{"util"},
	Machine:     []string{"/machine/"},
	MaxFile:     20, MaxFunc: 6, MaxMethods: 2,
}

// TestRules reads testdata/*.txt. Each is a tree, "-- path --" before each
// file; the last one, "want", holds the findings. A tree need not repeat the
// packages of the table: those it leaves out are given an empty file.
func TestRules(t *testing.T) {
	cases, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(cases) < 10 {
		t.Fatalf("testdata: %d trees, %v", len(cases), err)
	}
	for _, name := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			tree, want := unpack(string(text))
			findings, err := arch.Check(tree, small)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, strings.Join(findings, "\n")); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

func unpack(text string) (tree fstest.MapFS, want string) {
	tree = fstest.MapFS{}
	for _, part := range strings.Split("\n"+text, "\n-- ")[1:] {
		name, body, _ := strings.Cut(part, " --\n")
		tree[name] = &fstest.MapFile{Data: []byte(body + "\n")}
	}
	if w, ok := tree["want"]; ok {
		want = strings.TrimSpace(string(w.Data))
		delete(tree, "want")
	}
	for _, p := range small.Packages {
		here := false
		for name := range tree {
			here = here || (filepath.Dir(name) == p.Path && !strings.HasSuffix(name, "_test.go"))
		}
		if !here {
			base := filepath.Base(p.Path)
			tree[p.Path+"/"+base+".go"] = &fstest.MapFile{Data: []byte("// Package " + base + " is here.\npackage " + base + "\n")}
		}
	}
	return tree, want
}

func TestTheTableItselfIsChecked(t *testing.T) {
	r := small
	r.Packages = []arch.Package{
		{Path: "proto", Why: "the contract"},
		{Path: "proto", Why: "again"},
		{Path: "gone", Imports: []string{"nowhere"}},
	}
	tree := fstest.MapFS{"proto/p.go": {Data: []byte("// Package proto is here.\npackage proto\n")}}
	got, err := arch.Check(tree, r)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"table: gone does not exist: remove its line",
		"table: gone has no reason",
		"table: gone may import nowhere, which has no line",
		"table: proto stands twice",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

func TestAFileThatDoesNotParseIsAnError(t *testing.T) {
	if _, err := arch.Check(fstest.MapFS{"edge/x.go": {Data: []byte("package")}}, small); err == nil {
		t.Fatal("no error")
	}
}
