package supervisor

import (
	"fmt"
	"maps"
	"os"
	"strings"
	"time"

	"github.com/drainit/drainit/health"
	"github.com/drainit/drainit/reaper"
	"golang.org/x/sys/unix"
)

// code is what to exit with.
func (l *loop) code() int {
	code := l.exit.Code()
	if !l.exited {
		code = 128 + int(unix.SIGKILL) // even SIGKILL did not end it in time
	}
	if to, ok := l.ExitCodes[code]; ok {
		return to
	}
	return code
}

// outcome is the last words, and logs the summary of a stop or of an abnormal
// end.
func (l *loop) outcome(code int) string {
	words := l.words()
	if l.exited && code != l.exit.Code() {
		words += fmt.Sprintf(" (reported as %d, as DRAINIT_EXIT_CODES says)", code)
	}
	switch {
	case !l.t0.IsZero():
		l.Log.Info("stopped: "+words, l.summary(code)...)
	case l.exit.Status.Signaled() || !l.killed.IsZero():
		l.Log.Warn("ended: "+words, l.summary(code)...)
	}
	return words
}

// summary is the facts behind the words: the code or signal, how long each
// phase took, who asked for what.
func (l *loop) summary(code int) []any {
	end := time.Now()
	l.spent[l.phase] += end.Sub(l.since)
	l.since = end
	attrs := []any{"code", code}
	if l.exited && l.exit.Status.Signaled() {
		attrs = append(attrs, "signal", SignalName(l.exit.Status.Signal()))
	}
	if !l.t0.IsZero() {
		attrs = append(attrs, "asked_by", l.askedBy, "total", round(end.Sub(l.t0)))
	}
	if !l.forwarded.IsZero() {
		attrs = append(attrs, "sent", SignalName(l.stopSignal()), "why", l.why)
	}
	for _, p := range []Phase{Draining, Stopping, Killing} {
		if l.spent[p] > 0 {
			attrs = append(attrs, p.String(), round(l.spent[p]))
		}
	}
	return append(attrs, "reaped", l.reaped)
}

// words tells how it ended, for somebody who reads it at 3 a.m.
func (l *loop) words() string {
	var b strings.Builder
	how := "did not end even on SIGKILL"
	if l.exited {
		how = describe(l.exit)
		if l.forwarded.IsZero() && l.exit.Status.Exited() {
			how += " by itself"
		}
	}
	switch {
	case l.t0.IsZero():
		fmt.Fprintf(&b, "the child %s after %s", how, l.age())
	case l.forwarded.IsZero():
		fmt.Fprintf(&b, "asked to stop by %s; the child %s %s later, before any signal was forwarded",
			l.askedBy, how, round(l.endOfChild().Sub(l.t0)))
	case !l.killed.IsZero() && (!l.exited || !l.exitedAt.Before(l.killed)):
		fmt.Fprintf(&b, "asked to stop by %s; %s was forwarded after %s and not finished %s later: killed at the deadline",
			l.askedBy, SignalName(l.stopSignal()), round(l.forwarded.Sub(l.t0)), round(l.killed.Sub(l.forwarded)))
		b.WriteString(l.leftOver())
		if l.killedLeft > 1 && !l.Group {
			b.WriteString("; only the command itself was signalled: if it is a script, exec the server in it, or set DRAINIT_SIGNAL_SCOPE=group")
		}
	default:
		fmt.Fprintf(&b, "asked to stop by %s and finished in %s: %s was forwarded after %s (%s), the child %s %s later",
			l.askedBy, round(l.endOfChild().Sub(l.t0)), SignalName(l.stopSignal()), round(l.forwarded.Sub(l.t0)), l.why,
			how, round(l.endOfChild().Sub(l.forwarded)))
	}
	b.WriteString(l.cause())
	if !l.killed.IsZero() && l.exited && l.exitedAt.Before(l.killed) {
		b.WriteString("; what it left behind was killed")
		b.WriteString(l.leftOver())
	}
	if l.atSignal.Known && l.atSignal.Open > 0 {
		fmt.Fprintf(&b, "; open at the signal: %d, requests in flight: %d, in the accept queue: %d",
			l.atSignal.Open, l.atSignal.InFlight, l.atSignal.Queued)
	}
	if l.text != "" {
		fmt.Fprintf(&b, "; its last status: %s", l.text)
	}
	return b.String()
}

