package integration_test

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// These are about a command that is not the server itself: a script without
// exec, npm start, a wrapper that changes the user.

// behindAScript is a script that runs the server in the foreground, and that
// the stop signal ends at once.
func behindAScript(server string) []string {
	return []string{"--", "/bin/sh", "-c", server + "; true"}
}

func TestWhatAScriptLeavesBehindHasTheBudget(t *testing.T) {
	t.Parallel()
	p := start(t, setup{env: []string{"GRACE_PERIOD=60s", "DRAIN_WINDOW=300ms"}},
		behindAScript(testchild+" signals -exit 15:0 -after 6s")...)
	p.says("ready")
	began := time.Now()
	p.signal(unix.SIGTERM)
	p.exits(143) // the script's
	if took := time.Since(began); took < 6*time.Second {
		t.Errorf("the server was killed after %s", took)
	}
	line := p.logs(`drainit: stopped"`)
	if total := duration(t, line, "total"); total < 6*time.Second {
		t.Errorf("the server had %s: %s", total, line)
	}
	if strings.Contains(p.err.String(), "level=WARN") || !strings.Contains(line, "what it left behind ended") || !strings.Contains(line, "testchild (pid ") {
		t.Errorf("a clean stop reads: %s", p.err)
	}
}

func TestAnExplicitOrphanGraceBoundsAStopToo(t *testing.T) {
	t.Parallel()
	p := start(t, setup{env: []string{"GRACE_PERIOD=60s", "DRAIN_WINDOW=300ms", "ORPHAN_GRACE=1s"}},
		behindAScript(testchild+" signals")...)
	p.says("ready")
	p.signal(unix.SIGTERM)
	p.exits(143)
	if line := p.logs(`drainit: stopped"`); !strings.Contains(line, "level=WARN") ||
		!strings.Contains(line, "at the end of DRAINIT_ORPHAN_GRACE: testchild (pid ") {
		t.Errorf("a server that was killed reads: %s", line)
	}
}

func TestTheGroupIsSignalledOnce(t *testing.T) {
	t.Parallel()
	p := start(t, setup{env: []string{"GRACE_PERIOD=60s", "DRAIN_WINDOW=300ms", "SIGNAL_SCOPE=group"}},
		behindAScript(testchild+" signals -exit 15:0 -after 2s")...)
	p.says("ready")
	p.signal(unix.SIGTERM)
	p.exits(143)
	if n := p.out.count("got 15"); n != 1 {
		t.Errorf("the server got SIGTERM %d times, want once: %s", n, p.out)
	}
	p.logs("waiting for the processes it left behind")
}

func TestWhatLeftTheGroupIsSignalledWhenTheChildEnds(t *testing.T) {
	t.Parallel()
	setsid := program(t, "/usr/bin/setsid", "util-linux")
	p := start(t, setup{env: []string{"GRACE_PERIOD=60s", "DRAIN_WINDOW=300ms", "SIGNAL_SCOPE=group"}},
		behindAScript(setsid+" --fork "+testchild+" signals -exit 15:0; sleep 1000")...)
	p.says("ready")
	p.signal(unix.SIGTERM)
	p.exits(143)
	if n := p.out.count("got 15"); n != 1 {
		t.Errorf("the server got SIGTERM %d times, want once: %s", n, p.out)
	}
}

func TestAServerThatDaemonises(t *testing.T) {
	t.Parallel()
	p := start(t, setup{env: []string{"ORPHAN_GRACE=60s"}}, "--", "/bin/sh", "-c", testchild+" signals -exit 15:0 & read line <&0; exit 0")
	p.exits(0)
	if line := p.logs("left processes behind"); !strings.Contains(line, "level=WARN") || !strings.Contains(line, "foreground") {
		t.Errorf("a daemon reads: %s", line)
	}
}

func TestAChildThatCantBeSignalled(t *testing.T) {
	t.Parallel()
	setpriv := program(t, "/usr/bin/setpriv", "util-linux")
	if unix.Getuid() != 0 {
		t.Skip("needs root, to give the child another uid")
	}
	env, url := healthPort(t)
	p := start(t, setup{
		direct: true,
		env:    []string{env, "GRACE_PERIOD=9s", "DRAIN_WINDOW=6s", "STOP_RESERVE=1s", "READY_CHECK=started"},
		shell: []string{setpriv, "--bounding-set", "-kill", drainit, "--",
			setpriv, "--reuid", "65534", "--clear-groups", "/bin/sh", "-c", "echo ready; read line; sleep 1000"},
	})
	p.says("ready")
	answers(t, url+"/readyz", 200)
	p.signal(unix.SIGTERM)
	p.logs("the child can't be signalled")
	code, out := local(t, strings.TrimPrefix(url, "http://"), "skip")
	if code != 1 || !strings.Contains(out, "SIGTERM could not be sent: operation not permitted") {
		t.Errorf("skip: %d %q", code, out)
	}
	if code, out = local(t, strings.TrimPrefix(url, "http://"), "skip"); code != 1 || !strings.Contains(out, "nothing to skip") {
		t.Errorf("skip again: %d %q", code, out)
	}
	p.exits(137)
	line := p.logs(`drainit: stopped"`)
	for _, want := range []string{"level=WARN", "could not be sent", "operation not permitted", "uid 65534", "CAP_KILL"} {
		if !strings.Contains(line, want) {
			t.Errorf("no %q in %s", want, line)
		}
	}
	if strings.Contains(line, "was forwarded") {
		t.Errorf("a signal that failed reads as forwarded: %s", line)
	}
}

