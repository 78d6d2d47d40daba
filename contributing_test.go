package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"testing"
)

// TestContributingFindsTheLines: what the where-to-look table of
// CONTRIBUTING.md names is declared in the file it names.
func TestContributingFindsTheLines(t *testing.T) {
	text, err := os.ReadFile("CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	cell := regexp.MustCompile("((?:`[\\w.]+`(?:, )?)+) in `([\\w/]+\\.go)`")
	name := regexp.MustCompile("`([\\w.]+)`")
	found := 0
	for _, row := range regexp.MustCompile(`(?m)^\| .*`).FindAll(text, -1) {
		for _, m := range cell.FindAllSubmatch(row, -1) {
			declared := declarations(t, string(m[2]))
			for _, n := range name.FindAllSubmatch(m[1], -1) {
				if found++; !declared[string(n[1])] {
					t.Errorf("%s declares no %s", m[2], n[1])
				}
			}
		}
	}
	if found < 20 {
		t.Errorf("%d names found in the table, want at least 20", found)
	}
}

// declarations returns the functions, methods ("receiver.method") and types of
// a file.
func declarations(t *testing.T, file string) map[string]bool {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	declared := make(map[string]bool)
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			name := d.Name.Name
			if d.Recv != nil {
				name = receiver(d.Recv.List[0].Type) + "." + name
			}
			declared[name] = true
		case *ast.GenDecl:
			for _, s := range d.Specs {
				if s, ok := s.(*ast.TypeSpec); ok {
					declared[s.Name.Name] = true
				}
			}
		}
	}
	return declared
}

// receiver returns the name of a method's type, without a pointer's star.
func receiver(e ast.Expr) string {
	if p, ok := e.(*ast.StarExpr); ok {
		e = p.X
	}
	return e.(*ast.Ident).Name
}
