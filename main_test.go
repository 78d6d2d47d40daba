package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/drainit/drainit/internal/catch"
	"github.com/drainit/drainit/supervisor"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// tests are the tests, run with the signals that the test binary is used to.
type tests struct{ *testing.M }

func (t tests) Run() int {
	catch.Release()
	return t.M.Run()
}

func TestMain(m *testing.M) {
	drainit := func() { os.Exit(run(os.Args[1:])) }
	testscript.Main(tests{m}, map[string]func(){"drainit": drainit, supervisor.Trampoline: drainit})
}

// update has the scripts' golden files rewritten: go test -run TestScripts . -u
var update = flag.Bool("u", false, "rewrite the golden files of the scripts")

// TestScripts runs testdata/script: what a user could type, and the results.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		UpdateScripts:       *update,
		Setup: func(e *testscript.Env) error {
			// The race detector has each process sleep for a second at its end.
			e.Setenv("GORACE", "atexit_sleep_ms=0")
			// No port, and not this machine's termination log.
			e.Setenv("DRAINIT_HEALTH_ADDR", "off")
			e.Setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
			e.Setenv("DRAINIT_TERMINATION_LOG", "off")
			return nil
		},
		Condition: condition,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   exits,
			"rejects": rejects,
			"plans":   plans,
		},
	})
}

// condition is for lines of a script that not every machine can run: sock_diag
// is missing in gVisor and under qemu's user-mode emulator, and each start says
// so.
func condition(name string) (bool, error) {
	if name != "sock_diag" {
		return false, fmt.Errorf("unknown condition %q", name)
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err == nil {
		unix.Close(fd)
	}
	return err == nil, nil
}

// exits CODE [NAME=value…] command… runs a command and requires its exact code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	if neg || err != nil {
		ts.Fatalf("usage: exits code [NAME=value…] command…")
	}
	got := 0
	if err := ts.Exec("env", args[1:]...); err != nil {
		e, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = e.ExitCode()
	}
	if got != want {
		ts.Fatalf("code %d, want %d", got, want)
	}
}

// rejects NAME=value msg hint: plan prints these two lines, and exits with 125.
func rejects(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: rejects NAME=value msg hint")
	}
	exits(ts, false, []string{"125", args[0], "drainit", "plan"})
	name, value, _ := strings.Cut(args[0], "=")
	want := fmt.Sprintf("drainit: %s=%q: %s\ndrainit: hint: %s\n", name, value, args[1], args[2])
	if got := ts.ReadFile("stderr"); got != want {
		ts.Fatalf("got\n%swant\n%s", got, want)
	}
	if got := ts.ReadFile("stdout"); got != "" {
		ts.Fatalf("on stdout: %s", got)
	}
}

// plans [NAME=value…] regexp: the plan works, and matches the expression, in
// which a space is any white space.
func plans(ts *testscript.TestScript, neg bool, args []string) {
	last := len(args) - 1
	exits(ts, false, slices.Concat([]string{"0"}, args[:last], []string{"drainit", "plan"}))
	re := regexp.MustCompile("(?s)" + strings.ReplaceAll(args[last], " ", `\s+`))
	if got := ts.ReadFile("stdout"); re.MatchString(got) == neg {
		ts.Fatalf("it matches %s: %t\n%s", re, !neg, got)
	}
	if got := ts.ReadFile("stderr"); got != "" {
		ts.Fatalf("on stderr: %s", got)
	}
}

// defaults returns what the configuration is where nothing is set.
func defaults(t *testing.T) map[string]string {
	t.Helper()
	clearEnv(t)
	t.Setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
	c, err := load()
	if err != nil {
		t.Fatal(err)
	}
	return c.effective()
}

// clearEnv unsets every variable of drainit's for the test.
func clearEnv(t testing.TB) {
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(strings.ToUpper(name), prefix+"_") {
			t.Setenv(name, "") // to be restored
			os.Unsetenv(name)
		}
	}
}

func same(t *testing.T, what string, got map[string]string) {
	t.Helper()
	want := defaults(t)
	for name, value := range want {
		if g, ok := got[name]; !ok {
			t.Errorf("%s does not have %s", what, name)
		} else if g != value {
			t.Errorf("%s says %s is %q by default, it is %q", what, name, g, value)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s has %s, which there is not", what, name)
		}
	}
}

// unsetWords are what the documentation calls a default that is empty.
var unsetWords = []string{"none", "as received", "the one received"}

func TestUsageAndConfigAgree(t *testing.T) {
	_, section, _ := strings.Cut(usage, "\nVariables")
	section, _, _ = strings.Cut(section, "\nExamples")
	got := make(map[string]string)
	for _, m := range regexp.MustCompile(`(?m)^  ([A-Z_]+) {2,}(\S+(?: \S+)*)`).FindAllStringSubmatch(section, -1) {
		if slices.Contains(unsetWords, m[2]) {
			m[2] = ""
		}
		got[prefix+"_"+m[1]] = m[2]
	}
	same(t, "`drainit help`", got)
}

