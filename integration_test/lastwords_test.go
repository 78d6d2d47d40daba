package integration_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// wordsFile makes a termination log, as the kubelet does, with the end of a
// longer earlier message in it.
func wordsFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "termination-log")
	if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
		t.Fatal(err)
	}
	os.Chmod(path, 0o666)
	return path
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestLastWords(t *testing.T) {
	quickly := []string{"GRACE_PERIOD=4s", "DRAIN_WINDOW=300ms", "STOP_RESERVE=1s", "KILL_MARGIN=1s"}
	sigterm := func(p *process) { p.says("ready"); p.signal(term) }
	for _, tt := range []struct {
		name string
		env  []string
		args []string
		act  func(*process)
		code int
		want string // a regular expression for all of it
	}{
		{"exited by itself", nil, []string{"--", "TESTCHILD", "exit", "0"}, nil, 0,
			`the child exited with code 0 by itself after \S+s`},
		{"exited by itself with a code", nil, []string{"--", "TESTCHILD", "exit", "7"}, nil, 7,
			`the child exited with code 7 by itself after \S+s`},
		{"died by a signal of its own", nil, []string{"--", "TESTCHILD", "die", "6"}, nil, 134,
			`the child was killed by SIGABRT after \S+s`},
		{"killed from outside", nil, []string{"--", "TESTCHILD", "die", "9"}, nil, 137,
			`the child was killed by SIGKILL after \S+s; not by drainit: the memory limit, the kubelet or a person`},
		{"asked and finished", quickly, []string{"--", "TESTCHILD", "signals", "-exit", "15:0", "-after", "200ms"}, sigterm, 0,
			`asked to stop by SIGTERM and finished in \S+s: SIGTERM was forwarded after \S+s \(window\), the child exited with code 0 \S+s later`},
		{"asked and ended before", quickly, []string{"--", "TESTCHILD", "leave", "-exit", "3", "-on-term"}, func(p *process) {
			p.says("ready")
			p.signal(term)
			p.logs("stop asked for")
			p.signal(unix.SIGHUP)
		}, 129, `asked to stop by SIGTERM; the child was killed by SIGHUP \S+s later, before any signal was forwarded; what it left behind ended \S+s later: \S+ \(pid \d+\)`},
		{"killed at the deadline", quickly, []string{"--", "TESTCHILD", "signals", "-second"}, sigterm, 137,
			`asked to stop by SIGTERM; SIGTERM was forwarded after \S+s \(window\) and the child had not ended \S+s later: killed at the deadline, still running: testchild \(pid \d+\), \S+ \(pid \d+\); only the command itself was signalled: .*DRAINIT_SIGNAL_SCOPE=group`},
		{"remapped", append([]string{"EXIT_CODES=143=0"}, quickly...), []string{"--", "TESTCHILD", "die", "15"}, nil, 0,
			`the child was killed by SIGTERM after \S+s \(reported as 0, as DRAINIT_EXIT_CODES says\)`},
		{"what was left behind was killed", []string{"ORPHAN_GRACE=200ms"}, []string{"--", "TESTCHILD", "leave", "-ignore", "-exit", "4"}, nil, 4,
			`the child exited with code 4 by itself after \S+s; processes it left behind got SIGKILL \S+s later, at the end of DRAINIT_ORPHAN_GRACE: \S+ \(pid \d+\)`},
		{"not found", nil, []string{"--", "no-such-server"}, nil, 127, `(?s).*no-such-server.*PATH.*`},
		{"not executable", nil, []string{"--", "/etc/passwd"}, nil, 126, `(?s).*/etc/passwd.*chmod \+x.*`},
		{"bad configuration", []string{"GRACE_PERIOD=30x", "LOG_LEVEL=loud"}, []string{"--", "true"}, nil, 125,
			`(?s).*DRAINIT_GRACE_PERIOD="30x".*DRAINIT_LOG_LEVEL="loud".*`},
		{"the port is taken", []string{"HEALTH_ADDR=127.0.0.1:TAKEN"}, []string{"--", "true"}, nil, 125,
			`(?s)DRAINIT_HEALTH_ADDR="127.0.0.1:\d+": can't listen there: .*address already in use.*`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			before := strings.Repeat("the child's own words ", 250)
			file := wordsFile(t, before)
			var args []string
			for _, a := range tt.args {
				args = append(args, strings.ReplaceAll(a, "TESTCHILD", testchild))
			}
			env := []string{"TERMINATION_LOG=" + file}
			for _, e := range tt.env {
				if strings.Contains(e, "TAKEN") {
					taken, _ := healthPort(t)
					start(t, setup{env: []string{taken}}, "--", testchild, "signals").says("ready")
					e = taken
				}
				env = append(env, e)
			}
			p := start(t, setup{env: env}, args...)
			if tt.act != nil {
				tt.act(p)
			}
			p.exits(tt.code)
			got, kept := strings.CutPrefix(read(t, file), before+"\n")
			if !kept {
				t.Error("what the child had written is gone")
			}
			if !regexp.MustCompile(`^` + tt.want + `\n?$`).MatchString(got) {
				t.Errorf("last words:\n%s\nwant\n%s", got, tt.want)
			}
			t.Log(got)
		})
	}
}