func TestAPausedDrainitGivesTheChildAMoment(t *testing.T) {
	t.Parallel()
	p := start(t, setup{env: []string{"GRACE_PERIOD=2s", "DRAIN_WINDOW=500ms"}}, "--", testchild, "signals", "-exit", "15:7")
	p.says("ready")
	p.signal(unix.SIGTERM)
	p.logs("stop asked for")
	p.signal(unix.SIGSTOP)
	time.Sleep(3 * time.Second) // the pause itself, past every deadline
	p.signal(unix.SIGCONT)
	p.exits(7)
	p.logs("held up")
}

func TestSuIsNamedInTheLastWords(t *testing.T) {
	t.Parallel()
	su := program(t, "/bin/su", "login or util-linux")
	if unix.Getuid() != 0 {
		t.Skip("needs root, to run su without a password")
	}
	p := start(t, setup{direct: true, env: []string{"GRACE_PERIOD=10s", "DRAIN_WINDOW=300ms"}},
		"--", su, "-s", "/bin/sh", "-c", testchild+" signals -exit 15:0 -after 1s", "root")
	p.says("ready")
	p.signal(unix.SIGTERM)
	p.wait()
	if line := p.logs(`drainit: stopped"`); !strings.Contains(line, "su kills soon") || !strings.Contains(line, "gosu") {
		t.Errorf("a server behind su reads: %s", line)
	}
}

func TestASuccessorNamedByMAINPIDIsTheChild(t *testing.T) {
	t.Parallel()
	notify := program(t, "/usr/bin/systemd-notify", "systemd")
	env, url := healthPort(t)
	p := start(t, setup{env: []string{env, "GRACE_PERIOD=60s", "DRAIN_WINDOW=300ms", "READY_CHECK=notify"}},
		"--", "/bin/sh", "-c", testchild+" signals -exit 15:6 & "+notify+" MAINPID=$! --ready; exit 0")
	p.says("ready")
	p.logs("the process that was started has ended, its successor goes on")
	answers(t, url+"/readyz", 200)
	p.signal(unix.SIGTERM)
	p.exits(6)
	if n := p.out.count("got 15"); n != 1 {
		t.Errorf("the successor got SIGTERM %d times, want once: %s", n, p.out)
	}
}

func TestAChildThatAsksToBeTracedGetsItsSignals(t *testing.T) {
	t.Parallel()
	python := program(t, "/usr/bin/python3", "python3")
	const traced = `
import ctypes, os, signal, sys, time
def say(words): # print can't be interrupted by a handler that prints
    os.write(1, words + b"\n")
got = []
for n in 1, 15:
    signal.signal(n, lambda n, _: (got.append(n), say(b"got %d" % n)))
if ctypes.CDLL(None).ptrace(0, 0, None, None) != 0:
    sys.exit("PTRACE_TRACEME failed")
say(b"ready")
while 15 not in got:
    time.sleep(0.1) # pause would miss a signal that comes just before it
sys.exit(6)
`
	p := start(t, setup{env: []string{"GRACE_PERIOD=60s", "DRAIN_WINDOW=300ms"}}, "--", python, "-c", traced)
	p.says("ready")
	p.signal(unix.SIGHUP)
	p.says("got 1")
	p.signal(unix.SIGTERM)
	p.exits(6)
}

func TestACommandThatWasEnteredIsNotToldToStop(t *testing.T) {
	t.Parallel()
	nsenter := program(t, "/usr/bin/nsenter", "util-linux")
	if unix.Getuid() != 0 {
		t.Skip("needs root, to enter the PID namespace")
	}
	p := start(t, setup{env: []string{"GRACE_PERIOD=60s", "DRAIN_WINDOW=300ms"}},
		behindAScript(testchild+" signals -exit 15:0 -after 2s")...)
	p.says("ready")
	entered := exec.Command(nsenter, "-t", fmt.Sprint(p.child()), "-p", testchild, "signals", "-exit", "15:0")
	out := newLines()
	entered.Stdout = out
	if err := entered.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { entered.Process.Kill(); entered.Wait() })
	out.wait(t, "ready")
	p.signal(unix.SIGTERM)
	p.exits(143)
	if n := out.count("got 15"); n != 0 {
		t.Errorf("a command entered with nsenter got SIGTERM: %s", out)
	}
}
