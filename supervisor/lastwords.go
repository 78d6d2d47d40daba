package supervisor

import (
	"fmt"
	"strings"
	"time"

	"github.com/drainit/drainit/sockets"
	"golang.org/x/sys/unix"
)

// record is what happened in a run, as the exit code, the summary and the last
// words are made from it. None of these functions reads a clock or a loop.
type record struct {
	policy   *Policy
	start    time.Time
	end      time.Time
	spent    [len(Phases)]time.Duration
	child    child
	stop     stop
	signal   unix.Signal     // what the child was sent, or would have been
	atSignal sockets.Verdict // the clients when it was
	reaped   uint64
	oomKills uint64 // in the cgroup, while the child ran
}

// record returns what has happened until now.
func (l *loop) record(now time.Time) record {
	l.times.leave(l.phase, now)
	return record{
		policy:   &l.Policy,
		start:    l.times.start,
		end:      now,
		spent:    l.times.spent,
		child:    l.child,
		stop:     l.stop,
		signal:   l.stopSignal(),
		atSignal: l.clients.atSignal,
		reaped:   l.reaped,
		oomKills: l.child.oom.rise(),
	}
}

// logEnd logs the summary of a stop or of an abnormal end.
func (l *loop) logEnd(r *record) {
	switch {
	case r.stop.begun():
		l.Log.Info("stopped: "+r.lastWords(), r.attrs()...)
	case r.child.exit.Status.Signaled() || !r.stop.killed.IsZero():
		l.Log.Warn("ended: "+r.lastWords(), r.attrs()...)
	}
}

// code returns the code to exit with, after EXIT_CODES.
func (r *record) code() int {
	code := r.childCode()
	if to, ok := r.policy.ExitCodes[code]; ok {
		return to
	}
	return code
}

// childCode returns the child's own exit code.
func (r *record) childCode() int {
	if !r.child.exited {
		return 128 + int(unix.SIGKILL) // even SIGKILL did not end it in time
	}
	return r.child.exit.Code()
}

// attrs returns the facts behind the last words: the code or signal, how long
// each phase took, what asked for the stop.
func (r *record) attrs() []any {
	attrs := []any{"code", r.code()}
	if r.child.exited && r.child.exit.Status.Signaled() {
		attrs = append(attrs, "signal", SignalName(r.child.exit.Status.Signal()))
	}
	if r.stop.begun() {
		attrs = append(attrs, "asked_by", r.stop.by, "total", round(r.end.Sub(r.stop.at)))
	}
	if !r.stop.forwarded.IsZero() {
		attrs = append(attrs, "sent", SignalName(r.signal), "why", r.stop.why)
	}
	for _, p := range []Phase{Draining, Stopping, Killing} {
		if r.spent[p] > 0 {
			attrs = append(attrs, p.String(), round(r.spent[p]))
		}
	}
	return append(attrs, "reaped", r.reaped)
}

// lastWords returns one line about how the run ended, written to be understood
// at 3 a.m.
func (r *record) lastWords() string {
	var b strings.Builder
	b.WriteString(r.ending())
	b.WriteString(r.cause())
	if r.killedOrphans() {
		b.WriteString("; what it left behind was killed" + r.leftOver())
	}
	if c := r.atSignal; c.Known && c.Open > 0 {
		fmt.Fprintf(&b, "; open at the signal: %d, requests in flight: %d, in the accept queue: %d", c.Open, c.InFlight, c.Queued)
	}
	if r.child.statusText != "" {
		b.WriteString("; its last status: " + r.child.statusText)
	}
	if r.child.exited && r.code() != r.childCode() {
		fmt.Fprintf(&b, " (reported as %d, as DRAINIT_EXIT_CODES says)", r.code())
	}
	return b.String()
}

