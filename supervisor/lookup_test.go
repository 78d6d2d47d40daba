package supervisor

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const script = "#!/bin/sh\necho ran $0 $*\n"

// commands makes a directory with everything that can be wrong with a command,
// and goes there.
func commands(t *testing.T) {
	t.Helper()
	t.Chdir(t.TempDir())
	for name, f := range map[string]struct {
		mode    os.FileMode
		content string
	}{
		"good":            {0o755, script},
		"here":            {0o755, script},
		"bin/cmd":         {0o755, script},
		"second/cmd":      {0o755, script},
		"denied/cmd":      {0o644, script},
		"notx":            {0o644, script},
		"bare":            {0o755, "echo bare $0 $*\nexit 3\n"},
		"empty":           {0o755, ""},
		"nointerpreter":   {0o755, "#!/no/such/interpreter -x\n"},
		"carriagereturn":  {0o755, "#!/bin/sh\r\necho no\r\n"},
		"notxinterpreter": {0o755, "#!" + "./notx\n"},
		"foreign":         {0o755, "\x7fELF\x02\x01\x01\x00not for this machine"},
		"garbage":         {0o755, "\x00\x01\x02\x03\n"},
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(f.content), f.mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll("directory/cmd", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("loop", "loop"); err != nil {
		t.Fatal(err)
	}
}

func TestLookup(t *testing.T) {
	const unset = "(unset)"
	for _, c := range []struct{ name, path, command, file string }{
		{"the first in PATH wins", "bin:second", "cmd", "bin/cmd"},
		{"what is missing is passed over", "none:second", "cmd", "second/cmd"},
		{"what may not be executed is passed over", "denied:second", "cmd", "second/cmd"},
		{"a directory is passed over", "directory:second", "cmd", "second/cmd"},
		{"a part that is no directory is passed over", "good:second", "cmd", "second/cmd"},
		{"an empty first part is the current directory", ":bin", "here", "./here"},
		{"an empty last part is too", "bin:", "here", "./here"},
		{"and one in the middle", "bin::second", "here", "./here"},
		{"an empty PATH is the current directory", "", "here", "./here"},
		{"a slash at the end is not doubled", "bin/", "cmd", "bin/cmd"},
		{"an unset PATH is the usual one", unset, "sh", "/usr/bin/sh"},
		{"a name with a slash is a path", "bin", "./good", "./good"},
		{"and is not looked for in PATH", "bin", "second/cmd", "second/cmd"},
	} {
		t.Run(c.name, func(t *testing.T) {
			commands(t)
			t.Setenv("PATH", c.path)
			if c.path == unset {
				os.Unsetenv("PATH")
			}
			got, err := Lookup(c.command)
			if c.file == "/usr/bin/sh" && got == "/bin/sh" {
				got = c.file // where they are not the same directory
			}
			if err != nil || got != c.file {
				t.Errorf("Lookup(%q) is %q, %v; want %q", c.command, got, err, c.file)
			}
		})
	}
}

// TestCodesAreAShells compares with the shells of this machine: where they
// agree, so must drainit.
func TestCodesAreAShells(t *testing.T) {
	for _, c := range []struct {
		name, path, command string
		code                int
		says                string // on stdout, or in the message
	}{
		{"found in PATH", "bin", "cmd", 0, "ran bin/cmd a b"},
		{"found in the current directory", ":bin", "here", 0, "ran ./here a b"},
		{"a path", "bin", "./good", 0, "ran ./good a b"},
		{"not in PATH", "bin", "nothing", 127, "is not found in PATH (bin)"},
		{"no such path", "bin", "./nothing", 127, "does not exist"},
		{"a path through a file", "bin", "./good/x", 127, "does not exist"},
		{"an empty name", "bin", "", 127, "empty"},
		{"a directory", "bin", "./directory", 126, "is a directory"},
		{"only a directory in PATH", "directory", "cmd", 127, "is not found in PATH"},
		{"only what can't be examined in PATH", "loop", "cmd", 127, "is not found in PATH"},
		{"no x bit", "bin", "./notx", 126, "may not be executed"},
		{"no x bit in PATH, and nothing else", "denied:none", "cmd", 126, "may not be executed"},
		{"no x bit in PATH, and then one with", "denied:bin", "cmd", 0, "ran bin/cmd a b"},
		{"a script without #!", "bin", "./bare", 3, "bare ./bare a b"},
		{"an empty file", "bin", "./empty", 0, ""},
		{"a missing interpreter", "bin", "./nointerpreter", 127, `"/no/such/interpreter -x"`},
		{"a carriage return after the interpreter", "bin", "./carriagereturn", 127, `"/bin/sh\r"`},
		{"an interpreter that may not be executed", "bin", "./notxinterpreter", 126, "can't execute"},
		{"a binary for another machine", "bin", "./foreign", 126, "another architecture"},
		{"garbage", "bin", "./garbage", 126, "another architecture"},
		{"a loop of links", "bin", "./loop", 126, "can't examine"},
	} {
		for _, role := range []string{"start", "start watched"} {
			t.Run(c.name+", "+role, func(t *testing.T) {
				commands(t)
				self, err := os.Executable()
				if err != nil {
					t.Fatal(err)
				}
				args := []string{c.command, "a", "b"}
				code, said := runCode(t, c.path, []string{roleVar + "=" + role}, self, args...)
				if code != c.code || !strings.Contains(said, c.says) {
					t.Errorf("code %d, %q; want %d, %q", code, said, c.code, c.says)
				}
				codes := map[int]string{}
				for _, shell := range []string{"bash", "dash"} {
					file, err := exec.LookPath(shell)
					if err != nil {
						t.Logf("not compared with %s: %v", shell, err)
						continue
					}
					theirs, words := runCode(t, c.path, nil, file, append([]string{"-c", `"$@"`, shell}, args...)...)
					codes[theirs] += shell + ": " + words
				}
				if _, ok := codes[code]; !ok && len(codes) == 1 {
					t.Errorf("code %d, where the shells agree on %v", code, codes)
				} else if len(codes) > 1 {
					t.Logf("code %d, the shells do not agree: %v", code, codes)
				}
			})
		}
	}
}

// runCode runs a command that may fail.
func runCode(t *testing.T, path string, env []string, file string, args ...string) (int, string) {
	t.Helper()
	cmd := exec.Command(file, args...)
	cmd.Env = append(append(without(os.Environ(), "PATH"), "PATH="+path), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if e, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || !e.Exited()) {
		t.Fatalf("%s: %v", file, err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

func TestEveryStartErrorSaysHowToMendIt(t *testing.T) {
	commands(t)
	t.Setenv("PATH", "denied")
	for _, command := range []string{"", "nothing", "cmd", "./nothing", "./directory", "./notx", "./nointerpreter", "./foreign", "./loop"} {
		_, err := Start([]string{command}, nil, false, nil)
		e, ok := errors.AsType[*StartError](err)
		if !ok {
			t.Errorf("%q: got %v, want a *StartError", command, err)
			continue
		}
		if e.Msg == "" || e.Hint == "" || strings.Contains(e.Msg+e.Hint, "\n") {
			t.Errorf("%q: got %q, %q; want two lines", command, e.Msg, e.Hint)
		}
	}
}
