// Package arch checks the shape of the repository: who may import whom, what
// is named how, and how long a file may be.
package arch

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Rules is what a repository promises about its own shape.
type Rules struct {
	// Module is the module path, the first element of every internal import.
	Module string
	// Packages is the table: a package that is not in it may not exist.
	Packages []Package
	// External says which packages may use which modules. A module that no
	// line names is free.
	External []External
	// Pure packages import the standard library, packages under a folder of
	// PureImports and each other; no clock, no goroutine, no I/O.
	Pure        []string
	PureImports []string
	// Strangers are groups of folders. Packages of two folders of one group
	// never import one another, whatever the table says.
	Strangers [][]string
	// Folders are the only ones at the top.
	Folders []string
	// Names may not be a package or a folder of one.
	Names []string
	// Machine lists paths that exist on one machine only; no file may hold one.
	Machine []string
	// MaxFile, MaxFunc and MaxMethods bound the lines of a file and of a
	// function, and the methods of a type. Tests and generated files are free.
	MaxFile, MaxFunc, MaxMethods int
}

// Package is one line of the table.
type Package struct {
	Path    string   // without the module
	Imports []string // the packages of the module that it may import
	Why     string   // what it is, in the words that justify the imports
}

// External is a module whose use is confined.
type External struct {
	Module string   // prefix of import paths
	Users  []string // packages, without the module; "*/x" is every package named x
	Why    string
}

// file is one parsed Go file.
type file struct {
	name      string // slash-separated, from the root
	test      bool
	generated bool
	lines     int
	syntax    *ast.File
	fset      *token.FileSet
}

// tree is the repository as the rules see it.
type tree struct {
	packages map[string][]*file // by folder
	findings []string
}

func (t *tree) report(format string, args ...any) {
	t.findings = append(t.findings, fmt.Sprintf(format, args...))
}

// Check reads the repository at the root of fsys and returns what breaks the
// rules, sorted, as "place: reason". Nested modules are only searched for
// machine paths; what .gitignore names is not read. The error is for a
// repository that cannot be read.
func Check(fsys fs.FS, r Rules) ([]string, error) {
	t := &tree{packages: make(map[string][]*file)}
	ignored, err := readIgnore(fsys)
	if err != nil {
		return nil, err
	}
	if err := t.load(fsys, r, ignored); err != nil {
		return nil, err
	}
	for folder, files := range t.packages {
		t.checkNames(folder, files, r)
		t.checkImports(folder, files, r)
		t.checkSizes(files, r)
	}
	t.checkTable(r)
	slices.Sort(t.findings)
	return slices.Compact(t.findings), nil
}

// load walks the tree once: it parses the Go files and searches all others.
func (t *tree) load(fsys fs.FS, r Rules, ignored ignore) error {
	nested := "" // the nested module that the walk is in
	return fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name != "." && (d.Name() == ".git" || ignored.match(name, true)) {
				return fs.SkipDir
			}
			outside := nested == "" || !strings.HasPrefix(name, nested) // a module may hold others
			if _, err := fs.Stat(fsys, path.Join(name, "go.mod")); err == nil && name != "." && outside {
				nested = name + "/"
			}
			if name != "." && !strings.ContainsRune(name, '/') && !slices.Contains(r.Folders, name) {
				t.report("%s: no such folder at the top: the folders are %s", name, strings.Join(r.Folders, ", "))
			}
			return nil
		}
		// A linked work tree has a file .git, which says where the rest lies.
		if !d.Type().IsRegular() || name == ".git" || ignored.match(name, false) {
			return nil
		}
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		t.checkMachine(name, text, r)
		inNested := nested != "" && strings.HasPrefix(name, nested)
		if path.Ext(name) != ".go" || inNested || slices.Contains(strings.Split(name, "/"), "testdata") {
			return nil
		}
		return t.parse(name, text)
	})
}

func (t *tree) parse(name string, text []byte) error {
	fset := token.NewFileSet()
	syntax, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return fmt.Errorf("parse: %w", err)
	}
	folder := path.Dir(name)
	t.packages[folder] = append(t.packages[folder], &file{
		name: name, test: strings.HasSuffix(name, "_test.go"), generated: ast.IsGenerated(syntax),
		lines: bytes.Count(text, []byte("\n")), syntax: syntax, fset: fset,
	})
	return nil
}

// imports returns the import paths of f with their lines.
func (f *file) imports() map[string]int {
	paths := make(map[string]int)
	for _, spec := range f.syntax.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			paths[p] = f.line(spec)
		}
	}
	return paths
}

func (f *file) line(n ast.Node) int { return f.fset.Position(n.Pos()).Line }

// ignore is the part of .gitignore that this repository uses: names, globs and
// rooted paths, one a line, a final slash for folders.
type ignore []string

func readIgnore(fsys fs.FS) (ignore, error) {
	text, err := fs.ReadFile(fsys, ".gitignore")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var list ignore
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			list = append(list, line)
		}
	}
	return list, err
}

func (list ignore) match(name string, dir bool) bool {
	for _, pattern := range list {
		pattern, folder := strings.CutSuffix(pattern, "/")
		if folder && !dir {
			continue
		}
		subject := path.Base(name)
		if rooted := strings.TrimPrefix(pattern, "/"); strings.ContainsRune(pattern, '/') {
			pattern, subject = rooted, name
		}
		if ok, err := path.Match(pattern, subject); err == nil && ok {
			return true
		}
	}
	return false
}
