package arch

import (
	"bytes"
	"go/ast"
	"path"
	"slices"
	"strings"
)

// checkMachine reports paths of one machine in any text file.
func (t *tree) checkMachine(name string, text []byte, r Rules) {
	if path.Ext(name) == ".sum" || bytes.IndexByte(text[:min(len(text), 8000)], 0) >= 0 {
		return
	}
	for _, machine := range r.Machine {
		if before, _, found := bytes.Cut(text, []byte(machine)); found {
			t.report("%s:%d: %s is a path of one machine", name, 1+bytes.Count(before, []byte("\n")), machine)
		}
	}
}

// checkNames wants a name that says what the package is, and a comment that
// does the same.
func (t *tree) checkNames(folder string, files []*file, r Rules) {
	for _, element := range strings.Split(folder, "/") {
		if slices.Contains(r.Names, element) {
			t.report("%s: %q says nothing: name the folder after what is in it", folder, element)
		}
	}
	name, documented := "", false
	code := slices.ContainsFunc(files, func(f *file) bool { return !f.test })
	for _, f := range files {
		if f.test && code {
			continue // a package that has only tests is described in one of them
		}
		if name = f.syntax.Name.Name; slices.Contains(r.Names, name) {
			t.report("%s: %q says nothing: name the package after what it provides", f.name, name)
		}
		text := f.syntax.Doc.Text()
		documented = documented || strings.HasPrefix(text, "Package "+name+" ") || (name == "main" && text != "")
	}
	if !documented {
		t.report("%s: no package comment: begin a file with \"// Package %s …\"", folder, name)
	}
}

// checkSizes bounds what one has to read at once.
func (t *tree) checkSizes(files []*file, r Rules) {
	methods := make(map[string]int)
	for _, f := range files {
		if f.test || f.generated {
			continue
		}
		if f.lines > r.MaxFile {
			t.report("%s: %d lines, at most %d: split it by responsibility", f.name, f.lines, r.MaxFile)
		}
		for _, decl := range f.syntax.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := f.fset.Position(fn.End()).Line - f.line(fn) + 1; n > r.MaxFunc {
				t.report("%s:%d: %s has %d lines, at most %d", f.name, f.line(fn), fn.Name.Name, n, r.MaxFunc)
			}
			if typ := receiver(fn); typ != "" {
				methods[typ]++
			}
		}
	}
	for typ, n := range methods {
		if n > r.MaxMethods {
			t.report("%s: %s has %d methods, at most %d: it grew a second job", path.Dir(files[0].name), typ, n, r.MaxMethods)
		}
	}
}

func receiver(fn *ast.FuncDecl) string {
	if fn.Recv == nil || len(fn.Recv.List) == 0 {
		return ""
	}
	expr := fn.Recv.List[0].Type
	for {
		switch e := expr.(type) {
		case *ast.StarExpr:
			expr = e.X
		case *ast.IndexExpr:
			expr = e.X
		case *ast.IndexListExpr:
			expr = e.X
		case *ast.Ident:
			return e.Name
		default:
			return ""
		}
	}
}

// checkImports holds the files of one package against the table, the confined
// modules, the strangers and the pure packages. Tests are free.
func (t *tree) checkImports(folder string, files []*file, r Rules) {
	line := slices.IndexFunc(r.Packages, func(p Package) bool { return p.Path == folder })
	pure := slices.Contains(r.Pure, folder)
	program := false
	for _, f := range files {
		if f.test {
			continue
		}
		program = true
		for imported, at := range f.imports() {
			inner, own := strings.CutPrefix(imported, r.Module+"/")
			switch {
			case !own:
				t.checkExternal(f, at, folder, imported, r)
			case strangers(folder, inner, r):
				t.report("%s:%d: %s and %s are strangers: they meet through an interface of the caller", f.name, at, folder, inner)
			case line >= 0 && !slices.Contains(r.Packages[line].Imports, inner):
				t.report("%s:%d: %s may not import %s (%s)", f.name, at, folder, inner, r.Packages[line].Why)
			}
			if pure {
				t.checkPureImport(f, at, folder, imported, r)
			}
		}
		if pure {
			t.checkPureCode(f, folder)
		}
	}
	if program && line < 0 {
		t.report("%s: not in the table: add a line to internal/arch/arch_test.go that says what it may import and why", folder)
	}
}

