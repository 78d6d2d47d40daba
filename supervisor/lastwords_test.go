package supervisor

import (
	"strings"
	"testing"
	"time"

	"github.com/drainit/drainit/internal/proc"
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
	end       time.Duration // of the run; the last of the others if 0
	forwarded time.Duration
	killed    time.Duration
	left      int // processes that SIGKILL was sent to
	orphans   int // processes the child left behind
	err       error
	late      bool
	denied    bool // drainit may signal none of the others
	command   string
	lastAt    time.Duration
	policy    Policy
	clients   sockets.Verdict
	last      unix.Signal // the last other signal forwarded
	text      string
	oom       uint64
}

func (h history) others(n int) (all []Other) {
	for i := range n {
		all = append(all, Other{proc.Process{PID: 12 + i, Name: "gunicorn"}, h.denied})
	}
	return all
}

func (h history) record() record {
	h.policy.Timeline.Grace, h.policy.Timeline.Margin = 30*s, 2*s
	start := time.Now()
	at := func(d time.Duration) time.Time {
		if d == 0 {
			return time.Time{}
		}
		return start.Add(d)
	}
	return record{
		policy:  &h.policy,
		command: h.command,
		start:   start,
		end:     start.Add(max(h.exited, h.killed, h.end)),
		child: child{exited: h.exited > 0, exitedAt: at(h.exited), exit: reaper.Exit{Status: h.status},
			lastSignal: h.last, lastSignalAt: at(h.lastAt), statusText: h.text, orphans: h.others(h.orphans)},
		stop:     stop{at: at(h.t0), by: h.by, forwarded: at(h.forwarded), why: "window", err: h.err, late: h.late, killedAt: at(h.killed), left: h.others(h.left)},
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
		{"a signal that drainit forwarded", history{exited: 3 * s, status: killedBy(unix.SIGQUIT), last: unix.SIGQUIT, lastAt: 2 * s},
			[]string{"killed by SIGQUIT", "SIGQUIT at once 1s before", "DRAINIT_STOP_ON"}, "not by drainit"},
		{"an exit after a signal that servers are stopped with", history{exited: 9 * s, last: unix.SIGQUIT, lastAt: 8 * s},
			[]string{"exited with code 0 by itself", "SIGQUIT at once 1s before", "DRAINIT_STOP_ON"}, ""},
		{"an exit long after it", history{exited: 60 * s, last: unix.SIGQUIT, lastAt: 8 * s}, []string{"exited with code 0 by itself"}, "STOP_ON"},
		{"an exit after a reload", history{exited: 9 * s, last: unix.SIGHUP, lastAt: 8 * s}, []string{"exited with code 0 by itself"}, "STOP_ON"},
		{"finished", history{t0: s, by: "SIGTERM", forwarded: 6 * s, exited: 8 * s},
			[]string{"asked to stop by SIGTERM and finished in 7s", "SIGTERM was forwarded after 5s (window)", "exited with code 0 2s later"}, "killed"},
		{"before the forwarding", history{t0: s, by: "SIGTERM", exited: 3 * s}, []string{"by itself 2s later, before any signal"}, "killed"},
		{"at the deadline", history{t0: s, by: "SIGTERM", forwarded: 6 * s, killed: 29 * s, exited: 29 * s, status: kill, left: 2},
			[]string{"had not ended 23s later: killed at the deadline, still running: gunicorn (pid 12), gunicorn (pid 13); ", "DRAINIT_SIGNAL_SCOPE=group"}, "not by drainit"},
		{"at the deadline with the scope group", history{t0: s, by: "SIGTERM", forwarded: 6 * s, killed: 29 * s, exited: 29 * s, status: kill, left: 2,
			policy: Policy{Group: true}}, []string{"killed at the deadline"}, "SIGNAL_SCOPE"},
		{"at the deadline, alone", history{t0: s, by: "SIGTERM", forwarded: 6 * s, killed: 29 * s, exited: 29 * s, status: kill, left: 1},
			[]string{"still running: gunicorn (pid 12)"}, "SIGNAL_SCOPE"},
		{"immortal", history{t0: s, by: "SIGTERM", forwarded: 6 * s, killed: 29 * s}, []string{"killed at the deadline"}, "exited"},
		{"orphans killed", history{exited: s, killed: 6 * s, left: 1, orphans: 2},
			[]string{"exited with code 0 by itself", "processes it left behind got SIGKILL 5s later, at the end of DRAINIT_ORPHAN_GRACE: gunicorn (pid 12)"}, "deadline"},
		{"what a script left behind is killed", history{t0: s, by: "SIGTERM", forwarded: 6 * s, exited: 6*s + 1e6, killed: 29 * s, left: 1, orphans: 1},
			[]string{"not finished in time", "exited with code 0 1ms later", "got SIGKILL 22.999s later, at the deadline: gunicorn (pid 12)"}, "finished in 2"},
		{"what a script left behind ends", history{t0: s, by: "SIGTERM", forwarded: 6 * s, exited: 6*s + 1e6, end: 11 * s, orphans: 1},
			[]string{"finished in 10s", "what it left behind ended 4.999s later: gunicorn (pid 12)"}, "killed"},
		{"an explicit ORPHAN_GRACE", history{t0: s, by: "SIGTERM", forwarded: 6 * s, exited: 7 * s, killed: 10 * s, left: 1, orphans: 1,
			policy: Policy{Timeline: Timeline{OrphanGraceSet: true}}}, []string{"got SIGKILL 3s later, at the end of DRAINIT_ORPHAN_GRACE: gunicorn (pid 12)"}, "the deadline"},
		{"a child of another uid", history{t0: s, by: "SIGTERM", forwarded: 6 * s, killed: 29 * s, exited: 29 * s, status: kill, left: 1, err: unix.EPERM},
			[]string{"SIGTERM could not be sent after 5s (operation not permitted)", "CAP_KILL"}, "was forwarded"},
		{"an orphan of another uid", history{t0: s, by: "SIGTERM", forwarded: 6 * s, exited: 7 * s, killed: 29 * s, orphans: 1, left: 1, denied: true},
			[]string{"could not be sent SIGKILL 22s later, at the deadline: gunicorn (pid 12)", "CAP_KILL"}, "got SIGKILL"},
		{"drainit was held up", history{t0: s, by: "SIGTERM", forwarded: 40 * s, killed: 40*s + s/2, exited: 41 * s, status: kill, left: 2, late: true},
			[]string{"held up"}, "script"},
		{"su", history{t0: s, by: "SIGTERM", forwarded: 6 * s, exited: 8 * s, command: "/bin/su"}, []string{"su kills soon", "gosu"}, ""},
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
