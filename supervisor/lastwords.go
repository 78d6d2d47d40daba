package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/drainit/drainit/sockets"
	"golang.org/x/sys/unix"
)

// record is what happened in a run, as the exit code, the summary and the last
// words are made from it. None of these functions reads a clock or a loop.
type record struct {
	policy   *Policy
	command  string
	start    time.Time
	end      time.Time
	spent    [len(Phases)]time.Duration
	child    child
	stop     stop
	signal   unix.Signal     // what the child was sent, or would have been
	atSignal sockets.Verdict // the clients when it was
	alive    []Other         // what SIGKILL did not end
	reaped   uint64
	oomKills uint64 // in the cgroup, while the child ran
}

// record returns what has happened until now.
func (l *loop) record(now time.Time) record {
	l.times.leave(l.phase, now)
	r := record{
		policy:   &l.Policy,
		command:  l.Command,
		start:    l.times.start,
		end:      now,
		spent:    l.times.spent,
		child:    l.child,
		stop:     l.stop,
		signal:   l.stopSignal(),
		atSignal: l.clients.atSignal,
		reaped:   l.reaped,
	}
	if l.stop.begun() || r.child.exit.Code() != 0 { // else there is nothing to explain
		r.oomKills = l.child.oom.rise()
	}
	if l.stop.gaveUp {
		r.alive, _ = l.System.Others()
	}
	return r
}

// logEnd logs the summary of a stop or of an abnormal end. An end with code 0
// and without a stop is not logged. It is a warning if drainit killed something
// or could not send the signal, if the child crashed, and if a signal that
// drainit forwarded at once was probably meant to begin a stop.
func (l *loop) logEnd(r *record) {
	level := slog.LevelInfo
	if r.sentKill() || r.stop.err != nil || r.crashed() || r.endedBySignal() {
		level = slog.LevelWarn
	}
	switch {
	case r.stop.begun():
		l.Log.Log(context.Background(), level, "stopped", r.attrs()...)
	case level == slog.LevelWarn, r.childCode() != 0:
		l.Log.Log(context.Background(), level, "ended", r.attrs()...)
	}
}

// sentKill reports whether drainit killed anything.
func (r *record) sentKill() bool { return !r.stop.killedAt.IsZero() }

