package integration_test

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestAStopTakesTheTimeItNeedsAndSaysSo(t *testing.T) {
	t.Parallel()
	env, url := healthPort(t)
	p := start(t, setup{env: []string{env, "GRACE_PERIOD=20s", "DRAIN_WINDOW=1s"}}, "--", testchild, "signals", "-exit", "15:3", "-after", "500ms")
	p.says("ready")
	answers(t, url+"/readyz", 200)
	asked := time.Now()
	p.signal(unix.SIGTERM)
	p.logs("stop asked for")
	for path, want := range map[string]int{"/readyz": 503, "/healthz": 503, "/readiness": 503, "/livez": 200, "/startupz": 200, "/statusz": 200} {
		if code, body := get(url + path); code != want {
			t.Errorf("%s answers %d, want %d: %s", path, code, want, body)
		}
	}
	p.says("got 15")
	about(t, "forwarded", time.Since(asked), time.Second)
	if code, _ := get(url + "/readyz"); code != 503 {
		t.Errorf("/readyz answers %d while the child finishes", code)
	}
	p.exits(3)
	about(t, "ended", p.ended.Sub(asked), 1500*time.Millisecond)
	summary := p.logs(`drainit: stopped"`)
	if attribute(t, summary, "code") != "3" || attribute(t, summary, "by") != "SIGTERM" || attribute(t, summary, "sent") != "SIGTERM" {
		t.Errorf("summary: %s", summary)
	}
	about(t, "draining", duration(t, summary, "draining"), time.Second)
	about(t, "stopping", duration(t, summary, "stopping"), 500*time.Millisecond)
	if n := strings.Count(p.err.String(), "\n"); n != 4 {
		t.Errorf("%d lines, want one at the start, one per transition and a summary: %s", n, p.err)
	}
}

func TestTheChildsExitEndsTheWindow(t *testing.T) {
	t.Parallel()
	p := start(t, setup{env: []string{"GRACE_PERIOD=10m", "DRAIN_WINDOW=5m"}}, "--", testchild, "signals", "-exit", "12:4")
	p.says("ready")
	p.signal(unix.SIGTERM)
	p.logs("stop asked for")
	p.signal(unix.SIGUSR2)
	p.exits(4)
	p.logs("before any signal was forwarded")
}

func TestAStubbornChildIsKilledAtTheDeadline(t *testing.T) {
	for _, direct := range []bool{false, true} {
		name := map[bool]string{false: "as PID 1", true: "as a subreaper"}[direct]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, setup{direct: direct, env: []string{"GRACE_PERIOD=3s", "DRAIN_WINDOW=500ms", "KILL_MARGIN=500ms"}}, "--", testchild, "signals", "-second")
			p.says("ready")
			p.signal(unix.SIGTERM)
			p.exits(137)
			about(t, "SIGKILL", duration(t, p.logs("SIGKILL to everything that is left"), "after"), 2500*time.Millisecond)
			p.logs("killed at the deadline, still running: testchild (pid ")
		})
	}
}

func TestUnreadyDelayGoesOnAnsweringReady(t *testing.T) {
	t.Parallel()
	env, url := healthPort(t)
	p := start(t, setup{env: []string{env, "GRACE_PERIOD=30s", "DRAIN_WINDOW=6s", "UNREADY_DELAY=2s"}}, "--", testchild, "signals", "-exit", "15:0")
	p.says("ready")
	answers(t, url+"/readyz", 200)
	asked := time.Now()
	p.signal(unix.SIGTERM)
	p.logs("stop asked for")
	if code, _ := get(url + "/readyz"); code != 200 && time.Since(asked) < 2*time.Second {
		t.Errorf("/readyz answers %d", code)
	}
	answers(t, url+"/readyz", 503)
	about(t, "503", time.Since(asked), 2*time.Second)
	p.signal(63) // skip
	p.exits(0)
}

func TestSilenceWhileAllIsWell(t *testing.T) {
	t.Parallel()
	env, url := healthPort(t)
	p := start(t, setup{env: []string{env}}, "--", testchild, "signals")
	p.says("ready")
	answers(t, url+"/readyz", 200)
	p.signal(unix.SIGHUP)
	p.says("got 1")
	if got := p.out.String(); got != "ready\ngot 1\n" {
		t.Errorf("stdout is the child's: %s", got)
	}
	p.onlyStarted()
}

// onlyStarted fails the test if the log has more than the line at the start.
func (p *process) onlyStarted() {
	p.t.Helper()
	got := p.err.String()
	if strings.Count(got, "\n") != 1 || !strings.Contains(got, `msg="drainit: started"`) {
		p.t.Errorf("all is well, and stderr has: %s", got)
	}
}

func TestHiddenProc(t *testing.T) {
	// As PID 1 nothing essential may need /proc. Otherwise drainit's processes
	// can't be told from others without it, and only the child's group is
	// known.
	t.Run("a stop and its deadline", func(t *testing.T) {
		t.Parallel()
		p := start(t, setup{proc: "none", env: []string{"GRACE_PERIOD=2s", "DRAIN_WINDOW=100ms"}}, "--", "/bin/sh", "-c", "trap '' TERM; echo ready; sleep 100 & sleep 100")
		p.says("ready")
		p.signal(unix.SIGTERM)
		p.exits(137)
	})
	t.Run("what is left behind", func(t *testing.T) {
		t.Parallel()
		p := start(t, setup{proc: "none"}, "--", "/bin/sh", "-c", "trap 'echo trapped; exit' TERM; (trap 'echo trap finished; exit' TERM; echo ready; while :; do sleep 0.1; done) & while :; do sleep 0.1; done")
		p.says("ready")
		p.signal(unix.SIGHUP) // ends the child, but not what it has started
		p.exits(129)
		p.says("trap finished")
	})
	t.Run("the readiness port", func(t *testing.T) {
		t.Parallel()
		env, url := healthPort(t)
		p := start(t, setup{proc: "none", env: append(quick, env)}, "--", "/bin/sh", "-c", "sleep 100")
		answers(t, url+"/readyz", 200)
		p.signal(unix.SIGTERM)
		p.exits(143)
	})
	t.Run("the tests' own /proc, of another PID namespace", func(t *testing.T) {
		t.Parallel()
		p := start(t, setup{proc: "host", env: []string{"ORPHAN_GRACE=500ms"}}, "--", testchild, "signals", "-exit", "10:3")
		p.says("ready")
		p.signal(unix.SIGUSR1)
		p.exits(3)
	})
}

func TestANeighboursProcessesAreNeverSignalled(t *testing.T) {
	t.Parallel()
	// Not as PID 1: what does not descend from drainit is not its own, such as
	// the tests' process.
	neighbour := start(t, setup{direct: true}, "--", testchild, "signals")
	neighbour.says("ready")
	p := start(t, setup{direct: true, env: []string{"GRACE_PERIOD=2s", "DRAIN_WINDOW=0s", "ORPHAN_GRACE=300ms"}}, "--", testchild, "leave", "-ignore", "-grandchild", "-setsid", "-on-term", "-exit", "4")
	p.says("ready")
	p.signal(unix.SIGTERM)
	p.exits(4)
	p.logs("SIGKILL to everything")
	if got := neighbour.out.String(); got != "ready\n" {
		t.Errorf("the neighbour got: %s", got)
	}
	neighbour.signal(unix.SIGHUP)
	neighbour.says("got 1") // it is alive
}
