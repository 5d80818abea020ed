package wire

import (
	"bytes"
	"go/ast"
	goparser "go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestEveryCodeIsProvoked: what a client can be refused with is refused by a
// test of a program, on whose wire it appears. A test that only repeats the table,
// such as one that reads the vectors, is none of those.
func TestEveryCodeIsProvoked(t *testing.T) {
	code, status := provoked(t)
	closes := make(map[uint16]bool)
	for _, e := range Table {
		if !code[e.Code] {
			t.Errorf("no test of edge, control, internal or client provokes the code %s", e.Code)
		}
		if e.Close != 0 {
			closes[e.Close] = true
		}
	}
	for s := range closes {
		if !status[s] {
			t.Errorf("no test of edge, control, internal or client provokes a close with %d", s)
		}
	}
	// What finds all of them everywhere finds nothing.
	if code["no_such_code"] || status[4299] || len(closes) < 10 {
		t.Error("the search finds what is not there")
	}
}

// quoted is a code as it stands in the text of a test: alone, or quoted in JSON,
// or before its reason.
var quoted = regexp.MustCompile(`^"?([a-z_]+)"?$|"([a-z_]+)"|^([a-z_]+): `)

// provoked reads the tests of the programs: the codes and the closing statuses
// that they name. Constants count by the name that codes.go gives them.
func provoked(t *testing.T) (codes map[Code]bool, statuses map[uint16]bool) {
	t.Helper()
	codes, statuses = make(map[Code]bool), make(map[uint16]bool)
	constants := constantsOf(t, "codes.go")
	files := 0
	for _, folder := range []string{"edge", "control", "internal", "client"} {
		err := filepath.WalkDir(filepath.Join("../..", folder), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && (d.Name() == "testdata" || d.Name() == "node_modules") {
				return filepath.SkipDir
			}
			if !strings.HasSuffix(path, "_test.go") {
				return nil
			}
			source, err := os.ReadFile(path)
			if err != nil || bytes.Contains(source, []byte("testdata/vectors")) {
				return err
			}
			files++
			return readTest(path, source, constants, codes, statuses)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < 50 {
		t.Fatalf("%d files of tests: has their place changed?", files)
	}
	return codes, statuses
}

// constantsOf maps the names of the codes, and of the closes that are made of them.
func constantsOf(t *testing.T, file string) map[string]Code {
	t.Helper()
	parsed, err := goparser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]Code)
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		if literal, ok := spec.Values[0].(*ast.BasicLit); ok && literal.Kind == token.STRING {
			value, err := strconv.Unquote(literal.Value)
			if err != nil {
				t.Fatal(err)
			}
			names[spec.Names[0].Name] = Code(value)
		}
		return true
	})
	if names["BadCommand"] != BadCommand {
		t.Fatalf("%s has no constants", file)
	}
	return names
}

func readTest(path string, source []byte, constants map[string]Code, codes map[Code]bool, statuses map[uint16]bool) error {
	parsed, err := goparser.ParseFile(token.NewFileSet(), path, source, goparser.SkipObjectResolution)
	if err != nil {
		return err
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if of, ok := n.X.(*ast.Ident); ok && of.Name == "wire" && constants[n.Sel.Name] != "" {
				codes[constants[n.Sel.Name]] = true
			}
		case *ast.BasicLit:
			switch n.Kind {
			case token.INT:
				if v, err := strconv.ParseUint(n.Value, 0, 16); err == nil {
					statuses[uint16(v)] = true
				}
			case token.STRING:
				text, err := strconv.Unquote(n.Value)
				if err != nil {
					return true
				}
				for _, m := range quoted.FindAllStringSubmatch(text, -1) {
					codes[Code(m[1]+m[2]+m[3])] = true
				}
			}
		}
		return true
	})
	return nil
}