// crashed reports whether the child was ended by a signal that is not the one
// of the stop. A terminal may have sent that one before drainit.
func (r *record) crashed() bool {
	status := r.child.exit.Status
	if !r.child.exited || !status.Signaled() {
		return false
	}
	return !r.stop.begun() || status.Signal() != r.signal && status.Signal() != r.stop.received
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

// attrs returns the facts behind the last words, and these as summary.
func (r *record) attrs() []any {
	attrs := []any{"code", r.code(), "child", r.how()}
	if r.stop.begun() {
		attrs = append(attrs, "by", r.stop.by, "total", round(r.end.Sub(r.stop.at)))
	}
	if !r.stop.forwarded.IsZero() {
		attrs = append(attrs, r.sentAttrs()...)
		attrs = append(attrs, clientAttrs(r.atSignal)...)
	}
	for _, p := range []Phase{Draining, Stopping, Killing} {
		if round(r.spent[p]) > 0 {
			attrs = append(attrs, p.String(), round(r.spent[p]))
		}
	}
	if r.sentKill() {
		attrs = append(attrs, killedAttrs(r.stop.left)...)
	}
	return append(attrs, "reaped", r.reaped, "summary", r.lastWords())
}

// sentAttrs says what became of the stop signal.
func (r *record) sentAttrs() []any {
	if r.stop.err != nil {
		return []any{"not_sent", SignalName(r.signal), "error", r.stop.err, "why", r.stop.why}
	}
	return []any{"sent", SignalName(r.signal), "why", r.stop.why, "forwarded_after", r.forwardedAfter()}
}

// killedAttrs names what SIGKILL was sent to, and what it could not be sent to.
func killedAttrs(left []Other) (attrs []any) {
	denied, killed := splitDenied(left)
	if len(killed) > 0 || len(denied) == 0 {
		attrs = append(attrs, "killed", names(killed))
	}
	if len(denied) > 0 {
		attrs = append(attrs, "not_killed", names(denied))
	}
	return attrs
}

func (r *record) forwardedAfter() time.Duration { return round(r.stop.forwarded.Sub(r.stop.at)) }

// lastWords returns one line about how the run ended, written to be understood
// at 3 a.m.
func (r *record) lastWords() string {
	var b strings.Builder
	b.WriteString(r.ending())
	b.WriteString(r.orphans())
	b.WriteString(r.hints())
	b.WriteString(r.cause())
	if len(r.alive) > 0 {
		b.WriteString("; still alive after the deadline: " + names(r.alive))
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
		return fmt.Sprintf("asked to stop by %s; %s and the child had not ended %s later: %s at the deadline%s",
			r.stop.by, r.forwarding(), round(r.stop.killedAt.Sub(r.stop.forwarded)), r.killing(), r.with())
	case r.sentKill():
		return fmt.Sprintf("asked to stop by %s and not finished in time: %s, the child %s %s later",
			r.stop.by, r.forwarding(), how, round(end.Sub(r.stop.forwarded)))
	}
	return fmt.Sprintf("asked to stop by %s and finished in %s: %s, the child %s %s later",
		r.stop.by, round(r.end.Sub(r.stop.at)), r.forwarding(), how, round(end.Sub(r.stop.forwarded)))
}

// forwarding says what became of the stop signal.
func (r *record) forwarding() string {
	if r.stop.err != nil {
		return fmt.Sprintf("%s could not be sent after %s (%v)", SignalName(r.signal), r.forwardedAfter(), r.stop.err)
	}
	return fmt.Sprintf("%s was forwarded after %s (%s)", SignalName(r.signal), r.forwardedAfter(), r.stop.why)
}

// killing says what became of the child's SIGKILL.
func (r *record) killing() string {
	if r.stop.killErr != nil {
		return "SIGKILL could not be sent"
	}
	return "killed"
}

// how says what became of the child.
func (r *record) how() string {
	switch {
	case !r.child.exited && r.stop.killErr != nil:
		return "could not be killed"
	case !r.child.exited:
		return "did not end even on SIGKILL"
	case r.stop.forwarded.IsZero() && r.child.exit.Status.Exited():
		return describe(r.child.exit) + " by itself"
	}
	return describe(r.child.exit)
}

// with names what was killed together with the child.
func (r *record) with() string {
	if len(r.stop.left) == 0 {
		return ""
	}
	return ", still running: " + names(r.stop.left)
}

// orphans says what became of what the child left behind.
func (r *record) orphans() string {
	switch {
	case r.killedOrphans():
		return r.killedWords()
	case len(r.child.orphans) > 0:
		return fmt.Sprintf("; what it left behind ended %s later: %s", round(r.end.Sub(r.child.exitedAt)), names(r.child.orphans))
	}
	return ""
}

// killedWords says which of the processes that the child left behind got
// SIGKILL, and which it could not be sent to.
func (r *record) killedWords() string {
	when := fmt.Sprintf("%s later, at %s: ", round(r.stop.killedAt.Sub(r.child.exitedAt)), r.orphanLimit())
	denied, killed := splitDenied(r.stop.left)
	switch {
	case len(denied) == 0:
		return "; processes it left behind got SIGKILL " + when + names(killed)
	case len(killed) == 0:
		return "; processes it left behind could not be sent SIGKILL " + when + names(denied)
	}
	return "; processes it left behind got SIGKILL " + when + names(killed) + "; it could not be sent to " + names(denied)
}

// orphanLimit names the limit that ended the wait for what the child left
// behind.
func (r *record) orphanLimit() string {
	if !r.stop.begun() {
		return "the end of DRAINIT_ORPHAN_GRACE"
	}
	if r.policy.Timeline.OrphanGraceSet && r.stop.killedAt.Before(r.stop.at.Add(r.policy.Timeline.KillAfter())) {
		return "the end of DRAINIT_ORPHAN_GRACE"
	}
	return "the deadline"
}

// hints says what usually causes such an end, and what to do about it.
func (r *record) hints() string {
	switch {
	case r.stop.late:
		return "; drainit was held up (paused, or without CPU time) and sent the signal late"
	case r.stop.err != nil, anyDenied(r.child.orphans), anyDenied(r.stop.left):
		return "; drainit may not signal every process here: " + deniedHint
	case !r.stop.forwarded.IsZero() && slices.Contains([]string{"su", "sudo", "runuser"}, path.Base(r.command)):
		return fmt.Sprintf("; %s kills soon after it has passed the signal on: use setpriv, gosu or su-exec instead", path.Base(r.command))
	case r.killedChild() && len(r.stop.left) > 1 && !r.policy.Group:
		return "; only the command itself was signalled: if it is a script, exec the server in it, or set DRAINIT_SIGNAL_SCOPE=group"
	}
	return ""
}

// killedChild reports whether drainit's SIGKILL met a living child.
func (r *record) killedChild() bool {
	return !r.stop.killedAt.IsZero() && (!r.child.exited || !r.child.exitedAt.Before(r.stop.killedAt))
}

// killedOrphans reports whether SIGKILL met only what the child left behind.
func (r *record) killedOrphans() bool {
	return !r.stop.killedAt.IsZero() && r.child.exited && r.child.exitedAt.Before(r.stop.killedAt)
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
	if r.endedBySignal() {
		return fmt.Sprintf("; drainit had forwarded %[1]s at once %[2]s before: if %[1]s is the image's STOPSIGNAL, add it to DRAINIT_STOP_ON",
			SignalName(r.child.lastSignal), round(r.child.exitedAt.Sub(r.child.lastSignalAt)))
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

// stopLike are the signals that images and init systems stop servers with.
var stopLike = []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGQUIT, unix.SIGWINCH, unix.SIGUSR1, unix.SIGPWR, 37}

// endedBySignal reports whether the child ended without a stop, of a signal
// that drainit forwarded at once, or soon after one that servers are stopped
// with. Nothing inside a container tells which signal is the image's
// STOPSIGNAL.
func (r *record) endedBySignal() bool {
	sig, status := r.child.lastSignal, r.child.exit.Status
	if r.stop.begun() || !r.child.exited || sig == 0 {
		return false
	}
	if status.Signaled() && status.Signal() == sig {
		return true
	}
	return slices.Contains(stopLike, sig) && status.Exited() &&
		r.child.exitedAt.Sub(r.child.lastSignalAt) < r.policy.Timeline.Grace
}

// killedByOther reports whether the child died of a SIGKILL that drainit did
// not send.
func (r *record) killedByOther() bool {
	status := r.child.exit.Status
	if !r.child.exited || !status.Signaled() || status.Signal() != unix.SIGKILL {
		return false
	}
	forwarded := !r.stop.forwarded.IsZero() && r.signal == unix.SIGKILL || r.child.lastSignal == unix.SIGKILL
	return !r.killedChild() && !forwarded
}
