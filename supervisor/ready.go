package supervisor

import (
	"time"

	"github.com/drainit/drainit/health"
	"github.com/drainit/drainit/notify"
)

// able says whether clients may come, as far as the child and the operators
// go, and if not, why.
func (l *loop) able() (bool, string) {
	switch {
	case l.held:
		return false, "drained by `drainit drain`; `drainit undrain` ends it"
	case l.declined != "":
		return false, l.declined
	case l.NotifyReady && !l.notified:
		return false, "no READY=1 from the child yet"
	case !l.NotifyReady && !l.check.OK:
		return false, l.check.Reason
	}
	return true, l.check.Reason
}

// checked says whether the child itself is ready, whoever holds it back.
func (l *loop) checked() bool {
	if l.NotifyReady {
		return l.notified
	}
	return l.check.OK
}

// checkedBy takes what the readiness check says.
func (l *loop) checkedBy(r health.Result) {
	l.check = r
	if r.Hint != "" {
		l.Log.Warn(r.Hint)
	}
	l.tell()
}

// tell works out whether the container is ready, moves the phase along, and
// lets the gate and the log know.
func (l *loop) tell() {
	ok, reason := l.able()
	if l.phase < Draining {
		before := l.phase
		switch {
		case ok:
			l.transition(becameReady)
		case l.phase == Ready, l.checked():
			l.transition(becameUnready)
		}
		if l.phase != before {
			return // transition has told
		}
	}
	a := health.Answer{Ready: l.phase == Ready, Started: l.started, Reason: l.phase.String()}
	if l.dead {
		a.NotAlive = "a watchdog was missed"
	}
	switch {
	case l.phase >= Draining:
		a.Started = true
		a.Reason += ": stop asked for by " + l.askedBy
		a.Ready = l.wasReady && !l.exited && time.Since(l.t0) < l.Timeline.UnreadyDelay
		if l.t0.IsZero() {
			a.Reason = l.phase.String() + ": the child has exited"
		}
	case reason != "":
		a.Reason += ": " + reason
	}
	l.Gate.Set(a)
	if l.logged.Ready != a.Ready && l.logged.Started && l.phase < Draining {
		// The first time is how it should be, and a stop has its own lines.
		if a.Ready {
			l.Log.Info("ready")
		} else {
			l.Log.Info("not ready", "why", reason)
		}
	}
	l.logged = a
}

// announce tells Upstream that the container is ready, once, and again after a
// second if its queue is full or nobody listens there yet: it waits for this.
func (l *loop) announce() {
	if l.Upstream == nil || l.announced {
		return
	}
	l.announceAt = time.Time{}
	if l.Upstream.Send(notify.Message{Ready: true}) == nil {
		l.announced = true
	} else {
		l.announceAt = time.Now().Add(time.Second)
	}
}

// notice takes one message of the child's readiness protocol.
func (l *loop) notice(m notify.Message) {
	if m.HasStatus {
		l.text = m.Status
	}
	if l.Upstream != nil && (m.HasStatus || m.Watchdog || m.WatchdogTrigger || m.ExtendTimeout > 0) {
		// A service manager acts when these stop coming.
		l.Upstream.Send(notify.Message{HasStatus: m.HasStatus, Status: m.Status,
			Watchdog: m.Watchdog, WatchdogTrigger: m.WatchdogTrigger, ExtendTimeout: m.ExtendTimeout})
	}
	if m.Ready {
		l.notified, l.declined = true, ""
	}
	if m.Reloading {
		l.declined = "the child is reloading"
	}
	if m.Stopping {
		l.declined = "the child is stopping"
	}
	if m.HasWatchdogEvery && l.Watchdog > 0 {
		l.watchEvery = m.WatchdogEvery
	}
	armed := !l.watchdog.IsZero()
	if l.Watchdog > 0 && !l.exited && (m.Watchdog || m.Ready && !armed || m.HasWatchdogEvery && armed) {
		if l.dead && (m.Watchdog || m.Ready) {
			l.dead = false
			l.Log.Info("watchdog: the child is alive again")
		}
		l.watchdog = time.Time{}
		if l.watchEvery > 0 { // 0: no more pings will come
			l.watchdog = time.Now().Add(l.watchEvery)
		}
	}
	if m.WatchdogTrigger {
		l.missedWatchdog("WATCHDOG=trigger")
	}
	if m.ExtendTimeout > 0 {
		l.extend(m.ExtendTimeout)
	}
	l.tell()
}

// extend is the child asking for time: while clients are waited for it puts
// the forwarding off, after the child's exit it prolongs ORPHAN_GRACE. Neither
// moves forward_by or kill_at.
func (l *loop) extend(by time.Duration) {
	until := time.Now().Add(by)
	switch {
	case l.phase == Draining:
		if until.After(l.holdUntil) {
			l.holdUntil = earlier(until, l.forwardBy())
		}
	case l.exited && !l.orphanBy.IsZero() && !l.t0.IsZero():
		if until.After(l.orphanBy) {
			l.orphanBy = earlier(until, l.killAt())
		}
	}
}

func (l *loop) missedWatchdog(what string) {
	if l.dead {
		return
	}
	l.dead = true
	l.Log.Warn("watchdog missed: /livez answers 503", "why", what)
	l.tell()
}