func TestOutOfMemoryIsNamed(t *testing.T) {
	t.Parallel()
	file := wordsFile(t, "")
	w := box(t, []string{"-m", "64m", "--memory-swap", "64m", "-v", file + ":/dev/termination-log"}, []string{"READY_CHECK=started"}, "onterm 0")
	w.becomes(200, "")
	fmt.Fprintln(w.in, "eat 500")
	w.exits(137)
	// drainit survived: the child was the victim.
	got := read(t, file)
	want := `^the child was killed by SIGKILL after \S+; out of memory: the cgroup's oom_kill counter rose by \d+, raise the memory limit or lower the use$`
	if !regexp.MustCompile(want).MatchString(got) {
		t.Errorf("last words: %s\nwant %s", got, want)
	}
	w.logs("out of memory: the cgroup's oom_kill counter rose by")
	t.Log(got)
}

func TestOutOfMemoryDuringAStopIsNamed(t *testing.T) {
	t.Parallel()
	file := wordsFile(t, "")
	w := box(t, []string{"-m", "64m", "--memory-swap", "64m", "-v", file + ":/dev/termination-log"},
		[]string{"READY_CHECK=started", "GRACE_PERIOD=60s", "DRAIN_WINDOW=0"}, "onterm -1")
	w.becomes(200, "")
	w.deliver(term)
	w.says("got 15")
	fmt.Fprintln(w.in, "eat 500")
	w.exits(137)
	if got := read(t, file); !strings.HasPrefix(got, "asked to stop by SIGTERM") || !strings.Contains(got, "out of memory: the cgroup's oom_kill counter rose by") ||
		strings.Contains(got, "killed at the deadline") {
		t.Errorf("last words: %s", got)
	}
}

func TestASIGKILLThatIsNotTheKernelsIsNotCalledSo(t *testing.T) {
	t.Parallel()
	file := wordsFile(t, "")
	w := box(t, []string{"-m", "64m", "-v", file + ":/dev/termination-log"}, []string{"READY_CHECK=started"})
	w.becomes(200, "")
	unix.Kill(w.child0(), unix.SIGKILL)
	w.exits(137)
	if got := read(t, file); strings.Contains(got, "out of memory") || !strings.Contains(got, "not by drainit: the memory limit, the kubelet or a person") {
		t.Errorf("last words: %s", got)
	}
}

// child0 returns the PID of drainit's child in a container, in the tests' own
// namespace.
func (w *worker) child0() int {
	w.t.Helper()
	init := w.pidHere()
	for _, p := range processes() {
		if p.ppid == init {
			return p.pid
		}
	}
	w.t.Fatal("no child")
	return 0
}

