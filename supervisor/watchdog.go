package supervisor

import (
	"fmt"
	"time"

	"github.com/drainit/drainit/health"
	"github.com/drainit/drainit/notify"
)

// watchdog tracks the child's promise to send WATCHDOG=1 at intervals. The
// first one arms it, or READY=1.
type watchdog struct {
	enabled bool          // DRAINIT_WATCHDOG is set
	every   time.Duration // the longest interval; 0: no more pings will come
	due     time.Time     // of the next ping; zero: not armed
	missed  bool          // until the next ping
}

// deadline returns when the next ping is overdue, or zero if none is expected.
func (w *watchdog) deadline() time.Time {
	if w.missed {
		return time.Time{}
	}
	return w.due
}

// disarm expects no more pings.
func (w *watchdog) disarm() { w.due = time.Time{} }

// update applies what a message says about the watchdog, and reports whether
// it revives a child that had missed one.
func (w *watchdog) update(m notify.Message, now time.Time) (revived bool) {
	if !w.enabled {
		return false
	}
	if m.HasWatchdogEvery {
		w.every = m.WatchdogEvery
	}
	armed := !w.due.IsZero()
	arms := m.Ready && !armed
	rearms := m.HasWatchdogEvery && armed
	if !m.Watchdog && !arms && !rearms {
		return false
	}
	if revived = w.missed && (m.Watchdog || m.Ready); revived {
		w.missed = false
	}
	w.disarm()
	if w.every > 0 {
		w.due = now.Add(w.every)
	}
	return revived
}

// onLiveness handles a result of LIVE_CHECK, which turns /livez to 503 and
// back.
func (l *loop) onLiveness(r health.Result) {
	if l.stop.begun() {
		return // a container that stops is not to be restarted for it
	}
	if r.OK != l.liveness.OK {
		if r.OK {
			l.Log.Info("alive again: /livez answers 200", "why", r.Reason)
		} else {
			l.Log.Warn("not alive: /livez answers 503", "why", r.Reason)
		}
	}
	l.liveness = r
	l.publish()
}

// notAlive returns why /livez answers 503, or nothing if it does not.
// LIVE_CHECK counts until a stop begins.
func (l *loop) notAlive() string {
	switch {
	case l.watchdog.missed:
		return "a watchdog was missed"
	case !l.liveness.OK && !l.stop.begun():
		return l.liveness.Reason
	}
	return ""
}

// onWatchdogOverdue handles a ping that did not come in time.
func (l *loop) onWatchdogOverdue() {
	l.watchdogMissed(fmt.Sprintf("no WATCHDOG=1 for %s", round(l.watchdog.every)))
}

// watchdogMissed turns /livez to 503 until the next ping.
func (l *loop) watchdogMissed(why string) {
	if l.watchdog.missed {
		return
	}
	l.watchdog.missed = true
	l.Log.Warn("watchdog missed: /livez answers 503", "why", why)
	l.publish()
}