func TestReferenceAndConfigAgree(t *testing.T) {
	readme, err := os.ReadFile("docs/reference.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(readme), "| variable | default | meaning |\n|---|---|---|\n")
	if !ok {
		t.Fatal("docs/reference.md has no table of the variables")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	got := make(map[string]string)
	for row := range strings.Lines(table) {
		cells := strings.Split(row, "|")
		if len(cells) < 4 {
			t.Fatalf("what row is this: %q", row)
		}
		def, _, _ := strings.Cut(strings.TrimSpace(cells[2]), ", at most")
		def, _, _ = strings.Cut(def, " in Kubernetes")
		if slices.Contains(unsetWords, def) {
			def = ""
		}
		got[strings.Trim(strings.TrimSpace(cells[1]), "`")] = strings.Trim(def, "`")
	}
	same(t, "docs/reference.md", got)
}

// TestSignalsAreCaughtFirst checks that the package that catches signals is
// initialized before those that take their time: until then, SIGTERM ends PID
// 1.
func TestSignalsAreCaughtFirst(t *testing.T) {
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		t.Skip("package catch uses os/signal here, which is initialized after os")
	}
	c := exec.Command(os.Args[0], "-test.run=^$")
	c.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	trace, err := c.CombinedOutput()
	before, _, found := strings.Cut(string(trace), "init github.com/drainit/drainit/internal/catch ")
	if err != nil || !found {
		t.Fatalf("%v\n%s", err, trace)
	}
	for _, slow := range []string{"os", "net", "regexp", "unicode", "text/template", "log/slog"} {
		if strings.Contains(before, "init "+slow+" ") {
			t.Errorf("package %s is initialized first:\n%s", slow, before)
		}
	}
}

// TestEnvironmentArrivesAsItWas starts drainit with a variable that is there
// twice, which Go's own os.Environ would pass on once.
func TestEnvironmentArrivesAsItWas(t *testing.T) {
	for _, mode := range []string{"A=plain", "DRAINIT_WATCHDOG=5s"} { // the latter by the trampoline
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		env := []string{mode, "PATH=" + os.Getenv("PATH"), "DRAINIT_HEALTH_ADDR=off",
			"DRAINIT_TERMINATION_LOG=off", "X=1", "X=2", "no name"}
		p, err := os.StartProcess(os.Args[0], []string{"drainit", "--", "cat", "/proc/self/environ"},
			&os.ProcAttr{Env: env, Files: []*os.File{nil, w, os.Stderr}})
		w.Close()
		if err != nil {
			t.Fatal(err)
		}
		out, err := io.ReadAll(r)
		state, _ := p.Wait()
		if err != nil || !state.Success() {
			t.Fatalf("%v, %v", err, state)
		}
		got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
		if len(got) < len(env) || !slices.Equal(got[:len(env)], env) {
			t.Errorf("got  %q\nwant %q first", got, env)
		}
	}
}

func TestReferenceNamesEachCommand(t *testing.T) {
	reference, err := os.ReadFile("docs/reference.md")
	if err != nil {
		t.Fatal(err)
	}
	for word := range commands {
		if !strings.HasPrefix(word, "-") && !strings.Contains(string(reference), "`drainit "+word) {
			t.Errorf("docs/reference.md lacks `drainit %s`", word)
		}
	}
}

func TestHelpFitsATerminal(t *testing.T) {
	for l := range strings.Lines(usage) {
		if len(l) > 81 || strings.Contains(l, "\t") {
			t.Errorf("%q is too wide, or has a tab", l)
		}
	}
	for command := range commands {
		if !strings.Contains(usage, command) {
			t.Errorf("`drainit help` does not list %q", command)
		}
	}
}

func TestInstallIsAtomic(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "drainit")
	if err := os.WriteFile(path, []byte("an old one"), 0o600); err != nil {
		t.Fatal(err)
	}
	old, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := copySelf(path); err != nil {
		t.Fatal(err)
	}
	was, _ := old.Stat()
	is, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if os.SameFile(was, is) {
		t.Error("the old file was written to: a running one could not be replaced, and half a binary could be run")
	}
	if is.Mode() != 0o755 {
		t.Errorf("mode %v, want 0755", is.Mode())
	}
	got, _ := os.ReadFile(path)
	want, _ := os.ReadFile("/proc/self/exe")
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes, which are not this program's %d", len(got), len(want))
	}

	// One that fails leaves nothing behind.
	if err := os.MkdirAll(filepath.Join(dir, "taken", "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := copySelf(filepath.Join(dir, "taken")); err == nil {
		t.Error("a directory was replaced")
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 2 {
		t.Errorf("left behind: %v", entries)
	}
}
