package integration_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// reaped returns how many exits drainit has collected.
func reaped(url string) int {
	var s struct {
		Reaped int `json:"processes_reaped"`
	}
	_, body := get(url + "/statusz")
	json.Unmarshal([]byte(body), &s)
	return s.Reaped
}

// zombies counts the exited processes that drainit has not collected.
func (p *process) zombies() (n int) {
	for _, c := range processes() {
		if c.ppid == p.pid && c.state == "Z" {
			n++
		}
	}
	return n
}

func TestOrphansThatDieAtOnceAreAllReaped(t *testing.T) {
	for _, direct := range []bool{false, true} {
		for _, n := range []int{100, 20_000} {
			t.Run(fmt.Sprintf("%d, PID 1: %v", n, !direct), func(t *testing.T) {
				if n > 1000 && direct {
					t.Skip("the same code; the hundred have shown that orphans come to a subreaper")
				}
				crowd(t, n)
				env, url := healthPort(t)
				p := start(t, setup{direct: direct, env: []string{env}}, "--", testchild, "orphans", "-count", fmt.Sprint(n))
				long(t, p.out, "ready")
				began := time.Now()
				p.signal(unix.SIGUSR1)
				// drainit forwards the signal; the process that forked them is
				// one more.
				for end := time.Now().Add(time.Minute); reaped(url) < n; time.Sleep(20 * time.Millisecond) {
					if time.Now().After(end) {
						t.Fatalf("%d of %d were reaped", reaped(url), n)
					}
				}
				if z := p.zombies(); z != 0 {
					t.Errorf("%d zombies remain", z)
				}
				t.Logf("%d orphans reaped in %s", n, time.Since(began).Round(time.Millisecond))
				p.kill()
			})
		}
	}
}

// crowd waits until there is room for n more processes, and keeps concurrent
// runs of these tests from taking it: many machines allow 32,768 processes in
// all.
func crowd(t *testing.T, n int) {
	t.Helper()
	lock, err := os.OpenFile(filepath.Join(os.TempDir(), "drainit-test-crowd.lock"), os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Close() })
	for end := time.Now().Add(2 * time.Minute); unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil || !room(n); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			missing(t, false, "no room for %d processes (kernel.pid_max, kernel.threads-max), or another run has it", n)
		}
	}
}

// room reports whether n more processes leave enough for others.
func room(n int) bool {
	for _, limit := range []string{"pid_max", "threads-max"} {
		b, err := os.ReadFile("/proc/sys/kernel/" + limit)
		most, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		if err == nil && threads()+n+4000 > most {
			return false
		}
	}
	return true
}

// threads returns how many there are, from /proc/loadavg:
// "0.10 0.20 0.30 1/246 2188".
func threads() (n int) {
	b, _ := os.ReadFile("/proc/loadavg")
	_, rest, _ := strings.Cut(string(b), "/")
	n, _ = strconv.Atoi(strings.Fields(rest + " 0")[0])
	return n
}

// long is lines.wait with more patience.
func long(t *testing.T, l *lines, text string) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		_, found, ended, _ := l.find(text)
		if found {
			return
		}
		if ended || time.Now().After(end) {
			t.Fatalf("no %q: %s", text, l.tail())
		}
	}
}

func TestTheMainChildExitsAmongTwentyThousandOrphans(t *testing.T) {
	crowd(t, 20_000)
	p := start(t, setup{}, "--", testchild, "orphans", "-count", "20000", "-exit", "42")
	long(t, p.out, "ready")
	p.signal(unix.SIGUSR1)
	if code := p.waitFor(time.Minute); code != 42 {
		t.Errorf("exit code %d, want 42: %s", code, p.err.tail())
	}
}

func TestTheMainChildsCodeIsNeverLostAmongOrphans(t *testing.T) {
	inParallel(t, 500, func(i int) {
		want := 1 + i%254
		p, err := launch(t, setup{proc: "host", direct: i%5 == 0}, "--", testchild, "orphans", "-now", "-count", fmt.Sprint(i%20), "-exit", fmt.Sprint(want))
		if err != nil {
			t.Error(err)
			return
		}
		defer p.kill()
		select {
		case <-p.done:
			if p.code != want {
				t.Errorf("run %d: exit code %d, want %d: %s", i, p.code, want, p.err.tail())
			}
		case <-time.After(patience):
			t.Errorf("run %d has not ended: %s", i, p.err.tail())
		}
	})
}

func TestWhatTheChildLeavesBehind(t *testing.T) {
	ways := map[string][]string{
		"a background process":         nil,
		"one in a session of its own":  {"-setsid"},
		"a grandchild":                 {"-grandchild"},
		"a grandchild of that session": {"-grandchild", "-setsid"},
	}
	for name, flags := range ways {
		for _, direct := range []bool{false, true} {
			where := map[bool]string{false: "as PID 1", true: "as a subreaper"}[direct]
			t.Run(name+" gets the signal and finishes its trap, "+where, func(t *testing.T) {
				t.Parallel()
				args := append([]string{"--", testchild, "leave", "-exit", "5"}, flags...)
				p := start(t, setup{direct: direct}, args...)
				p.exits(5)
				if got := p.out.String(); got != "ready\nbackground got 15\ntrap finished\n" {
					t.Errorf("output: %s", got)
				}
				if p.err.count("left processes behind") != 1 || p.err.count("level=WARN") != 0 {
					t.Errorf("what was left behind is no line at INFO: %s", p.err)
				}
			})
			t.Run(name+" that ignores it is killed at ORPHAN_GRACE, "+where, func(t *testing.T) {
				t.Parallel()
				args := append([]string{"--", testchild, "leave", "-ignore", "-exit", "6"}, flags...)
				p := start(t, setup{direct: direct, env: []string{"ORPHAN_GRACE=700ms"}}, args...)
				p.says("background got 15")
				p.exits(6)
				line := p.logs("processes it left behind got SIGKILL")
				about(t, "killed", duration(t, line, "stopping"), 700*time.Millisecond)
			})
		}
	}
}

func TestOrphanGraceZeroExitsWithTheChild(t *testing.T) {
	t.Parallel()
	p := start(t, setup{env: []string{"ORPHAN_GRACE=0"}}, "--", testchild, "leave", "-ignore", "-exit", "6")
	p.exits(6)
	if got := p.out.String(); got != "ready\n" {
		t.Errorf("output: %s", got)
	}
}

func TestOrphansGetTheStopSignalTooAndTheRestOfTheBudgetAtMost(t *testing.T) {
	t.Run("they finish", func(t *testing.T) {
		t.Parallel()
		p := start(t, setup{env: []string{"GRACE_PERIOD=20s", "DRAIN_WINDOW=100ms", "STOP_SIGNAL=SIGTERM"}}, "--", testchild, "leave", "-on-term", "-exit", "7")
		p.says("ready")
		p.signal(unix.SIGINT)
		p.exits(7)
		if !strings.Contains(p.out.String(), "background got 15\ntrap finished\n") {
			t.Errorf("output: %s", p.out)
		}
	})
	t.Run("they are killed at kill_at", func(t *testing.T) {
		t.Parallel()
		p := start(t, setup{env: []string{"GRACE_PERIOD=2s", "DRAIN_WINDOW=100ms", "ORPHAN_GRACE=1m"}}, "--", testchild, "leave", "-ignore", "-on-term", "-exit", "7")
		p.says("ready")
		p.signal(unix.SIGTERM)
		p.exits(7) // the child's code, although others were killed
		line := p.logs("SIGKILL to everything that is left")
		about(t, "SIGKILL", duration(t, line, "after"), 1800*time.Millisecond)
	})
}
