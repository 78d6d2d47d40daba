package integration_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// terminating lists every signal whose default action ends a process.
func terminating() (all []unix.Signal) {
	for s := unix.Signal(1); s <= 64; s++ {
		switch s {
		case unix.SIGCHLD, unix.SIGCONT, unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGURG, unix.SIGWINCH:
		default:
			all = append(all, s)
		}
	}
	return all
}

func TestExitCodesAreTheChilds(t *testing.T) {
	for code := range 256 {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			t.Parallel()
			p := start(t, setup{}, "--", testchild, "exit", fmt.Sprint(code))
			p.exits(code)
			if n := p.err.count(`drainit: ended"`); n != min(code, 1) || p.err.count("level=WARN") > 0 || p.out.String() != "" {
				t.Errorf("%d lines about the end, want one at INFO if the code is not 0: %s%s", n, p.err, p.out)
			}
		})
	}
}

func TestASignalThatKillsTheChildIs128AndItsNumber(t *testing.T) {
	for _, s := range terminating() {
		t.Run(fmt.Sprint(int(s)), func(t *testing.T) {
			t.Parallel()
			p := start(t, setup{}, "--", testchild, "die", fmt.Sprint(int(s)))
			p.exits(128 + int(s))
			if !strings.Contains(p.err.String(), fmt.Sprintf("code=%d", 128+int(s))) {
				t.Errorf("no summary of an abnormal end: %q", p.err.String())
			}
		})
	}
}

func TestNotAsPID1(t *testing.T) {
	for _, code := range []int{0, 1, 125, 255} {
		t.Run(fmt.Sprint("exit ", code), func(t *testing.T) {
			t.Parallel()
			p := start(t, setup{direct: true}, testchild, "exit", fmt.Sprint(code))
			p.exits(code)
			if s := p.err.String() + p.out.String(); strings.Contains(s, "level=WARN") || strings.Contains(s, "PID 1") {
				t.Errorf("a warning that it is not PID 1: %s", s)
			}
		})
	}
	t.Run("killed", func(t *testing.T) {
		t.Parallel()
		start(t, setup{direct: true}, testchild, "die", "9").exits(137)
	})
}

func TestExitCodesAreRemapped(t *testing.T) {
	t.Parallel()
	env := []string{"EXIT_CODES=143=0,7=3"}
	start(t, setup{env: env}, "--", testchild, "die", "15").exits(0)
	start(t, setup{env: env}, "--", testchild, "exit", "7").exits(3)
	start(t, setup{env: env}, "--", testchild, "exit", "8").exits(8)
}

// file writes a file, executable or not.
func file(t *testing.T, name, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCommandsThatDoNotRun(t *testing.T) {
	script := file(t, "script", "echo \"$0 $1\"; exit 7\n", 0o755)
	crlf := file(t, "crlf", "#!/bin/sh\r\nexit 0\r\n", 0o755)
	nobody := file(t, "nobody", "#!/no/such/interpreter -x\n", 0o755)
	plain := file(t, "plain", "#!/bin/sh\n", 0o644)
	foreign := file(t, "foreign", "\x7fELF\x02\x01\x01\x00 not for this machine", 0o755)
	dir := t.TempDir()
	hidden := filepath.Join(dir, "tool")
	if err := os.WriteFile(hidden, []byte("#!/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		env  []string
		args []string
		code int
		says string // on stderr
	}{
		{"a command that is not in PATH", nil, []string{"--", "no-such-command"}, 127, "no-such-command"},
		{"a path that does not exist", nil, []string{"--", "/no/such/command"}, 127, "/no/such/command"},
		{"a path below a file", nil, []string{"--", plain + "/x"}, 127, plain},
		{"an empty command", nil, []string{"--", ""}, 127, "empty"},
		{"a file that may not be executed", nil, []string{"--", plain}, 126, "chmod +x"},
		{"a directory", nil, []string{"--", "/usr"}, 126, "directory"},
		{"a file in PATH that may not be executed", []string{"PATH=" + dir}, []string{"--", "tool"}, 126, "chmod +x"},
		{"an interpreter that does not exist", nil, []string{"--", nobody}, 127, "/no/such/interpreter"},
		{"a carriage return after the interpreter", nil, []string{"--", crlf}, 127, `\r`},
		{"a script without #!", nil, []string{"--", script, "arg"}, 7, ""},
		{"a binary for another machine", nil, []string{"--", foreign}, 126, "architecture"},
		{"no command", nil, nil, 125, "ENTRYPOINT"},
		{"no command after --", nil, []string{"--"}, 125, "CMD"},
		{"an unknown option", nil, []string{"-x", "true"}, 125, "-x"},
		{"an option of tini", nil, []string{"-g", "--", "true"}, 125, "DRAINIT_SIGNAL_SCOPE=group"},
		{"a bad configuration", []string{"GRACE_PERIOD=30x", "LOG_LEVEL=loud"}, []string{"--", "true"}, 125, "GRACE_PERIOD"},
		{"a misspelt variable", []string{"DRAINIT_GRACE_PEROID=30"}, []string{"--", "true"}, 125, "DRAINIT_GRACE_PERIOD"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := start(t, setup{env: tt.env}, tt.args...)
			p.exits(tt.code)
			if !strings.Contains(p.err.String(), tt.says) {
				t.Errorf("stderr lacks %q:\n%s", tt.says, p.err.String())
			}
			if tt.code >= 125 && strings.Count(p.err.String(), "\n") < 2 {
				t.Errorf("want one line that says why, another how to mend it:\n%s", p.err.String())
			}
			if tt.code == 7 && p.out.String() != script+" arg\n" {
				t.Errorf("a script is run as a shell runs it: %q", p.out.String())
			}
		})
	}
}

func TestAPortInUseIsRefusedBeforeTheChildStarts(t *testing.T) {
	t.Parallel()
	env, url := healthPort(t)
	first := start(t, setup{env: []string{env}}, "--", testchild, "signals")
	first.says("ready")
	answers(t, url+"/readyz", 200)
	second := start(t, setup{env: []string{env}}, "--", testchild, "print", "started")
	second.exits(125)
	if second.out.String() != "" {
		t.Error("the child was started")
	}
	second.logs("DRAINIT_HEALTH_ADDR")
}