func TestATerminationLogThatCannotBeWritten(t *testing.T) {
	finish := func(t *testing.T, log string) *process {
		t.Helper()
		p := start(t, setup{env: []string{"TERMINATION_LOG=" + log, "GRACE_PERIOD=10s", "DRAIN_WINDOW=0"}}, "--", testchild, "signals", "-exit", "15:5")
		p.says("ready")
		asked := time.Now()
		p.signal(term)
		p.exits(5)
		// The limit of 500 ms for a write is not used up.
		t.Logf("ended %s after the signal", p.ended.Sub(asked).Round(time.Millisecond))
		if n := p.err.count("\n"); n != 4 {
			t.Errorf("want a line at the start, the three of a stop, and none about the file: %s", p.err)
		}
		return p
	}
	t.Run("missing: it is not made", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "termination-log")
		finish(t, path)
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("it was made: %v", err)
		}
	})
	t.Run("a directory", func(t *testing.T) { t.Parallel(); finish(t, t.TempDir()) })
	t.Run("a FIFO without a reader", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "fifo")
		if err := unix.Mkfifo(path, 0o666); err != nil {
			t.Fatal(err)
		}
		finish(t, path)
	})
	t.Run("a FIFO that is held open and not read", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "fifo")
		if err := unix.Mkfifo(path, 0o666); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		finish(t, path)
	})
	t.Run("a device", func(t *testing.T) { t.Parallel(); finish(t, "/dev/full") })
	t.Run("a relative path is no such file's", func(t *testing.T) {
		t.Parallel()
		p := start(t, setup{env: []string{"TERMINATION_LOG=no/such/file"}}, "--", testchild, "exit", "0")
		p.exits(125)
		p.logs("DRAINIT_TERMINATION_LOG")
	})
	t.Run("off", func(t *testing.T) {
		t.Parallel()
		finish(t, "off")
		if _, err := os.Stat("off"); err == nil {
			t.Error("a file called off was made")
		}
	})
	t.Run("read-only, and another's", func(t *testing.T) {
		t.Parallel()
		file := wordsFile(t, "old")
		if out, err := docker("run", "--rm", "-v", file+":/dev/termination-log:ro", image(t, "drainit"), "/worker", "exit 3"); err == nil || !strings.Contains(err.Error(), "exit status 3") {
			t.Errorf("%v %s", err, out)
		}
		os.Chmod(file, 0o644)
		if out, err := docker("run", "--rm", "--user", "65534", "-v", file+":/dev/termination-log", image(t, "drainit"), "/worker", "exit 4"); err == nil || !strings.Contains(err.Error(), "exit status 4") {
			t.Errorf("%v %s", err, out)
		}
		if got := read(t, file); got != "old" {
			t.Errorf("it was written: %s", got)
		}
	})
}

func TestLongLastWordsAreCut(t *testing.T) {
	t.Parallel()
	for name, command := range map[string]string{
		"a command": strings.Repeat("x", 6000),
		// Cut in the middle of a letter it would not be UTF-8, which the
		// kubelet requires.
		"one in another alphabet": "x" + strings.Repeat("ж", 3000), "the other half": strings.Repeat("ж", 3000),
		"not even text": strings.Repeat("\xff", 3000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := wordsFile(t, "")
			p := start(t, setup{env: []string{"TERMINATION_LOG=" + file}}, "--", command)
			if code := p.wait(); code != 127 && code != 126 {
				t.Errorf("exit code %d", code)
			}
			got := read(t, file)
			if len(got) > 4096 || len(got) < 4000 {
				t.Errorf("%d bytes, want as much as fits into 4096", len(got))
			}
			if !utf8.ValidString(got) {
				t.Errorf("not UTF-8: %q", got[max(0, len(got)-20):])
			}
		})
	}
}

func TestLastWordsInAReadOnlyContainer(t *testing.T) {
	t.Parallel()
	// As the kubelet does: the file is mounted, and writable for all.
	file := wordsFile(t, "")
	w := box(t, append([]string{"-v", file + ":/dev/termination-log"}, bareBox...), []string{"GRACE_PERIOD=10s", "DRAIN_WINDOW=500ms", "READY_CHECK=notify"},
		"listen :8080", "onterm 0", `notify "READY=1\nSTATUS=3 jobs left"`)
	w.becomes(200, "")
	w.deliver(term)
	w.exits(0)
	if got := read(t, file); !strings.HasPrefix(got, "asked to stop by SIGTERM and finished in ") || !strings.HasSuffix(got, "; its last status: 3 jobs left") {
		t.Errorf("last words: %s", got)
	}
}
