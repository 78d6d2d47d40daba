package integration_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestTheBinaryIsSmall(t *testing.T) {
	const most = 4_300_000
	info, err := os.Stat(drainit)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", info.Size())
	if info.Size() > most {
		t.Errorf("%d bytes, want at most %d", info.Size(), most)
	}
}

// statusField reads one number from /proc/PID/status.
func statusField(t *testing.T, path, name string) int {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + name + `:\s+(\d+)`).FindSubmatch(b)
	if m == nil {
		t.Fatalf("no %s in %s", name, path)
	}
	n, _ := strconv.Atoi(string(m[1]))
	return n
}

func TestAThousandProbesCostLittleMemory(t *testing.T) {
	// A Go program that does nothing has 0.75 MB of anonymous memory, and 1.2
	// after its first garbage collection (the bookkeeping of each size class,
	// outside the heap). drainit has 1.8 to 2.04 on two CPUs, depending on
	// whether the second one was used before GOMAXPROCS was set to 1.
	const mostKB, mostAnonymousKB, tries = 8 << 10, 2 << 10, 5
	var found []string
	for range tries {
		env, url := healthPort(t)
		p := start(t, setup{env: []string{env}}, "--", testchild, "signals")
		p.says("ready")
		answers(t, url+"/readyz", 200)
		for range 1000 {
			if code, body := get(url + "/readyz"); code != 200 {
				t.Fatalf("%d %s", code, body)
			}
		}
		status := fmt.Sprintf("/proc/%d/status", p.pid)
		var rss, anonymous int
		// Memory is returned some seconds after a burst.
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Second) {
			rss, anonymous = statusField(t, status, "VmRSS"), statusField(t, status, "RssAnon")
			if rss <= mostKB && anonymous <= mostAnonymousKB {
				break
			}
		}
		p.kill()
		found = append(found, fmt.Sprintf("RSS %d kB, of it anonymous %d kB", rss, anonymous))
		// The number of threads that the Go runtime starts for it varies, and
		// each costs a few pages.
		if rss <= mostKB && anonymous <= mostAnonymousKB {
			t.Log(strings.Join(found, "; "))
			return
		}
	}
	t.Errorf("%s; want at most %d and %d", strings.Join(found, "; "), mostKB, mostAnonymousKB)
}

// TestABurstOfProbesCostsNoMemory probes four hundred at a time. When each made
// garbage, that was 3.1 MB at the most, and 2.0 afterwards.
func TestABurstOfProbesCostsNoMemory(t *testing.T) {
	const probes, clients = 10_000, 400
	atMostOnce(t, 2<<10, "anonymous memory at the most", func() int {
		env, url := healthPort(t)
		p := start(t, setup{env: []string{env}}, "--", testchild, "signals")
		p.says("ready")
		answers(t, url+"/readyz", 200)
		status := fmt.Sprintf("/proc/%d/status", p.pid)
		var next, lost, peak atomic.Int64
		var all sync.WaitGroup
		for range clients {
			all.Go(func() {
				for n := next.Add(1); n <= probes; n = next.Add(1) {
					if code, _ := get(url + "/readyz"); code != 200 {
						lost.Add(1)
					}
					if n%clients == 0 {
						peak.Store(max(peak.Load(), int64(statusField(t, status, "RssAnon"))))
					}
				}
			})
		}
		all.Wait()
		p.kill()
		if lost.Load() > 0 {
			t.Errorf("%d of %d probes were not answered", lost.Load(), probes)
		}
		return int(peak.Load())
	})
}

// TestSlowGarbageIsReturned makes less garbage than the collector runs for
// after a collection by itself: 15 reports are 0.5 MB. What is left is compared
// with what the first collection left, as kernels count pages differently.
func TestSlowGarbageIsReturned(t *testing.T) {
	const moreKB = 300
	env, url := healthPort(t)
	p := start(t, setup{env: []string{env}}, "--", testchild, "signals")
	p.says("ready")
	anonymous := func() int { return statusField(t, fmt.Sprintf("/proc/%d/status", p.pid), "RssAnon") }
	report := func(n int) {
		for range n {
			get(url + "/statusz")
			get(url + "/metrics")
		}
	}
	last := 0
	eventually(t, "the first garbage is returned", func() bool {
		before := last
		report(10)
		last = anonymous()
		return last < before
	})
	eventually(t, "no more is returned", func() bool {
		before := anonymous()
		time.Sleep(3 * time.Second) // longer than between two looks
		last = anonymous()
		return last >= before
	})
	mostKB := last + moreKB
	for range 3 {
		time.Sleep(3 * time.Second) // the look after a burst is over
		report(15)
		eventually(t, fmt.Sprintf("anonymous memory is at most %d kB", mostKB), func() bool {
			last = anonymous()
			return last <= mostKB
		})
		t.Logf("%d kB of at most %d", last, mostKB)
	}
}

