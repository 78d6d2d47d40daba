package supervisor

import (
	"testing"
	"time"

	"github.com/drainit/drainit/sockets"
)

// TestAlarms is the arithmetic of a stop, without a loop that runs: which
// instants are armed in which state.
func TestAlarms(t *testing.T) {
	t0 := time.Now()
	at := func(d time.Duration) time.Time { return t0.Add(d) }
	watched := clientWatch{verdicts: make(chan sockets.Verdict)}
	blindWatch := clientWatch{verdicts: watched.verdicts, last: sockets.Verdict{Blind: true}}
	asked := stop{at: t0}
	for _, c := range []struct {
		name string
		loop loop
		want []time.Duration // from t0
	}{
		{"nothing while ready", loop{phase: Ready}, nil},
		{"a watchdog", loop{phase: Ready, watchdog: watchdog{due: at(s)}}, []time.Duration{s}},
		{"no watchdog that was missed", loop{phase: Ready, watchdog: watchdog{due: at(s), missed: true}}, nil},
		{"a READY=1 to repeat", loop{phase: Ready, announced: announcement{retryAt: at(s)}}, []time.Duration{s}},
		{"draining: the window and forward_by", loop{phase: Draining, stop: asked}, []time.Duration{5 * s, 18 * s}},
		{"draining: UNREADY_DELAY", loop{phase: Draining, stop: stop{at: t0, stillReady: true}}, []time.Duration{3 * s, 5 * s, 18 * s}},
		{"draining: an extension", loop{phase: Draining, stop: stop{at: t0, extendedUntil: at(9 * s)}}, []time.Duration{9 * s, 18 * s}},
		{"draining: the clients decide", loop{phase: Draining, stop: asked, clients: watched}, []time.Duration{18 * s}},
		{"draining: clients that can't be counted don't", loop{phase: Draining, stop: asked, clients: blindWatch}, []time.Duration{5 * s, 18 * s}},
		{"draining: the wait is over", loop{phase: Draining, stop: stop{at: t0, waitOver: true}}, []time.Duration{0, 18 * s}},
		{"draining: prestop waits for the signal", loop{phase: Draining, stop: stop{at: t0, waitOver: true, prestop: true}}, []time.Duration{18 * s}},
		{"stopping: SIGKILL", loop{phase: Stopping, stop: asked}, []time.Duration{28 * s}},
		{"stopping: what the child left behind", loop{phase: Stopping, stop: asked, child: child{exited: true, orphanBy: at(7 * s)}}, []time.Duration{7 * s}},
		{"stopping: nothing is left", loop{phase: Stopping, stop: asked, child: child{exited: true, noProcesses: true, orphanBy: at(7 * s)}}, nil},
		{"killing", loop{phase: Killing, stop: stop{at: t0, killedAt: at(28 * s)}}, []time.Duration{29 * s}},
		{"killing: given up", loop{phase: Killing, stop: stop{at: t0, killedAt: at(28 * s), gaveUp: true}}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.loop.Timeline = budget
			c.loop.Timeline.UnreadyDelay = 3 * s
			all := c.loop.alarms()
			if len(all) != len(c.want) {
				t.Fatalf("%d alarms, want %d", len(all), len(c.want))
			}
			for i, want := range c.want {
				if got := all[i].at.Sub(t0); got != want {
					t.Errorf("alarm %d is at %s, want %s", i, got, want)
				}
			}
		})
	}
}

func TestEarliestPrefersTheOneListedFirst(t *testing.T) {
	t0, fired := time.Now(), ""
	note := func(name string) func(*loop) { return func(*loop) { fired += name } }
	earliest([]alarm{{t0.Add(s), note("later")}, {t0, note("first")}, {t0, note("second")}}).fire(nil)
	if fired != "first" {
		t.Errorf("fired %q, want first", fired)
	}
}
