package supervisor

import (
	"testing"
	"time"

	"github.com/drainit/drainit/notify"
)

func TestWatchdogUpdate(t *testing.T) {
	now := time.Now()
	ping, isReady := notify.Message{Watchdog: true}, notify.Message{Ready: true}
	every := func(d time.Duration) notify.Message { return notify.Message{HasWatchdogEvery: true, WatchdogEvery: d} }
	idle := watchdog{enabled: true, every: 3 * s}
	armed := watchdog{enabled: true, every: 3 * s, due: now.Add(s)}
	missed := watchdog{enabled: true, every: 3 * s, due: now.Add(-s), missed: true}
	for _, c := range []struct {
		name    string
		w       watchdog
		m       notify.Message
		due     time.Duration // from now; 0: no deadline
		revived bool
	}{
		{"a ping arms it", idle, ping, 3 * s, false},
		{"READY=1 arms it", idle, isReady, 3 * s, false},
		{"a new interval does not", idle, every(9 * s), 0, false},
		{"a status does not", idle, notify.Message{HasStatus: true}, 0, false},
		{"a ping moves the deadline", armed, ping, 3 * s, false},
		{"READY=1 does not", armed, isReady, s, false},
		{"a new interval counts at once", armed, every(9 * s), 9 * s, false},
		{"an interval of 0 ends it", armed, every(0), 0, false},
		{"a ping revives it", missed, ping, 3 * s, true},
		{"a ping revives nothing where it is off", watchdog{}, ping, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			revived := c.w.update(c.m, now)
			var due time.Duration
			if d := c.w.deadline(); !d.IsZero() {
				due = d.Sub(now)
			}
			if due != c.due || revived != c.revived {
				t.Errorf("due in %s, revived %v; want %s, %v", due, revived, c.due, c.revived)
			}
		})
	}
	if got := missed.deadline(); !got.IsZero() {
		t.Errorf("a missed watchdog has a deadline at %s", got)
	}
}