func TestSignalsLeaveNoMemoryBehind(t *testing.T) {
	atMostOnce(t, 200, "anonymous memory more after 300 signals", func() int {
		p := start(t, setup{}, "--", testchild, "signals")
		p.says("ready")
		status := fmt.Sprintf("/proc/%d/status", p.pid)
		first := 0
		for n := range 301 {
			p.signal(unix.SIGUSR1)
			eventually(t, "the child gets SIGUSR1", func() bool { return strings.Count(p.out.String(), "got 10\n") > n })
			if n == 0 {
				first = statusField(t, status, "RssAnon")
			}
		}
		grown := statusField(t, status, "RssAnon") - first
		p.kill()
		return grown
	})
}

// atMostOnce fails the test unless one of three measurements of what, in kB, is
// at most most: a thread that the runtime happens to make would be too much.
func atMostOnce(t *testing.T, most int, what string, measure func() int) {
	t.Helper()
	const tries = 3
	var found []int
	for range tries {
		if found = append(found, measure()); found[len(found)-1] <= most {
			t.Logf("%s: %v kB", what, found)
			return
		}
	}
	t.Errorf("%s: %v kB, want at most %d", what, found, most)
}

func TestThreads(t *testing.T) {
	const most = 12
	env, url := healthPort(t)
	p := start(t, setup{env: []string{env}}, "--", testchild, "signals")
	p.says("ready")
	for range 100 {
		answers(t, url+"/readyz", 200)
		p.signal(unix.SIGUSR1)
	}
	if n := statusField(t, fmt.Sprintf("/proc/%d/status", p.pid), "Threads"); n > most {
		t.Errorf("%d threads, want at most %d", n, most)
	}
}

// TestSystemCallsOfAStart counts those that do not depend on how threads happen
// to be scheduled. Most are the Go runtime's: a handler for each signal.
func TestSystemCallsOfAStart(t *testing.T) {
	const most = 600
	strace := program(t, "/usr/bin/strace", "strace")
	c := exec.Command(strace, "-f", "-c", "-qq", drainit, "--", "/bin/true")
	c.Env = environment(nil)
	out, err := c.CombinedOutput()
	if err != nil {
		missing(t, false, "strace: %v\n%s", err, out)
	}
	sum := 0
	for _, m := range regexp.MustCompile(`(?m)^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$`).FindAllSubmatch(out, -1) {
		n, _ := strconv.Atoi(string(m[1]))
		switch string(m[2]) {
		case "futex", "nanosleep", "sched_yield", "epoll_pwait", "tgkill", "rt_sigreturn", "getpid", "total":
		default:
			sum += n
		}
	}
	if t.Logf("%d system calls", sum); sum < 100 || sum > most {
		t.Errorf("%d system calls, want at most %d\n%s", sum, most, out)
	}
}

// switches sums the context switches of every thread.
func (p *process) switches(t *testing.T) (sum int) {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p.pid))
	if err != nil || len(threads) == 0 {
		t.Fatal("no threads: ", err)
	}
	for _, status := range threads {
		sum += statusField(t, status, "voluntary_ctxt_switches") + statusField(t, status, "nonvoluntary_ctxt_switches")
	}
	return sum
}

func TestIdleForThirtySecondsWithoutAContextSwitch(t *testing.T) {
	t.Parallel()
	const window, tries = 30 * time.Second, 3
	env, url := healthPort(t)
	var found []int
	for range tries {
		// A new process for each try: what is measured is the time right after
		// the start. The Go runtime may wake up once a minute.
		p := start(t, setup{env: []string{env}}, "--", "/bin/sleep", "1000")
		answers(t, url+"/readyz", 200)
		settled := 0 // polls without a context switch
		eventually(t, "it settles", func() bool {
			before := settled
			settled = p.switches(t)
			time.Sleep(time.Second)
			return before != 0 && before == settled && p.switches(t) == settled
		})
		time.Sleep(window) // this is what is measured
		n := p.switches(t) - settled
		found = append(found, n)
		p.signal(unix.SIGKILL)
		p.wait()
		if n == 0 {
			break
		}
	}
	t.Logf("context switches in %s: %s", window, strings.Trim(fmt.Sprint(found), "[]"))
	if found[len(found)-1] != 0 {
		t.Errorf("%d context switches in %s, want none", found, window)
	}
}