// ending says how the child ended, and when.
func (r *record) ending() string {
	how, end := r.how(), r.childEnd()
	switch {
	case !r.stop.begun():
		return fmt.Sprintf("the child %s after %s", how, round(end.Sub(r.start)))
	case r.stop.forwarded.IsZero():
		return fmt.Sprintf("asked to stop by %s; the child %s %s later, before any signal was forwarded",
			r.stop.by, how, round(end.Sub(r.stop.at)))
	case r.killedChild():
		return r.killedAtDeadline()
	}
	return fmt.Sprintf("asked to stop by %s and finished in %s: %s was forwarded after %s (%s), the child %s %s later",
		r.stop.by, round(end.Sub(r.stop.at)), SignalName(r.signal), round(r.stop.forwarded.Sub(r.stop.at)), r.stop.why,
		how, round(end.Sub(r.stop.forwarded)))
}

// how says what became of the child.
func (r *record) how() string {
	switch {
	case !r.child.exited:
		return "did not end even on SIGKILL"
	case r.stop.forwarded.IsZero() && r.child.exit.Status.Exited():
		return describe(r.child.exit) + " by itself"
	}
	return describe(r.child.exit)
}

// killedAtDeadline says that the child did not end on its signal.
func (r *record) killedAtDeadline() string {
	s := fmt.Sprintf("asked to stop by %s; %s was forwarded after %s and not finished %s later: killed at the deadline",
		r.stop.by, SignalName(r.signal), round(r.stop.forwarded.Sub(r.stop.at)), round(r.stop.killed.Sub(r.stop.forwarded)))
	s += r.leftOver()
	if r.stop.killedLeft > 1 && !r.policy.Group {
		s += "; only the command itself was signalled: if it is a script, exec the server in it, or set DRAINIT_SIGNAL_SCOPE=group"
	}
	return s
}

// killedChild reports whether drainit's SIGKILL met a living child.
func (r *record) killedChild() bool {
	return !r.stop.killed.IsZero() && (!r.child.exited || !r.child.exitedAt.Before(r.stop.killed))
}

// killedOrphans reports whether SIGKILL met only what the child left behind.
func (r *record) killedOrphans() bool {
	return !r.stop.killed.IsZero() && r.child.exited && r.child.exitedAt.Before(r.stop.killed)
}

// childEnd returns when the child ended, or the end of the run if it did not.
func (r *record) childEnd() time.Time {
	if r.child.exited {
		return r.child.exitedAt
	}
	return r.end
}

// cause explains an end that the child's status alone does not: a SIGKILL that
// was not drainit's own, a signal forwarded at once, the OOM killer. The last
// counts for any process of the cgroup, since a worker's end may be the child's
// too.
func (r *record) cause() string {
	status := r.child.exit.Status
	if !r.stop.begun() && status.Signaled() && status.Signal() == r.child.lastSignal {
		return fmt.Sprintf("; drainit had forwarded that at once: if %s is the image's STOPSIGNAL, add it to DRAINIT_STOP_ON", SignalName(r.child.lastSignal))
	}
	killed := r.killedByOther()
	switch n := r.oomKills; {
	case n > 0 && killed:
		return fmt.Sprintf("; out of memory: the cgroup's oom_kill counter rose by %d, raise the memory limit or lower the use", n)
	case n > 0:
		return fmt.Sprintf("; out of memory on the way: the cgroup's oom_kill counter rose by %d while the child ran", n)
	case killed:
		return "; not by drainit: the memory limit, the kubelet or a person"
	}
	return ""
}

// killedByOther reports whether the child died of a SIGKILL that drainit did not
// send.
func (r *record) killedByOther() bool {
	status := r.child.exit.Status
	if !r.child.exited || !status.Signaled() || status.Signal() != unix.SIGKILL {
		return false
	}
	forwarded := !r.stop.forwarded.IsZero() && r.signal == unix.SIGKILL || r.child.lastSignal == unix.SIGKILL
	return !r.killedChild() && !forwarded
}

// leftOver says how many processes SIGKILL was sent to, if that is known.
func (r *record) leftOver() string {
	switch {
	case r.stop.killedLeft < 0:
		return ""
	case r.stop.killedLeft == 1:
		return " with 1 process left"
	}
	return fmt.Sprintf(" with %d processes left", r.stop.killedLeft)
}