// cause explains a SIGKILL that was not drainit's own, and tells of the OOM
// killer whoever it was that it ended: a worker's end may be the child's too.
func (l *loop) cause() string {
	byUs := !l.killed.IsZero() && !l.exitedAt.Before(l.killed) ||
		!l.forwarded.IsZero() && l.stopSignal() == unix.SIGKILL || l.passed == unix.SIGKILL
	struck := l.exited && l.exit.Status.Signaled() && l.exit.Status.Signal() == unix.SIGKILL && !byUs
	if s := l.exit.Status; l.t0.IsZero() && s.Signaled() && s.Signal() == l.passed {
		return fmt.Sprintf("; drainit had forwarded that at once: if %s is the image's STOPSIGNAL, add it to DRAINIT_STOP_ON", SignalName(l.passed))
	}
	switch n := l.oomRise(); {
	case n > 0 && struck:
		return fmt.Sprintf("; out of memory: the cgroup's oom_kill counter rose by %d, raise the memory limit or lower the use", n)
	case n > 0:
		return fmt.Sprintf("; out of memory on the way: the cgroup's oom_kill counter rose by %d while the child ran", n)
	case struck:
		return "; not by drainit: the memory limit, the kubelet or a person"
	}
	return ""
}

// oomRise is how many processes of the cgroup the OOM killer has ended since
// the start, 0 if that is not known.
func (l *loop) oomRise() uint64 {
	if !l.oomKnown {
		return 0
	}
	n, err := l.OOMKills()
	if err != nil || n < l.oomStart {
		return 0
	}
	return n - l.oomStart
}

func (l *loop) leftOver() string {
	switch {
	case l.killedLeft < 0:
		return ""
	case l.killedLeft == 1:
		return " with 1 process left"
	}
	return fmt.Sprintf(" with %d processes left", l.killedLeft)
}

func (l *loop) endOfChild() time.Time {
	if l.exited {
		return l.exitedAt
	}
	return time.Now()
}

func (l *loop) age() time.Duration { return round(l.endOfChild().Sub(l.start)) }

// describe says how a process ended.
func describe(e reaper.Exit) string {
	if e.Status.Signaled() {
		s := "was killed by " + SignalName(e.Status.Signal())
		if e.Status.CoreDump() {
			s += " (core dumped)"
		}
		return s
	}
	return fmt.Sprintf("exited with code %d", e.Status.ExitStatus())
}

// SignalName is a signal's name, or SIGRTMIN+n for those without one.
func SignalName(sig unix.Signal) string {
	if n := unix.SignalName(sig); n != "" {
		return n
	}
	const rtmin = 34 // as glibc and kill -l count; the C library keeps 32 and 33
	if sig >= rtmin {
		return fmt.Sprintf("SIGRTMIN+%d", sig-rtmin)
	}
	return fmt.Sprintf("signal %d", int(sig))
}

func (l *loop) count(sig unix.Signal) *health.Count {
	c := l.counts[sig]
	if c == nil {
		c = new(health.Count)
		l.counts[sig] = c
	}
	return c
}

// status is everything at this instant, for /statusz and /metrics.
func (l *loop) status() health.Status {
	now := time.Now()
	a := l.Gate.Get()
	s := health.Status{
		Phase: l.phase.String(), Since: l.since, PID: os.Getpid(), ChildPID: l.System.PID(),
		Started: l.start, Uptime: now.Sub(l.start).Seconds(),
		Ready: a.Ready, Drained: l.held, Text: l.text, Alive: a.NotAlive == "",
		Signals: make(map[string]health.Count), Reaped: l.reaped, Config: maps.Clone(l.Config),
		Phases: make(map[string]float64),
	}
	if !a.Ready {
		s.Reason = a.Reason
	}
	for sig, c := range l.counts {
		s.Signals[SignalName(sig)] = *c
	}
	for _, p := range Phases {
		s.Order = append(s.Order, p.String())
		spent := l.spent[p]
		if p == l.phase {
			spent += now.Sub(l.since)
		}
		s.Phases[p.String()] = spent.Seconds()
	}
	if l.LogDropped != nil {
		s.Dropped = l.LogDropped()
	}
	if l.NotifyRefusals != nil {
		refused := l.NotifyRefusals()
		s.Notify = &refused
	}
	if !l.t0.IsZero() {
		s.Stop = l.stopStatus()
	}
	if l.verdicts != nil {
		v := l.verdict
		s.Clients = &health.Clients{Known: v.Known, Open: v.Open, InFlight: v.InFlight, Queued: v.Queued, Rate: v.Rate}
	}
	return s
}

func (l *loop) stopStatus() *health.Stop {
	s := &health.Stop{T0: l.t0, AskedBy: l.askedBy, ForwardBy: l.forwardBy(), KillAt: l.killAt(),
		MayForward: l.clear || l.phase > Draining, Signal: SignalName(l.stopSignal()), Why: l.why}
	if !l.forwarded.IsZero() {
		s.Forwarded = &l.forwarded
	}
	if l.phase == Draining && !l.clear {
		s.WaitingFor = l.verdict.Waiting
	}
	return s
}
