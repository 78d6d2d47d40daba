package integration_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// quick is a budget for tests that are not about waiting.
var quick = []string{"GRACE_PERIOD=10s", "DRAIN_WINDOW=0s"}

func TestEverySignal(t *testing.T) {
	// Not forwarded: those that can't be caught, and drainit's own. The last
	// four are, but the child can't catch them. SIGTERM and SIGINT begin a
	// stop.
	deadly := []unix.Signal{unix.SIGPROF, 32, 33, 34}
	not := append([]unix.Signal{
		unix.SIGKILL, unix.SIGSTOP, unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE, 60, 61, 62, 63,
	}, deadly...)
	stops := []unix.Signal{unix.SIGTERM, unix.SIGINT}
	t.Run("is forwarded, or documented as not", func(t *testing.T) {
		t.Parallel()
		// A stop that lasts, so that 60 to 63 are harmless.
		p := start(t, setup{env: []string{"GRACE_PERIOD=10m", "DRAIN_WINDOW=5m"}}, "--", testchild, "signals", "-exit", "64:5")
		p.says("ready")
		for s := unix.Signal(1); s < 64; s++ {
			switch {
			case s == unix.SIGKILL || s == unix.SIGSTOP:
				continue // from outside the namespace they do end or stop PID 1
			case slices.Contains(stops, s) || slices.Contains(deadly, s):
				continue
			}
			p.signal(s)
			if s == 60 { // another thread of drainit may take the next one earlier
				p.logs("stop asked for")
			}
			if !slices.Contains(not, s) {
				eventually(t, fmt.Sprintf("the child gets %d", s), func() bool { return p.out.count(fmt.Sprintf("got %d\n", s)) > 0 })
			}
		}
		eventually(t, "skip has the stop signal sent", func() bool { return p.out.count("got 15\n") > 0 })
		p.signal(64)
		p.exits(5)
		var want []string
		for s := unix.Signal(1); s <= 64; s++ {
			switch {
			case !slices.Contains(not, s) && !slices.Contains(stops, s):
				want = append(want, fmt.Sprintf("got %d", s))
			case s == 63: // skip; it ends the wait that prestop (60) began
				want = append(want, "got 15")
			}
		}
		got := strings.Split(strings.TrimSpace(p.out.String()), "\n")[1:]
		if !slices.Equal(got, want) {
			t.Errorf("the child got\n%s\nwant\n%s", got, want)
		}
	})
	for _, s := range stops {
		t.Run(fmt.Sprintf("%s begins a stop and is what the child is sent", unix.SignalName(s)), func(t *testing.T) {
			t.Parallel()
			p := start(t, setup{env: quick}, "--", testchild, "signals", "-exit", fmt.Sprintf("%d:6", s))
			p.says("ready")
			p.signal(s)
			p.exits(6)
			p.logs("by=" + unix.SignalName(s))
		})
	}
	for _, s := range deadly {
		t.Run(fmt.Sprintf("%d is forwarded", s), func(t *testing.T) {
			t.Parallel()
			p := start(t, setup{env: quick}, "--", "sh", "-c", "echo ready; exec sleep 1000")
			p.says("ready")
			p.signal(s)
			p.exits(128 + int(s))
		})
	}
	t.Run("34 can begin a stop", func(t *testing.T) {
		t.Parallel()
		p := start(t, setup{env: append([]string{"STOP_ON=SIGRTMIN", "STOP_SIGNAL=TERM"}, quick...)},
			"--", testchild, "signals", "-exit", "15:6")
		p.says("ready")
		p.signal(34)
		p.exits(6)
		p.logs("by=SIGRTMIN")
	})
	t.Run("from inside the container SIGKILL and SIGSTOP do nothing to PID 1", func(t *testing.T) {
		t.Parallel()
		p := start(t, setup{}, "--", testchild, "kill", "1", "9", "1", "19", "8")
		p.exits(8)
	})
}

func TestAStormOfSignalsLosesNothing(t *testing.T) {
	p := start(t, setup{env: []string{"GRACE_PERIOD=20s", "DRAIN_WINDOW=2s"}}, "--", testchild, "signals", "-quiet", "-exit", "15:9")
	p.says("ready")
	storm := []unix.Signal{unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH, unix.SIGALRM, unix.SIGCONT, unix.SIGCHLD, unix.SIGURG, 40, 64}
	for i := range 10_000 {
		if i == 5_000 {
			p.signal(unix.SIGTERM)
		}
		if p.send(storm[rand.IntN(len(storm))]) != nil {
			break // SIGTERM has ended it
		}
	}
	p.exits(9)
}