func (t *tree) checkExternal(f *file, at int, folder, imported string, r Rules) {
	for _, e := range r.External {
		if imported != e.Module && !strings.HasPrefix(imported, e.Module+"/") {
			continue
		}
		allowed := slices.ContainsFunc(e.Users, func(user string) bool {
			name, any := strings.CutPrefix(user, "*/")
			return user == folder || (any && path.Base(folder) == name)
		})
		if !allowed {
			t.report("%s:%d: %s may not import %s: only %s may (%s)", f.name, at, folder, imported, strings.Join(e.Users, ", "), e.Why)
		}
	}
}

// strangers reports whether a and b lie in two folders of one group.
func strangers(a, b string, r Rules) bool {
	for _, group := range r.Strangers {
		if x, y := memberOf(group, a), memberOf(group, b); x >= 0 && y >= 0 && x != y {
			return true
		}
	}
	return false
}

func memberOf(group []string, folder string) int {
	return slices.IndexFunc(group, func(g string) bool { return folder == g || strings.HasPrefix(folder, g+"/") })
}

// impure are the packages of the standard library that a pure package cannot
// want, each with everything below it.
var impure = []string{"os", "net", "syscall", "log", "math/rand", "crypto/rand"}

// clock are the names of package time that read or wait for the clock.
var clock = []string{"Now", "Since", "Until", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker", "Sleep"}

func (t *tree) checkPureImport(f *file, at int, folder, imported string, r Rules) {
	if inner, own := strings.CutPrefix(imported, r.Module+"/"); own {
		if !slices.Contains(r.Pure, inner) && memberOf(r.PureImports, inner) < 0 {
			t.report("%s:%d: %s is pure and may not import %s", f.name, at, folder, inner)
		}
		return
	}
	first, _, _ := strings.Cut(imported, "/")
	if strings.ContainsRune(first, '.') || memberOf(impure, imported) >= 0 {
		t.report("%s:%d: %s is pure and may not import %s", f.name, at, folder, imported)
	}
}

// checkPureCode finds goroutines and readings of the clock.
func (t *tree) checkPureCode(f *file, folder string) {
	timeName := "" // what this file calls package time
	for _, spec := range f.syntax.Imports {
		if spec.Path.Value != `"time"` {
			continue
		}
		if timeName = "time"; spec.Name != nil {
			timeName = spec.Name.Name
		}
		if timeName == "." {
			t.report("%s:%d: %s is pure and may not import time with a dot", f.name, f.line(spec), folder)
		}
	}
	ast.Inspect(f.syntax, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			t.report("%s:%d: %s is pure and may not start a goroutine", f.name, f.line(n), folder)
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && timeName != "" && x.Name == timeName && slices.Contains(clock, n.Sel.Name) {
				t.report("%s:%d: %s is pure and may not use time.%s: the caller passes the time in", f.name, f.line(n), folder, n.Sel.Name)
			}
		}
		return true
	})
}

// checkTable keeps the table itself true: every line has a reason, stands
// once, and names packages that exist.
func (t *tree) checkTable(r Rules) {
	seen := make(map[string]bool)
	for _, p := range r.Packages {
		if seen[p.Path] {
			t.report("table: %s stands twice", p.Path)
		}
		seen[p.Path] = true
		if p.Why == "" {
			t.report("table: %s has no reason", p.Path)
		}
	}
	for _, p := range r.Packages {
		if len(t.packages[p.Path]) == 0 {
			t.report("table: %s does not exist: remove its line", p.Path)
		}
		for _, imported := range p.Imports {
			if !seen[imported] {
				t.report("table: %s may import %s, which has no line", p.Path, imported)
			}
		}
	}
}
