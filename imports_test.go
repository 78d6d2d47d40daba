package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// forbidden lists packages the binary must not contain, by the reason. Tests
// and examples may import them.
var forbidden = map[string]string{
	"net/http": "2 MB of binary and 1.4 MB of memory in every container; " +
		"package health answers probes without a goroutine per connection",
	"os/exec": "Cmd.Wait and wait4(-1) steal each other's exit statuses; " +
		"package supervisor starts the child, and its loop alone reaps",
	"crypto/tls": "the readiness port and its checks are plain HTTP",
	"os/user":    "with cgo it makes the binary dynamic; drainit runs as any uid",
	"plugin":     "it makes the binary dynamic",
}

// forbiddenDirectly lists packages that a dependency may import but that
// drainit itself must not.
var forbiddenDirectly = map[string]string{
	"text/template": "executing a template calls methods by name, so the linker has to keep every exported one",
	"log":           "it writes to stderr without a bound; a full pipe would block PID 1",
}

// modules lists all the code that may come from elsewhere, since it runs as
// PID 1 in other people's containers.
var modules = []string{"github.com/drainit/drainit", "github.com/kelseyhightower/envconfig", "golang.org/x/sys"}

func TestImports(t *testing.T) {
	const format = `{{.ImportPath}} {{with .Module}}{{.Path}}{{end}}: {{join .Imports " "}}`
	c := exec.Command("go", "list", "-deps", "-f", format, ".")
	c.Env = append(c.Environ(), "CGO_ENABLED=0")
	out, err := c.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	used := make(map[string]bool)
	for line := range strings.Lines(string(out)) {
		head, imports, _ := strings.Cut(line, ":")
		pkg, module, _ := strings.Cut(head, " ")
		used[module] = true
		if reason, bad := forbidden[pkg]; bad {
			t.Errorf("the binary contains %s: %s (`go mod why %s` says how it came in)", pkg, reason, pkg)
		}
		for i := range strings.FieldsSeq(imports) {
			if reason, bad := forbiddenDirectly[i]; bad && module == modules[0] {
				t.Errorf("%s imports %s: %s", pkg, i, reason)
			}
		}
	}
	delete(used, "") // the standard library
	for _, m := range modules {
		delete(used, m)
	}
	for m := range used {
		t.Errorf("the binary contains code of %s: add it to modules in this test only after reading it", m)
	}
}

// TestEveryBuildKeepsHugePagesOut looks for a setting that only the command line
// of a build can have; the Makefile says what it is for. kernels measures it.
func TestEveryBuildKeepsHugePagesOut(t *testing.T) {
	const setting = "-X runtime.godebugDefault=disablethp=1"
	files, err := filepath.Glob("examples/*/Dockerfile")
	if err != nil || len(files) < 3 {
		t.Fatalf("found %v, %v; want three Dockerfiles", files, err)
	}
	files = append(files, "Makefile", "Dockerfile.example", "release/build.go", "bench/main.go",
		"proof/main.go", "examples/demo/main.go", "integration_test/main_test.go", "scripts/test-kernels", "scripts/test-gvisor")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), setting) {
			t.Errorf("%s builds drainit without %s", file, setting)
		}
	}
}