func TestAStormOfSignalsLeavesTheChildAlive(t *testing.T) {
	p := start(t, setup{env: quick}, "--", testchild, "signals", "-quiet", "-exit", "12:9")
	p.says("ready")
	storm := []unix.Signal{unix.SIGHUP, unix.SIGUSR1, unix.SIGWINCH, unix.SIGALRM, unix.SIGCHLD, unix.SIGPIPE, unix.SIGURG, 33, 50}
	for i := range 10_000 {
		p.signal(storm[i%len(storm)])
	}
	p.signal(unix.SIGUSR2)
	p.exits(9)
}

// inParallel runs f for 0 to n-1, a few at a time, until one of them fails.
func inParallel(t *testing.T, n int, f func(int)) {
	var wg sync.WaitGroup
	var next atomic.Int64
	for range 4 {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && !t.Failed(); i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}

func TestSIGTERMWhileTheChildStartsIsNeverLost(t *testing.T) {
	inParallel(t, 500, func(i int) {
		// The signal ends the child at any moment of its life, so any other
		// code than 143 means that it was lost.
		p, err := launch(t, setup{env: quick, proc: "host"}, "--", "/bin/sleep", "15")
		if err != nil {
			t.Error(err)
			return
		}
		defer p.kill()
		p.catching()
		for end := time.Now().Add(time.Duration(rand.Int64N(int64(4 * time.Millisecond)))); time.Now().Before(end); {
		}
		p.send(unix.SIGTERM)
		select {
		case <-p.done:
			if p.code != 143 {
				t.Errorf("run %d: exit code %d, want 143: %s", i, p.code, p.err.tail())
			}
		case <-time.After(patience):
			t.Errorf("run %d: the signal was lost", i)
		}
	})
}

func TestSignalsAreRewritten(t *testing.T) {
	t.Parallel()
	p := start(t, setup{env: append(quick, "SIGNAL_MAP=SIGHUP=SIGUSR2,USR1=ignore,35=SIGWINCH")}, "--", testchild, "signals", "-exit", "14:2")
	p.says("ready")
	p.signal(unix.SIGHUP)
	p.says("got 12")
	p.signal(unix.SIGUSR1)
	p.signal(35)
	p.says("got 28")
	p.signal(unix.SIGALRM)
	p.exits(2)
	if got := p.out.String(); got != "ready\ngot 12\ngot 28\ngot 14\n" {
		t.Errorf("the child got: %s", got)
	}
}

func TestSignalScope(t *testing.T) {
	for scope, both := range map[string]bool{"child": false, "group": true} {
		t.Run(scope, func(t *testing.T) {
			t.Parallel()
			p := start(t, setup{env: append(quick, "SIGNAL_SCOPE="+scope)}, "--", testchild, "signals", "-second", "-name", "first", "-exit", "15:4", "-after", "300ms")
			p.says("ready")
			p.signal(unix.SIGUSR1)
			p.says("first 10")
			if both {
				p.says("second 10")
			}
			p.signal(unix.SIGTERM)
			p.exits(4)
			if got := strings.Contains(p.out.String(), "second 10"); got != both {
				t.Errorf("the second process of the group got SIGUSR1: %v, want %v", got, both)
			}
		})
	}
}

func TestStopOnAnotherSignal(t *testing.T) {
	t.Parallel()
	p := start(t, setup{env: append(quick, "STOP_ON=QUIT,28")}, "--", testchild, "signals", "-exit", "3:3")
	p.says("ready")
	p.signal(unix.SIGTERM) // forwarded now, as any other
	p.says("got 15")
	p.signal(unix.SIGQUIT)
	p.exits(3)
	p.logs("by=SIGQUIT")
}

func TestASignalThatMayBeTheImagesIsHintedAt(t *testing.T) {
	t.Parallel()
	p := start(t, setup{env: quick}, "--", testchild, "signals", "-exit", "3:3")
	p.says("ready")
	p.signal(unix.SIGWINCH)
	p.says("got 28")
	p.signal(unix.SIGQUIT)
	p.exits(3)
	if n := p.err.count("forwarded at once; if it is"); n != 1 {
		t.Errorf("%d hints, want 1: %s", n, p.err)
	}
	if end := p.logs(`drainit: ended"`); !strings.Contains(end, "level=WARN") || !strings.Contains(end, "DRAINIT_STOP_ON") {
		t.Errorf("the end is no warning with the cure: %s", end)
	}
}

func TestStopSignalAndDrainSignal(t *testing.T) {
	t.Parallel()
	p := start(t, setup{env: []string{"GRACE_PERIOD=10s", "DRAIN_WINDOW=400ms", "STOP_SIGNAL=SIGQUIT", "DRAIN_SIGNAL=TSTP"}}, "--", testchild, "signals", "-exit", "3:0")
	p.says("ready")
	p.signal(unix.SIGTERM)
	p.says("got 20")
	if strings.Contains(p.out.String(), "got 3") {
		t.Error("the stop signal came with the drain signal")
	}
	p.exits(0)
	if got := p.out.String(); got != "ready\ngot 20\ngot 3\n" {
		t.Errorf("the child got: %s", got)
	}
}

func TestFurtherStopSignals(t *testing.T) {
	t.Parallel()
	p := start(t, setup{env: []string{"GRACE_PERIOD=20s", "DRAIN_WINDOW=1s"}}, "--", testchild, "signals", "-exit", "2:8")
	p.says("ready")
	p.signal(unix.SIGTERM)
	p.logs("stop asked for")
	for range 3 {
		p.signal(unix.SIGTERM)
		p.signal(unix.SIGINT)
	}
	p.logs("stop signal again")
	p.signal(unix.SIGUSR1) // others are forwarded meanwhile
	p.says("got 10")
	about(t, "forwarded", duration(t, p.logs("stop signal forwarded"), "after"), time.Second)
	p.says("got 15")
	p.signal(unix.SIGTERM) // many servers: stop immediately
	eventually(t, "a second SIGTERM reaches the child", func() bool { return p.out.count("got 15") == 2 })
	p.signal(unix.SIGINT)
	p.exits(8)
	if got := p.out.String(); got != "ready\ngot 10\ngot 15\ngot 15\ngot 2\n" {
		t.Errorf("the child got: %s", got)
	}
}

func TestAStoppedChildTakesItsStopSignal(t *testing.T) {
	t.Parallel()
	p := start(t, setup{env: quick}, "--", testchild, "signals", "-exit", "15:6")
	p.says("ready")
	child := p.child()
	unix.Kill(child, unix.SIGSTOP)
	eventually(t, "the child is stopped", func() bool {
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		return strings.Contains(string(stat), ") T ")
	})
	p.signal(unix.SIGTERM)
	p.exits(6)
}

func TestControlSignals(t *testing.T) {
	t.Parallel()
	env, url := healthPort(t)
	p := start(t, setup{env: []string{env, "GRACE_PERIOD=10m", "DRAIN_WINDOW=5m"}}, "--", testchild, "signals", "-exit", "15:0")
	p.says("ready")
	answers(t, url+"/readyz", 200)
	p.signal(61) // drain
	answers(t, url+"/readyz", 503)
	p.signal(62) // undrain
	answers(t, url+"/readyz", 200)
	p.signal(unix.SIGTERM)
	answers(t, url+"/readyz", 503)
	p.signal(63) // skip
	p.exits(0)
	p.logs("why=skip")
}

func TestPrestopLetsTheSignalThatFollowsThrough(t *testing.T) {
	t.Parallel()
	env, url := healthPort(t)
	p := start(t, setup{env: []string{env, "GRACE_PERIOD=20s", "DRAIN_WINDOW=1s"}}, "--", testchild, "signals", "-exit", "15:0")
	p.says("ready")
	answers(t, url+"/readyz", 200)
	// As the kubelet runs a preStop hook: in the container.
	c := exec.Command("/usr/bin/nsenter", "-t", fmt.Sprint(p.pid), "-p", "-m", drainit, "prestop")
	if os.Geteuid() != 0 {
		c = exec.Command("/usr/bin/nsenter", "--preserve-credentials", "-t", fmt.Sprint(p.pid), "-U", "-p", "-m", drainit, "prestop")
	}
	c.Env = environment([]string{env})
	began := time.Now()
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("prestop: %v: %s", err, out)
	}
	about(t, "prestop returned", time.Since(began), time.Second)
	if got := p.out.String(); got != "ready\n" {
		t.Errorf("prestop alone sent the child something: %s", got)
	}
	p.signal(unix.SIGTERM)
	p.exits(0)
	p.logs("asked to stop by prestop")
}

func TestCalledAsDockerInit(t *testing.T) {
	t.Parallel()
	link := filepath.Join(t.TempDir(), "docker-init")
	if err := os.Symlink(drainit, link); err != nil {
		t.Fatal(err)
	}
	start(t, setup{as: link, env: quick}, "--", testchild, "exit", "5").exits(5)
	start(t, setup{as: link, env: quick}, "--", "--version").exits(127) // after -- it is a command
	p := start(t, setup{as: link}, "--version")
	p.exits(0)
	if !strings.Contains(p.out.String(), "version ") {
		t.Errorf("--version: %q", p.out.String())
	}
}
