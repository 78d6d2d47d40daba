package supervisor

import (
	"strings"
	"testing"
	"time"

	"github.com/drainit/drainit/reaper"
	"github.com/drainit/drainit/sockets"
	"golang.org/x/sys/unix"
)

// history is how a run went, as the tests of the last words write it: all
// times are from the start, a zero one has not come.
type history struct {
	status    unix.WaitStatus
	exited    time.Duration // of the child
	t0        time.Duration
	by        string
	forwarded time.Duration
	killed    time.Duration
	left      int // processes that SIGKILL was sent to
	policy    Policy
	clients   sockets.Verdict
	last      unix.Signal // the last other signal forwarded
	text      string
	oom       uint64
}

func (h history) record() record {
	start := time.Now()
	at := func(d time.Duration) time.Time {
		if d == 0 {
			return time.Time{}
		}
		return start.Add(d)
	}
	return record{
		policy:   &h.policy,
		start:    start,
		end:      start.Add(max(h.exited, h.killed)),
		child:    child{exited: h.exited > 0, exitedAt: at(h.exited), exit: reaper.Exit{Status: h.status}, lastSignal: h.last, statusText: h.text},
		stop:     stop{at: at(h.t0), by: h.by, forwarded: at(h.forwarded), why: "window", killed: at(h.killed), killedLeft: h.left},
		signal:   h.policy.ForwardedAs(0),
		atSignal: h.clients,
		oomKills: h.oom,
	}
}

// TestLastWords: the last words name what happened, for every way to end.
func TestLastWords(t *testing.T) {
	kill := killedBy(unix.SIGKILL)
	for _, c := range []struct {
		name string
		h    history
		want []string
		not  string
	}{
		{"by itself", history{exited: 3 * s, status: exitedWith(3)}, []string{"exited with code 3 by itself after 3s"}, "drainit"},
		{"killed from outside", history{exited: 3 * s, status: kill}, []string{"killed by SIGKILL", "not by drainit"}, "memory:"},
		{"out of memory", history{exited: 3 * s, status: kill, oom: 1}, []string{"killed by SIGKILL", "; out of memory:"}, "not by drainit"},
		{"a worker out of memory", history{exited: 3 * s, status: exitedWith(1), oom: 2}, []string{"out of memory on the way", "rose by 2"}, "not by"},
		{"another signal", history{exited: 3 * s, status: killedBy(unix.SIGSEGV)}, []string{"killed by SIGSEGV after 3s"}, "memory"},
		{"a signal that drainit forwarded", history{exited: 3 * s, status: killedBy(unix.SIGQUIT), last: unix.SIGQUIT},
			[]string{"killed by SIGQUIT", "DRAINIT_STOP_ON"}, "not by drainit"},
		{"finished", history{t0: s, by: "SIGTERM", forwarded: 6 * s, exited: 8 * s},
			[]string{"asked to stop by SIGTERM and finished in 7s", "SIGTERM was forwarded after 5s (window)", "exited with code 0 2s later"}, "killed"},
		{"before the forwarding", history{t0: s, by: "SIGTERM", exited: 3 * s}, []string{"by itself 2s later, before any signal"}, "killed"},
		{"at the deadline", history{t0: s, by: "SIGTERM", forwarded: 6 * s, killed: 29 * s, exited: 29 * s, status: kill, left: 2},
			[]string{"not finished 23s later: killed at the deadline with 2 processes left", "DRAINIT_SIGNAL_SCOPE=group"}, "not by drainit"},
		{"at the deadline with the scope group", history{t0: s, by: "SIGTERM", forwarded: 6 * s, killed: 29 * s, exited: 29 * s, status: kill, left: 2,
			policy: Policy{Group: true}}, []string{"killed at the deadline"}, "SIGNAL_SCOPE"},
		{"at the deadline, alone", history{t0: s, by: "SIGTERM", forwarded: 6 * s, killed: 29 * s, exited: 29 * s, status: kill, left: 1},
			[]string{"with 1 process left"}, "SIGNAL_SCOPE"},
		{"immortal", history{t0: s, by: "SIGTERM", forwarded: 6 * s, killed: 29 * s}, []string{"killed at the deadline"}, "exited"},
		{"orphans killed", history{exited: s, killed: 6 * s, left: 1}, []string{"exited with code 0 by itself", "left behind was killed with 1 process left"}, "deadline"},
		{"remapped", history{exited: s, status: exitedWith(3), policy: Policy{ExitCodes: map[int]int{3: 0}}}, []string{"exited with code 3", "reported as 0"}, ""},
		{"with a status", history{exited: s, status: exitedWith(3), text: "busy"}, []string{"its last status: busy"}, ""},
		{"with clients", history{t0: s, by: "SIGTERM", forwarded: 6 * s, exited: 7 * s, clients: sockets.Verdict{Known: true, Open: 3, InFlight: 2, Queued: 1}},
			[]string{"open at the signal: 3, requests in flight: 2, in the accept queue: 1"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := c.h.record()
			got := r.lastWords()
			for _, want := range c.want {
				if !strings.Contains(got, want) {
					t.Errorf("got %q, want %q in it", got, want)
				}
			}
			if c.not != "" && strings.Contains(got, c.not) {
				t.Errorf("got %q, want no %q in it", got, c.not)
			}
			if strings.Contains(got, "\n") || len(got) > 4096 {
				t.Errorf("got %q, want one line of at most 4096 bytes", got)
			}
		})
	}
}

func TestExitCode(t *testing.T) {
	remap := Policy{ExitCodes: map[int]int{143: 0, 0: 1}}
	for _, c := range []struct {
		name string
		h    history
		want int
	}{
		{"the child's", history{exited: s, status: exitedWith(7)}, 7},
		{"128 + n", history{exited: s, status: killedBy(unix.SIGTERM)}, 143},
		{"remapped once", history{exited: s, status: killedBy(unix.SIGTERM), policy: remap}, 0},
		{"a child that SIGKILL did not end", history{t0: s, killed: 29 * s}, 137},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := c.h.record()
			if got := r.code(); got != c.want {
				t.Errorf("code is %d, want %d", got, c.want)
			}
		})
	}
}
